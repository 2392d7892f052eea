//! Sessions in this process's memory: for tests, and for those who want a restart to sign everybody out. One decision: it
//! keeps the very rules of the durable stores, under one lock, so that it can serve as their oracle.

use std::collections::{BTreeSet, HashMap};
use std::future::ready;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Timestamp;
use crate::session::revocation::EPOCHS_KEPT;
use crate::session::{
    Committed, Creation, Event, Keep, Kept, Listed, Part, Restored, Revocation, Session, SessionKey, SessionStore,
    ShelfKey, StoreFuture, TokenId, UNKNOWN_ENDS, UserKey,
};

use super::{newest_first, surplus};

/// The store.
#[derive(Default)]
pub struct Memory(Mutex<State>);

#[derive(Default)]
struct State {
    records: HashMap<SessionKey, Session>,
    by_user: HashMap<UserKey, BTreeSet<SessionKey>>,
    epochs: HashMap<UserKey, u64>,
    everyone: u64,
    /// The highest epoch ever given.
    highest: u64,
    ended: HashMap<SessionKey, Timestamp>,
    tokens: HashMap<TokenId, Timestamp>,
    shelf: HashMap<ShelfKey, Kept>,
    versions: u64,
}

impl Memory {
    /// An empty one.
    pub fn new() -> Memory {
        Memory::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, key: SessionKey) -> Option<Session> {
        let session = self.records.remove(&key)?;
        let user = session.user();
        if let Some(keys) = self.by_user.get_mut(&user) {
            keys.remove(&key);
            if keys.is_empty() {
                self.by_user.remove(&user);
            }
        }
        Some(session)
    }

    fn keys(&self, user: UserKey) -> Vec<SessionKey> {
        self.by_user.get(&user).into_iter().flatten().copied().collect()
    }

    /// Remove a record and leave its tombstone.
    fn end(&mut self, key: SessionKey, now: Option<Timestamp>) -> (bool, Option<Event>) {
        let ended = self.remove(key);
        let until = match (&ended, now) {
            (Some(session), _) => session.ends,
            (None, Some(now)) => now.plus(UNKNOWN_ENDS),
            (None, None) => return (false, None),
        };
        let stands = self.ended.entry(key).or_insert(until);
        *stands = until.max(*stands);
        (ended.is_some(), Some(Event::Ended { key, until: *stands }))
    }

    fn next_epoch(&mut self, now: Timestamp) -> u64 {
        self.highest = now.0.max(self.highest + 1);
        self.highest
    }

    fn create(&mut self, creation: Creation) -> Vec<Event> {
        let Creation { key, mut session, replaces, limit } = creation;
        let user = session.user();
        let mut events: Vec<Event> = replaces.and_then(|old| self.end(old, None).1).into_iter().collect();
        session.epoch = self.epochs.get(&user).copied().unwrap_or(0).max(self.everyone);
        self.records.insert(key, session);
        self.by_user.entry(user).or_default().insert(key);
        if let Some(limit) = limit {
            let others = self.keys(user).into_iter().filter(|other| *other != key);
            let others = others.map(|other| (self.records[&other].last_seen, other)).collect();
            for surplus in surplus(others, limit) {
                events.extend(self.end(surplus, None).1);
            }
        }
        events
    }

    fn revoke(&mut self, what: Revocation, now: Timestamp) -> Committed {
        match what {
            Revocation::Session(key) => {
                let (ended, event) = self.end(key, Some(now));
                Committed { ended: u64::from(ended), events: event.into_iter().collect() }
            }
            Revocation::User { user, except } => {
                let epoch = self.next_epoch(now);
                self.epochs.insert(user, epoch);
                let doomed: Vec<_> = self.keys(user).into_iter().filter(|key| Some(*key) != except).collect();
                let ended = doomed.iter().filter(|key| self.remove(**key).is_some()).count() as u64;
                for key in self.keys(user) {
                    self.records.entry(key).and_modify(|spared| spared.epoch = epoch);
                }
                Committed { ended, events: vec![Event::UserEpoch { user, epoch, spared: except }] }
            }
            Revocation::Everyone => {
                let ended = self.records.len() as u64;
                self.records.clear();
                self.by_user.clear();
                self.everyone = self.next_epoch(now);
                Committed { ended, events: vec![Event::Everyone { part: Part::WHOLE, epoch: self.everyone }] }
            }
            Revocation::Token { id, until } => {
                let stands = self.tokens.entry(id).or_insert(until);
                *stands = until.max(*stands);
                Committed { ended: 0, events: vec![Event::Token { id, until: *stands }] }
            }
        }
    }

    fn restore(&mut self, key: SessionKey, session: Session) -> Restored {
        let user = session.user();
        if self.records.contains_key(&key) {
            return Restored::There;
        }
        let epoch = self.epochs.get(&user).copied().unwrap_or(0).max(self.everyone);
        if self.ended.contains_key(&key) || session.epoch < epoch {
            return Restored::Revoked;
        }
        self.highest = self.highest.max(session.epoch);
        self.records.insert(key, session);
        self.by_user.entry(user).or_default().insert(key);
        Restored::Written
    }

    fn repeat(&mut self, event: Event) {
        match event {
            Event::Ended { key, until } => {
                self.remove(key);
                let stands = self.ended.entry(key).or_insert(until);
                *stands = until.max(*stands);
            }
            Event::UserEpoch { user, epoch, .. } => {
                let stands = self.epochs.entry(user).or_insert(0);
                *stands = epoch.max(*stands);
                self.highest = self.highest.max(epoch);
                self.end_older(user, epoch);
            }
            Event::Everyone { epoch, .. } => {
                self.everyone = self.everyone.max(epoch);
                self.highest = self.highest.max(epoch);
                let users: Vec<UserKey> = self.by_user.keys().copied().collect();
                users.into_iter().for_each(|user| self.end_older(user, epoch));
            }
            Event::Token { id, until } => {
                let stands = self.tokens.entry(id).or_insert(until);
                *stands = until.max(*stands);
            }
        }
    }

