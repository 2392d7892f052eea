//! The decision, the paths and the routes, as tables.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use portcullis::config::Config;
use portcullis::policy::{
    Accept, AccessRule, Authentication, CanonicalPath, Decision, Found, HostPattern, Identity, IdentityHeaders,
    Matched, PathPrefix, Proof, Rejection, RequestHead, RoleNames, Route, RouteOptions, RouteTable, SignInRule,
    SignedIn, UpstreamId, decide, methods,
};
use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

use crate::oracle::readings;
use crate::readings::is_under;

const ROUTES: &str = r#"
roles = ["admin", "staff"]
[server]
listen = "127.0.0.1:0"
[tls]
self_signed = true
[session]
store = "memory"
[login.local]
users = "users.toml"
[identity_headers]
preset = "x-forwarded"
[upstream.app]
servers = ["builtin:whoami"]
[[route]]
name = "root"
path = "/"
access = "authenticated"
upstream = "app"
[[route]]
name = "admin"
path = "/admin"
methods = ["GET"]
access = { roles = ["admin"] }
upstream = "app"
[[route]]
name = "static"
path = "/static"
access = "public"
upstream = "app"
[[route]]
name = "other"
host = "*.example.com"
path = "/admin"
access = "public"
upstream = "app"
"#;

fn config() -> Config {
    parsed(ROUTES)
}

fn parsed(text: &str) -> Config {
    Config::parse(text, "gateway.toml", std::path::Path::new("/")).unwrap_or_else(|errors| panic!("{errors}"))
}

fn parts(method: &str, host: &str, path: &str) -> http::request::Parts {
    let request = http::Request::builder().method(method).uri(path).header("host", host);
    request.body(()).unwrap().into_parts().0
}

fn found(config: &Config, method: &str, host: &str, path: &str) -> String {
    let parts = parts(method, host, path);
    let head = match RequestHead::parse(&parts, None) {
        Ok(head) => head,
        Err(error) => return error.as_str().to_owned(),
    };
    named(config.routes.find(&head))
}

fn named(found: Found<'_>) -> String {
    match found {
        Found::Route(matched) => matched.route.name.clone(),
        Found::Nothing => "nothing".to_owned(),
        Found::Method(_) => "method".to_owned(),
        Found::Ambiguous => "ambiguous".to_owned(),
        Found::Doubtful(doubt) => doubt.as_str().to_owned(),
    }
}

/// attacks: policy 1
#[test]
fn a_request_falls_under_the_most_specific_route_or_is_refused() {
    let config = config();
    let rows = [
        ("GET", "localhost", "/", "root"),
        ("GET", "localhost", "/admin", "admin"),
        ("GET", "localhost", "/admin/", "admin"),
        ("GET", "localhost", "/admin/x?y", "admin"),
        ("GET", "localhost", "/administrator", "root"),
        ("GET", "localhost", "/%61dmin", "admin"),
        ("POST", "localhost", "/admin", "method"),
        ("GET", "a.example.com", "/admin", "other"),
        ("GET", "A.Example.COM:8443", "/admin", "other"),
        ("GET", "example.com", "/admin", "admin"),
        ("GET", "localhost", "/static/x.css", "static"),
        ("GET", "localhost", "/Some/Page", "root"),
        ("TRACE", "localhost", "/", "method_refused"),
        ("GET", "user@localhost", "/", "host_malformed"),
        ("GET", "localhost.", "/", "host_malformed"),
        ("GET", "localhost:99x", "/", "host_malformed"),
    ];
    for (method, host, path, expected) in rows {
        assert_eq!(found(&config, method, host, path), expected, "{method} {host} {path}");
    }
}

/// attacks: policy 1
#[test]
fn a_path_with_two_readings_is_refused() {
    let config = config();
    let lines = include_str!("../data/hostile_paths.txt").lines().filter(|line| !line.starts_with('#'));
    for (expected, path) in lines.map(|line| line.split_once(' ').unwrap()) {
        assert_eq!(found(&config, "GET", "localhost", path), expected, "{path}");
    }
}

