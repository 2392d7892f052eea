//! The way to a provider and back (OpenID Connect Core §3.1). One decision: whatever comes back is held against the attempt of
//! this very browser before anything is asked of the provider; what does not belong to it leads to a page or to one new
//! beginning, never in circles. Knows nothing of how sessions are kept.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::fetch::Credential;
use crate::policy::Load;
use crate::session::{NewSession, Provided, Revocation, StoreError, Wait, Who};

use super::super::sign_in::device_label;
use super::super::wanted::Wanted;
use super::super::{Answer, Ask, Audit, Login, cookies, see_other};
use super::attempt::{Attempt, LIFE, State, Way, surplus};
use super::error::{LoginError, ProviderError, is_away};
use super::exchange::{Demand, Tokens};
use super::id_token::{Asked, Proven, check, subject};
use super::person::Person;
use super::provider::{Known, Provider, Signed};
use super::{Page, Problem};

/// A state that came without its cookie is begun anew so often.
const TRIES: u8 = 1;
/// Whoever is sent to sign in again for the same page within it after they did is told so, and not sent on.
const AGAIN: Duration = Duration::from_secs(30);

/// What a provider sends back (RFC 6749 §4.1.2, RFC 9207).
#[derive(Default)]
struct Returned {
    state: String,
    code: Option<String>,
    error: Option<String>,
    issuer: Option<String>,
}

impl Returned {
    /// `None` where a name stands twice: one reader would take the first and the next one the last.
    fn read(query: &str) -> Option<Returned> {
        let mut returned = Returned::default();
        let mut state = None;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = match &*name {
                "state" => &mut state,
                "code" => &mut returned.code,
                "error" => &mut returned.error,
                "iss" => &mut returned.issuer,
                _ => continue,
            };
            if slot.replace(value.into_owned()).is_some() {
                return None;
            }
        }
        returned.state = state?;
        Some(returned)
    }
}

/// Somebody who was identified, and what came with them.
struct Identified {
    proven: Proven,
    person: Person,
    tokens: Tokens,
    /// When the browser left for the provider, and when that signed it, by its own clock.
    moments: (Timestamp, Timestamp),
}

impl Login {
    fn attempts(&self) -> String {
        format!("{}-login.", self.settings.cookie)
    }

    fn again(&self) -> String {
        format!("{}-again", self.settings.cookie)
    }

    /// Whether this browser has just come back from signing in again for this very page, and was let in. Whatever the reason why
    /// that is not enough – clocks of nodes that differ, a way back that takes long –, it is no reason to go in circles.
    fn came_back(&self, ask: &Ask<'_>, wanted: &Wanted) -> bool {
        cookies::value(ask.headers, &self.again()).is_some_and(|mark| mark == wanted.mark(&self.key))
    }

    /// Send a browser to a provider.
    ///
    /// # Errors
    /// [`LoginError::Provider`].
    pub(in super::super) async fn leave_for(
        &self,
        ask: &Ask<'_>,
        provider: &Provider,
        wanted: Wanted,
        tries: u8,
    ) -> Result<Answer, LoginError> {
        // A picture or a frame of another site must not begin sign-ins (ASVS 7.6.2).
        if !Load::of(ask.headers).may_be_page() {
            return Ok(self.problem(ask, Problem::NotAPage, provider, &wanted, "not_a_page"));
        }
        if wanted.again && ask.caller.is_some() && self.came_back(ask, &wanted) {
            let mut answer = self.problem(ask, Problem::TooWeak, provider, &wanted, "sign_in_still_lacking");
            // The person may go on: no browser does by itself.
            cookies::clear(answer.response.headers_mut(), &self.again());
            return Ok(answer);
        }
        let failed = |source| LoginError::Provider { login: provider.name().into(), source, audit: None };
        let known = provider.known(ask.now).await.map_err(failed)?;
        let demand = Demand { max_age: wanted.max_age, acr: &wanted.acr };
        let way = Way { provider: provider.name().to_owned(), wanted: wanted.clone().away(), tries };
        let state = State::new(&self.oidc.sealer, way).ok_or_else(|| failed(ProviderError::Random))?;
        let begun = provider.begin(&known, &state, &demand, ask.authority, ask.now).map_err(failed)?;
        let cookie = state.cookie(&self.attempts());
        let value = begun.attempt.seal(&self.oidc.sealer, &cookie).ok_or_else(|| failed(ProviderError::Random))?;
        let mut response = away(&begun.location);
        for name in surplus(&self.oidc.sealer, ask.headers, &self.attempts(), ask.now) {
            cookies::clear(response.headers_mut(), &name);
        }
        cookies::set(response.headers_mut(), &cookie, &value, Some(LIFE));
        Ok(Answer { response, audit: None })
    }