    fn end_older(&mut self, user: UserKey, epoch: u64) {
        let older = |key: &SessionKey| self.records.get(key).is_some_and(|session| session.epoch < epoch);
        let over: Vec<SessionKey> = self.keys(user).into_iter().filter(older).collect();
        for key in over {
            self.remove(key);
        }
    }

    fn remembered(&self, now: Timestamp) -> Vec<Event> {
        let ended = self.ended.iter().map(|(key, until)| Event::Ended { key: *key, until: *until });
        let tokens = self.tokens.iter().map(|(id, until)| Event::Token { id: *id, until: *until });
        let standing = ended.chain(tokens).filter(|event| event.until().is_some_and(|until| until > now));
        let epochs =
            self.epochs.iter().map(|(user, epoch)| Event::UserEpoch { user: *user, epoch: *epoch, spared: None });
        let everyone = Event::Everyone { part: Part::WHOLE, epoch: self.everyone };
        standing.chain(epochs).chain((self.everyone > 0).then_some(everyone)).collect()
    }

    fn kept(&self, key: ShelfKey, now: Timestamp) -> Option<&Kept> {
        self.shelf.get(&key).filter(|kept| kept.until > now)
    }

    fn keep(&mut self, keep: Keep, now: Timestamp) -> Option<u64> {
        if self.kept(keep.key, now).map(|kept| kept.version) != keep.over {
            return None;
        }
        self.versions += 1;
        let kept = Kept { version: self.versions, bytes: keep.bytes, until: keep.until };
        self.shelf.insert(keep.key, kept);
        Some(self.versions)
    }

    /// Tombstones, epochs and shelved records that are over.
    fn forget(&mut self, now: Timestamp) {
        self.ended.retain(|_, until| *until > now);
        self.tokens.retain(|_, until| *until > now);
        self.epochs.retain(|_, epoch| Timestamp(*epoch).plus(EPOCHS_KEPT) > now);
        self.shelf.retain(|_, kept| kept.until > now);
    }
}

impl SessionStore for Memory {
    fn load(&self, key: SessionKey) -> StoreFuture<'_, Option<Session>> {
        let found = self.state().records.get(&key).cloned();
        Box::pin(ready(Ok(found)))
    }

    fn create(&self, creation: Creation) -> StoreFuture<'_, Vec<Event>> {
        let events = self.state().create(creation);
        Box::pin(ready(Ok(events)))
    }

    fn touch(&self, touches: Vec<(SessionKey, Timestamp)>) -> StoreFuture<'_, Vec<bool>> {
        let mut state = self.state();
        let mut raise = |(key, at): (SessionKey, Timestamp)| match state.records.get_mut(&key) {
            Some(session) => {
                session.last_seen = session.last_seen.max(at);
                true
            }
            None => false,
        };
        let alive = touches.into_iter().map(&mut raise).collect();
        Box::pin(ready(Ok(alive)))
    }

    fn revoke(&self, what: Revocation, now: Timestamp) -> StoreFuture<'_, Committed> {
        let committed = self.state().revoke(what, now);
        Box::pin(ready(Ok(committed)))
    }

    fn list(&self, user: UserKey) -> StoreFuture<'_, Vec<Listed>> {
        let state = self.state();
        let listed = |key| Listed { key, session: state.records[&key].clone() };
        let mut list: Vec<Listed> = state.keys(user).into_iter().map(listed).collect();
        newest_first(&mut list);
        drop(state);
        Box::pin(ready(Ok(list)))
    }

    fn sweep(&self, now: Timestamp, limit: usize) -> StoreFuture<'_, usize> {
        let mut state = self.state();
        let over = state.records.iter().filter(|(_, session)| session.due() <= now).map(|(key, _)| *key);
        let over: Vec<SessionKey> = over.take(limit).collect();
        let swept = over.into_iter().filter_map(|key| state.remove(key)).count();
        state.forget(now);
        Box::pin(ready(Ok(swept)))
    }

    fn remembered(&self, now: Timestamp) -> StoreFuture<'_, Vec<Event>> {
        let events = self.state().remembered(now);
        Box::pin(ready(Ok(events)))
    }

    fn kept(&self, key: ShelfKey, now: Timestamp) -> StoreFuture<'_, Option<Kept>> {
        let kept = self.state().kept(key, now).cloned();
        Box::pin(ready(Ok(kept)))
    }

    fn keep(&self, keep: Keep, now: Timestamp) -> StoreFuture<'_, Option<u64>> {
        let version = self.state().keep(keep, now);
        Box::pin(ready(Ok(version)))
    }

    fn restore(&self, key: SessionKey, session: Session) -> StoreFuture<'_, Restored> {
        let restored = self.state().restore(key, session);
        Box::pin(ready(Ok(restored)))
    }

    fn repeat(&self, event: Event) -> StoreFuture<'_, ()> {
        self.state().repeat(event);
        Box::pin(ready(Ok(())))
    }

    fn discard(&self, key: ShelfKey, over: u64) -> StoreFuture<'_, bool> {
        let mut state = self.state();
        let there = state.shelf.get(&key).is_some_and(|kept| kept.version == over);
        if there {
            state.shelf.remove(&key);
        }
        drop(state);
        Box::pin(ready(Ok(there)))
    }
}
