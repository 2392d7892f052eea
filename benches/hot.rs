//! What every request pays for: finding a route and deciding, rebuilding the head, a session answered from memory, and the
//! whole way over loopback. Compare runs of one machine with each other, never with another's.

use std::cell::Cell;
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jsonwebtoken::{EncodingKey, Header, encode};
use portcullis::authn::{Asking, Authenticator, Carrier, CookieName, NoDirectory, Recent};
use portcullis::clock::{SystemClock, Timestamp};
use portcullis::config::Config;
use portcullis::policy::{
    Accept, AccessRule, Authentication, Caller, Decision, Fields, Found, HostPattern, Identity, IdentityHeaders, Names,
    PathPrefix, Permit, Proof, RequestHead, RoleNames, Route, RouteOptions, RouteTable, SignInRule, UpstreamId, decide,
};
use portcullis::proxy::headers::{Outgoing, request_headers};
use portcullis::proxy::{Connection, ForwardedStyle, Forwarding, Records, RequestIds};
use portcullis::session::store::Memory;
use portcullis::session::{
    Activity, CookieCodec, Lifetimes, NewSession, Session, SessionKey, SessionKeys, Sessions, Settings,
};
use portcullis::startup::{Setup, start};
use portcullis::token::ring::KeyRing;
use portcullis::token::{
    Algorithm, Current, Expected, Format, Key, KeySet, Keys, Mapping, OwnSettings, OwnTokens, Presented,
    SignedIdentities, Tell, Tokens, Verifier,
};
use tokio::net::TcpStream;

/// A table of `count` routes under 1/10 as many hosts, with one for the request.
fn table(count: usize) -> RouteTable {
    let route = |n: usize| Route {
        name: format!("route-{n}"),
        line: n,
        index: n,
        host: HostPattern::Exact(format!("app-{}.example.com", n / 10)),
        path: PathPrefix::parse(&format!("/area-{}/part", n % 10)).unwrap(),
        methods: None,
        access: AccessRule::Authenticated,
        accept: Accept { session: true, token: false },
        upstream: UpstreamId(0),
        options: RouteOptions::default(),
        sign_in: SignInRule::default(),
    };
    RouteTable::new((0..count).map(route).collect()).unwrap()
}

fn caller() -> Arc<Caller> {
    let names = RoleNames::new(vec!["admin".into(), "staff".into()]).unwrap();
    let roles = names.set(["admin", "staff"]);
    let identity = Identity {
        subject: "alice".into(),
        name: Some("Alice Example".into()),
        email: Some("alice@example.com".into()),
        roles,
        role_names: vec!["admin".into(), "staff".into()],
        proof: Proof::Session,
        signed_in: None,
    };
    Arc::new(IdentityHeaders::preset("x-forwarded").unwrap().caller(identity))
}

