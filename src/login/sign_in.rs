//! Signing in by password. One decision: every refusal of a sign-in is the same page, with the same work behind it, so that
//! it tells nobody which user names exist. Knows nothing of roles.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use zeroize::Zeroizing;

use crate::session::{NewSession, Revocation, Wait, Who};

use super::directory::Unseen;
use super::form::{Browser, Sent, field, of_sign_in_page, same_origin};
use super::oidc::{LoginError, Provider};
use super::pages::{Choice, SignIn};
use super::password::{Checked, LONGEST, PasswordError, Place};
use super::return_to::{ReturnTo, open, seal};
use super::throttle::Attempt;
use super::users::{User, Users, canonical};
use super::wanted::Wanted;
use super::{Answer, Ask, Audit, LOCAL, Login, cookies, plain, see_other};

/// How long a browser is known as one that signed in here; half a year, as others remember devices.
const DEVICE_LIFE: Duration = Duration::from_secs(180 * 86_400);
const WRONG: &str = "The user name or the password is not right.";
const STALE: &str = "This page was open for too long, or your browser refused its cookie. Please try again.";
const BUSY: &str = "Many people are signing in at this moment. Please try again in a few seconds.";
const UNSEEN: &str = "Nobody can sign in here at this moment. Please try again in a minute.";
const CHANGED: &str = "What is known of you was changed at this moment. Please try again.";
const DEVICE_LABEL: usize = 80;
/// A user whose entry is another one at every look is being changed all the time: nobody is let in by it.
const LOOKS: usize = 4;

