//! Sessions that browsers carry themselves: an access token for minutes, a refresh token that is good once. The same pages, the same
//! headers, and what ends a session elsewhere ends it here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::sync::Semaphore;
use tokio::task::block_in_place;

use portcullis::clock::{Clock, SystemClock, TestClock};
use portcullis::session::{Revocation, SessionStore, ShelfKey, TokenId, UserKey, Wait};

use crate::redis_server::RedisServer;
use crate::sessions::Faulty;
use crate::shared_store::eventually;
use crate::support::{Running, Said, run_with, shipped};
use crate::wire::{Application, Client, soon, whole};

pub const ACCESS: &str = "__Host-portcullis-access";
pub const REFRESH: &str = "__Host-portcullis-refresh";

/// The shipped configuration over this store, with sessions in tokens.
pub fn text(store: &str, jwt: &str) -> String {
    let mode = format!("mode = \"jwt\"\n[session.jwt]\n{jwt}\n[login.local]");
    shipped(store).replacen("[login.local]", &mode, 1)
}

const SIGNED: &str = "format = \"jws\"\naudience = \"apps\"";

fn gateway(folder: tempfile::TempDir, store: &str, jwt: &str, clock: Arc<dyn Clock>) -> Running {
    let signing = "\n[signing]\nissuer = \"https://gateway.example\"\n";
    run_with(folder, &format!("{}{signing}", text(store, jwt)), clock, None)
}

fn started(jwt: &str) -> (Running, Arc<TestClock>) {
    let clock = Arc::new(TestClock::at(SystemClock.now()));
    (gateway(tempfile::tempdir().unwrap(), "memory", jwt, clock.clone()), clock)
}

/// What an answer sets: names and values, in order.
fn set(said: &Said) -> Vec<(String, String)> {
    let lines = said.head.lines().filter_map(|line| line.strip_prefix("set-cookie: "));
    lines
        .map(|line| line.split(';').next().unwrap().split_once('=').unwrap())
        .map(|(n, v)| (n.into(), v.into()))
        .collect()
}

/// What an answer sets a cookie to.
pub fn value(said: &Said, name: &str) -> Option<String> {
    set(said).into_iter().find(|(other, _)| other == name).map(|(_, value)| value)
}

/// Ask with these cookies and no jar.
pub fn with(running: &Running, path: &str, cookies: &[(&str, &str)], more: &[&str]) -> Said {
    let line: Vec<String> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let line = format!("Cookie: {}", line.join("; "));
    let mut arguments = vec!["-H", line.as_str()];
    arguments.extend(more);
    running.alone(path, &arguments)
}

/// Until the gateway has written that it handed this refresh token over, which no answer waits for.
pub async fn handed(running: &Running, refresh: &str) {
    use base64::Engine;
    let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(refresh).unwrap();
    let place = ShelfKey::of("refresh family", &raw[1..17]);
    eventually("it is written that it was handed over", async || {
        let kept = running.gateway.sessions().kept(place, SystemClock.now()).await.unwrap().unwrap();
        let family: serde_json::Value = serde_json::from_slice(&kept.bytes).unwrap();
        family["handed"].is_number()
    })
    .await;
}

/// The access and the refresh token of a new session.
pub fn signed_in(running: &Running) -> (String, String) {
    let said = running.sign_in("/", &running.password);
    assert_eq!(said.status, 303, "{}", said.body);
    (value(&said, ACCESS).unwrap(), value(&said, REFRESH).unwrap())
}

