//! What is open on one gateway ends with what is done at another: the browser's own sign-out, the operator's commands, a role that
//! is taken away, a token that is denied, and the lease of a gateway that hears nothing any more.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use portcullis::clock::SystemClock;
use serde_json::Value;
use tokio::task::{JoinHandle, block_in_place};

use crate::bearer;
use crate::fleet::{Fleet, PASSWORD, Plan, hex};
use crate::held::{End, KINDS, Kind, Streaming};
use crate::redis_server::RedisServer;
use crate::shared_store::eventually;
use crate::support::{Said, between};
use crate::tokens::Issuer;
use crate::wire::{one, soon, whole};

const ISSUER: &str = "https://id.example";
/// What a client may notice late that was cut in time: this is a busy machine, and everything it waits for shares two cores.
const NOTICED: Duration = Duration::from_millis(500);
/// A question that waits for its answer is watched from its first second on.
const UNWATCHED: Duration = Duration::from_secs(1);

/// Gateways over one store, before applications whose answers never end.
struct Stage {
    fleet: Fleet,
    streaming: Streaming,
    issuer: Arc<Issuer>,
    _server: RedisServer,
}

impl Stage {
    async fn start(nodes: usize) -> Stage {
        let stage = Stage::with(nodes, Plan::default());
        stage.fleet.ready().await;
        stage
    }

    fn with(nodes: usize, plan: Plan<'_>) -> Stage {
        let (server, streaming, issuer) = (RedisServer::start(&[]), Streaming::start(), Arc::new(Issuer::es256()));
        let (token, keys) = (bearer::table(bearer::EXACT), bearer::set(&[("one", &issuer)]));
        let more = format!("{token}{}", streaming.routes("[\"session\", \"token\"]"));
        let fleet = Fleet::start(nodes, &server, Plan { more: &more, keys: &keys, ..plan });
        Stage { fleet, streaming, issuer, _server: server }
    }

