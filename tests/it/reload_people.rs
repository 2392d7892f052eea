//! The file read again, and people: what they may by the new one, what they have open, and what is held against them.

use std::sync::Arc;
use std::time::Duration;

use http::Version;
use portcullis::clock::{Clock, SystemClock, TestClock};
use portcullis::session::{NewSession, Revocation, UserKey, Wait};

use crate::bearer;
use crate::cost::{demo, signed_in};
use crate::held::{End, KINDS, Kind, Streaming};
use crate::reload::{NOBODY, cookie_of, route, status, text};
use crate::shared_store::eventually;
use crate::support::{between, run_text, run_with, shipped};
use crate::tokens::{Issuer, NOW};
use crate::wire::{Client, one, soon};

/// Somebody whom a provider vouched for with these roles: no file says otherwise later.
fn somebody(roles: &[&str]) -> NewSession {
    let roles = roles.iter().map(|role| (*role).to_owned()).collect();
    NewSession { provider: "https://elsewhere.example".into(), roles, ..signed_in("zoe") }
}

/// Roles are bits inside: a set of them that outlived its table would grant what the same bit means in the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn roles_that_are_reordered_and_renamed_mean_what_they_are_called() {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), Issuer::es256());
    bearer::write(folder.path(), &[("one", &issuer)]);
    let file = |roles: &str, admin: &str, staff: &str, map: &str| {
        let rules = [("admin", admin), ("staff", staff)].map(|(path, role)| {
            let path = format!("/only/{path}");
            route(&path[1..], &path, &format!("{{ roles = [\"{role}\"] }}"), "app")
                + "accept = [\"session\", \"token\"]\n"
        });
        let text =
            shipped("memory").replace("[\"admin\", \"staff\"]", roles).replace("{ roles = [\"admin\"] }", "\"public\"");
        let table = bearer::table("jwks = \"keys.json\"").replace("\"eng-admins\" = \"admin\"", map);
        format!("{text}\n{table}{}", rules.concat())
    };
    let clock = Arc::new(TestClock::at(NOW));
    let running =
        run_with(folder, &file("[\"admin\", \"staff\"]", "admin", "staff", "x = \"staff\""), clock.clone(), None);
    let cookie = cookie_of(&running, somebody(&["staff"]), &*clock).await;
    let token = format!("Bearer {}", bearer::token(&issuer, "one", &*clock, r#","realm":{"roles":["x"]}"#));
    let mut clients = Client::both(running.port()).await;
    let rights = async |clients: &mut [Client; 2], told: &str, expected: [u16; 2]| {
        for by in [("cookie", cookie.as_str()), ("authorization", token.as_str())] {
            // Twice: what is remembered counts as well.
            for client in clients.iter_mut() {
                for (path, expected) in ["/only/admin", "/only/staff"].into_iter().zip(expected) {
                    for _ in 0..2 {
                        assert_eq!(status(client, path, by).await, expected, "{told}: {path} by {}", by.0);
                    }
                }
            }
        }
    };
    rights(&mut clients, "as it began", [403, 200]).await;
    running.reload(&file("[\"staff\", \"admin\"]", "admin", "staff", "x = \"staff\"")).unwrap();
    rights(&mut clients, "reordered", [403, 200]).await;
    let groups = text(&mut clients[0], "/only/staff", ("cookie", cookie.as_str())).await;
    assert!(groups.contains("x-forwarded-groups: staff\n"), "{groups}");
    running.reload(&file("[\"boss\", \"staff\"]", "boss", "staff", "x = \"staff\"")).unwrap();
    rights(&mut clients, "the other one renamed", [403, 200]).await;
    running.reload(&file("[\"staff\", \"clerk\"]", "staff", "clerk", "x = \"staff\"")).unwrap();
    rights(&mut clients, "asked for elsewhere", [200, 403]).await;
    running.reload(&file("[\"boss\", \"clerk\"]", "boss", "clerk", "x = \"clerk\"")).unwrap();
    assert_eq!(
        status(&mut clients[0], "/only/staff", ("cookie", cookie.as_str())).await,
        403,
        "nobody holds what is not declared"
    );
    assert_eq!(
        status(&mut clients[0], "/only/staff", ("authorization", token.as_str())).await,
        200,
        "the map is the new one"
    );
    running.reload(&file("[\"admin\", \"staff\"]", "admin", "staff", "x = \"staff\"")).unwrap();
    rights(&mut clients, "as it began, again", [403, 200]).await;
}

/// By whom something is held open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Session,
    Token,
    Nobody,
}