/// A prefix with capitals can be reached as it is written, and its rule is not passed by in another spelling.
#[test]
fn a_prefix_with_capitals_is_reached_and_not_passed_by() {
    let text = ROUTES.replace("path = \"/admin\"\nmethods", "path = \"/Admin\"\nmethods");
    let config = parsed(&text);
    let rows = [("/Admin", "admin"), ("/Admin/x", "admin"), ("/Admin/X", "admin"), ("/x", "root"), ("/X", "root")];
    for (path, expected) in
        rows.into_iter().chain(["/admin", "/ADMIN", "/Admin.", "/admin/x"].map(|path| (path, "ambiguous")))
    {
        assert_eq!(found(&config, "GET", "localhost", path), expected, "{path}");
    }
    let both = text.replace("path = \"/static\"", "path = \"/admin\"");
    let told = Config::parse(&both, "gateway.toml", std::path::Path::new("/")).unwrap_err().to_string();
    assert!(told.contains("differs from `/Admin` of route `admin` at line 20 only by letter case"), "{told}");
}

/// The routes of above, of which these two take what others refuse.
fn lax() -> Config {
    let mut text = ROUTES.to_owned();
    for name in ["root", "static"] {
        text = text.replace(&format!("name = \"{name}\"\n"), &format!("name = \"{name}\"\nencoded_slashes = true\n"));
    }
    parsed(&text)
}

/// attacks: policy 1: what a route takes on request leads past no rule.
#[test]
fn encoded_slashes_pass_where_every_reading_is_under_the_route_that_takes_them() {
    let (strict, lax) = (config(), lax());
    let rows = [
        ("/@scope%2fname", "root", "path_encoded_delimiter"),
        ("/api/queues/%2F/name", "root", "path_encoded_delimiter"),
        ("/a//b", "root", "path_empty_segment"),
        ("//", "root", "path_empty_segment"),
        ("/100%25/x", "root", "path_encoded_delimiter"),
        ("/a%5Cb", "root", "path_encoded_delimiter"),
        ("/static/a%2Fb%252Fc.CSS", "static", "path_encoded_delimiter"),
        ("/static%2Fx", "path_encoded_delimiter", "path_encoded_delimiter"),
        ("//static/x", "path_empty_segment", "path_empty_segment"),
        ("/static/..%2fx", "path_encoded_delimiter", "path_encoded_delimiter"),
        ("/static/%252e%252e%252fadmin", "path_encoded_delimiter", "path_encoded_delimiter"),
        ("/x/..%5Cadmin", "path_encoded_delimiter", "path_encoded_delimiter"),
        ("/%2fadmin", "path_encoded_delimiter", "path_encoded_delimiter"),
        ("/%5cADMIN", "path_encoded_delimiter", "path_encoded_delimiter"),
        ("/%252fadmin", "path_encoded_delimiter", "path_encoded_delimiter"),
        ("/admin;%2fx", "path_encoded_delimiter", "path_encoded_delimiter"),
        ("/%2f.portcullis/login", "path_encoded_delimiter", "path_encoded_delimiter"),
        ("/a%2f%00", "path_encoded_delimiter", "path_encoded_delimiter"),
        ("/a%2f%2500", "path_encoded_delimiter", "path_encoded_delimiter"),
        ("/admin/a%2fb", "path_encoded_delimiter", "path_encoded_delimiter"),
    ];
    for (path, taken, refused) in rows {
        assert_eq!(found(&lax, "GET", "localhost", path), taken, "{path}");
        assert_eq!(found(&strict, "GET", "localhost", path), refused, "{path}");
    }
    // The same behind a rewrite: of both routes, and in every reading.
    let more = r#"
[[route]]
name = "first"
path = "/v1"
access = "public"
upstream = "app"
strip_prefix = true
encoded_slashes = true
"#;
    let text = format!("{ROUTES}{more}");
    let one = parsed(&text);
    let text = format!("{}{more}", ROUTES.replace("name = \"root\"", "name = \"root\"\nencoded_slashes = true"));
    let two = parsed(&text);
    for (path, of_one, of_two) in [
        ("/v1/a%2fb", "path_encoded_delimiter", "first"),
        ("/v1//a", "path_empty_segment", "first"),
        ("/v1/%2fadmin", "path_encoded_delimiter", "path_encoded_delimiter"),
        ("/v1//admin", "path_empty_segment", "path_empty_segment"),
        ("/v1/x", "first", "first"),
    ] {
        let told = |config: &Config| found(config, "GET", "localhost", path).replace("ambiguous", refusal(path));
        assert_eq!((told(&one).as_str(), told(&two).as_str()), (of_one, of_two), "{path}");
    }
}