/// The head of a browser's request.
fn parts(cookie: &str) -> http::request::Parts {
    let lines = [
        ("host", "app-0.example.com"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("accept-language", "en-US,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("referer", "https://app-0.example.com/area-3/part/list"),
        ("sec-fetch-dest", "document"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-site", "same-origin"),
        ("connection", "keep-alive"),
        ("cookie", cookie),
    ];
    let request = Request::get("/area-3/part/item/42?sort=name");
    lines.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).unwrap().into_parts().0
}

fn permit(table: &RouteTable, head: &RequestHead<'_>, caller: Arc<Caller>) -> Permit {
    let Found::Route(matched) = table.find(head) else { panic!("a route") };
    match decide(head, &matched, Authentication::Identified(caller), Duration::ZERO) {
        Decision::Forward(permit, _) => permit,
        other => panic!("{other:?}"),
    }
}

fn find_and_decide(c: &mut Criterion) {
    let (caller, parts) = (caller(), parts("a=1"));
    let mut group = c.benchmark_group("head, find, decide");
    for count in [10, 100, 1_000] {
        let table = table(count);
        group.bench_with_input(BenchmarkId::from_parameter(count), &table, |b, table| {
            b.iter(|| {
                let head = RequestHead::parse(black_box(&parts), Some("app-0.example.com")).unwrap();
                permit(table, &head, caller.clone())
            });
        });
    }
    group.finish();
}

fn rebuild(c: &mut Criterion) {
    let parts = parts("theme=dark; __Host-portcullis=AQAAud7HiafSeERVkwYjxs1uTLChhSDUxkcLxv674kWtaSKSL; lang=en");
    let (table, ids, cookie) = (table(10), RequestIds::new(), CookieName::new("__Host-portcullis"));
    let identity = IdentityHeaders::preset("x-forwarded").unwrap();
    let head = RequestHead::parse(&parts, None).unwrap();
    let permit = permit(&table, &head, caller());
    let connection = Connection::new(([127, 0, 0, 1], 50_000).into(), None);
    let forwarding = Forwarding { trusted: vec![], style: ForwardedStyle::XForwarded };
    c.bench_function("rebuild the head", |b| {
        b.iter(|| {
            let trace = forwarding.trace(&connection, &parts.headers);
            let outgoing = Outgoing {
                trace: &trace,
                style: forwarding.style,
                authority: head.authority,
                ids: &ids.next().lines(),
                cookie: &cookie,
                identity: &identity,
                permit: &permit,
                version: http::Version::HTTP_11,
                method: &parts.method,
                switch: None,
                access_token: None,
                signed: None,
                destination: None,
            };
            black_box(request_headers(&Fields::of(black_box(&parts.headers)), &outgoing));
        });
    });
}

fn sessions() -> Arc<Sessions> {
    let keys = SessionKeys::random().unwrap();
    let settings = Settings {
        lifetimes: Lifetimes::new(Duration::from_secs(1_800), Duration::from_secs(43_200)),
        cache_entries: 1_000_000,
        max_sessions: None,
        store_timeout: Duration::from_secs(2),
    };
    Sessions::new(Arc::new(Memory::new()), CookieCodec::new(&keys, ""), settings)
}

fn alice() -> NewSession {
    let (name, email, roles) = (None, None, vec!["admin".into()]);
    NewSession {
        provider: "local".into(),
        subject: "alice".into(),
        entry: 0,
        name,
        email,
        roles,
        device: "b".into(),
        provided: None,
    }
}

/// The header lists of so many people, each with a session that is in memory.
fn signed_in(runtime: &tokio::runtime::Runtime, sessions: &Sessions, count: usize) -> Vec<HeaderMap> {
    let one = |n: usize| {
        let person = NewSession { subject: format!("user{n:07}"), ..alice() };
        let value = runtime.block_on(sessions.begin(person, None, Timestamp(0))).unwrap().cookie;
        let line = HeaderValue::from_str(&format!("theme=dark; __Host-portcullis={value}")).unwrap();
        HeaderMap::from_iter([(http::header::COOKIE, line)])
    };
    (0..count).map(one).collect()
}

/// Of one, and each time of another one of many that are in use among many that live.
fn cache_hit(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut group = c.benchmark_group("a session from memory");
    for (live, used) in [(1, 1), (1_000, 1_000), (1_000_000, 1_000), (1_000_000, 1_000_000)] {
        of_many(&mut group, &runtime, live, used);
    }
    group.finish();
}

fn of_many(group: &mut BenchmarkGroup<'_, WallTime>, runtime: &tokio::runtime::Runtime, live: usize, used: usize) {
    let sessions = sessions();
    let mut people = signed_in(runtime, &sessions, live);
    people.truncate(used);
    let names = RoleNames::new(vec!["admin".into()]).unwrap();
    let (cookie, headers) = (CookieName::new("__Host-portcullis"), IdentityHeaders::preset("x-forwarded").unwrap());
    let tokens = Arc::new(Tokens::new(Vec::new(), sessions.clone(), names.clone(), headers.clone(), 1));
    let carrier = Carrier::new(sessions, Arc::new(NoDirectory), cookie, None);
    let authenticator = Authenticator::new(carrier, HashMap::new(), tokens, names, headers);
    let accept = Accept { session: true, token: false };
    let (recent, turn) = (Recent::default(), Cell::new(0));
    group.bench_function(BenchmarkId::from_parameter(format!("{used} of {live}")), |b| {
        b.to_async(runtime).iter(|| async {
            let client = std::net::IpAddr::from([127, 0, 0, 1]);
            // A prime, so that all have their turn.
            turn.set((turn.get() + 7_919) % people.len());
            let headers = black_box(&people[turn.get()]);
            let asking =
                Asking { fields: &Fields::of(headers), accept, activity: Activity::Active, client, on_reuse: &silent };
            authenticator.ask(asking, &recent, Timestamp(1)).await.unwrap()
        });
    });
}

/// A token that was seen before, against what its signature cost the first time.
fn bearer(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let now = Timestamp(1_800_000_000_000);
    let claims = serde_json::json!({
        "iss": "https://id.example", "aud": "gateway", "sub": "alice", "email": "alice@example.com",
        "name": "Alice Example", "roles": ["admin"], "iat": now.seconds(), "exp": now.seconds() + 600,
    });
    let random = SystemRandom::new();
    let mut group = c.benchmark_group("a bearer token");
    for name in ["HS256", "RS256", "PS256", "ES256", "EdDSA"] {
        let algorithm = Algorithm::named(name).unwrap();
        let (key, signing) = match name {
            "HS256" => (Key::from_secret(&[7; 32]).unwrap(), EncodingKey::from_secret(&[7; 32])),
            "RS256" | "PS256" => {
                let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
                let key = Key::from_pem(pem(pair.public_key()).as_bytes(), algorithm).unwrap();
                let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
                let text = STANDARD.encode(private.as_ref());
                (key, EncodingKey::from_rsa_pem(lines("PRIVATE", &text).as_bytes()).unwrap())
            }
            "ES256" => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
                let key = Key::from_pem(pem(pair.public_key()).as_bytes(), algorithm).unwrap();
                (key, EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref()))
            }
            _ => {
                let document = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
                let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
                let key = Key::from_pem(pem(pair.public_key()).as_bytes(), algorithm).unwrap();
                (key, EncodingKey::from_ed_der(document.as_ref()))
            }
        };
        let token = encode(&Header::new(name.parse().unwrap()), &claims, &signing).unwrap();
        let set = KeySet::one(key);
        group.bench_function(BenchmarkId::new("verified", name), |b| {
            b.iter(|| Presented::parse(black_box(&token)).unwrap().verify(&set).unwrap());
        });
        let tokens = tokens(Keys::fixed(set));
        let here = std::net::IpAddr::from([127, 0, 0, 1]);
        group.bench_function(BenchmarkId::new("remembered", name), |b| {
            b.to_async(&runtime).iter(|| async { tokens.verify(black_box(&token), here, now).await.unwrap() });
        });
    }
    group.finish();
}

