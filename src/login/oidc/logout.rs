//! Signing out together with a provider: there from here (RP-Initiated Logout 1.0), and here from there (Back-Channel and
//! Front-Channel Logout 1.0). One decision: a provider is told that a person is signed out here only when no node serves the
//! session any more. Knows nothing of pages beyond their being shown.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use serde_json::Value;

use crate::clock::Timestamp;
use crate::policy::BadToken;
use crate::session::{Activity, Revocation, SessionKey, StoreError, UserKey, View, Wait, Who};
use crate::token::Failing;

use super::super::form::field;
use super::super::{Answer, Ask, Audit, Login};
use super::error::{LoginError, ProviderError};
use super::id_token;
use super::provider::{LEEWAY, Provider, Signed};
use super::shelf::Ended;

/// How old a logout token may be.
const LATEST: Duration = Duration::from_secs(120);
/// How long a person who signed out waits for the provider's description.
const PATIENCE: Duration = Duration::from_secs(1);
/// What `events` of a logout token has to name (Back-Channel Logout §2.4).
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

impl Login {
    /// What the provider of this session knows it by, for [`Login::sign_out_there`]. Of the store alone, and before the session ends:
    /// it ends with it.
    pub(in super::super) async fn hint_there(&self, ask: &Ask<'_>, view: &View) -> Option<String> {
        self.oidc.provider_of(view).filter(|provider| provider.settings.logout_there)?;
        self.read_kept(view, ask.now).await.ok().flatten().and_then(|(_, kept)| kept.id)
    }

    /// Where a browser goes on to, to sign out at the provider of this session too; `None` where there is nowhere, or where the
    /// provider does not say so soon. To be asked when the session is over here.
    pub(in super::super) async fn sign_out_there(
        &self,
        ask: &Ask<'_>,
        view: &View,
        hint: Option<String>,
    ) -> Option<String> {
        let provider = self.oidc.provider_of(view).filter(|provider| provider.settings.logout_there)?;
        let known = tokio::time::timeout(PATIENCE, provider.known(ask.now)).await.ok()?.ok()?;
        let mut place = known.metadata.end_session.clone()?;
        let back = format!("https://{}/.portcullis/logout", ask.authority);
        let mut query = place.query_pairs_mut();
        if let Some(hint) = &hint {
            query.append_pair("id_token_hint", hint);
        }
        query.append_pair("client_id", &provider.settings.client_id);
        query.append_pair("post_logout_redirect_uri", &back);
        query.append_pair("state", &super::attempt::secret()?);
        drop(query);
        Some(place.into())
    }

    /// A provider says that somebody is signed out.
    ///
    /// # Errors
    /// [`LoginError`]: the store or the provider's keys are away; the provider will say it again.
    pub(super) async fn backchannel_logout(&self, ask: &Ask<'_>, provider: &Provider) -> Result<Answer, LoginError> {
        let failed = |source| LoginError::Provider { login: provider.name().into(), source, audit: None };
        let refused = |reason| refused(provider, reason);
        let Some(token) = field(&ask.body, "logout_token") else { return Ok(refused("logout_token_missing")) };
        let known = provider.known(ask.now).await.map_err(failed)?;
        // Anybody may bring tokens here. Only signatures that do not hold count, of tokens that say that this provider made them for us:
        // whoever makes it send others to us does not have its own address kept waiting.
        let (failing, peer) = (&self.oidc.failing, ask.peer);
        let may = || !failing.is_blocked(peer, ask.now);
        let verified = provider.verify(&known, &token, Signed::LogoutToken, &may, ask.now).await;
        if matches!(verified, Err(ProviderError::IdToken(BadToken::Signature))) {
            failing.failed(peer, ask.now);
        }
        let claims = match verified {
            Ok((claims, _)) => claims,
            Err(ProviderError::TooManyFailures) => return Ok(blocked(provider)),
            Err(ProviderError::IdToken(bad)) => return Ok(refused(bad.as_str())),
            Err(away) => return Err(failed(away)),
        };
        let heard = match Heard::read(&claims.all, claims.issued) {
            Ok(heard) => heard,
            Err(reason) => return Ok(refused(reason)),
        };
        let Some(id) = claims.id.as_deref().filter(|id| !id.is_empty()) else { return Ok(refused("jti_missing")) };
        if ask.now.since(claims.issued) > LATEST {
            return Ok(refused("logout_token_too_old"));
        }
        // As long as the token could be heard again, by a clock that is behind.
        let until = ask.now.plus(LATEST * 2).max(claims.span.until);
        let Some(hearing) = self.first_hearing(provider, id, until, ask.now).await? else {
            return Ok(refused("logout_token_repeated"));
        };
        let outcome = self.end_there(provider, heard, ask).await;
        if outcome.is_err() {
            // It will be said again, and has to be heard then.
            self.forget_hearing(provider, id, hearing).await;
        }
        let (ended, audit) = outcome?;
        let audit = Audit { reason: Some("backchannel"), ..audit };
        tracing::info!(provider = provider.name(), ended, "signed out by the provider");
        Ok(Answer { response: answered(StatusCode::OK), audit: Some(audit) })
    }