fn refusal(path: &str) -> &'static str {
    if path.contains("//") { "path_empty_segment" } else { "path_encoded_delimiter" }
}

/// A rewrite leads around no rule of its application, though what the path falls under is another one's: `/` in another letter case, a
/// place further down, or the same place for another method.
#[test]
fn a_rewritten_path_is_held_against_the_rules_of_its_application() {
    let more = r#"
[upstream.other]
servers = ["http://127.0.0.1:9"]
[[route]]
name = "first"
path = "/v1"
access = "public"
upstream = "app"
strip_prefix = true
[[route]]
name = "further"
path = "/static/metrics"
access = "public"
upstream = "other"
[[route]]
name = "get"
path = "/split"
methods = ["GET"]
access = "public"
upstream = "other"
[[route]]
name = "rest"
path = "/split"
methods = ["POST"]
access = { roles = ["admin"] }
upstream = "app"
"#;
    let root = "access = \"authenticated\"\nupstream = \"app\"";
    let text = ROUTES.replacen(root, "access = \"public\"\nupstream = \"other\"", 1);
    let config = parsed(&format!("{text}{more}"));
    let also = |method: &str, path: &str| {
        let parts = parts(method, "localhost", path);
        let head = RequestHead::parse(&parts, None).unwrap();
        match config.routes.find(&head) {
            Found::Route(matched) => matched.also.map_or("nothing".to_owned(), |also| also.name.clone()),
            Found::Method(routes) => format!("none of {:?}", methods(&routes)),
            other => format!("{other:?}"),
        }
    };
    for (method, path, expected) in [
        ("GET", "/v1/x", "nothing"),
        ("GET", "/v1/X", "nothing"),
        ("GET", "/v1/ADMIN", "Ambiguous"),
        ("GET", "/v1/admin;x", "Ambiguous"),
        ("GET", "/v1/Static/x", "Ambiguous"),
        ("GET", "/v1/admin/x", "admin"),
        ("GET", "/v1/static/metrics", "static"),
        ("GET", "/v1/static/METRICS/x", "static"),
        ("POST", "/v1/split", "rest"),
        ("GET", "/v1/split", "none of [POST]"),
        ("GET", "/v1/v1/x", "nothing"),
    ] {
        assert_eq!(also(method, path), expected, "{method} {path}");
    }
}

/// A token does not come by a rewrite to where only sessions do.
#[test]
fn a_rewritten_path_keeps_what_its_rule_reads() {
    let token = "[token]\nissuer = \"https://id.example\"\naudience = \"a\"\nalgorithms = [\"ES256\"]\njwks = \"https://id.example/k\"\n";
    let more = "[[route]]\nname = \"v1\"\npath = \"/v1\"\naccess = \"authenticated\"\naccept = [\"token\"]\nupstream = \"app\"\nstrip_prefix = true\n";
    let text = format!("{ROUTES}{more}").replace("[identity_headers]", &format!("{token}[identity_headers]"));
    let config = parsed(&text);
    for (path, expected) in
        [("/v1/static/x", "forward"), ("/v1/admin", "unauthenticated"), ("/v1/x", "unauthenticated")]
    {
        let parts = parts("GET", "localhost", path);
        let head = RequestHead::parse(&parts, None).unwrap();
        let Found::Route(matched) = config.routes.find(&head) else { panic!("{path}") };
        let (roles, proof) = (config.roles.set(["admin"]), Proof::Token);
        let (name, email, role_names, signed_in) = (None, None, vec![], None);
        let identity = Identity { subject: "alice".into(), name, email, roles, role_names, proof, signed_in };
        let who = Authentication::Identified(Arc::new(IdentityHeaders::none().caller(identity)));
        assert_eq!(decide(&head, &matched, who, Duration::ZERO).as_str(), expected, "{path}");
    }
}

