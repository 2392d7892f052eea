//! From a credential to who is calling.
//!
//! One decision: which credentials are read is the route's to say, and an answer that could not be had is an error, never
//! *anonymous*. Knows nothing of how sessions are kept nor of what a caller may do.

mod carry;
pub mod cookies;
mod credential;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;

use crate::clock::Timestamp;
use crate::policy::{
    Accept, Authentication, Caller, Fields, Identity, IdentityHeaders, Proof, Rejection, RoleNames, SignedIn,
};
use crate::session::{
    Activity, EndedBecause, InUse, Lookup, Memo, Session, SessionKey, Sessions, StoreError, TokenId, View,
};

use crate::token::{self, Handing, Learnt, Tell, Telling, TokenError, Tokens, Verified};

use carry::Presented;
use credential::bearer;

pub use carry::Carrier;
pub use credential::{CookieName, Repeated};

/// Why nobody can say who calls.
#[derive(Debug, thiserror::Error)]
pub enum AuthnError {
    /// The request names two sessions.
    #[error("the session cookie stands twice")]
    Ambiguous(#[from] Repeated),
    /// The request brings a session and a token where both are read: whose request it is would be a matter of taste.
    #[error("a session and a token")]
    Both,
    /// Nobody can say whether the token holds, or too many did not.
    #[error(transparent)]
    Token(TokenError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What said who calls, for what outlives the request.
#[derive(Clone, Debug)]
pub enum Evidence {
    /// A session, and the token that told of it where that may be denied by its id.
    Session(Arc<InUse>, Option<TokenId>),
    /// A bearer token.
    Token(Arc<Verified>),
}

/// A session that was renewed on the way.
#[derive(Debug)]
pub struct Renewed {
    /// Cookies for the answer, whatever it is.
    pub cookies: Box<HeaderMap>,
    /// Asked whether they still may go out, when it leaves: the token before theirs is good until then.
    pub handing: Handing,
}

/// Who calls, and what it was learnt from.
#[derive(Debug)]
pub struct Known {
    /// For policy.
    pub authentication: Authentication,
    /// For what outlives the request: open exchanges, the gateway's own pages.
    pub evidence: Option<Evidence>,
    /// What the answer has to carry.
    pub renewed: Option<Box<Renewed>>,
}

impl Known {
    /// Nobody in particular.
    pub fn anonymous() -> Known {
        Known::without_evidence(Authentication::Anonymous)
    }

    fn without_evidence(authentication: Authentication) -> Known {
        Known { authentication, evidence: None, renewed: None }
    }

    fn in_session(session: Arc<InUse>, told_by: Option<TokenId>) -> Known {
        let known = Known::without_evidence(Authentication::Identified(session.caller.clone()));
        Known { evidence: Some(Evidence::Session(session, told_by)), ..known }
    }

    /// The session that it was learnt from, if it was one.
    pub fn session(&self) -> Option<&Arc<InUse>> {
        match &self.evidence {
            Some(Evidence::Session(session, _)) => Some(session),
            Some(Evidence::Token(_)) | None => None,
        }
    }

    /// Whether a token said who calls.
    pub fn by_token(&self) -> bool {
        matches!(&self.authentication, Authentication::Identified(caller) if caller.identity.proof == Proof::Token)
    }
}

/// What a directory of users says of a session's user now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody here knows better than the sign-in did.
    AsAtSignIn,
    /// These are the roles held now.
    Roles(Vec<String>),
    /// Removed or disabled, or somebody else of that name: must not be signed in (ASVS 7.4.2).
    Gone,
}

/// A session, as far as a directory has to know it.
#[derive(Clone, Copy, Debug)]
pub struct Of<'s> {
    /// Which.
    pub key: SessionKey,
    /// Where its user signed in.
    pub provider: &'s str,
    /// What they are called there.
    pub subject: &'s str,
    /// Which entry of that name it was begun for. See [`Session`].
    pub entry: u64,
}

impl<'s> Of<'s> {
    fn view(view: &'s View) -> Of<'s> {
        Of { key: view.key, provider: view.provider(), subject: view.subject(), entry: view.entry() }
    }

    fn record(key: SessionKey, session: &'s Session) -> Of<'s> {
        Of { key, provider: &session.provider, subject: &session.subject, entry: session.entry }
    }
}

/// A directory of users. Asked when a session comes into use; whoever changes it makes sessions be loaded anew.
pub trait Directory: Send + Sync + 'static {
    /// From memory, without waiting.
    fn standing(&self, of: Of<'_>) -> Standing;
}

/// A directory that knows nobody better than their sign-in.
pub struct NoDirectory;

impl Directory for NoDirectory {
    fn standing(&self, _: Of<'_>) -> Standing {
        Standing::AsAtSignIn
    }
}

/// A request, as far as it says who calls.
#[derive(Clone, Copy)]
pub struct Asking<'r> {
    /// What its header list says.
    pub fields: &'r Fields<'r>,
    /// What the route reads.
    pub accept: Accept,
    /// Whether it counts as use of the session.
    pub activity: Activity,
    /// The client, for those who guess.
    pub client: IpAddr,
    /// For the audit.
    pub on_reuse: &'r (dyn Fn() -> Tell + Sync),
}

/// What a worker remembers of its last callers.
#[derive(Default)]
pub struct Recent {
    sessions: Memo,
    tokens: token::Recent<Verified>,
    own: token::Recent<Telling>,
}

impl Recent {
    /// Remember what a request brought, and what it led to: a cookie, or an access token that tells of the session until it ends.
    fn keep(&self, presented: &Presented<'_>, session: &Arc<InUse>, (id, until): (Option<TokenId>, Option<Timestamp>)) {
        match presented {
            Presented::Id(cookie) => self.sessions.keep(cookie, session),
            Presented::Pair(Some(access), _) => {
                let telling = until.map(|ends| Arc::new(Telling { session: session.clone(), id, ends }));
                telling.iter().for_each(|telling| self.own.keep(access, telling));
            }
            Presented::Pair(None, _) => {}
        }
    }