    /// A provider's page loads this one in a frame (Front-Channel Logout 1.0 §2). Only the provider's own session name is believed,
    /// which nobody else knows. A provider may leave `iss` and `sid` out; what is meant then is the session of the cookie, which
    /// browsers do not send from another site's frame, and which any site's link could end.
    ///
    /// # Errors
    /// [`LoginError::Store`].
    pub(super) async fn frontchannel_logout(&self, ask: &Ask<'_>, provider: &Provider) -> Result<Answer, LoginError> {
        let query = ask.query.unwrap_or_default().as_bytes();
        let all = |wanted: &str| -> Vec<String> {
            let pairs = form_urlencoded::parse(query).filter(|(name, _)| name == wanted);
            pairs.map(|(_, value)| value.into_owned()).collect()
        };
        // Each once: of two, one reader would take the first and the next one the last.
        let named = match (&all("iss")[..], &all("sid")[..]) {
            ([issuer], [sid]) if *issuer == provider.settings.issuer && !sid.is_empty() => Some(sid.clone()),
            _ => None,
        };
        let Some(sid) = named else {
            return Ok(refused(provider, "frontchannel_malformed"));
        };
        // Its clock may be ahead; and anybody may ask with a name of no session, which is not worth the store's memory without end.
        let at = self.throttle.may_note(ask.peer).then(|| ask.now.plus(LEEWAY));
        let heard = Heard { subject: None, sid: Some(sid), at };
        let (ended, audit) = self.end_there(provider, heard, ask).await?;
        let mut response = answered(StatusCode::OK);
        // The one page of the gateway that a frame may show: it is empty.
        response.headers_mut().insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; base-uri 'none'; form-action 'none'"),
        );
        // Anybody may ask for it with a name of no session: then nobody was signed out.
        let audit = (ended > 0).then_some(Audit { reason: Some("frontchannel"), ..audit });
        Ok(Answer { response, audit })
    }

    /// End sessions, and wait until every node refuses them; answers how many, and whose.
    async fn end_there(&self, provider: &Provider, heard: Heard, ask: &Ask<'_>) -> Result<(u64, Audit), LoginError> {
        let mut audit = Audit::at(&provider.settings.issuer, "sign_out", None);
        audit.subject.clone_from(&heard.subject);
        let ended = async {
            if let (Some(what), Some(at)) = (heard.ends(), heard.at) {
                self.note_end(provider, what, at, ask.now).await?;
            }
            let (all, who) = self.meant(provider, &heard, ask).await?;
            if let Some(who) = who {
                audit = Audit::of(who, "sign_out", None);
            }
            let mut ended = 0;
            for what in all {
                ended += self.sessions.revoke(what, Wait::Fully, ask.now).await?.ended;
            }
            Ok(ended)
        };
        match ended.await {
            Ok(ended) => Ok((ended, audit)),
            Err(error) => Err(Audit { event: "sign_out_unfinished", ..audit }.unfinished(error)),
        }
    }

    /// What is to be revoked, and who that is, where a session of theirs says so.
    async fn meant(
        &self,
        provider: &Provider,
        heard: &Heard,
        ask: &Ask<'_>,
    ) -> Result<(Vec<Revocation>, Option<Who>), StoreError> {
        let Some(sid) = &heard.sid else {
            let user = heard.subject.as_deref().map(|subject| UserKey::of(&provider.settings.issuer, subject));
            return Ok((user.map(|user| Revocation::User { user, except: None }).into_iter().collect(), None));
        };
        let keys = self.of_session(provider, heard.subject.as_deref(), sid, ask).await?;
        let mut who = None;
        for key in &keys {
            if let Ok(session) = self.sessions.record(*key, Activity::Passive, ask.now).await? {
                who = Some(session.who());
                break;
            }
        }
        Ok((keys.into_iter().map(Revocation::Session).collect(), who))
    }

    /// By the index; and where the person is named too, by their own sessions as well, should the index have lost one.
    async fn of_session(
        &self,
        provider: &Provider,
        subject: Option<&str>,
        sid: &str,
        ask: &Ask<'_>,
    ) -> Result<Vec<SessionKey>, StoreError> {
        let mut keys = self.of_sid(provider, sid, ask.now).await?;
        if let Some(subject) = subject {
            for listed in self.sessions.list(UserKey::of(&provider.settings.issuer, subject), ask.now).await? {
                let theirs = listed.session.provided.as_ref().and_then(|provided| provided.sid.as_deref());
                if theirs == Some(sid) && !keys.contains(&listed.key) {
                    keys.push(listed.key);
                }
            }
        }
        Ok(keys)
    }
}