/// A file that allows it no more ends it in the way that any end does; one that does spares it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_open_is_judged_by_the_new_file() {
    let streaming = Streaming::start();
    let (folder, issuer) = (tempfile::tempdir().unwrap(), Issuer::es256());
    bearer::write(folder.path(), &[("one", &issuer)]);
    let clock = Arc::new(TestClock::at(NOW));
    let routes = streaming.routes("[\"session\", \"token\"]");
    let open = routes.replace("-role\"", "-free\"").replace("/role\"", "/free\"");
    let open = open.split("[[route]]").filter(|part| part.contains("-free")).map(|part| {
        let access = format!("access = {}", between(part, "access = ", "\n"));
        format!("[[route]]{}", part.replace(&access, "access = \"public\""))
    });
    let table = bearer::table("jwks = \"keys.json\"");
    let file = format!("{}\n{table}{routes}{}", shipped("memory"), open.collect::<String>());
    let running = run_with(folder, &file, clock.clone(), None);
    let cookie = cookie_of(&running, somebody(&["admin"]), &*clock).await;
    let more = r#","realm":{"roles":["eng-admins"]}"#;
    let token = format!("Bearer {}", bearer::token(&issuer, "one", &*clock, more));
    let header = |by| match by {
        By::Session => ("cookie", cookie.as_str()),
        By::Token => ("authorization", token.as_str()),
        By::Nobody => NOBODY,
    };
    let kept = |by: By, kind: Kind| by != By::Nobody || kind != Kind::Poll;
    let all = async |base: &str, by: By| {
        let mut held = Vec::new();
        for kind in KINDS.into_iter().filter(|kind| kept(by, *kind)) {
            held.push(streaming.open(kind, running.port(), base, header(by)).await);
        }
        held
    };
    let (mut streams, mut polls) = (0, 0);
    for (by, base, from, to, code) in [
        (By::Session, "/any", "\"authenticated\"", "{ roles = [\"staff\"] }", 1008),
        (By::Token, "/any", "\"authenticated\"", "{ roles = [\"staff\"] }", 1008),
        (By::Session, "/role", "{ roles = [\"admin\"] }", "{ roles = [\"staff\"] }", 4401),
        (By::Token, "/role", "{ roles = [\"admin\"] }", "{ roles = [\"staff\"] }", 4401),
        (By::Session, "/any", "[\"session\", \"token\"]", "[\"token\"]", 1008),
        (By::Token, "/any", "[\"session\", \"token\"]", "[\"session\"]", 1008),
        (By::Token, "/any", "audience = \"gateway\"", "audience = \"another\"", 1008),
        (By::Token, "/any", "\"eng-admins\" = \"admin\"", "\"eng-admins\" = \"staff\"", 1008),
        (By::Session, "/any", "path = \"/any\"", "path = \"/elsewhere\"", 1008),
        (By::Nobody, "/free", "\"public\"", "\"authenticated\"", 4401),
    ] {
        let mut held = all(base, by).await;
        // Read again as it is, and with what does not concern them: roles in another order, and one more.
        running.reload(&file).unwrap();
        running.reload(&file.replace("[\"admin\", \"staff\"]", "[\"more\", \"staff\", \"admin\"]")).unwrap();
        for one in &mut held {
            for _ in 0..3 {
                assert_eq!(one.next().await, None, "{:?} by {by:?} goes on", one.kind);
            }
        }
        // Only what stands in the routes of the streams, and in the issuer's table.
        let (shipped, rest) = file.split_at(shipped("memory").len());
        // What covers their paths besides, `/`, is not to be what lets them stay.
        let shipped = shipped.replace("path     = \"/\"", "path     = \"/app\"");
        running.reload(&format!("{shipped}{}", rest.replace(from, to))).unwrap();
        for one in held {
            let kind = one.kind;
            // gRPC calls have no route of their own under what is renamed.
            if to == "path = \"/elsewhere\"" && kind == Kind::Call {
                continue;
            }
            let code = if kind == Kind::Call { 1008 } else { code };
            assert_eq!(one.end().await.0, End::of(kind, code), "{kind:?} by {by:?}: {from} is {to}");
            match kind {
                // Recorded when it begins.
                Kind::Socket(_) => {}
                Kind::Poll => polls += 1,
                Kind::Events(_) | Kind::Download(_) | Kind::Call => streams += 1,
            }
        }
        running.reload(&file).unwrap();
    }
    let recorded = |what: &str| running.lines.0.lock().unwrap().iter().filter(|line| line.contains(what)).count();
    eventually("they are recorded as what they were", async || {
        let recorded = ["\"body\":\"no_longer_allowed\"", "\"reason\":\"no_longer_allowed\""].map(recorded);
        recorded == [streams, polls]
    })
    .await;
    assert_eq!(recorded("session_ended") + recorded("_revoked"), 0, "no session ended, and no token");
    // A token's life goes on being its own.
    let held = streaming.open(Kind::Socket(Version::HTTP_11), running.port(), "/any", header(By::Token)).await;
    running.reload(&file).unwrap();
    clock.advance(Duration::from_secs(100));
    assert_eq!(held.end().await.0, End::Closed(1008));
}

