//! How a browser carries its session: an opaque id in one cookie, or a pair of tokens in two or more. One decision: which of the
//! two is configured is known here alone; whoever signs people in or out, and whoever asks, speaks of sessions.
//! Knows nothing of what a session is good for.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderMap;

use crate::clock::Timestamp;
use crate::policy::{Field, Fields};
use crate::session::{Activity, Begun, InUse, Revocation, Session, SessionKey, Sessions, StoreError, TokenId, Wait};
use crate::token::{Current, Learnt, OwnTokens, Pair, Tell};

use super::credential::{CookieName, Repeated};
use super::{Directory, Of, Recent, Standing, cookies};

/// What browsers keep of one cookie with its name and attributes is 4,096 bytes (rfc6265bis §5.6); the rest is for those.
const CHUNK: usize = 3_800;
/// Three of them: what follows is more than servers read of all headers together.
const MOST_CHUNKS: usize = 3;

/// What the names of the cookies end with: the whole access token, the refresh token, and pieces of a large access token.
const ENDINGS: [&str; 5] = ["-access", "-refresh", "-access.0", "-access.1", "-access.2"];

/// What a request brings.
pub(super) enum Presented<'h> {
    /// An id.
    Id(&'h str),
    /// An access token, a refresh token, or both.
    Pair(Option<Cow<'h, str>>, Option<&'h str>),
}

/// Names of the cookies, and what is in them.
pub struct Carrier {
    sessions: Arc<Sessions>,
    directory: Arc<dyn Directory>,
    name: CookieName,
    tokens: Option<OwnTokens>,
    access: CookieName,
    chunks: [CookieName; MOST_CHUNKS],
    refresh: CookieName,
}

/// The directory's word, for a record that is put into a new token.
impl Current for Carrier {
    fn current(&self, key: SessionKey, mut session: Session) -> Option<Session> {
        match self.directory.standing(Of::record(key, &session)) {
            Standing::AsAtSignIn => {}
            Standing::Roles(roles) => session.roles = roles,
            Standing::Gone => return None,
        }
        Some(session)
    }
}

impl Carrier {
    /// Sessions under this name; in tokens where there are some.
    pub fn new(
        sessions: Arc<Sessions>,
        directory: Arc<dyn Directory>,
        name: CookieName,
        tokens: Option<OwnTokens>,
    ) -> Arc<Carrier> {
        let [access, refresh, chunks @ ..] = ENDINGS.map(|end| CookieName::new(format!("{}{end}", name.as_str())));
        Arc::new(Carrier { sessions, directory, name, tokens, access, chunks, refresh })
    }

    /// The name that all cookies begin with.
    pub fn name(&self) -> &CookieName {
        &self.name
    }

    pub(super) fn directory(&self) -> &dyn Directory {
        &*self.directory
    }