/// Whom a logout token is about.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    subject: Option<String>,
    sid: Option<String>,
    /// When it was over, by the provider's clock; `None` where that is not to be written down.
    at: Option<Timestamp>,
}

impl Heard {
    fn ends(&self) -> Option<Ended<'_>> {
        let person = || self.subject.as_deref().map(Ended::Person);
        self.sid.as_deref().map(Ended::Session).or_else(person)
    }

    /// Back-Channel Logout §2.6, beyond signature, issuer, audience and time.
    fn read(claims: &serde_json::Map<String, Value>, at: Timestamp) -> Result<Heard, &'static str> {
        // An ID token carries one: it must not be taken for a logout token, nor the other way round.
        if claims.contains_key("nonce") {
            return Err("logout_token_nonce");
        }
        let event = claims.get("events").and_then(Value::as_object).and_then(|events| events.get(EVENT));
        if !event.is_some_and(Value::is_object) {
            return Err("logout_token_event");
        }
        let text = |name, wrong| match claims.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
            Some(_) => Err(wrong),
        };
        let (subject, sid) = (text("sub", "logout_token_sub")?, text("sid", "logout_token_sid")?);
        // Of nobody else are there sessions.
        id_token::subject(claims).map_err(|_| "logout_token_sub")?;
        if subject.is_none() && sid.is_none() {
            return Err("logout_token_nobody");
        }
        Ok(Heard { subject, sid, at: Some(at) })
    }
}

/// Too many were bad.
fn blocked(provider: &Provider) -> Answer {
    let mut answer = refused(provider, "too_many_failures");
    *answer.response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let wait = HeaderValue::from(Failing::WAIT.as_secs());
    answer.response.headers_mut().insert(header::RETRY_AFTER, wait);
    answer
}

/// §2.8: 400, and why, for whoever looks after the provider.
fn refused(provider: &Provider, reason: &'static str) -> Answer {
    let mut response = answered(StatusCode::BAD_REQUEST);
    *response.body_mut() = Bytes::from(format!("{{\"error\":\"invalid_request\",\"error_description\":\"{reason}\"}}"));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Answer { response, audit: Some(Audit::at(&provider.settings.issuer, "sign_out_refused", Some(reason))) }
}

fn answered(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
