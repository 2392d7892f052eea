//! Gateways whose store is reached over TLS, with a CA of its own and a certificate of theirs; and what each is told on its start
//! where one of these is not right.

use std::path::{Path, PathBuf};

use rcgen::ExtendedKeyUsagePurpose;

use crate::fleet::{Fleet, Plan, refused};
use crate::redis_server::{RedisServer, free_port};
use crate::servers::Authority;
use crate::shared_store::eventually;

/// A server that wants certificates, and the folder of its CA.
struct Secured {
    server: RedisServer,
    arguments: Vec<String>,
    port: u16,
    folder: tempfile::TempDir,
}

impl Secured {
    fn start() -> Secured {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        certify(folder.path());
        let port = free_port();
        let files = [("--tls-ca-cert-file", "ca.pem"), ("--tls-cert-file", "own.pem"), ("--tls-key-file", "own.key")];
        let mut arguments = vec!["--tls-port".to_owned(), port.to_string()];
        arguments.extend(files.iter().flat_map(|(option, name)| [(*option).to_owned(), path(name)]));
        arguments.extend(["--appendonly", "yes", "--appendfsync", "always"].map(str::to_owned));
        let server = RedisServer::start(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        Secured { server, arguments, port, folder }
    }

    /// With what is in its files by now.
    fn restart(&mut self) {
        self.server.restart("redis-server", &self.arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }

    fn store(&self) -> String {
        format!("rediss://localhost:{}/0", self.port)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A CA, and certificates of it for the server and for gateways.
fn certify(folder: &Path) {
    let (certificate, private) = Authority::new(folder).issue("localhost", ExtendedKeyUsagePurpose::ServerAuth);
    std::fs::write(folder.join("own.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("own.key"), private.serialize_pem()).unwrap();
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

/// The files are the same, what is in them is of another CA on both sides, and nobody tells the gateway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_were_exchanged_count_from_the_next_connection() {
    let mut secured = Secured::start();
    let (store, redis) = (secured.store(), trusts(&secured.file("ca.pem")) + &shows(secured.folder.path()));
    let fleet = Fleet::start(1, &secured.server, Plan { store: Some(&store), redis: &redis, ..Plan::default() });
    fleet.ready().await;
    let (node, cookie) = (&fleet.nodes[0], fleet.session().await);
    assert_eq!(node.status(&cookie.line).await, 200);

    // Half of a renewal: what was read before goes on, over new connections too.
    let certificate = std::fs::read_to_string(secured.file("client.pem")).unwrap();
    std::fs::write(secured.file("client.pem"), &certificate[..certificate.len() / 2]).unwrap();
    secured.server.admin(&["CLIENT", "KILL", "USER", "portcullis"]);
    eventually("it is told that they are not usable", async || {
        node.said().contains("changed certificates towards the session store are not usable; the old ones stay")
    })
    .await;
    eventually("the node serves", async || node.status(&cookie.line).await == 200).await;
    assert_eq!(fleet.revoke_session(0, &fleet.session().await).await.json["everywhere"], true);

    certify(secured.folder.path());
    secured.restart();
    eventually("the node serves", async || node.status(&cookie.line).await == 200).await;
    let answered = fleet.revoke_session(0, &cookie).await;
    assert_eq!(
        (&answered.json["committed"], &answered.json["everywhere"]),
        (&true.into(), &true.into()),
        "{answered:?}"
    );
    assert_eq!(node.said().matches("towards the session store are not usable").count(), 1, "{}", node.said());
    assert!(node.said().contains("the certificates towards the session store were read anew"), "{}", node.said());
}