    fn token(&self, id: &str) -> String {
        let more = format!(r#","jti":"{id}","realm":{{"roles":["eng-admins"]}}"#);
        format!("Bearer {}", bearer::token(&self.issuer, "one", &SystemClock, &more))
    }

    /// Streams of every kind at a node, each read to its end.
    async fn open(&self, node: usize, base: &str, by: (&'static str, &str)) -> Vec<Open> {
        let mut open = Vec::new();
        for kind in KINDS {
            let held = self.streaming.open(kind, self.fleet.nodes[node].port, base, by).await;
            open.push(Open { kind, begun: Instant::now(), ending: tokio::spawn(held.end()) });
        }
        open
    }

    async fn status(&self, node: usize, by: (&'static str, &str)) -> u16 {
        self.status_of("/any", node, by).await
    }

    async fn status_of(&self, path: &str, node: usize, (name, value): (&'static str, &str)) -> u16 {
        let mut sender = one(self.fleet.nodes[node].port).await;
        let request = Request::get(path).method("HEAD").header("host", "localhost").header(name, value);
        soon(sender.send_request(request.body(whole("")).unwrap())).await.unwrap().status().as_u16()
    }

    /// The operator's command, at a node.
    fn command(&self, node: usize, arguments: &[&str]) -> String {
        let file = self.fleet.operator_file(node);
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.arg(arguments[0]).arg("--config").arg(file).args(&arguments[1..]);
        let output = block_in_place(|| command.output().unwrap());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The same, which says what became of sessions.
    fn sessions(&self, node: usize, arguments: &[&str]) -> Value {
        let said = self.command(node, &[&["sessions"], arguments].concat());
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }
}

struct Open {
    kind: Kind,
    begun: Instant,
    ending: JoinHandle<(End, Instant)>,
}

/// All of them ended as they have to, by this moment.
async fn ended(open: Vec<Open>, expected: impl Fn(Kind) -> End, by: Instant, after: &str) {
    for Open { kind, begun, ending } in open {
        let (end, at) = soon(ending).await.unwrap();
        assert_eq!(end, expected(kind), "{kind:?} after {after}");
        let by = if kind == Kind::Poll { by.max(begun + UNWATCHED) } else { by };
        assert!(at <= by + NOTICED, "{kind:?} was cut {:?} after {after} had returned", at - by);
    }
}

/// A person's browser: its cookies know no ports, so that it is the same to every gateway of this host.
struct Browser(tempfile::TempDir);

impl Browser {
    fn jar(&self) -> PathBuf {
        self.0.path().join("jar")
    }

    fn visit(&self, port: u16, path: &str, arguments: &[&str]) -> Said {
        let mut command = Command::new("curl");
        command.args(["-sk", "-i", "--max-time", "20", "-b"]).arg(self.jar()).arg("-c").arg(self.jar());
        command.args(arguments).arg(format!("https://localhost:{port}{path}"));
        Said::read(block_in_place(|| command.output().unwrap()))
    }

    /// Sign in as Alice; answers the session's cookie.
    fn sign_in(port: u16) -> (Browser, String) {
        Browser::sign_in_by(port, PASSWORD)
    }

    /// The same by this password.
    fn sign_in_by(port: u16, password: &str) -> (Browser, String) {
        let browser = Browser(tempfile::tempdir().unwrap());
        let page = browser.visit(port, "/.portcullis/login", &[]);
        let state = format!("state={}", between(&page.body, "name=\"state\" value=\"", "\""));
        let password = format!("password={password}");
        let form = ["-d", "user=alice", "--data-urlencode", &state, "--data-urlencode", &password];
        assert_eq!(browser.visit(port, "/.portcullis/login", &form).status, 303);
        let jar = std::fs::read_to_string(browser.jar()).unwrap();
        let value = jar.lines().find_map(|line| line.split_once("\t__Host-portcullis\t")).expect("signed in").1;
        (browser, format!("__Host-portcullis={value}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browsers_sign_out_at_one_gateway_ends_what_it_holds_open_at_another() {
    let stage = Stage::start(2).await;
    let ports = [stage.fleet.nodes[0].port, stage.fleet.nodes[1].port];
    let (browser, cookie) = Browser::sign_in(ports[0]);
    let (_other, spared) = Browser::sign_in(ports[0]);
    let open = stage.open(1, "/any", ("cookie", &cookie)).await;
    let mut goes_on = stage.streaming.open(KINDS[0], ports[1], "/any", ("cookie", &spared)).await;
    let listed = stage.sessions(1, &["list", "--user", "alice"]);
    assert_eq!(listed.as_array().unwrap().len(), 3, "those two, and one made beside the gateways: {listed}");
    let page = browser.visit(ports[0], "/.portcullis/whoami", &[]);
    let csrf = format!("csrf={}", between(&page.body, "name=\"csrf\" value=\"", "\""));
    let said = browser.visit(ports[0], "/.portcullis/logout", &["--data-urlencode", &csrf]);
    assert_eq!(said.status, 200, "{}", said.head);
    ended(open, |kind| End::of(kind, 1008), Instant::now(), "the sign-out").await;
    for node in [0, 1] {
        assert_eq!(stage.status(node, ("cookie", &cookie)).await, 401);
    }
    assert_eq!(goes_on.next().await, None, "another device of the same person");
    assert_eq!(stage.sessions(1, &["list", "--user", "alice"]).as_array().unwrap().len(), 2);
}

/// I12, by the commands: everything is cut before they return, and refused by a gateway that starts afterwards (I14).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_ends_at_one_gateway_is_cut_at_another_before_the_command_returns() {
    let mut stage = Stage::start(3).await;
    for what in ["session", "others", "user", "all", "token id", "token user", "token all"] {
        let (mine, other) = (stage.fleet.session().await, stage.fleet.session().await);
        let (cookie, token) = (mine.line.clone(), stage.token(what));
        let by =
            if what.starts_with("token") { ("authorization", token.as_str()) } else { ("cookie", cookie.as_str()) };
        let open = stage.open(1, "/any", by).await;
        assert_eq!((stage.status(0, by).await, stage.status(2, by).await), (200, 200), "{what}");
        let told = match what {
            "session" => stage.sessions(0, &["revoke", "--session", &hex(mine.key)]),
            "others" => stage.sessions(0, &["revoke", "--others-of", &hex(other.key)]),
            "user" => stage.sessions(0, &["revoke", "--user", "alice"]),
            "all" => stage.sessions(0, &["revoke", "--all"]),
            "token id" => stage.command(0, &["token", "revoke", "--jti", what, "--issuer", ISSUER]).into(),
            "token user" => stage.command(0, &["token", "revoke", "--user", "robot", "--issuer", ISSUER]).into(),
            _ => stage.command(0, &["token", "revoke", "--all"]).into(),
        };
        let returned = Instant::now();
        assert!(told.is_string() || told["everywhere"] == true, "{what}: {told}");
        ended(open, |kind| End::of(kind, 1008), returned, what).await;
        for node in [0, 1, 2] {
            assert_eq!(stage.status(node, by).await, 401, "{what} at {node}");
        }
        if ["session", "others", "token id"].contains(&what) {
            assert_eq!(stage.status(1, ("cookie", &other.line)).await, 200, "{what} spares the other");
        }
        if ["token id", "token user"].contains(&what) {
            stage.fleet.nodes[2].kill();
            stage.fleet.restart(2);
            let fresh = stage.token("fresh");
            eventually("it has caught up", async || stage.status(2, ("authorization", &fresh)).await == 200).await;
            assert_eq!(stage.status(2, by).await, 401, "{what}, at one that has just started");
        }
    }
}

/// A node that hears nothing ends what is open there with its lease, before whoever revokes stops waiting for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_hears_nothing_cuts_what_is_open_before_the_revocation_returns() {
    let stage = Stage::start(2).await;
    let (mine, token) = (stage.fleet.session().await, stage.token("mine"));
    let mut open = stage.open(1, "/any", ("cookie", &mine.line)).await;
    open.extend(stage.open(1, "/any", ("authorization", &token)).await);
    stage.fleet.between[1].swallow();
    let answered = stage.fleet.revoke_session(0, &mine).await;
    let returned = Instant::now();
    assert_eq!((answered.status.as_u16(), &answered.json["everywhere"]), (200, &true.into()), "{answered:?}");
    ended(open, End::of_outage, returned, "the revocation").await;
    let by_token = ["-H", &format!("Authorization: {token}"), "-H", "Accept: application/json"];
    let nobody = Browser(tempfile::tempdir().unwrap());
    let away = nobody.visit(stage.fleet.nodes[1].port, "/any", &by_token);
    assert!(away.status == 503 && away.body.contains("\"store_unavailable\""), "not the keys: {}", away.body);
}

/// attacks: line 14. A change of the user file concerns every gateway that reads it, and what needs the role alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_is_taken_away_ends_what_needs_it_at_every_gateway() {
    let stage = Stage::start(2).await;
    let mine = stage.fleet.session().await;
    let by = ("cookie", mine.line.as_str());
    let mut doomed = stage.open(0, "/role", by).await;
    doomed.extend(stage.open(1, "/role", by).await);
    let mut spared = stage.streaming.open(KINDS[0], stage.fleet.nodes[1].port, "/any", by).await;
    stage.fleet.edit_users("\"admin\"", "");
    ended(doomed, |kind| End::of(kind, 4401), Instant::now() + Duration::from_secs(15), "the change").await;
    assert_eq!(spared.next().await, None, "what asks for no role goes on");
}

/// Whoever knows a password that was changed may sign in where the copy of the user file is still old, after everybody was signed out
/// by whom it was changed. It is worth nothing where the copy is new, and nothing anywhere once one more node has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sign_in_by_a_password_that_was_changed_is_over_with_the_next_copy() {
    let stage = Stage::with(3, Plan { copies: true, ..Plan::default() });
    let (fleet, ports) = (&stage.fleet, [0, 1, 2].map(|n| stage.fleet.nodes[n].port));
    eventually("the nodes have caught up", async || {
        let mut ready = Vec::new();
        for node in &fleet.nodes {
            ready.push(node.operator_page("/readyz").await.0);
        }
        ready == [200; 3]
    })
    .await;
    let everywhere = async |what: &str, cookie: &str, expected: [u16; 3]| {
        eventually(what, async || {
            let mut said = [0; 3];
            for (n, said) in said.iter_mut().enumerate() {
                *said = stage.status(n, ("cookie", cookie)).await;
            }
            said == expected
        })
        .await;
    };
    let (_first, first) = block_in_place(|| Browser::sign_in(ports[1]));
    everywhere("signed in", &first, [200; 3]).await;
    let open = stage.open(2, "/any", ("cookie", &first)).await;
    let old = block_in_place(|| fleet.passwd(0, "another horse battery"));
    let soon_after = || Instant::now() + Duration::from_secs(15);
    ended(open, |kind| End::of(kind, 1008), soon_after(), "the change").await;
    everywhere("by the first password", &first, [401; 3]).await;
    let revoked = fleet.revoke(0, serde_json::json!({ "user": "alice" })).await;
    assert_eq!(revoked.json["everywhere"], true, "{revoked:?}");
    let (_fresh, fresh) = block_in_place(|| Browser::sign_in_by(ports[0], "another horse battery"));
    everywhere("by the new one, at nodes that know it not yet", &fresh, [200; 3]).await;
    for node in [2, 1] {
        let (_late, late) = block_in_place(|| Browser::sign_in(ports[1]));
        everywhere("where the copy is old", &late, if node == 2 { [401, 200, 200] } else { [401, 200, 401] }).await;
        let open = stage.open(1, "/any", ("cookie", &late)).await;
        fleet.write_copy(node, &fleet.copy(0));
        ended(open, |kind| End::of(kind, 1008), soon_after(), "the copy").await;
        everywhere("the copy is there", &late, [401; 3]).await;
    }
    // An old copy that comes once more, and goes, ends nothing of the password that it does not know.
    let old = old.replace("\"admin\"", "");
    for (copy, status) in [(old.clone(), 403), (fleet.copy(0), 200), (old, 403), (fleet.copy(0), 200)] {
        fleet.write_copy(1, &copy);
        eventually("it is read", async || stage.status_of("/role", 1, ("cookie", &fresh)).await == status).await;
    }
    everywhere("goes on", &fresh, [200; 3]).await;
    assert_eq!(stage.sessions(0, &["list", "--user", "alice"]).as_array().unwrap().len(), 1);
}