    /// A browser that comes back.
    ///
    /// # Errors
    /// [`LoginError`].
    pub(in super::super) async fn back_from(&self, ask: &Ask<'_>, provider: &Provider) -> Result<Answer, LoginError> {
        let stale = |wanted: &Wanted, reason| Ok(self.problem(ask, Problem::Stale, provider, wanted, reason));
        let Some(returned) = Returned::read(ask.query.unwrap_or_default()) else {
            return stale(&Wanted::default(), "callback_malformed");
        };
        let Some(state) = State::open(&self.oidc.sealer, &returned.state) else {
            return stale(&Wanted::default(), "state_unknown");
        };
        let wanted = state.way.wanted.clone();
        if state.way.provider != provider.name() {
            // The answer of one provider, delivered where another's is expected: mix-up (RFC 9700 §4.4).
            return stale(&wanted, "state_of_other_provider");
        }
        let here = (&state, provider.settings.issuer.as_str(), ask.authority);
        let attempt = Attempt::find(&self.oidc.sealer, ask.headers, &self.attempts(), here, ask.now);
        let Some(attempt) = attempt else {
            return self.without_attempt(ask, provider, state.way).await;
        };
        if let Err(wait) = self.throttle.check_answer(ask.peer) {
            // The attempt stays: the same answer counts when it comes again in time.
            let mut answer = self.problem(ask, Problem::TooMany, provider, &wanted, "too_many_failures");
            answer.response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
            return Ok(answer);
        }
        let answer = match self.identify(ask, provider, &returned, (&state, &attempt)).await {
            Ok(identified) => self.let_in(ask, provider, identified, &wanted).await,
            Err(stopped) => self.stopped(ask, provider, stopped, &wanted),
        };
        // Single use, whatever came of it; an outage says nothing about the attempt, but its code may be spent.
        answer.map(|mut answer| {
            cookies::clear(answer.response.headers_mut(), &state.cookie(&self.attempts()));
            answer
        })
    }

    /// The cookie was pushed out by other tabs, was used already, or was never this browser's, or the provider is another one by
    /// now. Whoever is signed in goes on to the page; anybody else begins anew, once: an attacker's answer makes nobody sign in as
    /// the attacker.
    async fn without_attempt(&self, ask: &Ask<'_>, provider: &Provider, way: Way) -> Result<Answer, LoginError> {
        if ask.caller.is_some() && !way.wanted.again {
            let mut response = see_other(ask.led(&way.wanted.back()));
            quiet(&mut response);
            return Ok(Answer { response, audit: None });
        }
        if way.tries < TRIES {
            return self.leave_for(ask, provider, way.wanted, way.tries + 1).await;
        }
        Ok(self.problem(ask, Problem::NoCookie, provider, &way.wanted, "state_without_cookie"))
    }

    async fn identify(
        &self,
        ask: &Ask<'_>,
        provider: &Provider,
        returned: &Returned,
        (state, attempt): (&State, &Attempt),
    ) -> Result<Identified, Stopped> {
        let page = |problem, reason| Err(Stopped::page(problem, reason));
        let known = provider.known(ask.now).await?;
        match &returned.issuer {
            Some(issuer) if *issuer != provider.settings.issuer => return page(Problem::Stale, "issuer_mismatch"),
            None if known.metadata.names_itself => return page(Problem::Stale, "issuer_missing"),
            _ => {}
        }
        match (returned.error.as_deref(), &returned.code) {
            (Some("access_denied"), _) => page(Problem::Declined, "declined"),
            (Some("temporarily_unavailable" | "server_error"), _) => Err(ProviderError::Failed.into()),
            (Some(_), _) => page(Problem::Declined, "provider_error"),
            (None, None) => page(Problem::Stale, "callback_malformed"),
            (None, Some(code)) if code.is_empty() => page(Problem::Stale, "callback_malformed"),
            (None, Some(code)) => {
                let _slot = provider.slot()?;
                if !self.first_use(state, ask.now).await? {
                    self.throttle.bad_answer(ask.peer);
                    return page(Problem::Stale, "state_used");
                }
                let exchanged = provider.exchange(&known, code.clone(), attempt, ask.now).await;
                let tokens = exchanged.inspect_err(|error| {
                    if error.is_refusal() {
                        self.throttle.bad_answer(ask.peer);
                    }
                });
                self.read_tokens(ask, provider, &known, tokens?, (state, attempt)).await
            }
        }
    }

