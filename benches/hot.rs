//! What every request pays for: finding a route and deciding, rebuilding the head, a session answered from memory, and the
//! whole way over loopback. Compare runs of one machine with each other, never with another's.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use portcullis::authn::{Asking, Authenticator, Carrier, CookieName, NoDirectory};
use portcullis::clock::{SystemClock, Timestamp};
use portcullis::config::Config;
use portcullis::policy::{
    Accept, AccessRule, Authentication, Caller, Decision, Found, HostPattern, Identity, IdentityHeaders, PathPrefix,
    Permit, Proof, RequestHead, RoleNames, Route, RouteOptions, RouteTable, SignInRule, UpstreamId, decide,
};
use portcullis::proxy::headers::{Outgoing, request_headers};
use portcullis::proxy::{Connection, ForwardedStyle, Forwarding, Records, RequestIds};
use portcullis::session::store::Memory;
use portcullis::session::{Activity, CookieCodec, Lifetimes, Memo, NewSession, SessionKeys, Sessions, Settings};
use portcullis::startup::{Setup, start};
use portcullis::token::Tokens;
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
    let headers = IdentityHeaders::preset("x-forwarded").unwrap().render(&identity);
    Arc::new(Caller { identity, headers })
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
            let outgoing = Outgoing {
                trace: &forwarding.trace(&connection, &parts.headers),
                style: forwarding.style,
                authority: head.authority,
                id: ids.next(),
                cookie: &cookie,
                identity: &identity,
                permit: &permit,
                version: http::Version::HTTP_11,
                switch: None,
                access_token: None,
                signed: None,
            };
            request_headers(black_box(&parts.headers), outgoing)
        });
    });
}

/// One session and its cookie.
fn session(runtime: &tokio::runtime::Runtime) -> (Arc<Sessions>, String) {
    let keys = SessionKeys::random().unwrap();
    let settings = Settings {
        lifetimes: Lifetimes::new(Duration::from_secs(1_800), Duration::from_secs(43_200)),
        cache_entries: 100_000,
        max_sessions: None,
        store_timeout: Duration::from_secs(2),
    };
    let sessions = Sessions::new(Arc::new(Memory::new()), CookieCodec::new(&keys, ""), settings);
    let (name, email, roles) = (None, None, vec!["admin".into()]);
    let new = NewSession {
        provider: "local".into(),
        subject: "alice".into(),
        name,
        email,
        roles,
        device: "b".into(),
        provided: None,
    };
    let begun = runtime.block_on(sessions.begin(new, None, Timestamp(0))).unwrap();
    (sessions, begun.cookie)
}

fn cache_hit(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (sessions, value) = session(&runtime);
    let names = RoleNames::new(vec!["admin".into()]).unwrap();
    let (cookie, headers) = (CookieName::new("__Host-portcullis"), IdentityHeaders::preset("x-forwarded").unwrap());
    let tokens = Arc::new(Tokens::new(Vec::new(), sessions.clone(), names.clone(), headers.clone(), 1));
    let carrier = Carrier::new(sessions, Arc::new(NoDirectory), cookie, None);
    let authenticator = Authenticator::new(carrier, tokens, names, headers);
    let line = HeaderValue::from_str(&format!("theme=dark; __Host-portcullis={value}")).unwrap();
    let headers = HeaderMap::from_iter([(http::header::COOKIE, line)]);
    let accept = Accept { session: true, token: false };
    let memo = Memo::default();
    c.bench_function("a session from memory", |b| {
        b.to_async(&runtime).iter(|| async {
            let client = std::net::IpAddr::from([127, 0, 0, 1]);
            let asking = Asking { headers: black_box(&headers), accept, activity: Activity::Active, client };
            authenticator.ask(asking, &memo, Timestamp(1)).await.unwrap()
        });
    });
}

struct Nowhere;

impl Records for Nowhere {
    fn line(&self, _: &str) {}
}

fn shared_hit(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (sessions, cookie) = session(&runtime);
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
    let setup = Setup { config, clock: Arc::new(SystemClock), records: Arc::new(Nowhere), store: None };
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

criterion_group!(benches, find_and_decide, rebuild, cache_hit, shared_hit, end_to_end);
criterion_main!(benches);