fn pem(key: &impl AsDer<PublicKeyX509Der<'static>>) -> String {
    lines("PUBLIC", &STANDARD.encode(key.as_der().unwrap().as_ref()))
}

fn lines(kind: &str, text: &str) -> String {
    format!("-----BEGIN {kind} KEY-----\n{text}\n-----END {kind} KEY-----\n")
}

fn tokens(keys: Arc<Keys>) -> Tokens {
    let mapping = Mapping {
        subject: "sub".into(),
        names: Names::default(),
        name: Some("name".into()),
        email: Some("email".into()),
        roles: Some("roles".into()),
        role_map: Default::default(),
    };
    let (longest, leeway) = (Duration::from_secs(3_600), Duration::from_secs(5));
    let expected = Expected { issuer: "https://id.example".into(), audiences: vec!["gateway".into()], longest, leeway };
    let verifier = Verifier { expected, kinds: vec!["JWT".into()], mapping, keys };
    let (names, headers) =
        (RoleNames::new(vec!["admin".into()]).unwrap(), IdentityHeaders::preset("x-forwarded").unwrap());
    Tokens::new(vec![verifier], sessions(), names, headers, 10_000)
}

/// A session in tokens: from memory, and with its access token seen for the first time.
fn own_tokens(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (sessions, now) = (sessions(), Timestamp(1_800_000_000_000));
    let ring = runtime.block_on(KeyRing::open(sessions.clone(), [1; 32], Algorithm::Es256, now)).unwrap();
    let ring = Arc::new(ring);
    let begun = runtime.block_on(sessions.begin(alice(), None, now)).unwrap();
    let (life, grace) = (Duration::from_secs(300), Duration::from_secs(10));
    let signed = Format::Signed { issuer: "https://gateway.example".into(), audience: "apps".into() };
    let mut group = c.benchmark_group("a session in tokens");
    for (name, format) in [("sealed", Format::Sealed), ("jws", signed)] {
        let own = |entries| {
            let settings =
                OwnSettings { format: format.clone(), life, grace, cookie: "b".into(), site: String::new(), entries };
            OwnTokens::new(sessions.clone(), ring.clone(), &[2; 32], Arc::new(SystemClock), settings)
        };
        // A memory of nothing: every access token is read anew.
        let (remembering, forgetful) = (own(1_000), own(0));
        group.bench_function(BenchmarkId::new("made", name), |b| {
            b.iter(|| remembering.make(begun.view.key, black_box(&begun.view.record()), now).unwrap());
        });
        let (access, _) = remembering.make(begun.view.key, &begun.view.record(), now).unwrap();
        for (what, tokens) in [("remembered", &remembering), ("read", &forgetful)] {
            group.bench_function(BenchmarkId::new(what, name), |b| {
                b.to_async(&runtime).iter(|| async {
                    let pair = (Some(black_box(access.as_str())), None);
                    tokens.lookup(pair, &AsBegun, Activity::Active, now, &silent).await.unwrap()
                });
            });
        }
    }
    group.finish();
    let identities = SignedIdentities::new(ring, "https://gateway.example".into(), 1_000);
    let who = caller();
    c.bench_function("a signed identity from memory", |b| b.iter(|| identities.line(black_box(&who), 3, "app", now)));
}

