//! Gateways whose store is reached over TLS, with a CA of its own and a certificate of theirs; and what each is told on its start
//! where one of these is not right.

use std::path::{Path, PathBuf};

use rcgen::ExtendedKeyUsagePurpose;

use crate::fleet::{Fleet, Plan, refused};
use crate::redis_server::{RedisServer, free_port};
use crate::servers::Authority;

/// A server that wants certificates, and the folder of its CA.
struct Secured {
    server: RedisServer,
    port: u16,
    folder: tempfile::TempDir,
}

impl Secured {
    fn start() -> Secured {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (certificate, private) =
            Authority::new(folder.path()).issue("localhost", ExtendedKeyUsagePurpose::ServerAuth);
        std::fs::write(path("own.pem"), certificate.pem()).unwrap();
        std::fs::write(path("own.key"), private.serialize_pem()).unwrap();
        let port = free_port();
        let files = [("--tls-ca-cert-file", "ca.pem"), ("--tls-cert-file", "own.pem"), ("--tls-key-file", "own.key")];
        let mut arguments = vec!["--tls-port".to_owned(), port.to_string()];
        arguments.extend(files.iter().flat_map(|(option, name)| [(*option).to_owned(), path(name)]));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Secured { server: RedisServer::start(&arguments), port, folder }
    }

    fn store(&self) -> String {
        format!("rediss://localhost:{}/0", self.port)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn trusts(ca: &Path) -> String {
    format!("ca = \"{}\"\n", ca.display())
}

fn shows(folder: &Path) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    format!("certificate = \"{}\"\nprivate_key = \"{}\"\n", path("client.pem"), path("client.key"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_agree_over_tls_with_certificates_of_their_own() {
    let secured = Secured::start();
    let (store, redis) = (secured.store(), trusts(&secured.file("ca.pem")) + &shows(secured.folder.path()));
    let fleet = Fleet::start(2, &secured.server, Plan { store: Some(&store), redis: &redis, ..Plan::default() });
    fleet.ready().await;
    let (one, two) = (fleet.session().await, fleet.session().await);
    for node in &fleet.nodes {
        assert_eq!((node.status(&one.line).await, node.status(&two.line).await), (200, 200));
    }
    let answered = fleet.revoke_session(0, &one).await;
    assert_eq!((answered.status.as_u16(), &answered.json["everywhere"]), (200, &true.into()), "{answered:?}");
    for node in &fleet.nodes {
        assert_eq!((node.status(&one.line).await, node.status(&two.line).await), (401, 200));
    }
    // They were there over TLS: each has a connection for the log and one to wait on, and none in clear text.
    let clients = secured.server.admin(&["CLIENT", "LIST"]);
    let named = |laddr: u16| {
        clients.lines().filter(|line| line.contains("user=portcullis") && line.contains(&format!(":{laddr} "))).count()
    };
    assert!(named(secured.port) >= 4 && named(secured.server.port) == 1, "{clients}");
}

/// Not an outage: nothing but another setting mends it, so the gateway says which and does not start.
#[test]
fn a_start_with_the_wrong_certificates_says_what_to_write() {
    let (secured, others) = (Secured::start(), tempfile::tempdir().unwrap());
    Authority::new(others.path());
    let told = |redis: &str| {
        let store = secured.store();
        refused(&secured.server, Plan { store: Some(&store), redis, ..Plan::default() })
    };
    let (trusted, shown) = (trusts(&secured.file("ca.pem")), shows(secured.folder.path()));
    let said = told(&(trusts(&others.path().join("ca.pem")) + &shown));
    assert!(said.contains("shows a certificate that does not hold; check `ca` and `server_name`"), "{said}");
    assert!(said.contains("invalid peer certificate"), "{said}");
    let said = told(&format!("{trusted}{shown}server_name = \"elsewhere.example\"\n"));
    assert!(said.contains("check `ca` and `server_name`") && said.contains("elsewhere.example"), "{said}");
    let said = told(&trusted);
    assert!(said.contains("asks for a certificate of the gateway; write `certificate` and `private_key`"), "{said}");
}