#[test]
fn signing_in_and_out_is_as_in_any_mode() {
    for jwt in ["", SIGNED] {
        let (running, _) = started(jwt);
        let said = running.sign_in("/admin?a=b", &running.password);
        assert_eq!((said.status, said.header("location").as_deref()), (303, Some("/admin?a=b")));
        for name in [ACCESS, REFRESH] {
            let line = said.head.lines().find(|line| line.contains(&format!("set-cookie: {name}="))).unwrap();
            for attribute in ["HttpOnly", "Secure", "SameSite=Lax", "Path=/"] {
                assert!(line.contains(attribute), "{line}");
            }
            assert!(line.len() < 4_096 && !line.contains("Domain"), "{line}");
        }
        assert!(value(&said, "__Host-portcullis").is_none());
        let page = running.curl("/admin", &["-H", "Cookie: theme=dark"]);
        assert_eq!(page.status, 200);
        assert!(page.body.contains("x-forwarded-user: demo") && page.body.contains("x-forwarded-groups: admin,staff"));
        let (access, refresh) = (value(&said, ACCESS).unwrap(), value(&said, REFRESH).unwrap());
        assert!(!page.body.contains(&access) && !page.body.contains(&refresh), "no application sees them");
        assert!(!access.contains("demo"), "sealed or encoded");
        let devices = running.curl("/.portcullis/sessions", &[]);
        assert!(devices.body.contains("curl"), "the session is in the list of devices");
        assert!(running.curl("/.portcullis/whoami", &["-H", "Accept: application/json"]).body.contains("\"demo\""));

        let form = running.curl("/.portcullis/logout", &[]);
        let csrf = crate::support::between(&form.body, "name=\"csrf\" value=\"", "\"").to_owned();
        let out = running.curl("/.portcullis/logout", &["--data-urlencode", &format!("csrf={csrf}")]);
        assert_eq!(out.status, 200, "{}", out.body);
        assert_eq!((value(&out, ACCESS).as_deref(), value(&out, REFRESH).as_deref()), (Some(""), Some("")));
        for cookies in [&[(ACCESS, &*access), (REFRESH, &*refresh)][..], &[(ACCESS, &access)], &[(REFRESH, &refresh)]] {
            assert_eq!(with(&running, "/", cookies, &[]).status, 401, "whoever kept a copy is out as well");
        }
        let lines = running.lines.0.lock().unwrap().join("\n");
        assert!(!lines.contains(&access[..40]) && !lines.contains(&refresh[..40]), "neither is written down");
    }
}

#[test]
fn a_session_is_renewed_on_the_way_whatever_is_asked() {
    for jwt in ["", SIGNED] {
        let (running, clock) = started(jwt);
        let (mut access, mut refresh) = signed_in(&running);
        let kinds: [&[&str]; 3] = [&["-H", "Accept: text/html"], &["-H", "Accept: application/json"], &["-d", "a=b"]];
        for more in kinds {
            let said = with(&running, "/", &[(ACCESS, &access), (REFRESH, &refresh)], more);
            assert_eq!((said.status, set(&said)), (200, vec![]), "nothing to renew");
            clock.advance(Duration::from_secs(301));
            assert_eq!(with(&running, "/", &[(ACCESS, &access)], &[]).status, 401, "the access token alone is over");
            let said = with(&running, "/", &[(ACCESS, &access), (REFRESH, &refresh)], more);
            assert_eq!(
                (said.status, said.header("cache-control").as_deref()),
                (200, Some("no-store")),
                "{}",
                said.head
            );
            let next = (value(&said, ACCESS).unwrap(), value(&said, REFRESH).unwrap());
            assert!(next.0 != access && next.1 != refresh);
            (access, refresh) = next;
        }
        // A refusal hands them over too, and so do the gateway's own pages.
        clock.advance(Duration::from_secs(301));
        let said = with(&running, "/.portcullis/whoami", &[(REFRESH, &refresh)], &[]);
        assert_eq!((said.status, set(&said).len()), (200, 2));
        // Unused for longer than the idle limit, and used until the absolute end.
        let refresh = value(&said, REFRESH).unwrap();
        clock.advance(Duration::from_secs(1_801));
        assert_eq!(with(&running, "/", &[(REFRESH, &refresh)], &[]).status, 401);
        let (_, mut refresh) = signed_in(&running);
        for _ in 0..24 {
            clock.advance(Duration::from_secs(1_790));
            let said = with(&running, "/", &[(REFRESH, &refresh)], &[]);
            assert_eq!(said.status, 200);
            refresh = value(&said, REFRESH).unwrap();
        }
        clock.advance(Duration::from_secs(12 * 3_600 - 24 * 1_790));
        assert_eq!(with(&running, "/", &[(REFRESH, &refresh)], &[]).status, 401, "the absolute end");
    }
}