    /// Forget everything, and give the room back.
    pub fn forget(&self) {
        self.sessions.forget();
        self.tokens.forget();
        self.own.forget();
    }
}

/// Asks.
pub struct Authenticator {
    carrier: Arc<Carrier>,
    /// The issuer of each place to sign in beside the user file.
    logins: HashMap<String, String>,
    tokens: Arc<Tokens>,
    roles: RoleNames,
    headers: IdentityHeaders,
}

impl Authenticator {
    /// An authenticator over sessions, as they are carried, and tokens; `logins` are names of places to sign in, with their issuers.
    pub fn new(
        carrier: Arc<Carrier>,
        logins: HashMap<String, String>,
        tokens: Arc<Tokens>,
        roles: RoleNames,
        headers: IdentityHeaders,
    ) -> Authenticator {
        Authenticator { carrier, logins, tokens, roles, headers }
    }

    /// The session cookie's name.
    pub fn cookie(&self) -> &CookieName {
        self.carrier.name()
    }

    /// The sessions asked.
    pub fn sessions(&self) -> &Arc<Sessions> {
        self.carrier.sessions()
    }

    /// The tokens asked.
    pub fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    /// The headers that tell of an identity.
    pub fn headers(&self) -> &IdentityHeaders {
        &self.headers
    }

    /// Learn who is calling. Waits for the store only where memory does not know the session, for a key server only where a
    /// token names a new key.
    ///
    /// # Errors
    /// [`AuthnError`]: ambiguous (400) or not to be had (503).
    pub async fn ask(&self, request: Asking<'_>, recent: &Recent, now: Timestamp) -> Result<Known, AuthnError> {
        let Asking { fields, accept, client, .. } = request;
        let session = if accept.session { self.carrier.presented(fields)? } else { None };
        let token = if accept.token { bearer(fields) } else { None };
        match (session, token) {
            (Some(_), Some(_)) => Err(AuthnError::Both),
            (Some(session), None) => self.ask_session(session, recent, request, now).await,
            (None, Some(token)) => self.ask_token(token, &recent.tokens, client, now).await,
            (None, None) => Ok(Known::anonymous()),
        }
    }