#[test]
fn a_rewrite_to_a_server_with_rules_of_another_name_is_told() {
    let more = "[upstream.twin]\nservers = [\"builtin:whoami\"]\n[[route]]\nname = \"v1\"\npath = \"/v1\"\naccess = \"public\"\nupstream = \"twin\"\nstrip_prefix = true\n";
    let told = |text: &str| {
        let config = parsed(text);
        config.doubts().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let text = format!("{ROUTES}{more}");
    let doubts = told(&text);
    assert!(matches!(&doubts[..], [one] if one.contains("has a server of `app` too")), "{doubts:?}");
    assert!(told(&format!("{text}host_header = \"twin\"\n")).is_empty());
    assert!(told(&text.replace("upstream = \"twin\"", "upstream = \"app\"")).is_empty());
}

/// attacks: policy 10
#[test]
fn the_decision_table() {
    let config = config();
    let who = |roles: &[&str]| {
        let roles = config.roles.set(roles.iter().copied());
        let (name, email) = (None, None);
        let identity = Identity {
            subject: "alice".into(),
            name,
            email,
            roles,
            role_names: vec![],
            proof: Proof::Session,
            signed_in: None,
        };
        Authentication::Identified(Arc::new(IdentityHeaders::none().caller(identity)))
    };
    let rejected = Authentication::Rejected(Rejection::Idle);
    let rows = [
        ("/static", Authentication::Anonymous, false, "forward"),
        ("/static", rejected.clone(), true, "forward"),
        ("/", Authentication::Anonymous, true, "sign_in"),
        ("/", Authentication::Anonymous, false, "unauthenticated"),
        ("/", rejected.clone(), true, "sign_in"),
        ("/", rejected.clone(), false, "unauthenticated"),
        ("/", who(&[]), false, "forward"),
        ("/admin", Authentication::Anonymous, false, "unauthenticated"),
        ("/admin", rejected, true, "sign_in"),
        ("/admin", who(&[]), true, "forbidden"),
        ("/admin", who(&["staff"]), false, "forbidden"),
        ("/admin", who(&["admin"]), false, "forward"),
        ("/admin", who(&["admin", "staff"]), false, "forward"),
    ];
    for (path, authentication, navigation, expected) in rows {
        let mut parts = parts("GET", "localhost", path);
        if navigation {
            parts.headers.insert("sec-fetch-mode", "navigate".parse().unwrap());
        }
        let head = RequestHead::parse(&parts, None).unwrap();
        let Found::Route(matched) = config.routes.find(&head) else { panic!("{path}") };
        let decision = decide(&head, &matched, authentication, Duration::ZERO);
        assert_eq!(decision.as_str(), expected, "{path} {navigation}");
    }
}

/// ASVS 6.8.4, 10.3.3: where, how long ago and how strongly one signed in is part of each decision.
#[test]
fn what_a_route_asks_of_the_sign_in() {
    let names = RoleNames::new(vec!["admin".into()]).unwrap();
    let age = |seconds| Some(Duration::from_secs(seconds));
    let rule = |login: Option<&str>, max_auth_age, acr: &[&str]| SignInRule {
        login: login.map(str::to_owned),
        max_auth_age,
        acr: acr.iter().map(|value| (*value).to_owned()).collect(),
        access_token: None,
    };
    let rows = [
        // rule, signed in at (ago, acr), holds the role, what is decided
        (rule(None, None, &[]), Some(("local", 500, None)), true, "role_held"),
        (rule(Some("corp"), None, &[]), Some(("corp", 500, None)), true, "role_held"),
        (rule(Some("corp"), None, &[]), Some(("local", 0, None)), true, "other_login"),
        (rule(Some("corp"), None, &[]), Some(("local", 0, None)), false, "other_login"),
        (rule(Some("corp"), None, &[]), Some(("Corp", 0, None)), true, "other_login"),
        (rule(Some("corp"), None, &[]), None, true, "other_login"),
        (rule(None, age(60), &[]), Some(("local", 60, None)), true, "role_held"),
        (rule(None, age(60), &[]), Some(("local", 61, None)), true, "sign_in_too_old"),
        (rule(None, age(60), &[]), Some(("local", 61, None)), false, "role_missing"),
        (rule(None, age(60), &[]), None, true, "sign_in_too_old"),
        (rule(None, None, &["gold", "silver"]), Some(("corp", 0, Some("silver"))), true, "role_held"),
        (rule(None, None, &["gold"]), Some(("corp", 0, Some("silver"))), true, "sign_in_too_weak"),
        (rule(None, None, &["gold"]), Some(("corp", 0, None)), true, "sign_in_too_weak"),
        (rule(None, None, &["gold"]), None, true, "sign_in_too_weak"),
    ];
    for (sign_in, signed, held, expected) in rows {
        let roles = names.set(held.then_some("admin"));
        let at = |ago| Duration::from_secs(1_000 - ago);
        let signed_in = signed.map(|(login, ago, acr): (&str, u64, Option<&str>)| SignedIn {
            login: login.into(),
            at: at(ago),
            acr: acr.map(str::to_owned),
        });
        let access = AccessRule::Roles(names.set(["admin"]));
        let route = Arc::new(Route { access, sign_in: sign_in.clone(), ..route(0, (9, 0, 0)) });
        for (navigation, refusal) in [(true, "sign_in"), (false, "unauthenticated")] {
            let mut parts = parts("GET", "localhost", "/");
            if navigation {
                parts.headers.insert("sec-fetch-mode", "navigate".parse().unwrap());
            }
            let head = RequestHead::parse(&parts, None).unwrap();
            let (name, email, proof) = (None, None, Proof::Session);
            let signed_in = signed_in.clone();
            let identity = Identity { subject: "a".into(), name, email, roles, role_names: vec![], proof, signed_in };
            let who = Authentication::Identified(Arc::new(IdentityHeaders::none().caller(identity)));
            let matched = Matched { route: &route, rewritten: None, also: None };
            let decision = decide(&head, &matched, who, Duration::from_secs(1_000));
            assert_eq!(decision.reason().as_str(), expected, "{sign_in:?} {signed:?}");
            let expected = match expected {
                "role_held" => "forward",
                "role_missing" => "forbidden",
                _ => refusal,
            };
            assert_eq!(decision.as_str(), expected, "{sign_in:?} {signed:?}");
        }
    }
}

/// attacks: policy 3
#[test]
fn identity_names_are_owned_in_every_spelling() {
    let headers = IdentityHeaders::preset("x-forwarded").unwrap();
    for name in ["x-forwarded-user", "X-Forwarded-User", "x_forwarded_user", "X.Forwarded-Email", "remote_user"] {
        assert!(headers.owns(name), "{name}");
    }
    for name in [
        "X-Goog-Authenticated-User-Email",
        "x_goog_authenticated_user_id",
        "Cf-Access-Authenticated-User-Email",
        "X-Amzn-Oidc-Identity",
        "x-amzn-oidc-accesstoken",
        "X-Auth-Request-Access-Token",
        "X-Remote-User",
        "X_Remote_Group",
        "X-Remote-Extra-Scopes",
        "X-WEBAUTH-USER",
        "X-Webauth.Role",
        "X-Pomerium-Claim-Email",
        "Tailscale-User-Login",
        "X-MS-CLIENT-PRINCIPAL",
        "X-Authentik-Username",
        "Client-Cert",
        "client_cert_chain",
        "SSL_CLIENT_S_DN",
        "X-SSL-Client-Verify",
        "X-SSL-Cert",
        "X-Client-Cert",
        "X-Client-DN",
        "X-ARR-ClientCert",
        "X-Amzn-Mtls-Clientcert-Subject",
        "X-TLS-Client-Cert",
        "Http-X-Forwarded-User",
        "HTTP_REMOTE_USER",
        "http.x-webauth_user",
    ] {
        assert!(headers.owns(name), "{name}");
    }
    for name in [
        "x-forwarded-users",
        "user",
        "accept",
        "x-auth-token",
        "x-remote-addr",
        "cf-access-client-id",
        "tailscale",
        "client",
        "x-client-id",
        "sec-fetch-mode",
        "http",
        "http-",
        "http-user",
        "https-remote-user",
        "x",
    ] {
        assert!(!headers.owns(name), "{name}");
    }
}

#[test]
fn undeclared_roles_grant_nothing() {
    let names = RoleNames::new(vec!["admin".into()]).unwrap();
    assert!(names.set(["Admin", "root", ""]).is_empty());
    assert!(names.set(["admin"]).intersects(names.set(["admin", "other"])));
}

/// One of a few routes, so that they meet: host, path, methods.
type Spec = (u8, u8, u8);

fn route(index: usize, spec: Spec) -> Route {
    let (host, path, methods) = spec;
    let hosts = ["*.b.example", "a.b.example", "*.example"];
    let paths = ["/", "/a", "/a/b", "/a/b/a", "/ab", "/b"];
    Route {
        name: format!("{host}{path}{methods}"),
        line: index,
        index,
        host: hosts.get(usize::from(host)).map_or(HostPattern::Any, |text| HostPattern::parse(text).unwrap()),
        path: PathPrefix::parse(paths[usize::from(path) % paths.len()]).unwrap(),
        methods: match methods {
            0 => None,
            1 => Some(vec![Method::GET]),
            _ => Some(vec![Method::POST]),
        },
        access: AccessRule::Public,
        accept: Accept { session: true, token: false },
        upstream: UpstreamId(0),
        options: RouteOptions::default(),
        sign_in: SignInRule::default(),
    }
}

/// The most specific route as one would explain it: host first, then the number of whole segments; there the methods speak.
fn naive(routes: &[Route], method: &Method, host: &str, path: &str) -> String {
    let segments =
        |path: &str| path.split('/').skip(1).filter(|s| !s.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let asked = segments(path);
    let rank = |route: &Route| {
        let prefix = segments(route.path.as_str());
        let level = match &route.host {
            HostPattern::Exact(name) if name == host => 1_000,
            HostPattern::Under(suffix) if host.len() > suffix.len() && host.ends_with(suffix.as_str()) => suffix.len(),
            HostPattern::Any => 0,
            _ => return None,
        };
        asked.starts_with(&prefix).then_some((level, prefix.len()))
    };
    let Some(best) = routes.iter().filter_map(&rank).max() else { return "nothing".to_owned() };
    let here: Vec<&Route> = routes.iter().filter(|route| rank(route) == Some(best)).collect();
    let named = here.iter().find(|route| route.methods.as_ref().is_some_and(|methods| methods.contains(method)));
    let open = here.iter().find(|route| route.methods.is_none());
    named.or(open).map_or("method".to_owned(), |route| route.name.clone())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn find_agrees_with_a_naive_model_whatever_the_order(
        specs in proptest::collection::btree_set((0_u8..4, 0_u8..6, 0_u8..3), 1..12),
        turn in 0_usize..12,
        host in 0_usize..4,
        segments in proptest::collection::vec("(a|b|ab)", 0..4),
    ) {
        let mut routes: Vec<Route> = specs.into_iter().enumerate().map(|(index, spec)| route(index, spec)).collect();
        let host = ["a.b.example", "x.b.example", "b.example", "other"][host];
        let path = format!("/{}", segments.join("/"));
        let table = RouteTable::new(routes.clone()).unwrap();
        let turn = turn % routes.len();
        routes.rotate_left(turn);
        routes.reverse();
        let turned = RouteTable::new(routes.clone()).unwrap();
        for method in [Method::GET, Method::POST] {
            let parts = parts(method.as_str(), host, &path);
            let head = RequestHead::parse(&parts, None).unwrap();
            let (mine, theirs) = (named(table.find(&head)), named(turned.find(&head)));
            prop_assert_eq!(&mine, &theirs);
            prop_assert_eq!(&mine, &naive(&routes, &method, host, &path), "{} {} {}", method, host, path);
        }
    }

    /// attacks: policy 10. What is forwarded is public or names somebody who may.
    #[test]
    fn another_role_never_loses_access_and_nobody_passes_unnamed(
        wanted in 0_u8..8, held in 0_u8..8, more in 0_u8..3, access in 0_u8..3, navigation: bool,
    ) {
        const ROLES: [&str; 3] = ["r0", "r1", "r2"];
        let names = RoleNames::new(ROLES.map(str::to_owned).to_vec()).unwrap();
        let set = |bits: u8| names.set(ROLES.into_iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1).map(|(_, r)| r));
        let access = match access {
            0 => AccessRule::Public,
            1 => AccessRule::Authenticated,
            _ => AccessRule::Roles(set(wanted)),
        };
        let route = Arc::new(Route { access, ..route(0, (9, 0, 0)) });
        let mut parts = parts("GET", "localhost", "/");
        if navigation {
            parts.headers.insert("sec-fetch-mode", "navigate".parse().unwrap());
        }
        let head = RequestHead::parse(&parts, None).unwrap();
        let asked = |bits: Option<u8>| {
            let who = bits.map_or(Authentication::Anonymous, |bits| {
                let (name, email, roles) = (None, None, set(bits));
                let identity =
                    Identity { subject: "a".into(), name, email, roles, role_names: vec![], proof: Proof::Session, signed_in: None };
                Authentication::Identified(Arc::new(IdentityHeaders::none().caller(identity)))
            });
            decide(&head, &Matched { route: &route, rewritten: None, also: None }, who, Duration::ZERO)
        };
        let passes = |decision: &Decision| matches!(decision, Decision::Forward(..));
        prop_assert!(!passes(&asked(Some(held))) || passes(&asked(Some(held | 1 << more))));
        prop_assert_eq!(passes(&asked(None)), access == AccessRule::Public);
        for decision in [asked(None), asked(Some(held))] {
            if let Decision::Forward(permit, _) = decision {
                prop_assert_eq!(permit.caller().is_some(), access != AccessRule::Public);
                if let (Some(caller), AccessRule::Roles(wanted)) = (permit.caller(), access) {
                    prop_assert!(caller.identity.roles.intersects(wanted));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_accepted_path_is_its_own_canonical_form(path in "(/[a-zA-Z.%;2ef5c]{0,4}){1,4}") {
        if let Ok(canonical) = CanonicalPath::parse(&path) {
            prop_assert!(canonical.raw() == path);
            prop_assert!(!canonical.decoded().split('/').any(|segment| segment == ".." || segment == "."));
            prop_assert!(!canonical.decoded().contains("//"));
        }
    }
}

/// Pieces that paths past gateways were made of.
const PIECES: [&str; 46] = [
    "/",
    "/",
    "/",
    "admin",
    "admin",
    "static",
    "static",
    "ADMIN",
    "Static",
    "a",
    "x.css",
    ".",
    "..",
    "...",
    "%2e",
    "%2E%2e",
    ";",
    ";x=y",
    "%3b",
    "%2f",
    "%5c",
    "\\",
    "%00",
    "%0a",
    "%20",
    " ",
    "%09",
    "?",
    "%3f",
    "#",
    "%23",
    "%61",
    "%41",
    "%25",
    "%252e",
    "%252f",
    "%c0%ae",
    "%c0%af",
    "%e0%80%af",
    "%ef%bc%8f",
    "%ef%bc%8e",
    "%ef%bd%81dmin",
    "%ef%bc%85",
    "%ef%bc%bc",
    "adm%c4%b1n",
    "%c5%bftatic",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: ProptestConfig::default().cases.max(20_000), ..ProptestConfig::default() })]

    /// attacks: policy 1, the permissive-decoder oracle: what passes leads past no rule, whatever a server makes of it.
    #[test]
    fn whatever_another_parser_makes_of_a_path_it_stays_under_its_rule(
        pieces in proptest::collection::vec(proptest::sample::select(&PIECES[..]), 1..9),
    ) {
        static CONFIGS: std::sync::LazyLock<[Config; 2]> = std::sync::LazyLock::new(|| [config(), lax()]);
        let path = format!("/{}", pieces.concat());
        let Ok(request) = http::Request::builder().uri(path.as_str()).header("host", "localhost").body(()) else { return Ok(()) };
        let parts = request.into_parts().0;
        let Ok(head) = RequestHead::parse(&parts, None) else { return Ok(()) };
        for config in CONFIGS.iter() {
            let Found::Route(matched) = config.routes.find(&head) else { continue };
            for reading in readings(head.path.raw()) {
                let stays = match matched.route.name.as_str() {
                    "static" => is_under(&reading, "/static"),
                    "root" => !is_under(&reading, "/admin"),
                    _ => true,
                };
                prop_assert!(stays, "{} is {} and can be read as {}", path, matched.route.name, reading);
            }
        }
    }
}