/// I32; attacks: 65
#[test]
fn a_refresh_token_that_is_used_again_ends_the_session_of_thief_and_owner() {
    let (running, clock) = started("");
    let (_, first) = signed_in(&running);
    let second = with(&running, "/", &[(REFRESH, &first)], &[]);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(handed(&running, &value(&second, REFRESH).unwrap()));
    // Lost answers and other tabs: within the grace the same successor comes again.
    clock.advance(Duration::from_secs(10));
    let again = with(&running, "/", &[(REFRESH, &first)], &[]);
    assert_eq!(value(&again, REFRESH), value(&second, REFRESH));
    let (access, second) = (value(&again, ACCESS).unwrap(), value(&second, REFRESH).unwrap());
    clock.advance(Duration::from_millis(1));
    assert_eq!(with(&running, "/", &[(REFRESH, &first)], &[]).status, 401);
    let told = |what: &str| {
        let lines = running.lines.0.lock().unwrap();
        lines.iter().filter(|line| line.contains("refresh_token_reused") && line.contains(what)).count()
    };
    assert_eq!(told("\"kind\":\"access\""), 1, "it is in the log");
    let audit =
        "\"event\":\"session_ended\",\"subject\":\"demo\",\"provider\":\"local\",\"reason\":\"refresh_token_reused\"";
    assert_eq!(told(audit), 1, "and in the audit");
    assert_eq!(with(&running, "/", &[(REFRESH, &second)], &[]).status, 401, "the newest is dead too");
    assert_eq!(with(&running, "/", &[(ACCESS, &access)], &[]).status, 401, "and what it made");
    assert_eq!(told(audit), 1, "what is over is not told again");

    // The one before the last but one is stolen, however fast.
    let (_, first) = signed_in(&running);
    let second = value(&with(&running, "/", &[(REFRESH, &first)], &[]), REFRESH).unwrap();
    let third = value(&with(&running, "/", &[(REFRESH, &second)], &[]), REFRESH).unwrap();
    assert_eq!(with(&running, "/.portcullis/sessions", &[(REFRESH, &first)], &[]).status, 303);
    assert_eq!(told(audit), 2, "wherever it came");
    assert_eq!(with(&running, "/", &[(REFRESH, &third)], &[]).status, 401);
}

/// A gateway in front of an application that answers `/slow` when it is let go, and has said so.
struct Slow {
    running: Arc<Running>,
    clock: Arc<TestClock>,
    came: Arc<Semaphore>,
    go: Arc<Semaphore>,
    _application: Application,
}

impl Slow {
    fn start() -> Slow {
        Slow::over(None)
    }