    async fn ask_token(
        &self,
        token: &str,
        recent: &token::Recent<Verified>,
        client: IpAddr,
        now: Timestamp,
    ) -> Result<Known, AuthnError> {
        let verified = match self.tokens.remembered(recent, token, now) {
            Some(verified) => verified,
            None => {
                // Apart, because it is rare and large: every connection keeps room for what is awaited in place.
                let verified = Box::pin(self.tokens.verify(token, client, now)).await;
                verified.inspect(|verified| recent.keep(token, verified))
            }
        };
        match verified {
            Ok(verified) => {
                let known = Known::without_evidence(Authentication::Identified(verified.caller.clone()));
                Ok(Known { evidence: Some(Evidence::Token(verified)), ..known })
            }
            Err(TokenError::Bad(bad)) => Ok(Known::without_evidence(Authentication::Rejected(Rejection::Token(bad)))),
            Err(error) => Err(AuthnError::Token(error)),
        }
    }

    async fn ask_session(
        &self,
        presented: Presented<'_>,
        recent: &Recent,
        Asking { fields, activity, on_reuse, .. }: Asking<'_>,
        now: Timestamp,
    ) -> Result<Known, AuthnError> {
        if let Some((session, told_by)) = self.carrier.remembered(&presented, recent, activity, now) {
            return Ok(Known::in_session(session, told_by));
        }
        // Apart, because it is rare and large: every connection keeps room for what is awaited in place.
        let Learnt { lookup, renewed, told_by, until, handing } =
            Box::pin(self.carrier.lookup(&presented, activity, now, on_reuse)).await?;
        let mut known = match lookup {
            Lookup::Alive(view) => match recent.sessions.in_use(&view, |view| self.caller_in(view)) {
                Some(session) => {
                    recent.keep(&presented, &session, (told_by, until));
                    Known::in_session(session, told_by)
                }
                None => Known::without_evidence(Authentication::Rejected(Rejection::UserUnknown)),
            },
            Lookup::Ended(because) => Known::without_evidence(Authentication::Rejected(rejection(because))),
        };
        if let Some((pair, handing)) = renewed.zip(handing) {
            let mut cookies = Box::new(HeaderMap::new());
            self.carrier.set(&pair, fields.headers(), &mut cookies)?;
            known.renewed = Some(Box::new(Renewed { cookies, handing }));
        }
        Ok(known)
    }

    /// Who calls in a session now, an identity and its header lines; `None` where the user is gone.
    pub fn caller_in(&self, view: &View) -> Option<Arc<Caller>> {
        let set = |names: &[String]| self.roles.set(names.iter().map(String::as_str));
        let roles = match self.carrier.directory().standing(Of::view(view)) {
            Standing::AsAtSignIn => set(view.roles()),
            Standing::Roles(roles) => set(&roles),
            Standing::Gone => return None,
        };
        let (login, at, acr) = match view.provided() {
            None => (view.provider(), view.created(), None),
            Some(provided) => {
                // Its name may be another's when the file was read again: whoever signed in at the one did not at the other.
                let is_there = self.logins.get(provided.login).is_some_and(|issuer| issuer == view.provider());
                let login = if is_there { provided.login } else { view.provider() };
                (login, provided.proven, provided.acr)
            }
        };
        let signed_in = SignedIn { login: login.to_owned(), at: at.since_epoch(), acr: acr.map(str::to_owned) };
        let identity = Identity {
            subject: view.user_name().to_owned(),
            name: view.name().map(str::to_owned),
            email: view.email().map(str::to_owned),
            roles,
            role_names: self.roles.names(roles).map(str::to_owned).collect(),
            proof: Proof::Session,
            signed_in: Some(signed_in),
        };
        Some(Arc::new(self.headers.caller(identity)))
    }
}

fn rejection(because: EndedBecause) -> Rejection {
    match because {
        EndedBecause::Forged => Rejection::Forged,
        EndedBecause::Unknown => Rejection::Unknown,
        EndedBecause::Idle => Rejection::Idle,
        EndedBecause::Absolute => Rejection::Expired,
        EndedBecause::Revoked => Rejection::Revoked,
        EndedBecause::Reused => Rejection::Reused,
        EndedBecause::UserUnknown => Rejection::UserUnknown,
    }
}