    async fn read_tokens(
        &self,
        ask: &Ask<'_>,
        provider: &Provider,
        known: &Known,
        tokens: Tokens,
        (state, attempt): (&State, &Attempt),
    ) -> Result<Identified, Stopped> {
        let token = tokens.id.as_ref().ok_or(ProviderError::NoIdToken)?;
        let (claims, algorithm) = provider.verify(known, token, Signed::IdToken, &|| true, ask.now).await?;
        let wanted = &state.way.wanted;
        let asked = Asked {
            client_id: &provider.settings.client_id,
            nonce: Some(&attempt.nonce),
            access_token: &tokens.access,
            algorithm,
            max_age: wanted.max_age,
            acr: &wanted.acr,
            now: ask.now,
        };
        let proven = match check(&claims.all, &asked) {
            Err(ProviderError::Other("acr" | "auth_time")) => {
                // Sent there again, the provider would say the same again.
                let stopped = Stopped::page(Problem::TooWeak, "sign_in_too_weak");
                return Err(stopped.of(subject(&claims.all)?));
            }
            checked => checked?,
        };
        let person = self.person_of(provider, known, (claims.all, &proven.subject), &tokens).await;
        let person = person.map_err(|stopped| stopped.of(Some(&proven.subject)))?;
        Ok(Identified { proven, person, tokens, moments: (attempt.left(), claims.issued) })
    }

    /// Who this subject is here.
    async fn person_of(
        &self,
        provider: &Provider,
        known: &Known,
        (mut all, subject): (Map<String, Value>, &str),
        tokens: &Tokens,
    ) -> Result<Person, Stopped> {
        let rules = &provider.settings.rules;
        if rules.lacks(&all) {
            provider.complete_signed(known, &tokens.access, subject, &mut all).await?;
        }
        let (person, allowed) = rules.person(&all)?;
        if person.dropped > 0 {
            self.oidc.dropped_roles.fetch_add(person.dropped as u64, std::sync::atomic::Ordering::Relaxed);
            tracing::debug!(provider = provider.name(), dropped = person.dropped, "roles that are not declared");
        }
        allowed.map_err(|not| Stopped::page(Problem::NotAllowed, not.as_str()))?;
        Ok(person)
    }

    /// A new session under a new id, as after any sign-in.
    async fn let_in(
        &self,
        ask: &Ask<'_>,
        provider: &Provider,
        identified: Identified,
        wanted: &Wanted,
    ) -> Result<Answer, LoginError> {
        let Identified { proven, person, tokens, moments } = identified;
        let who = Who::new(&provider.settings.issuer, &proven.subject, &person.user);
        let new = NewSession {
            provider: provider.settings.issuer.clone(),
            subject: proven.subject,
            entry: 0,
            name: person.name,
            email: person.email,
            roles: person.roles,
            device: device_label(ask),
            provided: Some(Provided {
                login: provider.name().to_owned(),
                user: person.user,
                sid: proven.sid,
                proven: proven.at,
                acr: proven.acr,
                keeps: provider.settings.keep_tokens,
            }),
        };
        let unfinished = |error| Audit::of(who.clone(), "sign_in_unfinished", None).unfinished(error);
        let begun = self.sessions.begin(new, ask.session_cookie, ask.now).await.map_err(unfinished)?;
        self.remember(provider, &begun.view, tokens, ask.now).await.map_err(unfinished)?;
        if self.ended_since(provider, &begun.view, moments, ask.now).await.map_err(unfinished)? {
            let ended = self.sessions.revoke(Revocation::Session(begun.view.key), Wait::BROWSER, ask.now).await;
            ended.map_err(unfinished)?;
            let Answer { response, audit } = self.problem(ask, Problem::Stale, provider, wanted, "signed_out_there");
            return Ok(Answer {
                response,
                audit: audit.map(|audit| Audit { subject: Some(who.subject.clone()), ..audit }),
            });
        }
        let mut response = see_other(ask.led(&wanted.back()));
        quiet(&mut response);
        let handed = self.carrier.hand_over(&begun, ask.headers, response.headers_mut(), ask.now).await;
        handed.map_err(unfinished)?;
        if wanted.again {
            let life = wanted.max_age.map_or(AGAIN, |age| AGAIN.min(Duration::from_secs(age)));
            cookies::set(response.headers_mut(), &self.again(), &wanted.mark(&self.key), Some(life));
        }
        Ok(Answer { response, audit: Some(Audit::of(who, "sign_in", None)) })
    }

    /// The answer to whoever was not identified, and a line for the audit whichever it is.
    fn stopped(
        &self,
        ask: &Ask<'_>,
        provider: &Provider,
        Stopped { why, subject }: Stopped,
        wanted: &Wanted,
    ) -> Result<Answer, LoginError> {
        let issuer = &provider.settings.issuer;
        match why {
            Why::Page(problem, reason) => {
                let Answer { response, audit } = self.problem(ask, problem, provider, wanted, reason);
                Ok(Answer { response, audit: audit.map(|audit| Audit { subject, ..audit }) })
            }
            Why::Provider(source) => {
                let audit = Audit { subject, ..Audit::at(issuer, "sign_in_refused", Some(source.as_str())) };
                Err(LoginError::Provider { login: provider.name().into(), source, audit: Some(Box::new(audit)) })
            }
            Why::Store(source) => Err(Audit::at(issuer, "sign_in_unfinished", None).unfinished(source)),
        }
    }

