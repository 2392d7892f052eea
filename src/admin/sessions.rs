//! The sessions API. One decision: it says and does what the session layer says and does, under the same words; a session is
//! named by its key, which is no secret, and an outage is an error and never an empty list. Knows nothing of stores.
//!
//! `GET /sessions?user=alice[&provider=local]` · `POST /sessions/revoke` with one of `{"session": "KEY"}`,
//! `{"user": "alice", "provider": "local"}`, `{"others_of": "KEY"}` (all of its user's but this one), `{"everyone": true}`.

use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::proxy::{AuditLine, audit};
use crate::session::{Activity, Listed, Revocation, Revoked, SessionKey, StoreError, Wait};

use super::Admin;
use super::people::{Person, who_signs_in};
use super::router::{Answer, json, text};

/// The provider where none is named: the user file.
const LOCAL: &str = "local";

/// A session as it is told.
#[derive(Serialize)]
struct Shown<'l> {
    session: String,
    user: &'l str,
    provider: &'l str,
    device: &'l str,
    created: String,
    last_seen: String,
    ends: String,
}

/// What to end: exactly one of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoke {
    session: Option<String>,
    others_of: Option<String>,
    user: Option<String>,
    provider: Option<String>,
    #[serde(default)]
    everyone: bool,
}

/// A user's sessions, latest activity first.
pub(super) async fn list(admin: &Admin, query: &str) -> Answer {
    let (mut user, mut provider) = (None, None);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "user" if user.is_none() => user = Some(value),
            "provider" if provider.is_none() => provider = Some(value),
            _ => return text(StatusCode::BAD_REQUEST, "only `user` and `provider` are asked for here, once each\n"),
        }
    }
    let Some(user) = user else { return text(StatusCode::BAD_REQUEST, "`user` is missing\n") };
    let person = match who_signs_in(admin, provider.as_deref().unwrap_or(LOCAL), &user).await {
        Ok(person) => person,
        Err(refusal) => return refusal,
    };
    match admin.sessions.list(person.key, admin.clock.now()).await {
        Ok(found) => json(StatusCode::OK, &found.iter().map(shown).collect::<Vec<_>>()),
        Err(error) => unanswered(&error),
    }
}

/// End sessions. When it answers 200, the store has it and no request of this node is answered in them any more; `everywhere`
/// says the same of all nodes.
pub(super) async fn revoke(admin: &Admin, asked: Revoke) -> Answer {
    // Whoever ends somebody's sessions may have changed their entry in the user file just before.
    admin.runtime().login.look_at_users().await;
    let now = admin.clock.now();
    let Named { what, subject, provider } = match named(admin, asked, now).await {
        Ok(named) => named,
        Err(refusal) => return refusal,
    };
    match admin.sessions.revoke(what, Wait::Fully, now).await {
        Ok(revoked) => {
            let line = AuditLine::of_operator("sessions_revoked", &subject, now);
            audit(&*admin.runtime().records, &AuditLine { provider: provider.as_deref(), ..line });
            json(StatusCode::OK, &told(&revoked))
        }
        Err(error) => unavailable(&error),
    }
}

/// What a request names, and how it is written down.
struct Named {
    what: Revocation,
    subject: String,
    provider: Option<String>,
}

/// See [`Named`].
async fn named(admin: &Admin, asked: Revoke, now: Timestamp) -> Result<Named, Answer> {
    let Revoke { session, others_of, user, provider, everyone } = asked;
    let bad = |words: &'static str| text(StatusCode::BAD_REQUEST, words);
    let unplaced = |what, subject| Named { what, subject, provider: None };
    let by_key = |handle: &str| key(handle).ok_or("a session is named by 32 hexadecimal digits\n");
    match (session, others_of, user, everyone) {
        (Some(session), None, None, false) if provider.is_none() => {
            Ok(unplaced(Revocation::Session(by_key(&session).map_err(bad)?), session))
        }
        (None, Some(session), None, false) if provider.is_none() => {
            let spared = by_key(&session).map_err(bad)?;
            let record = admin.sessions.record(spared, Activity::Passive, now).await;
            match record.map_err(|error| unanswered(&error))? {
                Ok(record) => Ok(Named {
                    what: Revocation::User { user: record.user(), except: Some(spared) },
                    subject: record.subject,
                    provider: Some(record.provider),
                }),
                Err(_) => Err(text(StatusCode::NOT_FOUND, "there is no such session\n")),
            }
        }
        (None, None, Some(user), false) => {
            let place = provider.as_deref().unwrap_or(LOCAL);
            let Person { key, subject, provider } = who_signs_in(admin, place, &user).await?;
            Ok(Named { what: Revocation::User { user: key, except: None }, subject, provider: Some(provider) })
        }
        (None, None, None, true) if provider.is_none() => Ok(unplaced(Revocation::Everyone, "everyone".to_owned())),
        _ => Err(bad("name one of `session`, `others_of`, `user` (with `provider`) and `everyone`\n")),
    }
}

fn told(revoked: &Revoked) -> serde_json::Value {
    let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    serde_json::json!({
        "ended": revoked.ended,
        "committed": revoked.committed,
        "replicated": revoked.replicated,
        "everywhere": revoked.everywhere,
        "confirmed": revoked.confirmed,
        "nodes": revoked.nodes,
        "waited_ms": milliseconds(revoked.waited),
        "bound_ms": milliseconds(revoked.bound),
    })
}

/// Of what was to change something.
pub(super) fn unavailable(error: &StoreError) -> Answer {
    refused(error, "the session store did not answer; whether it did what was asked is not known, so ask once more\n")
}

/// Of what changes nothing.
fn unanswered(error: &StoreError) -> Answer {
    refused(error, "the session store does not answer at present\n")
}

fn refused(error: &StoreError, words: &'static str) -> Answer {
    tracing::warn!(%error, "an operator's question about sessions was not answered");
    text(StatusCode::SERVICE_UNAVAILABLE, words)
}

fn shown(listed: &Listed) -> Shown<'_> {
    let Listed { key, session } = listed;
    let time = |at: Timestamp| humantime::format_rfc3339_millis(at.system_time()).to_string();
    Shown {
        session: key.0.iter().map(|byte| format!("{byte:02x}")).collect(),
        user: &session.subject,
        provider: &session.provider,
        device: &session.device,
        created: time(session.created),
        last_seen: time(session.last_seen),
        ends: time(session.ends),
    }
}

fn key(text: &str) -> Option<SessionKey> {
    let mut key = [0; 16];
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(SessionKey(key))
}
