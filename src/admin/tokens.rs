//! The tokens API. One decision: a token is denied for as long as it could live and no longer, which only its issuer's entry in the
//! configuration says; so an issuer that is not there is an error and not a denial of nothing. Knows nothing of keys' contents.
//!
//! `GET /token/keys` · `POST /token/rotate` · `POST /token/revoke` with one of `{"jti": "ID", "issuer": "ISS"}`,
//! `{"user": "SUBJECT", "issuer": "ISS"}`, `{"everyone": true}`.

use http::StatusCode;
use serde::Deserialize;

use crate::proxy::{AuditLine, audit};
use crate::session::{Revocation, TokenId, Wait};

use super::Admin;
use super::people::{Person, no_issuer, who_brings};
use super::router::{Answer, json, text};
use super::sessions::unavailable;

/// What to revoke: exactly one of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Revoke {
    jti: Option<String>,
    user: Option<String>,
    issuer: Option<String>,
    #[serde(default)]
    everyone: bool,
}

/// The keys and what they may do.
pub(super) fn keys(admin: &Admin) -> Answer {
    match &admin.runtime().ring {
        Some(ring) => json(StatusCode::OK, &ring.list(admin.clock.now())),
        None => no_keys(),
    }
}

/// Make new keys.
pub(super) async fn rotate(admin: &Admin) -> Answer {
    let Some(ring) = admin.runtime().ring.clone() else { return no_keys() };
    let now = admin.clock.now();
    match ring.rotate(now).await {
        Ok(keys) => {
            audit(&*admin.runtime().records, &AuditLine::of_operator("token_keys_rotated", "keys", now));
            json(StatusCode::OK, &keys)
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "keys of tokens were not rotated");
            text(StatusCode::SERVICE_UNAVAILABLE, "the keys could not be rotated; the log says why\n")
        }
    }
}

/// Revoke tokens. When it answers 200, no node of this gateway accepts them.
pub(super) async fn revoke(admin: &Admin, asked: Revoke) -> Answer {
    const ACCEPTED: &str = "name one of `jti` (with `issuer`), `user` (with `issuer`) and `everyone`\n";
    let now = admin.clock.now();
    let runtime = admin.runtime();
    let tokens = runtime.authenticator.tokens();
    let (what, subject, issuer) = match asked {
        Revoke { jti: Some(jti), user: None, issuer: Some(issuer), everyone: false } => {
            let Some(longest) = tokens.longest_of(&issuer).or_else(|| runtime.longest_of_own(&issuer)) else {
                return no_issuer(admin, &issuer);
            };
            (Revocation::Token { id: TokenId::of(&issuer, &jti), until: now.plus(longest) }, jti, Some(issuer))
        }
        Revoke { jti: None, user: Some(user), issuer: Some(issuer), everyone: false } => {
            match who_brings(admin, &issuer, &user).await {
                Ok(Person { key, provider, subject }) => {
                    (Revocation::User { user: key, except: None }, subject, Some(provider))
                }
                Err(refusal) => return refusal,
            }
        }
        Revoke { jti: None, user: None, issuer: None, everyone: true } => {
            (Revocation::Everyone, "everyone".to_owned(), None)
        }
        _ => return text(StatusCode::BAD_REQUEST, ACCEPTED),
    };
    match admin.sessions.revoke(what, Wait::Fully, now).await {
        Ok(revoked) => {
            let line = AuditLine::of_operator("tokens_revoked", &subject, now);
            audit(&*admin.runtime().records, &AuditLine { provider: issuer.as_deref(), ..line });
            json(StatusCode::OK, &serde_json::json!({ "sessions_ended": revoked.ended }))
        }
        Err(error) => unavailable(&error),
    }
}

fn no_keys() -> Answer {
    text(StatusCode::NOT_FOUND, "this gateway makes no tokens: no `session.mode = \"jwt\"`, no [signing]\n")
}