/// Nobody wins fresh guesses, and no token that was bad is less so.
#[test]
fn a_reload_forgives_nobody() {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), Issuer::es256());
    bearer::write(folder.path(), &[("one", &issuer)]);
    let file = format!("{}\n{}{}", shipped("memory"), bearer::table("jwks = \"keys.json\""), bearer::API);
    let clock = Arc::new(TestClock::at(NOW));
    let running = run_with(folder, &file, clock.clone(), None);
    let guess = || running.sign_in_as("demo", "wrong-guess").status;
    let mut guesses = (0..40).map(|_| guess()).skip_while(|status| *status == 401);
    assert_eq!(guesses.next(), Some(429));
    let another = Issuer::es256();
    let forged = |n: usize| {
        let forged = bearer::token(&another, "one", &*clock, &format!(r#","n":{n}"#));
        running.curl("/api", &["-H", &format!("Authorization: Bearer {forged}")]).status
    };
    let mut forgeries = (0..60).map(forged).skip_while(|status| *status == 401);
    assert_eq!(forgeries.next(), Some(429));
    running.reload(&file.replace("\"/public\"", "\"/open\"")).unwrap();
    assert_eq!((guess(), forged(100)), (429, 429));
    assert_eq!(running.curl("/open", &[]).status, 200, "it was read");
}

/// Ended is ended, whatever is read when.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_session_that_was_ended_stays_so_and_the_others_stay_signed_in() {
    let file = shipped("memory");
    let running = run_text(tempfile::tempdir().unwrap(), &file);
    let sessions = running.gateway.sessions();
    let [ended, other] = [(), ()].map(|()| demo(running.folder.path()));
    let ended = cookie_of(&running, ended, &SystemClock).await;
    let mut client = Client::One(one(running.port()).await);
    assert_eq!(status(&mut client, "/", ("cookie", ended.as_str())).await, 200);
    running.reload(&file).unwrap();
    let all = Revocation::User { user: UserKey::of("local", "demo"), except: None };
    soon(sessions.revoke(all, Wait::Fully, SystemClock.now())).await.unwrap();
    assert_eq!(status(&mut client, "/", ("cookie", ended.as_str())).await, 401);
    let other = cookie_of(&running, other, &SystemClock).await;
    for _ in 0..3 {
        running.reload(&file).unwrap();
        assert_eq!(status(&mut client, "/", ("cookie", ended.as_str())).await, 401);
        assert_eq!(status(&mut client, "/", ("cookie", other.as_str())).await, 200);
    }
}

/// The providers of the new file are those that are offered.
#[test]
fn a_place_to_sign_in_is_added_and_taken_away() {
    let file = shipped("memory");
    let running = run_text(tempfile::tempdir().unwrap(), &file);
    std::fs::write(running.folder.path().join("secret"), "a secret").unwrap();
    let provider = "[login.oidc.corp]\ntitle = \"Example Corp\"\nissuer = \"https://id.example\"\nclient_id = \"x\"\n\
                    client_secret = { file = \"secret\" }\nuser_prefix = \"corp:\"\n";
    let offered = || running.curl("/.portcullis/login", &[]).body.contains("Example Corp");
    assert!(!offered());
    running.reload(&format!("{file}\n{provider}")).unwrap();
    assert!(offered());
    running.reload(&file).unwrap();
    assert!(!offered());
}

/// What browsers carry themselves is read with the same keys.
#[test]
fn sessions_in_tokens_go_on_and_mean_what_roles_are_called() {
    let file = shipped("memory").replace("[session]\n", "[session]\nmode = \"jwt\"\n");
    let running = run_text(tempfile::tempdir().unwrap(), &file);
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    let roles = |expected: &str| {
        let said = running.curl("/", &[]);
        assert_eq!(said.status, 200, "{}", said.head);
        assert!(said.body.contains(&format!("x-forwarded-groups: {expected}\n")), "{expected} in {}", said.body);
    };
    roles("admin,staff");
    for (declared, expected) in [
        ("[\"staff\", \"more\", \"admin\"]", "staff,admin"),
        ("[\"more\", \"admin\"]", "admin"),
        ("[\"admin\", \"staff\"]", "admin,staff"),
    ] {
        running.reload(&file.replace("[\"admin\", \"staff\"]", declared)).unwrap();
        roles(expected);
        roles(expected);
    }
}
