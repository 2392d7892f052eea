//! What sign-ins at providers keep on the store's shelf: states that were used, logout tokens that were heard, which sessions
//! began in a provider's session, which of those it ended, and the tokens of a session. One decision: what lies there is sealed to its
//! session and counts on every node. Knows nothing of protocols.

use crate::clock::Timestamp;
use crate::session::{Keep, Kept, SessionKey, ShelfKey, StoreError, View};

use super::super::Login;
use super::attempt::{LIFE, State};
use super::exchange::Tokens;
use super::provider::Provider;
use super::tokens::{KeptTokens, tokens_key};

/// A list is written again where another node was faster; more often than this something is wrong.
const WRITES: usize = 10;
/// Sessions of one provider session that are remembered: one person's browsers share none.
const SESSIONS: usize = 100;

/// Length-prefixed: no two issuers' ids share a place.
fn of_issuer(purpose: &str, issuer: &str, id: &str) -> ShelfKey {
    ShelfKey::of(purpose, format!("{} {issuer}{id}", issuer.len()).as_bytes())
}

impl Login {
    /// Whether this state was not used before, on any node.
    pub(super) async fn first_use(&self, state: &State, now: Timestamp) -> Result<bool, StoreError> {
        let key = ShelfKey::of("oidc/state", state.text.as_bytes());
        // Twice its life: clocks of nodes differ.
        let keep = Keep { key, over: None, bytes: vec![1], until: now.plus(LIFE * 2) };
        Ok(self.sessions.keep(keep, now).await?.is_some())
    }

