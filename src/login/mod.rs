//! Signing in and out: the gateway's own pages under `/.portcullis/`.
//!
//! One decision: GET changes nothing; whatever changes something is a POST that proves its browser and its origin.
//! Knows nothing of upstreams, routes or TLS; it is handed what it may know in [`Ask`].

mod account;
mod ask;
mod departed;
mod directory;
mod form;
pub mod oidc;
pub mod pages;
pub mod password;
mod return_to;
mod sign_in;
mod throttle;
pub mod users;
mod wanted;

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use tokio_util::sync::CancellationToken;

use crate::authn::{Carrier, cookies};
use crate::clock::Clock;
use crate::counter::Counter;
use crate::session::{SessionKeys, Sessions, StoreError, UserKey, Who};

pub use ask::{Ask, KeptAsk, Known, changes, needs_body, needs_caller};
pub use directory::{LocalUsers, People};
pub use password::Argon2Params;
pub use return_to::WHOAMI;
pub use users::UsersError;
pub use wanted::Wanted;
#[cfg(any(test, fuzzing))]
pub(crate) use {
    form::{of_sign_in_page, same_origin},
    return_to::ReturnTo,
};

pub use oidc::LoginError;

use departed::Departed;
use directory::{Blind, Change};
use oidc::{Oidc, Provider};
use pages::Pages;
use password::Passwords;
use throttle::Throttle;
use users::{User, Users};

const PREFIX: &str = "/.portcullis/";
/// The name under which local users are kept apart from those of any provider.
const LOCAL: &str = "local";
/// How often the user file is looked at: a user who was disabled is out within this and a request.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What the pages are made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The session cookie's name; the others begin with it.
    pub cookie: String,
    /// Parameters of new hashes.
    pub argon2: Argon2Params,
}

/// A page, and what is to be remembered of it.
pub struct Answer {
    /// The response.
    pub response: Response<Bytes>,
    /// For the audit.
    pub audit: Option<Audit>,
}

/// A line of the audit. Never a password, never a cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// `sign_in`, `sign_in_failed`, `sign_in_throttled`, `sign_in_refused`, `sign_out`, `sign_out_refused`, `session_ended`,
    /// `form_refused`; where the store did not say that it is done, `sign_in_unfinished`, `sign_out_unfinished`,
    /// `session_end_unfinished`.
    pub event: &'static str,
    /// Where people sign in: `local`, or an issuer.
    pub provider: Option<String>,
    /// Who, as they are called there: what was typed in a form, or what a provider signed. Nothing else that a client sent.
    pub subject: Option<String>,
    /// What applications are told as their name, where that is another word.
    pub user: Option<String>,
    /// Why, a stable name.
    pub reason: Option<&'static str>,
}

impl Audit {
    /// At this place, of nobody in particular.
    fn at(provider: &str, event: &'static str, reason: Option<&'static str>) -> Audit {
        Audit { event, provider: Some(provider.to_owned()), subject: None, user: None, reason }
    }

    /// Of somebody.
    fn of(who: Who, event: &'static str, reason: Option<&'static str>) -> Audit {
        let Who { provider, subject, user } = who;
        Audit { event, provider: Some(provider), subject: Some(subject), user, reason }
    }

    fn unfinished(self, source: StoreError) -> LoginError {
        LoginError::Unfinished { source, audit: Box::new(Audit { reason: Some("store_unavailable"), ..self }) }
    }
}

/// The pages.
pub struct Login {
    settings: Settings,
    sessions: Arc<Sessions>,
    carrier: Arc<Carrier>,
    pages: Arc<Pages>,
    users: Option<Arc<LocalUsers>>,
    oidc: Oidc,
    passwords: Arc<Passwords>,
    throttle: Arc<Throttle>,
    key: hmac::Key,
}

/// Read and check a user file, as `portcullis check` does.
///
/// # Errors
/// [`UsersError`].
pub fn check_users(path: &Path) -> Result<(), UsersError> {
    Users::read(path).map(drop)
}

/// Make a user file with one user and a random password, which is returned and known nowhere else.
///
/// # Errors
/// [`UsersError`].
pub fn make_user_file(path: &Path, name: &str, roles: &[String], argon2: Argon2Params) -> Result<String, UsersError> {
    let mut bytes = [0; 15];
    rand::fill(&mut bytes).map_err(|_| password::PasswordError::Busy)?;
    let password = URL_SAFE_NO_PAD.encode(bytes);
    let hash = password::hash(&password, argon2)?;
    let user = User::new(hash, roles.to_vec())?;
    let name =
        users::canonical(name).ok_or_else(|| UsersError::Name { path: path.to_owned(), name: name.to_owned() })?;
    Users::change(path, |users| users.user.insert(name, user))?;
    Ok(password)
}

impl Login {
    /// The pages over these sessions.
    ///
    /// # Errors
    /// [`UsersError`] of the user file or the hash parameters.
    pub fn new(
        settings: Settings,
        users: Option<Arc<LocalUsers>>,
        oidc: Oidc,
        sessions: Arc<Sessions>,
        carrier: Arc<Carrier>,
        keys: &SessionKeys,
        clock: Arc<dyn Clock>,
    ) -> Result<Login, UsersError> {
        Ok(Login {
            sessions,
            carrier,
            pages: Arc::new(Pages::new()),
            users,
            oidc,
            passwords: Arc::new(Passwords::new(settings.argon2)?),
            throttle: Arc::new(Throttle::new(clock)),
            key: hmac::Key::new(hmac::HMAC_SHA256, &keys.derive("portcullis/forms/1")),
            settings,
        })
    }