    pub(super) fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// What a request brings.
    pub(super) fn presented<'h>(&self, fields: &Fields<'h>) -> Result<Option<Presented<'h>>, Repeated> {
        if self.tokens.is_none() {
            return Ok(self.name.find_in(fields.all(Field::Cookie))?.map(Presented::Id));
        }
        let [access, refresh, first, second, third] = self.name.find_all(fields, &ENDINGS)?;
        let access = match [first, second, third] {
            [None, None, None] => access.map(Cow::Borrowed),
            pieces => Some(Cow::Owned(joined(access, pieces).unwrap_or_default())),
        };
        Ok((access.is_some() || refresh.is_some()).then_some(Presented::Pair(access, refresh)))
    }

    /// The session that a request brings, and what told of it, where a worker's memory alone can answer.
    pub(super) fn remembered(
        &self,
        presented: &Presented<'_>,
        recent: &Recent,
        activity: Activity,
        now: Timestamp,
    ) -> Option<(Arc<InUse>, Option<TokenId>)> {
        match (presented, &self.tokens) {
            (Presented::Id(cookie), _) => {
                Some((self.sessions.remembered(&recent.sessions, cookie, activity, now)?, None))
            }
            (Presented::Pair(Some(access), _), Some(tokens)) => {
                let telling = tokens.remembered(&recent.own, access, activity, now)?;
                Some((telling.session.clone(), telling.id))
            }
            (Presented::Pair(..), _) => None,
        }
    }

    /// The session that a request brings.
    pub(super) async fn lookup(
        &self,
        presented: &Presented<'_>,
        activity: Activity,
        now: Timestamp,
        on_reuse: &(dyn Fn() -> Tell + Sync),
    ) -> Result<Learnt, StoreError> {
        match (presented, &self.tokens) {
            (Presented::Pair(access, refresh), Some(tokens)) => {
                tokens.lookup((access.as_deref(), *refresh), self, activity, now, on_reuse).await
            }
            (Presented::Id(cookie), _) => {
                let lookup = self.sessions.lookup(cookie, activity, now).await?;
                Ok(Learnt::of(lookup))
            }
            (Presented::Pair(..), None) => Ok(Learnt::ended(crate::session::EndedBecause::Unknown)),
        }
    }

    /// Hand a session that was just begun to the browser. What it carried before ends.
    ///
    /// # Errors
    /// [`StoreError`]; then the browser has nothing.
    pub async fn hand_over(
        &self,
        begun: &Begun,
        request: &HeaderMap,
        response: &mut HeaderMap,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Some(tokens) = &self.tokens else {
            cookies::set(response, self.name.as_str(), &begun.cookie, None);
            return Ok(());
        };
        let pair = tokens.begin(&begun.view, now).await?;
        let before = self.refresh.find(request).ok().flatten().and_then(|token| tokens.session_of(token));
        if let Some(before) = before.filter(|before| *before != begun.view.key) {
            self.sessions.revoke(Revocation::Session(before), Wait::BROWSER, now).await?;
        }
        self.set(&pair, request, response)
    }

    /// Write a pair into an answer.
    pub(super) fn set(&self, pair: &Pair, request: &HeaderMap, response: &mut HeaderMap) -> Result<(), StoreError> {
        let pieces: Vec<&str> = pieces(&pair.access);
        if pieces.len() > MOST_CHUNKS {
            tracing::error!(
                bytes = pair.access.len(),
                "a session is too large for cookies, most likely by its roles; use `mode = \"server\"`"
            );
            return Err(StoreError::Unavailable("the session is too large for cookies".into()));
        }
        cookies::set(response, self.refresh.as_str(), &pair.refresh, None);
        if let [whole] = pieces[..] {
            cookies::set(response, self.access.as_str(), whole, None);
            self.clear(&self.chunks, request, response);
            return Ok(());
        }
        for (n, piece) in pieces.iter().enumerate() {
            let piece = if n == 0 { format!("{}~{piece}", pieces.len()) } else { (*piece).to_owned() };
            cookies::set(response, self.chunks[n].as_str(), &piece, None);
        }
        self.clear(&self.chunks[pieces.len()..], request, response);
        self.clear(std::slice::from_ref(&self.access), request, response);
        Ok(())
    }

    /// Clear what the request brought under these names.
    fn clear(&self, names: &[CookieName], request: &HeaderMap, response: &mut HeaderMap) {
        for name in names.iter().filter(|name| name.find(request) != Ok(None)) {
            cookies::clear(response, name.as_str());
        }
    }

    /// Take everything back from the browser: it signed out.
    pub fn take_back(&self, request: &HeaderMap, response: &mut HeaderMap) {
        if self.tokens.is_none() {
            return cookies::clear(response, self.name.as_str());
        }
        cookies::clear(response, self.access.as_str());
        cookies::clear(response, self.refresh.as_str());
        self.clear(&self.chunks, request, response);
    }
}

/// The access token, whole. Pieces of two tokens do not open together; a piece that is missing or too many is no token.
fn joined(whole: Option<&str>, pieces: [Option<&str>; MOST_CHUNKS]) -> Option<String> {
    let (count, first) = pieces[0]?.split_once('~')?;
    let count = count.parse::<usize>().ok().filter(|count| (2..=MOST_CHUNKS).contains(count))?;
    let too_many = whole.is_some() || pieces[count..].iter().any(Option::is_some);
    let rest = pieces[1..count].iter().copied().collect::<Option<String>>()?;
    (!too_many).then(|| format!("{first}{rest}"))
}

fn pieces(text: &str) -> Vec<&str> {
    text.as_bytes().chunks(CHUNK).filter_map(|piece| std::str::from_utf8(piece).ok()).collect()
}