    /// The first hearing of a logout token on any node; `None` for every later one.
    pub(super) async fn first_hearing(
        &self,
        provider: &Provider,
        id: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Option<u64>, StoreError> {
        let key = of_issuer("oidc/jti", &provider.settings.issuer, id);
        self.sessions.keep(Keep { key, over: None, bytes: vec![1], until }, now).await
    }

    /// Let it be heard again.
    pub(super) async fn forget_hearing(&self, provider: &Provider, id: &str, hearing: u64) {
        let key = of_issuer("oidc/jti", &provider.settings.issuer, id);
        if let Err(error) = self.sessions.discard(key, hearing).await {
            tracing::warn!(%error, "a logout token that failed cannot be heard again");
        }
    }

    /// Keep what a new session needs later.
    pub(super) async fn remember(
        &self,
        provider: &Provider,
        view: &View,
        tokens: Tokens,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if let Some(sid) = view.provided().and_then(|provided| provided.sid) {
            self.index(of_issuer("oidc/sid", &provider.settings.issuer, sid), view, now).await?;
        }
        let keeps = view.provided().is_some_and(|provided| provided.keeps);
        let kept = match (keeps, provider.settings.logout_there) {
            (true, _) => KeptTokens::new(&tokens, None, view.roles().to_vec(), now),
            (false, true) => KeptTokens { id: tokens.hint(), ..KeptTokens::default() },
            (false, false) => return Ok(()),
        };
        if let Some(bytes) = self.seal_tokens(view, &kept) {
            let keep = Keep { key: tokens_key(view), over: None, bytes, until: view.limits().ends };
            self.sessions.keep(keep, now).await?;
        }
        Ok(())
    }

    /// Add a session to a list.
    async fn index(&self, key: ShelfKey, view: &View, now: Timestamp) -> Result<(), StoreError> {
        let ends = view.limits().ends;
        let add = |kept: Option<&Kept>| {
            let mut list = kept.map(|kept| sessions(&kept.bytes)).unwrap_or_default();
            list.push(view.key);
            let from = list.len().saturating_sub(SESSIONS);
            let bytes = list[from..].iter().flat_map(|key| key.0).collect();
            Some((bytes, kept.map_or(ends, |kept| kept.until.max(ends))))
        };
        self.change(key, now, add).await
    }

    /// Write over what lies there, or where nothing does, what is made of it and until when it counts; `None` where it is to stay as it is.
    async fn change(
        &self,
        key: ShelfKey,
        now: Timestamp,
        make: impl Fn(Option<&Kept>) -> Option<(Vec<u8>, Timestamp)>,
    ) -> Result<(), StoreError> {
        for _ in 0..WRITES {
            let kept = self.sessions.kept(key, now).await?;
            let Some((bytes, until)) = make(kept.as_ref()) else { return Ok(()) };
            let over = kept.map(|kept| kept.version);
            if self.sessions.keep(Keep { key, over, bytes, until }, now).await?.is_some() {
                return Ok(());
            }
        }
        Err(StoreError::Unavailable("other writes were faster every time".into()))
    }

    /// Write down that a provider ended this before some moment by its own clock. A sign-in that is under way is in no index yet, and
    /// would come to its end after the provider was told that there is nobody: it looks here when it is in the index.
    pub(super) async fn note_end(
        &self,
        provider: &Provider,
        what: Ended<'_>,
        at: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let later = |kept: Option<&Kept>| {
            let is_known = kept.is_some_and(|kept| End::read(&kept.bytes).at > at);
            // Of a sign-in that takes longer nobody knows any more what page it was for.
            (!is_known).then(|| (End { at, noted: now }.bytes(), now.plus(LIFE * 2)))
        };
        self.change(what.key(provider), now, later).await
    }

    /// Whether the provider ended what this session began in after it had signed, at `issued`, that it stands; the browser was sent
    /// there at `left`. Asked when the session is in the index: either whoever ends it finds it there, or this finds what they noted
    /// before they looked.
    pub(super) async fn ended_since(
        &self,
        provider: &Provider,
        view: &View,
        (left, issued): (Timestamp, Timestamp),
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let who = view.who();
        let sid = view.provided().and_then(|provided| provided.sid.map(str::to_owned));
        let all = [Some(Ended::Person(&who.subject)), sid.as_deref().map(Ended::Session)];
        for what in all.into_iter().flatten() {
            let kept = self.sessions.kept(what.key(provider), now).await?;
            if kept.is_some_and(|kept| End::read(&kept.bytes).is_of(left, issued)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The sessions that began in this session of the provider's.
    pub(super) async fn of_sid(
        &self,
        provider: &Provider,
        sid: &str,
        now: Timestamp,
    ) -> Result<Vec<SessionKey>, StoreError> {
        let kept = self.sessions.kept(of_issuer("oidc/sid", &provider.settings.issuer, sid), now).await?;
        Ok(kept.map(|kept| sessions(&kept.bytes)).unwrap_or_default())
    }
}

/// What a provider ends.
#[derive(Clone, Copy)]
pub(super) enum Ended<'a> {
    /// One of its sessions (`sid`).
    Session(&'a str),
    /// All of somebody's (`sub`).
    Person(&'a str),
}

impl Ended<'_> {
    fn key(self, provider: &Provider) -> ShelfKey {
        let (purpose, id) = match self {
            Ended::Session(sid) => ("oidc/ended/sid", sid),
            Ended::Person(subject) => ("oidc/ended/sub", subject),
        };
        of_issuer(purpose, &provider.settings.issuer, id)
    }
}

/// A provider's end of something.
struct End {
    /// By its clock.
    at: Timestamp,
    /// By ours, when it was heard of.
    noted: Timestamp,
}

impl End {
    fn bytes(&self) -> Vec<u8> {
        [self.at, self.noted].map(|moment| moment.0.to_be_bytes()).concat()
    }

    /// What cannot be read ends everything: it was written to end something.
    fn read(bytes: &[u8]) -> End {
        let moment = |bytes: Option<&[u8; 8]>| Timestamp(bytes.map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes)));
        let rest = bytes.get(8..).and_then(<[u8]>::first_chunk);
        End { at: moment(bytes.first_chunk()), noted: moment(rest) }
    }

    /// Whether it ended what the provider signed at `issued` for a browser that left for it at `left`. Both clocks have to say so: the
    /// provider's counts in whole seconds and may be ahead, and whoever left when this was known here signed in after it, be it a page that
    /// signs out and in again; ours say nothing of when it was signed.
    fn is_of(&self, left: Timestamp, issued: Timestamp) -> bool {
        self.at >= issued && self.noted >= left
    }
}

fn sessions(bytes: &[u8]) -> Vec<SessionKey> {
    bytes.chunks_exact(16).filter_map(|key| Some(SessionKey(key.try_into().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::End;
    use crate::clock::Timestamp;

    #[test]
    fn an_end_is_of_what_was_signed_before_it_and_of_nobody_who_left_after_it() {
        let end = End { at: Timestamp(5_000), noted: Timestamp(5_400) };
        let end = End::read(&end.bytes());
        for (left, issued, is_of) in [
            (1_000, 4_000, true),
            (1_000, 5_000, true),
            (5_400, 5_000, true),
            (5_401, 5_000, false),
            (5_401, 4_000, false),
            (1_000, 6_000, false),
        ] {
            assert_eq!(end.is_of(Timestamp(left), Timestamp(issued)), is_of, "{left} {issued}");
        }
        for broken in [&[][..], &[0; 8], &[0; 15]] {
            assert!(End::read(broken).is_of(Timestamp(u64::MAX), Timestamp(0)), "{broken:?}");
        }
    }
}