    /// The same pages with other providers. What is held against whoever guesses stays: a file that is read again forgives nobody.
    pub fn with(&self, providers: Vec<Provider>) -> Login {
        Login {
            settings: self.settings.clone(),
            sessions: self.sessions.clone(),
            carrier: self.carrier.clone(),
            pages: self.pages.clone(),
            users: self.users.clone(),
            oidc: self.oidc.with(providers),
            passwords: self.passwords.clone(),
            throttle: self.throttle.clone(),
            key: self.key.clone(),
        }
    }

    /// Sign-in at providers, for whoever counts.
    pub fn oidc(&self) -> &Oidc {
        &self.oidc
    }

    /// Attempts to sign in that were not looked at, because too many of their kind had failed: with a password, and with an
    /// answer of a provider.
    pub fn throttled(&self) -> [(&'static str, u64); 2] {
        let [passwords, answers] = self.throttle.refused.each_ref().map(Counter::get);
        [("password", passwords), ("provider", answers)]
    }

    /// The pages themselves, for refusals.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Where to send a person who asked for something.
    pub fn sign_in_location(&self, wanted: &Wanted) -> String {
        if *wanted == Wanted::default() {
            return format!("{PREFIX}login");
        }
        if let Some(provider) = wanted.login.as_deref().filter(|login| self.oidc.provider(login).is_some()) {
            return self.location_at(provider, wanted);
        }
        format!("{PREFIX}login?return={}", wanted.seal(&self.key))
    }

    /// Answer.
    ///
    /// # Errors
    /// [`LoginError`] where the page needs the store or a provider, and it does not answer. Some have a line for the audit.
    pub async fn answer(&self, ask: Ask<'_>) -> Result<Answer, LoginError> {
        let page = ask.path.strip_prefix(PREFIX).unwrap_or_default();
        if let Some(asset) = page.strip_prefix("assets/") {
            return Ok(match self.pages.asset(asset) {
                Some(response) if *ask.method == Method::GET || *ask.method == Method::HEAD => plain(response),
                Some(_) => plain(other_method("GET, HEAD")),
                None => self.nothing_here(),
            });
        }
        if let Some(page) = page.strip_prefix("oidc/") {
            return boxed(self.oidc_page(&ask, page)).await;
        }
        let get = *ask.method == Method::GET || *ask.method == Method::HEAD;
        let post = *ask.method == Method::POST;
        match page {
            "login" if get => boxed(self.sign_in_page(&ask)).await,
            "login" if post => self.sign_in(ask).await,
            "logout" if get => Ok(plain(self.sign_out_page(&ask))),
            "logout" if post => self.sign_out(ask).await,
            "whoami" if get => Ok(plain(self.whoami(&ask))),
            "sessions" if get => Ok(plain(self.list_sessions(&ask).await?)),
            "sessions/end" if post => self.end_session(ask).await,
            "login" | "logout" => Ok(plain(other_method("GET, HEAD, POST"))),
            "whoami" | "sessions" => Ok(plain(other_method("GET, HEAD"))),
            "sessions/end" => Ok(plain(other_method("POST"))),
            _ => Ok(self.nothing_here()),
        }
    }

    fn nothing_here(&self) -> Answer {
        let mut response = Response::new(Bytes::from_static(b"There is nothing at this address.\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        plain(response)
    }

    /// Look at the user file now: when this returns, what was written into it before counts, unless the disk hangs.
    pub async fn look_at_users(&self) {
        let Some(users) = &self.users else { return };
        if let Err(error) = users.look().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the users are those of the last look");
        }
    }

    /// Look at the user file every two seconds, until told to stop: end the sessions of users who left, and let the others
    /// be asked for anew where their roles changed; at once where somebody else looked. `tell` writes the audit.
    pub fn maintain<T>(
        &self,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
        tell: T,
    ) -> impl Future<Output = ()> + use<T>
    where
        T: Fn(Audit),
    {
        // Nothing of the providers is held: they may be others by then.
        let (users, sessions) = (self.users.clone(), self.sessions.clone());
        async move {
            let (Some(users), mut departed) = (users, Departed::default()) else { return };
            // Who was disabled while nothing ran has their sessions yet, and would find them when enabled again.
            users.disabled().into_iter().for_each(|(name, left)| departed.owe(name, left));
            let mut blind = Blind::default();
            let turn = async || {
                let looked = async {
                    tokio::time::sleep(LOOK_EVERY).await;
                    users.look().await
                };
                tokio::select! {
                    looked = looked => looked,
                    () = users.found() => Ok(()),
                }
            };
            while let Some(looked) = stop.run_until_cancelled(turn()).await {
                blind.looked(looked);
                for (name, change) in users.changes() {
                    sessions.refresh(UserKey::of(LOCAL, &name));
                    if let Change::Left(left) = change {
                        departed.owe(name, left);
                    }
                }
                departed.pay(&sessions, |name| users.user(name), clock.now(), &tell).await;
            }
        }
    }
}

/// Kept off the stack of every request: sign-ins are rare and their futures large.
fn boxed<'f, T>(future: impl Future<Output = T> + Send + 'f) -> Pin<Box<dyn Future<Output = T> + Send + 'f>> {
    Box::pin(future)
}

fn plain(response: Response<Bytes>) -> Answer {
    Answer { response, audit: None }
}

fn other_method(allowed: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(b"This method is not accepted here.\n"));
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// 303 to a path of this host.
fn see_other(location: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SEE_OTHER;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