    /// The same over a store of the test's own.
    fn over(store: Option<Arc<dyn SessionStore>>) -> Slow {
        let (came, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let theirs = (came.clone(), go.clone());
        let application = Application::start(move |request: http::Request<hyper::body::Incoming>| {
            let (came, go) = theirs.clone();
            async move {
                if request.uri().path() == "/slow" {
                    came.add_permits(1);
                    go.acquire().await.unwrap().forget();
                }
                http::Response::new(whole("here"))
            }
        });
        let upstream = format!("\"http://127.0.0.1:{}\"", application.port);
        let config = text("memory", "").replace("\"builtin:whoami\"", &upstream);
        let config = format!("{config}\n[signing]\nissuer = \"https://gateway.example\"\n");
        let clock = Arc::new(TestClock::at(SystemClock.now()));
        let running = Arc::new(run_with(tempfile::tempdir().unwrap(), &config, clock.clone(), store));
        Slow { running, clock, came, go, _application: application }
    }

    async fn came(&self) {
        soon(self.came.acquire()).await.unwrap().forget();
    }

    fn ask(&self, refresh: &str) -> Said {
        block_in_place(|| with(&self.running, "/", &[(REFRESH, refresh)], &[]))
    }

    /// Ask for what is slow, and see the question arrive there.
    async fn ask_slowly(&self, refresh: &str) -> tokio::task::JoinHandle<Said> {
        let (running, refresh) = (self.running.clone(), refresh.to_owned());
        let asked = tokio::task::spawn_blocking(move || with(&running, "/slow", &[(REFRESH, &refresh)], &[]));
        self.came().await;
        asked
    }

    async fn answer(&self, asked: tokio::task::JoinHandle<Said>) -> Said {
        self.go.add_permits(1);
        let said = soon(asked).await.unwrap();
        assert_eq!((said.status, &*said.body), (200, "here"), "nobody is cut off");
        said
    }

    /// From here on the grace counts, and what comes after it is a theft as ever.
    fn is_over_after_the_grace(&self, first: &str, second: &str) {
        self.clock.advance(Duration::from_secs(10));
        assert_eq!(value(&self.ask(first), REFRESH).as_deref(), Some(second), "within the grace");
        self.clock.advance(Duration::from_millis(1));
        assert_eq!((self.ask(first).status, self.ask(second).status), (401, 401), "and no longer");
    }
}

/// Longer than an access token lives.
const LATE: Duration = Duration::from_secs(400);

/// What is renewed on the way comes with the application's answer and no sooner: whoever asks meanwhile has the old cookies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_whose_answer_an_application_keeps_waiting_is_no_theft() {
    let slow = Slow::start();
    let (_, first) = block_in_place(|| signed_in(&slow.running));
    let asked = slow.ask_slowly(&first).await;
    slow.clock.advance(LATE);
    let other = slow.ask(&first);
    assert_eq!(other.status, 200, "another tab");
    let said = slow.answer(asked).await;
    let second = value(&said, REFRESH).unwrap();
    assert_eq!(value(&other, REFRESH).as_ref(), Some(&second), "one successor");
    handed(&slow.running, &second).await;
    slow.is_over_after_the_grace(&first, &second);

    // Nobody asked meanwhile.
    let (_, first) = block_in_place(|| signed_in(&slow.running));
    let asked = slow.ask_slowly(&first).await;
    slow.clock.advance(LATE);
    let second = value(&slow.answer(asked).await, REFRESH).unwrap();
    slow.is_over_after_the_grace(&first, &second);
}

/// A thief who turns a token and keeps the answer waiting is not seen for as long, and must not get what its owner has by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_does_not_bring_what_others_have_longer_than_the_grace() {
    let slow = Slow::start();
    let (_, first) = block_in_place(|| signed_in(&slow.running));
    let thief = slow.ask_slowly(&first).await;
    slow.clock.advance(LATE);
    let second = value(&slow.ask(&first), REFRESH).unwrap();
    handed(&slow.running, &second).await;
    // And one who comes within the grace, and lets it pass.
    let other = slow.ask_slowly(&first).await;
    slow.clock.advance(Duration::from_millis(10_001));
    let [thief, other] = [slow.answer(thief).await, slow.answer(other).await];
    assert_eq!([set(&thief), set(&other)], [vec![], vec![]]);
    let third = value(&slow.ask(&second), REFRESH).expect("the owner goes on");
    assert_eq!((slow.ask(&first).status, slow.ask(&third).status), (401, 401), "with the old one a thief is seen");
}

/// Nor does an outage take anything from anybody, whether or not the store wrote down what was handed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_brings_its_tokens_although_the_store_does_not_answer() {
    let store = Arc::new(Faulty::default());
    let slow = Slow::over(Some(store.clone()));
    let (_, first) = block_in_place(|| signed_in(&slow.running));
    let asked = slow.ask_slowly(&first).await;
    slow.clock.advance(LATE);
    store.fail();
    let second = value(&slow.answer(asked).await, REFRESH).expect("a new token");
    store.come_back();
    slow.clock.advance(LATE);
    assert_eq!(value(&slow.ask(&first), REFRESH).as_ref(), Some(&second), "the old one is not over");
    handed(&slow.running, &second).await;
    slow.is_over_after_the_grace(&first, &second);
}

