//! Documents of other parties, from servers that send what they should not.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body_util::BodyExt;
use portcullis::fetch::{Address, Client, Credential, FetchError, Settings, Step};
use portcullis::trust::ClientTlsFiles;

use crate::servers::Authority;
use crate::wire::{Application, Frames, Nobody, soon, whole};

/// A server that reads a request's head, and then writes these pieces with a pause between; ends with the test.
fn raw(pieces: Vec<Vec<u8>>, pause: Duration) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            for piece in &pieces {
                if stream.write_all(piece).is_err() {
                    break;
                }
                std::thread::sleep(pause);
            }
        }
    });
    plain(port)
}

fn plain(port: u16) -> Address {
    Address::parse(&format!("http://127.0.0.1:{port}/document?x=1"), true).unwrap()
}

/// A client with little patience; the trust of no CA at all would be the system's, which may have none in a test.
fn client(folder: &std::path::Path, timeout: Duration) -> Client {
    let tls = ClientTlsFiles { ca: Some(folder.join("ca.pem")), identity: None };
    Client::new(&Settings { tls, most_bytes: 10_000, timeout }).unwrap()
}

fn small() -> (tempfile::TempDir, Authority, Client) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let client = client(folder.path(), Duration::from_secs(20));
    (folder, authority, client)
}

#[tokio::test]
async fn a_redirect_is_an_error_and_nobody_else_is_asked() {
    let (_folder, _, client) = small();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    other.set_nonblocking(true).unwrap();
    for status in [301, 302, 303, 307, 308] {
        let port = other.local_addr().unwrap().port();
        let head = format!("HTTP/1.1 {status} Go\r\nlocation: http://127.0.0.1:{port}/\r\ncontent-length: 0\r\n\r\n");
        let said = soon(client.get(&raw(vec![head.into()], Duration::ZERO), Credential::Bearer("secret"))).await;
        assert!(matches!(said, Err(FetchError::Redirect(_, told)) if told.as_u16() == status), "{said:?}");
    }
    assert!(other.accept().is_err(), "the other server was asked");
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_cut_off_whatever_it_announced() {
    let (_folder, _, client) = small();
    let body = vec![b'x'; 10_001];
    let announced = [&b"HTTP/1.1 200 OK\r\ncontent-length: 10001\r\n\r\n"[..], &body].concat();
    let chunked =
        [&b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2711\r\n"[..], &body, b"\r\n0\r\n\r\n"].concat();
    let endless = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &body].concat();
    for answer in [announced, chunked, endless] {
        let said = soon(client.get(&raw(vec![answer], Duration::ZERO), Credential::None)).await;
        assert!(matches!(said, Err(FetchError::TooLarge(_))), "{said:?}");
    }
    let fits = [&b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n"[..], &body[..10_000]].concat();
    let said = soon(client.get(&raw(vec![fits], Duration::ZERO), Credential::None)).await.unwrap();
    assert_eq!(said.body.len(), 10_000);
    let head = [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; 1 << 20]].concat();
    let said = soon(client.get(&raw(vec![head], Duration::ZERO), Credential::None)).await;
    assert!(matches!(said, Err(FetchError::Exchange(..))), "{said:?}");
}

/// The limit covers the whole: a byte now and then keeps nothing alive.
#[tokio::test]
async fn a_slow_answer_is_given_up_at_every_step() {
    let (folder, ..) = small();
    let impatient = client(folder.path(), Duration::from_millis(300));
    let trickle = |start: &[u8]| [vec![start.to_vec()], vec![vec![b'x']; 200]].concat();
    let step = Duration::from_millis(100);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let secure = Address::parse(&format!("https://127.0.0.1:{port}/"), true).unwrap();
    let cases = [
        (raw(trickle(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"), step), Step::Read),
        (raw(trickle(b"HTTP/1.1 200 OK\r\nx: "), step), Step::Ask),
        (plain(port), Step::Ask),
        (secure, Step::Secure),
    ];
    for (address, expected) in cases {
        let begun = Instant::now();
        let said = soon(impatient.get(&address, Credential::None)).await;
        assert!(matches!(said, Err(FetchError::Timeout(_, step)) if step == expected), "{expected:?}: {said:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{expected:?} took {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_server_that_is_away_or_speaks_no_http_is_told_apart() {
    let (_folder, _, client) = small();
    let free = Nobody::new();
    let said = soon(client.get(&plain(free.port()), Credential::None)).await;
    assert!(matches!(said, Err(FetchError::Connect(..))), "{said:?}");
    let said = soon(client.get(&raw(vec![b"220 smtp ready\r\n\r\n".to_vec()], Duration::ZERO), Credential::None)).await;
    assert!(matches!(said, Err(FetchError::Exchange(..))), "{said:?}");
    let short = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort".to_vec();
    let said = soon(client.get(&raw(vec![short], Duration::ZERO), Credential::None)).await;
    assert!(matches!(said, Err(FetchError::Body(..))), "{said:?}");
}

/// Tells what it was asked.
async fn mirror(request: Request<hyper::body::Incoming>) -> Response<Frames> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut said = format!("{} {}\n", parts.method, parts.uri);
    for (name, value) in &parts.headers {
        said.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
    }
    said.push_str(std::str::from_utf8(&body).unwrap());
    Response::builder().status(400).body(whole(said)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn only_a_server_of_the_configured_ca_is_asked_and_a_certificate_is_shown_to_it() {
    let (folder, authority, stranger) = small();
    let application = Application::start_tls(authority.server("localhost", &[]), mirror);
    let at = |host: &str| Address::parse(&format!("https://{host}:{}/token?a=b", application.port), false).unwrap();
    let identity = Some((folder.path().join("client.pem"), folder.path().join("client.key")));
    let files = |ca: &std::path::Path| ClientTlsFiles { ca: Some(ca.join("ca.pem")), identity: identity.clone() };
    let client = |files| Client::new(&Settings { tls: files, ..Settings::default() }).unwrap();

    let fields = [("grant_type", "authorization_code"), ("code", "a&b=c d")];
    let basic = Credential::Basic { name: "a:b", secret: "p ä" };
    let said = soon(client(files(folder.path())).post(&at("localhost"), &fields, basic)).await.unwrap();
    assert_eq!(said.status, 400, "the caller's to judge");
    let text = String::from_utf8(said.body.to_vec()).unwrap();
    assert!(text.starts_with("POST /token?a=b\n"), "{text}");
    assert!(text.ends_with("\ngrant_type=authorization_code&code=a%26b%3Dc+d"), "{text}");
    for line in [
        "authorization: Basic YSUzQWI6cCslQzMlQTQ=\n",
        "accept: application/json\n",
        &format!("host: localhost:{}\n", application.port),
        "content-type: application/x-www-form-urlencoded\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let other = tempfile::tempdir().unwrap();
    Authority::new(other.path());
    let said = soon(client(files(other.path())).get(&at("localhost"), Credential::None)).await;
    assert!(matches!(said, Err(FetchError::Secure(..))), "of another CA: {said:?}");
    let said = soon(client(files(folder.path())).get(&at("127.0.0.1"), Credential::None)).await;
    assert!(matches!(said, Err(FetchError::Secure(..))), "for another name: {said:?}");
    let said = soon(stranger.get(&at("localhost"), Credential::None)).await;
    assert!(matches!(said, Err(FetchError::Secure(..) | FetchError::Exchange(..))), "no certificate shown: {said:?}");
}