/// Why nobody knows whether somebody is who they say.
#[derive(Debug, thiserror::Error)]
enum Unproven {
    /// Too many were wrong; how long to wait.
    #[error("too many wrong passwords")]
    Throttled(Duration),
    /// The password was not checked.
    #[error("a password could not be checked")]
    Password(#[from] PasswordError),
    /// What stands in the user file now is not known.
    #[error("a user could not be looked up")]
    Unseen(#[from] Unseen),
    /// It was another one at every look.
    #[error("the user changed at every look")]
    Changing,
}

/// Whose password was found right.
struct Proven {
    name: String,
    user: User,
    /// A stronger hash of it.
    rehashed: Option<String>,
}

impl Login {
    /// Stays until somebody signs out: forms in other tabs are this browser's, too.
    pub(super) fn browser_cookie(&self) -> String {
        format!("{}-login", self.settings.cookie)
    }

    fn device_cookie(&self) -> String {
        format!("{}-device", self.settings.cookie)
    }

    /// The page. Whoever is signed in already goes on to where they wanted, unless that is what asks for a sign-in again.
    pub(super) async fn sign_in_page(&self, ask: &Ask<'_>) -> Result<Answer, LoginError> {
        let wanted = self.wanted(ask);
        if ask.caller.is_some() && !wanted.again {
            return Ok(plain(see_other(ask.led(&wanted.back()))));
        }
        if let Some(provider) = self.only_provider(&wanted) {
            return self.leave_for(ask, &provider, wanted, 0).await;
        }
        Ok(plain(self.form(ask, StatusCode::OK, &wanted, String::new(), None)))
    }

    /// What the address of a page says that a sign-in is wanted for.
    pub(super) fn wanted(&self, ask: &Ask<'_>) -> Wanted {
        let sealed = ask.query.and_then(|query| field(query.as_bytes(), "return"));
        sealed.and_then(|sealed| Wanted::open(&sealed, &self.key)).unwrap_or_default()
    }

    /// The provider, where there is nothing to choose.
    fn only_provider(&self, wanted: &Wanted) -> Option<Arc<Provider>> {
        if let Some(login) = &wanted.login {
            return self.oidc.provider(login).cloned();
        }
        let mut all = self.oidc.titles();
        let (only, _) = all.next().filter(|_| self.users.is_none())?;
        if all.next().is_some() { None } else { self.oidc.provider(only).cloned() }
    }

    fn form(
        &self,
        ask: &Ask<'_>,
        status: StatusCode,
        wanted: &Wanted,
        user: String,
        error: Option<&str>,
    ) -> Response<Bytes> {
        let known = cookies::value(ask.headers, &self.browser_cookie()).and_then(Browser::of);
        let fresh = known.is_none();
        let Some(browser) = known.or_else(Browser::new) else {
            tracing::error!("the random generator failed");
            return self.pages.sign_in(StatusCode::SERVICE_UNAVAILABLE, &SignIn::default());
        };
        let state = browser.state(&self.key, &wanted.back(), ask.now);
        let choice =
            |(name, title): (&str, &str)| Choice { title: title.to_owned(), href: self.location_at(name, wanted) };
        // Whoever has to sign in here for a page is not led elsewhere.
        let choices = if wanted.login.is_none() { self.oidc.titles().map(choice).collect() } else { Vec::new() };
        let form = SignIn { state, user, error: error.map(str::to_owned), local: self.users.is_some(), choices };
        let mut response = self.pages.sign_in(status, &form);
        if fresh {
            cookies::set(response.headers_mut(), &self.browser_cookie(), browser.as_str(), None);
        }
        response
    }

    /// The form, sent.
    pub(super) async fn sign_in(&self, ask: Ask<'_>) -> Result<Answer, LoginError> {
        let typed = field(&ask.body, "user").unwrap_or_default();
        let refused = |event, reason, response| Login::refused(&typed, event, reason, response);
        if !same_origin(ask.headers, ask.authority) {
            let response = self.form(&ask, StatusCode::FORBIDDEN, &Wanted::default(), String::new(), Some(STALE));
            return Ok(refused("sign_in_refused", "other_origin", response));
        }
        let browser = cookies::value(ask.headers, &self.browser_cookie()).and_then(Browser::of);
        let state = field(&ask.body, "state").unwrap_or_default();
        let stale = |wanted: Wanted| {
            let response = self.form(&ask, StatusCode::BAD_REQUEST, &wanted, typed.clone(), Some(STALE));
            Ok(refused("sign_in_refused", "stale_form", response))
        };
        let of_page = of_sign_in_page(ask.headers, ask.authority);
        let back = match Sent::read(&self.key, browser.as_ref(), of_page, &state, ask.now) {
            Sent::Fresh(back) => back,
            Sent::Stale(back) => return stale(Wanted::back_to(&back)),
            Sent::Unknown => return stale(Wanted::default()),
        };
        let name = canonical(&typed);
        let device = self.device(&ask, name.as_deref());
        // A name that nobody can have draws on the budget of one shared stranger.
        let throttled_name = name.clone().unwrap_or_default();
        let attempt = Attempt { user: &throttled_name, device: device.as_deref(), address: ask.peer };
        let password = Zeroizing::new(field(&ask.body, "password").unwrap_or_default());
        match self.prove(name.as_deref(), &password, &attempt).await {
            Ok(Some(proven)) => self.begin(&ask, proven, &password, &back, &typed).await,
            Ok(None) => Ok(self.wrong(&ask, &back, &typed)),
            Err(error) => Ok(self.unproven(&ask, &back, &typed, &error)),
        }
    }

    /// A refusal, and its line.
    fn refused(typed: &str, event: &'static str, reason: &'static str, response: Response<Bytes>) -> Answer {
        let audit = Audit { subject: canonical(typed), ..Audit::at(LOCAL, event, Some(reason)) };
        Answer { response, audit: Some(audit) }
    }

    fn wrong(&self, ask: &Ask<'_>, back: &ReturnTo, typed: &str) -> Answer {
        let status = StatusCode::UNAUTHORIZED;
        let response = self.form(ask, status, &Wanted::back_to(back), typed.to_owned(), Some(WRONG));
        Login::refused(typed, "sign_in_failed", "wrong_credentials", response)
    }

    fn unproven(&self, ask: &Ask<'_>, back: &ReturnTo, typed: &str, error: &Unproven) -> Answer {
        let later = |wait: u64| format!("Too many attempts. Please wait {wait} seconds and try again.");
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let (status, event, reason, wait, told) = match error {
            Unproven::Throttled(wait) => {
                let wait = wait.as_secs().max(1);
                (StatusCode::TOO_MANY_REQUESTS, "sign_in_throttled", "too_many_failures", wait, later(wait))
            }
            Unproven::Changing => (unavailable, "sign_in_refused", "user_changed", 3, CHANGED.into()),
            // The log has it from whoever looks at the file from time to time.
            Unproven::Unseen(_) => (unavailable, "sign_in_refused", "user_file_unseen", 30, UNSEEN.into()),
            Unproven::Password(error) => {
                if !matches!(error, PasswordError::Busy) {
                    tracing::error!(error = error as &dyn std::error::Error, "a password could not be checked");
                }
                (unavailable, "sign_in_refused", "busy", 3, BUSY.into())
            }
        };
        let mut response = self.form(ask, status, &Wanted::back_to(back), typed.to_owned(), Some(&told));
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
        Login::refused(typed, event, reason, response)
    }

    /// Whose password this is. It is found right by the user file as that is afterwards: hashes queue, and whoever was disabled
    /// meanwhile, or has another password because somebody knew this one, is not let in by what was true before.
    async fn prove(
        &self,
        name: Option<&str>,
        password: &Zeroizing<String>,
        attempt: &Attempt<'_>,
    ) -> Result<Option<Proven>, Unproven> {
        // The place first: it bounds how many wait for a guess, too.
        let place = self.passwords.place(attempt.device.is_some())?;
        let guess = self.throttle.guess(attempt).await.map_err(Unproven::Throttled)?;
        if let Some(users) = &self.users {
            users.look().await?;
        }
        let user = name.and_then(|name| self.users.as_ref()?.user(name));
        let told = |right: bool| {
            if !right {
                guess.wrong();
            }
        };
        let checked = self.check(&place, user.as_ref(), password.clone(), told).await?;
        drop(place);
        let (Checked::Right { rehashed }, Some(name), Some(user)) = (checked, name, user) else { return Ok(None) };
        self.still(Proven { name: name.to_owned(), user, rehashed }, password).await
    }

    /// The same of somebody whose password was right a moment ago, as the file is now.
    async fn still(&self, proven: Proven, password: &Zeroizing<String>) -> Result<Option<Proven>, Unproven> {
        let Some(users) = &self.users else { return Ok(None) };
        let Proven { name, user: mut right, mut rehashed } = proven;
        for _ in 0..LOOKS {
            users.look().await?;
            let Some(now) = users.user(&name) else { return Ok(None) };
            let same = now.password == right.password;
            if same && now.entry() == right.entry() {
                return Ok(Some(Proven { name, user: now, rehashed }));
            }
            // Another tab may have renewed the hash of this very password.
            if !same {
                match self.check(&self.passwords.place(true)?, Some(&now), password.clone(), |_| ()).await? {
                    Checked::Right { rehashed: anew } => rehashed = anew,
                    Checked::Wrong => return Ok(None),
                }
            }
            right = now;
        }
        Err(Unproven::Changing)
    }

    async fn check(
        &self,
        place: &Place,
        user: Option<&User>,
        password: Zeroizing<String>,
        told: impl FnOnce(bool) + Send + 'static,
    ) -> Result<Checked, PasswordError> {
        if password.is_empty() || password.len() > LONGEST {
            // The same work as for any other wrong one.
            return self.passwords.check(place, None, Zeroizing::new(String::new()), told).await;
        }
        self.passwords.check(place, user.map(|user| user.password.clone()), password, told).await
    }

    /// A new session under a new id, whatever the browser brought: an id chosen before sign-in is worth nothing after it.
    async fn begin(
        &self,
        ask: &Ask<'_>,
        proven: Proven,
        password: &Zeroizing<String>,
        back: &ReturnTo,
        typed: &str,
    ) -> Result<Answer, LoginError> {
        let (name, user) = (proven.name.clone(), proven.user.clone());
        let entry = user.entry();
        let new = NewSession {
            provider: LOCAL.to_owned(),
            subject: name.clone(),
            entry,
            name: user.name,
            email: user.email,
            roles: user.roles,
            device: device_label(ask),
            provided: None,
        };
        let who = Who::new(LOCAL, &name, &name);
        let unfinished = |error| Audit::of(who.clone(), "sign_in_unfinished", None).unfinished(error);
        let begun = self.sessions.begin(new, ask.session_cookie, ask.now).await.map_err(unfinished)?;
        // Once more, now that a revocation finds the session: what was written into the file before one is seen here, and what is
        // written later has its own after it. Until then nobody has the cookie.
        let refused = match self.still(proven, password).await {
            Ok(Some(Proven { user, rehashed, .. })) if user.entry() == entry => {
                if let Some(hash) = rehashed {
                    self.keep_hash(&name, &user, hash);
                }
                None
            }
            Ok(Some(_)) => Some(self.unproven(ask, back, typed, &Unproven::Changing)),
            Ok(None) => Some(self.wrong(ask, back, typed)),
            Err(error) => Some(self.unproven(ask, back, typed, &error)),
        };
        if let Some(refused) = refused {
            let ended = self.sessions.revoke(Revocation::Session(begun.view.key), Wait::BROWSER, ask.now).await;
            ended.map_err(unfinished)?;
            return Ok(refused);
        }
        let mut response = see_other(ask.led(back));
        let headers = response.headers_mut();
        self.carrier.hand_over(&begun, ask.headers, headers, ask.now).await.map_err(unfinished)?;
        if let Some(device) = self.new_device(ask, &name) {
            cookies::set(headers, &self.device_cookie(), &device, Some(DEVICE_LIFE));
        }
        Ok(Answer { response, audit: Some(Audit::of(who, "sign_in", None)) })
    }

    /// The device of a browser that signed in as this user before.
    fn device(&self, ask: &Ask<'_>, name: Option<&str>) -> Option<String> {
        let sealed = cookies::value(ask.headers, &self.device_cookie())?;
        let id = open(&self.key, &format!("device {}", name?), sealed)?;
        Some(URL_SAFE_NO_PAD.encode(id))
    }

    fn new_device(&self, ask: &Ask<'_>, name: &str) -> Option<String> {
        if self.device(ask, Some(name)).is_some() {
            return None;
        }
        let mut id = [0; 16];
        rand::fill(&mut id).ok()?;
        Some(seal(&self.key, &format!("device {name}"), &id))
    }

    /// A stronger hash of the password that was just right. Failing to keep it is no reason to refuse.
    fn keep_hash(&self, name: &str, user: &User, hash: String) {
        let Some(users) = &self.users else { return };
        let changed = Users::change(users.path(), |users| {
            // Only where the password is still the one that was checked.
            if let Some(kept) = users.user.get_mut(name).filter(|kept| kept.password == user.password) {
                kept.password = hash;
            }
        });
        if let Err(error) = changed {
            tracing::warn!(error = &error as &dyn std::error::Error, user = name, "a stronger hash could not be kept");
        }
    }
}

/// What the browser calls itself, in a few words.
pub(super) fn device_label(ask: &Ask<'_>) -> String {
    let agent = ask.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let named =
        |words: &[(&str, &'static str)]| words.iter().find(|(word, _)| agent.contains(word)).map(|(_, name)| *name);
    let browser = named(&[
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
        ("curl/", "curl"),
    ]);
    let system = named(&[
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS X", "macOS"),
        ("Linux", "Linux"),
    ]);
    match (browser, system) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(name), None) | (None, Some(name)) => name.to_owned(),
        (None, None) if agent.is_empty() => "Unknown device".to_owned(),
        (None, None) => agent.chars().filter(|c| !c.is_control()).take(DEVICE_LABEL).collect(),
    }
}
