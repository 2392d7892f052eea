//! Pages for people who are signed in: who they are, their devices, signing out. One decision: a session is named in a form by
//! a seal over its key and its owner, so that nobody can name another's. Knows nothing of passwords.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::clock::Timestamp;
use crate::policy::{Caller, Load};
use crate::session::{Listed, Revocation, SessionKey, StoreError, View, Wait};

use super::form::{field, same_origin};
use super::oidc::LoginError;
use super::pages::{Device, WhoAmI};
use super::return_to::{ReturnTo, open, seal};
use super::wanted::Wanted;
use super::{Answer, Ask, Audit, Known, Login, cookies, plain, see_other};

const SIGN_OUT: &str = "/.portcullis/logout";

impl Login {
    /// Proof that a form was made for this session.
    fn csrf(&self, view: &View) -> String {
        seal(&self.key, &format!("csrf {}", hex(view.key)), b"")
    }

    fn proves(&self, ask: &Ask<'_>, view: &View) -> bool {
        let given = field(&ask.body, "csrf").unwrap_or_default();
        let sealed = open(&self.key, &format!("csrf {}", hex(view.key)), &given).is_some();
        sealed && same_origin(ask.headers, ask.authority)
    }

    /// Who one is. A program that asks for JSON gets it.
    pub(super) fn whoami(&self, ask: &Ask<'_>) -> Response<Bytes> {
        let accept = ask.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let json = accept.contains("json") && !accept.contains("text/html");
        let Some(known) = ask.caller else { return self.nobody(ask, json) };
        let mut who = who(known);
        if json {
            return match serde_json::to_string(&who) {
                Ok(text) => written(StatusCode::OK, "application/json", text),
                Err(error) => {
                    tracing::error!(%error, "an identity could not be written");
                    written(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", String::new())
                }
            };
        }
        who.csrf = self.csrf(known.view);
        self.pages.whoami(&who)
    }

    /// To the sign-in, and back to this page. A program is told instead: it would take the sign-in page for its answer.
    fn nobody(&self, ask: &Ask<'_>, json: bool) -> Response<Bytes> {
        if Load::of(ask.headers).may_be_page() && !json {
            return see_other(&self.sign_in_location(&Wanted::back_to(&ReturnTo::here(ask.path, None))));
        }
        let (kind, body) = match json {
            true => ("application/json", "{\"error\":\"unauthenticated\",\"message\":\"You are not signed in.\"}"),
            false => ("text/plain; charset=utf-8", "You are not signed in.\n"),
        };
        written(StatusCode::UNAUTHORIZED, kind, body.to_owned())
    }

    /// A page with a button; GET itself changes nothing.
    pub(super) fn sign_out_page(&self, ask: &Ask<'_>) -> Response<Bytes> {
        match ask.caller {
            Some(known) => self.pages.sign_out(&self.csrf(known.view), ask.start),
            None => self.pages.signed_out(ask.start),
        }
    }

    /// Sign out. The session is over in the store before this answers; a store that does not answer is an error, and the
    /// cookie stays, because saying *signed out* of a session that lives would be a lie.
    pub(super) async fn sign_out(&self, ask: Ask<'_>) -> Result<Answer, LoginError> {
        let mut there = None;
        let who = match ask.caller {
            Some(known) if !self.proves(&ask, known.view) => {
                let response = self.pages.sign_out(&self.csrf(known.view), ask.start);
                return Ok(refused(response, known.view));
            }
            Some(known) => {
                let hint = self.hint_there(&ask, known.view).await;
                let ended = self.sessions.revoke(Revocation::Session(known.view.key), Wait::BROWSER, ask.now).await;
                let who = known.view.who();
                ended.map_err(|error| Audit::of(who.clone(), "sign_out_unfinished", None).unfinished(error))?;
                // Only now: a provider that hangs keeps no session alive that its owner has ended.
                there = self.sign_out_there(&ask, known.view, hint).await;
                Some(who)
            }
            // Forced sign-out: `SameSite` keeps the session's cookie off a form that another site sends, so that nobody seems to be signed
            // in, while the browser does obey what this answer says of its cookies. Who has a session is asked there.
            None if !same_origin(ask.headers, ask.authority) => return Ok(plain(see_other(SIGN_OUT))),
            None => None,
        };
        let mut response =
            there.map_or_else(|| self.pages.signed_out(ask.start), |there| self.pages.signed_out_here(&there));
        self.carrier.take_back(ask.headers, response.headers_mut());
        // Who sits there next begins with forms of their own.
        cookies::clear(response.headers_mut(), &self.browser_cookie());
        // What pages of this person left in the browser's caches goes too. Not "cookies": applications own theirs.
        response.headers_mut().insert("clear-site-data", HeaderValue::from_static("\"cache\""));
        Ok(Answer { response, audit: who.map(|who| Audit::of(who, "sign_out", None)) })
    }

    /// My devices.
    pub(super) async fn list_sessions(&self, ask: &Ask<'_>) -> Result<Response<Bytes>, StoreError> {
        let Some(known) = ask.caller else { return Ok(self.nobody(ask, false)) };
        let list = self.sessions.list(known.view.user, ask.now).await?;
        let device = |listed: Listed| Device {
            label: listed.session.device.clone(),
            begun: time(listed.session.created),
            last_seen: time(listed.session.last_seen),
            this: listed.key == known.view.key,
            handle: self.handle(known.view, listed.key),
        };
        // Not those of whoever had the name before.
        let mine = list.into_iter().filter(|listed| listed.session.entry == known.view.entry());
        let devices: Vec<Device> = mine.map(device).collect();
        Ok(self.pages.sessions(&devices, &self.csrf(known.view)))
    }

    /// End one of my sessions, or all but this one.
    pub(super) async fn end_session(&self, ask: Ask<'_>) -> Result<Answer, LoginError> {
        let Some(known) = ask.caller else {
            let back = ReturnTo::here("/.portcullis/sessions", None);
            return Ok(plain(see_other(&self.sign_in_location(&Wanted::back_to(&back)))));
        };
        if !self.proves(&ask, known.view) {
            return Ok(refused(self.list_sessions(&ask).await?, known.view));
        }
        let handle = field(&ask.body, "handle").unwrap_or_default();
        let what = match self.opened(known.view, &handle) {
            _ if handle == "others" => Revocation::User { user: known.view.user, except: Some(known.view.key) },
            Some(key) => Revocation::Session(key),
            None => return Ok(refused(self.list_sessions(&ask).await?, known.view)),
        };
        let ended = self.sessions.revoke(what, Wait::BROWSER, ask.now).await;
        let who = known.view.who();
        ended.map_err(|error| Audit::of(who.clone(), "session_end_unfinished", None).unfinished(error))?;
        let reason = Some(if handle == "others" { "all_others" } else { "one" });
        let audit = Audit::of(who, "session_ended", reason);
        let response = see_other("/.portcullis/sessions");
        Ok(Answer { response, audit: Some(audit) })
    }

    fn handle(&self, view: &View, key: SessionKey) -> String {
        seal(&self.key, &format!("handle {}", hex(view.key)), &key.0)
    }

    fn opened(&self, view: &View, handle: &str) -> Option<SessionKey> {
        let key = open(&self.key, &format!("handle {}", hex(view.key)), handle)?;
        Some(SessionKey(key.try_into().ok()?))
    }
}

fn refused(mut response: Response<Bytes>, view: &View) -> Answer {
    *response.status_mut() = StatusCode::FORBIDDEN;
    Answer { response, audit: Some(Audit::of(view.who(), "form_refused", Some("csrf"))) }
}

fn who(known: Known<'_>) -> WhoAmI {
    let (view, limits) = (known.view, known.view.limits());
    let idle_until = Timestamp(view.last_seen().0.saturating_add(limits.idle_ms)).min(limits.ends);
    let line = |(name, text): (&http::HeaderName, &str)| (name.as_str().to_owned(), text.to_owned());
    let Caller { headers, identity } = &**known.caller;
    WhoAmI {
        subject: view.user_name().to_owned(),
        name: view.name().map(str::to_owned),
        email: view.email().map(str::to_owned),
        roles: identity.role_names.clone(),
        signed_in: time(view.created()),
        idle_until: time(idle_until),
        ends: time(limits.ends),
        headers: headers.lines().map(line).collect(),
        csrf: String::new(),
    }
}

fn written(status: StatusCode, kind: &'static str, text: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn time(at: Timestamp) -> String {
    humantime::format_rfc3339_seconds(at.system_time()).to_string()
}

fn hex(key: SessionKey) -> String {
    key.0.iter().map(|byte| format!("{byte:02x}")).collect()
}