struct AsBegun;

impl Current for AsBegun {
    fn current(&self, _: SessionKey, session: Session) -> Option<Session> {
        Some(session)
    }
}

/// Nothing is used again.
fn silent() -> Tell {
    Box::new(|_, _| ())
}

struct Nowhere;

impl Records for Nowhere {
    fn line(&self, _: &str) {}
}

fn shared_hit(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sessions = sessions();
    let cookie = runtime.block_on(sessions.begin(alice(), None, Timestamp(0))).unwrap().cookie;
    c.bench_function("a session from the shared cache", |b| {
        b.to_async(&runtime)
            .iter(|| async { sessions.lookup(black_box(&cookie), Activity::Active, Timestamp(1)).await.unwrap() });
    });
}

fn end_to_end(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let text =
        include_str!("../gateway.toml").replace("127.0.0.1:8443", "127.0.0.1:0").replace("embedded:data", "memory");
    let config = Config::parse(&text, "gateway.toml", folder.path()).unwrap();
    let setup = Setup { config: config.into(), clock: Arc::new(SystemClock), records: Arc::new(Nowhere), store: None };
    let gateway = start(setup).unwrap();
    let certificate = std::fs::read(folder.path().join("certs/gateway.pem")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut sender = runtime.block_on(async {
        use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&certificate).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(gateway.address()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    });
    c.bench_function("a public page end to end", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let request = Request::get("/public").header("host", "localhost").body(Empty::<bytes::Bytes>::new());
                let answer = sender.send_request(request.unwrap()).await.unwrap();
                assert_eq!(answer.status(), 200);
                answer.into_body().collect().await.unwrap()
            })
        });
    });
}

criterion_group!(benches, find_and_decide, rebuild, cache_hit, shared_hit, bearer, own_tokens, end_to_end);
criterion_main!(benches);