/// Somebody who stops a page and asks again later has the cookies of before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_whose_client_left_before_the_answer_is_no_theft() {
    let slow = Slow::start();
    let left = || slow.running.lines.0.lock().unwrap().iter().filter(|line| line.contains("\"status\":499")).count();
    for (number, mut client) in (1..).zip(Client::both(slow.running.port()).await) {
        let (_, first) = block_in_place(|| signed_in(&slow.running));
        let request = http::Request::get("/").header("cookie", format!("{REFRESH}={first}"));
        let asked = tokio::spawn(async move { client.try_ask(request, "/slow", whole("")).await });
        slow.came().await;
        asked.abort();
        eventually("it was seen", async || left() == number).await;
        slow.clock.advance(LATE);
        let second = value(&slow.ask(&first), REFRESH).expect("still signed in");
        handed(&slow.running, &second).await;
        slow.is_over_after_the_grace(&first, &second);
    }
}

#[test]
fn what_ends_a_session_elsewhere_ends_its_tokens_at_once() {
    let (running, clock) = started(SIGNED);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let revoke = |what| tokio.block_on(running.gateway.sessions().revoke(what, Wait::Fully, clock.now())).unwrap();
    let asks = |(access, refresh): &(String, String)| {
        let alone = with(&running, "/", &[(ACCESS, access)], &[]).status;
        (alone, with(&running, "/", &[(ACCESS, access), (REFRESH, refresh)], &[]).status)
    };
    let user = UserKey::of("local", "demo");
    let (one, two) = (signed_in(&running), {
        std::fs::remove_file(running.folder.path().join("jar")).unwrap();
        signed_in(&running)
    });
    assert_eq!((asks(&one), asks(&two)), ((200, 200), (200, 200)));
    let list = tokio.block_on(running.gateway.sessions().list(user, clock.now())).unwrap();
    assert_eq!(list.len(), 2);
    // One device.
    revoke(Revocation::Session(list[0].key));
    let (first, second) = (asks(&one), asks(&two));
    assert!(first != second && [first, second].contains(&(401, 401)), "{first:?} {second:?}");
    let left = if first == (200, 200) { &one } else { &two };
    // All but this one: the access token is of an older epoch, and the refresh token makes a new one.
    revoke(Revocation::User { user, except: Some(list[1].key) });
    let said = with(&running, "/", &[(ACCESS, &left.0), (REFRESH, &left.1)], &[]);
    assert_eq!(said.status, 200, "the one that was spared goes on");
    let left = (value(&said, ACCESS).unwrap(), value(&said, REFRESH).unwrap());
    assert_eq!(asks(&left), (200, 200));
    // The access token itself, by its name, whichever worker remembers it: the refresh token makes another.
    let claims = URL_SAFE_NO_PAD.decode(left.0.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    let id = TokenId::of("https://gateway.example", claims["jti"].as_str().unwrap());
    let many = || (0..12).map(|_| with(&running, "/", &[(ACCESS, &left.0)], &[]).status).collect::<Vec<_>>();
    assert_eq!(many(), [200; 12]);
    revoke(Revocation::Token { id, until: clock.now().plus(Duration::from_secs(600)) });
    assert_eq!(many(), [401; 12]);
    let said = with(&running, "/", &[(ACCESS, &left.0), (REFRESH, &left.1)], &[]);
    let left = (value(&said, ACCESS).unwrap(), value(&said, REFRESH).unwrap());
    assert_eq!((said.status, asks(&left)), (200, (200, 200)));
    // A user who is disabled is out with the next look at the file.
    let users = std::fs::read_to_string(running.folder.path().join("users.toml")).unwrap();
    let disabled = users.replace("[user.demo]", "[user.demo]\ndisabled = true");
    assert_ne!(users, disabled);
    std::fs::write(running.folder.path().join("users.toml"), disabled).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while asks(&left) != (401, 401) {
        assert!(Instant::now() < until, "a disabled user is out");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn everybody_stays_signed_in_over_a_restart_and_over_a_rotation() {
    let clock = Arc::new(TestClock::at(SystemClock.now()));
    for jwt in ["", SIGNED] {
        let running = gateway(tempfile::tempdir().unwrap(), "embedded:data", jwt, clock.clone());
        let (access, refresh) = signed_in(&running);
        let keys = running.curl("/.portcullis/jwks.json", &[]);
        let Running { gateway: first, folder, .. } = running;
        first.stop();
        let running = gateway(folder, "embedded:data", jwt, clock.clone());
        assert_eq!(running.curl("/.portcullis/jwks.json", &[]).body, keys.body, "the same keys");
        let said = with(&running, "/", &[(ACCESS, &access)], &[]);
        assert_eq!(said.status, 200, "by the access token alone, and nothing is set: {:?}", set(&said));
        assert_eq!(with(&running, "/", &[(REFRESH, &refresh)], &[]).status, 200);
    }
}

/// As one behind an id does.
#[test]
fn a_session_in_tokens_counts_for_the_very_user_it_was_begun_for() {
    let clock = Arc::new(TestClock::at(SystemClock.now()));
    for jwt in ["", SIGNED] {
        let running = gateway(tempfile::tempdir().unwrap(), "embedded:data", jwt, clock.clone());
        let (access, refresh) = signed_in(&running);
        let Running { gateway: first, folder, .. } = running;
        first.stop();
        let file = folder.path().join("users.toml");
        let users = std::fs::read_to_string(&file).unwrap();
        let other = users.replace("entry = \"", "entry = \"another");
        assert_ne!(users, other);
        std::fs::write(&file, other).unwrap();
        let running = gateway(folder, "embedded:data", jwt, clock.clone());
        for (name, value) in [(ACCESS, &access), (REFRESH, &refresh)] {
            assert_eq!(with(&running, "/", &[(name, value)], &[]).status, 401, "{name}");
        }
    }
}

#[test]
fn tokens_that_were_changed_or_made_by_others_are_refused() {
    let (running, clock) = started("");
    let (access, refresh) = signed_in(&running);
    let at = |text: &str, n: usize| {
        let other = if text.as_bytes()[n] == b'A' { "B" } else { "A" };
        format!("{}{other}{}", &text[..n], &text[n + 1..])
    };
    for n in (0..access.len()).step_by(7).filter(|n| access.as_bytes()[*n] != b'~') {
        assert_eq!(with(&running, "/", &[(ACCESS, &at(&access, n))], &[]).status, 401, "{n}");
    }
    for n in (0..refresh.len()).step_by(5) {
        assert_eq!(with(&running, "/", &[(REFRESH, &at(&refresh, n))], &[]).status, 401, "{n}");
    }
    let last = at(&access, access.len() - 20);
    let said = with(&running, "/", &[(ACCESS, &last), (REFRESH, &refresh)], &[]);
    assert_eq!(said.status, 401, "a good one beside it forgives nothing");
    let said = with(&running, "/", &[(ACCESS, &access), (ACCESS, &access)], &[]);
    assert_eq!(said.status, 400, "twice");
    let other = started("").0;
    let stranger = signed_in(&other);
    assert_eq!(with(&running, "/", &[(ACCESS, &stranger.0)], &[]).status, 401);
    assert_eq!(with(&running, "/", &[(REFRESH, &stranger.1)], &[]).status, 401);
    assert_eq!(with(&running, "/", &[(ACCESS, &access), (REFRESH, &refresh)], &[]).status, 200, "nothing of it hurt");

    // Signed ones: somebody else's key, somebody else's word.
    let (signing, issuer) =
        (gateway(tempfile::tempdir().unwrap(), "memory", SIGNED, clock.clone()), crate::tokens::Issuer::es256());
    let (access, _) = signed_in(&signing);
    let [header, claims, signature] = access.split('.').collect::<Vec<_>>()[..] else { panic!("{access}") };
    use base64::Engine;
    let decoded =
        |part: &str| String::from_utf8(base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    let forged = issuer.token(&decoded(header), &decoded(claims), "ES256");
    let none = format!("{}.{claims}.", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}"));
    let swapped = issuer.token(&decoded(header), &decoded(claims).replace("demo", "root"), "ES256");
    let grafted = format!("{}.{signature}", swapped.rsplit_once('.').unwrap().0);
    for bad in [&forged, &none, &swapped, &grafted] {
        assert_eq!(with(&signing, "/", &[(ACCESS, bad)], &[]).status, 401, "{bad}");
    }
    assert_eq!(with(&signing, "/", &[(ACCESS, &access)], &[]).status, 200);
    assert_eq!(signing.curl("/", &["-H", &format!("Authorization: Bearer {access}"), "-b", ""]).status, 200);
}

/// I35
#[test]
fn a_session_that_is_too_large_for_one_cookie_is_cut_in_pieces_that_hold_together() {
    // A signed token tells the roles twice, for others and for the gateway.
    in_pieces("", 80);
    in_pieces(SIGNED, 55);
}

fn in_pieces(jwt: &str, roles: usize) {
    let roles: Vec<String> = (0..roles).map(|n| format!("role-{n:0>60}")).collect();
    let listed = format!("roles = {roles:?}").replace('\\', "");
    let clock = Arc::new(TestClock::at(SystemClock.now()));
    let config = text("memory", jwt).replacen("roles = [\"admin\", \"staff\"]", &listed, 1);
    let config = config.replace("{ roles = [\"admin\"] }", "\"authenticated\"");
    let signing = "\n[signing]\nissuer = \"https://gateway.example\"\n";
    let running = run_with(tempfile::tempdir().unwrap(), &format!("{config}{signing}"), clock, None);
    let said = running.sign_in("/", &running.password);
    let pieces: Vec<(String, String)> = set(&said).into_iter().filter(|(name, _)| name.contains("-access.")).collect();
    assert!(pieces.len() >= 2, "{:?}", set(&said));
    assert!(said.head.lines().all(|line| line.len() < 4_096));
    let all: Vec<(&str, &str)> = pieces.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(with(&running, "/", &all, &[]).status, 200);
    std::fs::remove_file(running.folder.path().join("jar")).unwrap();
    let other = running.sign_in("/", &running.password);
    let others: Vec<(String, String)> = set(&other).into_iter().filter(|(name, _)| name.contains("-access.")).collect();
    let mut mixed = all.clone();
    // The last one: of a signed token two may be the same but for their ends.
    let last = all.len() - 1;
    mixed[last] = (&others[last].0, &others[last].1);
    let shortened = [all[0]];
    let twice = [all[0], all[1], all[0]];
    let mut both = all.clone();
    both.push((ACCESS, all[1].1));
    assert_eq!(with(&running, "/", &mixed, &[]).status, 401, "pieces of two");
    assert_eq!(with(&running, "/", &shortened, &[]).status, 401, "a piece is missing");
    assert_eq!(with(&running, "/", &both, &[]).status, 401, "whole and in pieces");
    assert_eq!(with(&running, "/", &twice, &[]).status, 400, "a piece twice");
    assert_eq!(with(&running, "/", &all, &[]).status, 200);
}

/// I13, I14: two gateways on one store.
#[test]
fn a_token_is_over_on_a_node_that_never_saw_it_and_an_outage_signs_nobody_out() {
    let redis = RedisServer::start(&[]);
    let store = format!("redis://127.0.0.1:{}/0\"\nsecret = {{ file = \"secret\" }}\n#\"", redis.port);
    let start = |users: Option<&std::path::Path>| {
        let folder = tempfile::tempdir().unwrap();
        users.map(|users| std::fs::copy(users, folder.path().join("users.toml")).unwrap());
        std::fs::write(folder.path().join("secret"), "a secret that both nodes have, of 32 bytes or more").unwrap();
        std::fs::write(folder.path().join("redis"), "secret").unwrap();
        let rights = "[session.redis]\nuser = \"portcullis\"\npassword = { file = \"redis\" }";
        gateway(folder, &store, rights, Arc::new(SystemClock))
    };
    let one = start(None);
    let users = one.folder.path().join("users.toml");
    let two = start(Some(&users));
    let eventually = |what: &str, holds: &dyn Fn() -> bool| {
        let until = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < until, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let (access, refresh) = signed_in(&one);
    eventually("the second node serves it", &|| with(&two, "/", &[(ACCESS, &access)], &[]).status == 200);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (sessions, now) = (one.gateway.sessions(), SystemClock.now());
    let list = tokio.block_on(sessions.list(UserKey::of("local", "demo"), now)).unwrap();
    let revoked = tokio.block_on(sessions.revoke(Revocation::Session(list[0].key), Wait::Fully, now)).unwrap();
    assert!(revoked.everywhere, "{revoked:?}");
    assert_eq!(with(&two, "/", &[(ACCESS, &access)], &[]).status, 401, "when the revocation has returned");
    assert_eq!(with(&two, "/", &[(ACCESS, &access), (REFRESH, &refresh)], &[]).status, 401);
    let late = start(Some(&users));
    eventually("a node that starts knows of it", &|| with(&late, "/", &[(ACCESS, &access)], &[]).status == 401);

    let (access, refresh) = signed_in(&one);
    let both = [(ACCESS, access.as_str()), (REFRESH, refresh.as_str())];
    eventually("the second node serves it", &|| with(&two, "/", &both[..1], &[]).status == 200);
    redis.pause();
    eventually("nobody can say any more", &|| with(&two, "/", &both, &[]).status == 503);
    let said = with(&two, "/", &both, &[]);
    assert!(said.status == 503 && set(&said).is_empty(), "{}", said.head);
    redis.go_on();
    eventually("and everybody is still signed in", &|| with(&two, "/", &both, &[]).status == 200);
}

/// A start in the middle of an outage: the keys of tokens lie in the store. Nobody's token is called bad for it, and nothing of a
/// pair is used up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_starts_without_its_keys_and_finds_them_when_the_store_is_back() {
    let persistent = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut server = RedisServer::start(&persistent);
    server.kill();
    let folder = tempfile::tempdir().unwrap();
    for (name, secret) in [("secret", "one secret for the gateways of this test"), ("redis", "secret")] {
        std::fs::write(folder.path().join(name), secret).unwrap();
    }
    let store = format!("redis://127.0.0.1:{}/0", server.port);
    let options =
        "secret = { file = \"secret\" }\n[session.redis]\nuser = \"portcullis\"\npassword = { file = \"redis\" }\n";
    let text = text(&store, "").replacen("mode = \"jwt\"\n", &format!("mode = \"jwt\"\n{options}"), 1);
    let text = text.replacen("[tls]", "admin = \"127.0.0.1:0\"\n[tls]", 1);
    let text = format!("{text}\n[signing]\nissuer = \"https://gateway.example\"\n");
    let start = |folder| run_with(folder, &text, Arc::new(SystemClock), None);
    let ready = |running: &Running| {
        let said = running.visit(&format!("http://{}/readyz", running.gateway.admin_address().unwrap()), &[]);
        (said.status, said.body)
    };
    let keys = |running: &Running| running.alone("/.portcullis/jwks.json", &[]);

    // Its very first start: there are no keys anywhere.
    let running = start(folder);
    let away = running.alone("/public", &[]);
    assert_eq!(away.status, 200, "public routes need no keys");
    assert_eq!((keys(&running).status, ready(&running).0), (503, 503));
    server.restart("redis-server", &persistent);
    eventually("it is ready", async || ready(&running).0 == 200).await;
    let (access, refresh) = signed_in(&running);
    let pair = [(ACCESS, access.as_str()), (REFRESH, refresh.as_str())];
    assert_eq!(with(&running, "/", &pair, &[]).status, 200);
    let published = keys(&running);
    assert_eq!(published.status, 200);

    // A later one: they are in the store, which is away.
    server.kill();
    let Running { gateway, folder, .. } = running;
    gateway.stop();
    let running = start(folder);
    for cookies in [&pair[..], &pair[..1], &pair[1..]] {
        let away = with(&running, "/", cookies, &[]);
        assert_eq!((away.status, away.header("retry-after").as_deref()), (503, Some("2")));
        assert!(set(&away).is_empty(), "no cookie is taken: {}", away.head);
    }
    assert_eq!((running.alone("/public", &[]).status, keys(&running).status), (200, 503));
    let (status, said) = ready(&running);
    assert!(status == 503 && said.contains("token keys: "), "{status} {said}");
    server.restart("redis-server", &persistent);
    eventually("it serves again", async || with(&running, "/", &pair, &[]).status == 200).await;
    assert_eq!(keys(&running).body, published.body, "the same keys");
    let turned = with(&running, "/", &pair[1..], &[]);
    assert_eq!(turned.status, 200, "the refresh token was not used up meanwhile");
}