    /// A page that says what to do, and a line for the audit.
    pub(super) fn problem(
        &self,
        ask: &Ask<'_>,
        problem: Problem,
        provider: &Provider,
        wanted: &Wanted,
        reason: &'static str,
    ) -> Answer {
        let again = self.location_at(provider.name(), wanted);
        let page = Page { title: &provider.settings.title, again: &again, request_id: ask.request_id };
        let mut response = self.pages.sign_in_problem(problem, &page);
        quiet(&mut response);
        let event = if problem == Problem::TooMany { "sign_in_throttled" } else { "sign_in_refused" };
        Answer { response, audit: Some(Audit::at(&provider.settings.issuer, event, Some(reason))) }
    }
}

impl Provider {
    /// The same where an ID token told who it is. Userinfo may refuse the access token for good: where a scope of an application was asked
    /// for, it is that application's alone (Entra, ADFS). What is not told then is taken for nothing, and lets nobody in anywhere.
    pub(super) async fn complete_signed(
        &self,
        known: &Known,
        access: &str,
        subject: &str,
        claims: &mut Map<String, Value>,
    ) -> Result<(), ProviderError> {
        match self.complete(known, access, subject, claims).await {
            Err(ProviderError::Status(status)) if status.is_client_error() && !is_away(status) => {
                tracing::info!(provider = self.name(), %status, "userinfo refuses the access token, and tells nothing");
                Ok(())
            }
            completed => completed,
        }
    }

    /// Ask userinfo for what the ID token does not say (OpenID Connect Core §5.3.2).
    pub(super) async fn complete(
        &self,
        known: &Known,
        access: &str,
        subject: &str,
        claims: &mut Map<String, Value>,
    ) -> Result<(), ProviderError> {
        let Some(address) = &known.metadata.userinfo else { return Ok(()) };
        let document = self.settings.client.get(address, Credential::Bearer(access)).await?;
        if !document.status.is_success() {
            return Err(ProviderError::Status(document.status));
        }
        let told: Map<String, Value> =
            serde_json::from_slice(&document.body).map_err(|error| ProviderError::Userinfo(error.into()))?;
        // §5.3.4: what is said of somebody else must not be taken for this person's.
        if told.get("sub").and_then(Value::as_str) != Some(subject) {
            return Err(ProviderError::OtherSubject);
        }
        add(claims, told);
        Ok(())
    }
}

/// Add what userinfo tells to what was signed, which counts first. `email` and `email_verified` are one word (§5.1): taken from
/// two places, the verification of somebody's own address would let them in by another one, which they only wrote down.
fn add(claims: &mut Map<String, Value>, mut told: Map<String, Value>) {
    match claims.get("email").filter(|email| !email.is_null()) {
        Some(email) if told.get("email") != Some(email) => {
            told.remove("email_verified");
        }
        // Of the same address either may speak.
        Some(_) => {}
        None => {
            claims.remove("email");
            claims.remove("email_verified");
        }
    }
    for (name, value) in told {
        claims.entry(name).or_insert(value);
    }
}

/// Why somebody was not identified.
enum Why {
    Store(StoreError),
    Provider(ProviderError),
    Page(Problem, &'static str),
}

/// The same, and who came, where the provider signed that it is they.
struct Stopped {
    why: Why,
    subject: Option<String>,
}

impl Stopped {
    fn page(problem: Problem, reason: &'static str) -> Stopped {
        Stopped { why: Why::Page(problem, reason), subject: None }
    }

    fn of(self, subject: Option<&str>) -> Stopped {
        Stopped { subject: subject.map(str::to_owned), ..self }
    }
}

impl From<ProviderError> for Stopped {
    fn from(source: ProviderError) -> Stopped {
        match source {
            // The code was too old or used: nothing is broken, and trying again is right.
            ProviderError::Refused(code) if code == "invalid_grant" => Stopped::page(Problem::Stale, "invalid_grant"),
            source => Stopped { why: Why::Provider(source), subject: None },
        }
    }
}

impl From<StoreError> for Stopped {
    fn from(source: StoreError) -> Stopped {
        Stopped { why: Why::Store(source), subject: None }
    }
}

/// 303 to another site, which never learns from where (RFC 9700 §4.2.4, §4.12).
fn away(location: &str) -> Response<Bytes> {
    let mut response = see_other(location);
    quiet(&mut response);
    if !response.headers().contains_key(header::LOCATION) {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    response
}

/// Codes and states in the address of this answer go nowhere.
fn quiet(response: &mut Response<Bytes>) {
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}
