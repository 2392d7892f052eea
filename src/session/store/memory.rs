//! Sessions in this process's memory: for tests, and for those who want a restart to sign everybody out. One decision: it
//! keeps the very rules of the durable stores, under one lock, so that it can serve as their oracle.

use std::collections::{BTreeSet, HashMap};
use std::future::ready;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Timestamp;
use crate::session::{
    Creation, Event, Listed, Revocation, Revoked, Session, SessionKey, SessionStore, StoreFuture, UserKey,
};

/// The store.
#[derive(Default)]
pub struct Memory(Mutex<State>);

#[derive(Default)]
struct State {
    records: HashMap<SessionKey, Session>,
    by_user: HashMap<UserKey, BTreeSet<SessionKey>>,
    epochs: HashMap<UserKey, u64>,
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

    fn create(&mut self, creation: Creation) -> Vec<Event> {
        let Creation { key, mut session, replaces, limit } = creation;
        let user = session.user();
        let mut ended: Vec<SessionKey> = replaces.filter(|old| self.remove(*old).is_some()).into_iter().collect();
        session.epoch = self.epochs.get(&user).copied().unwrap_or(0);
        self.records.insert(key, session);
        self.by_user.entry(user).or_default().insert(key);
        if let Some(limit) = limit {
            let mut others: Vec<_> = self.keys(user).into_iter().filter(|other| *other != key).collect();
            others.sort_by_key(|other| std::cmp::Reverse((self.records[other].last_seen, *other)));
            for surplus in others.into_iter().skip(limit.saturating_sub(1) as usize) {
                self.remove(surplus);
                ended.push(surplus);
            }
        }
        ended.into_iter().map(|key| Event::Ended { key }).collect()
    }

    fn revoke(&mut self, what: Revocation) -> Revoked {
        match what {
            Revocation::Session(key) => {
                let ended = u64::from(self.remove(key).is_some());
                Revoked { ended, events: vec![Event::Ended { key }] }
            }
            Revocation::User { user, except } => {
                let epoch = self.epochs.entry(user).or_default();
                *epoch += 1;
                let epoch = *epoch;
                let doomed: Vec<_> = self.keys(user).into_iter().filter(|key| Some(*key) != except).collect();
                let ended = doomed.iter().filter(|key| self.remove(**key).is_some()).count() as u64;
                for key in self.keys(user) {
                    self.records.entry(key).and_modify(|spared| spared.epoch = epoch);
                }
                Revoked { ended, events: vec![Event::UserEpoch { user, epoch }] }
            }
            Revocation::Everyone => {
                let ended = self.records.len() as u64;
                self.records.clear();
                self.by_user.clear();
                Revoked { ended, events: vec![Event::Everyone] }
            }
        }
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

    fn revoke(&self, what: Revocation, _: Timestamp) -> StoreFuture<'_, Revoked> {
        let revoked = self.state().revoke(what);
        Box::pin(ready(Ok(revoked)))
    }

    fn list(&self, user: UserKey) -> StoreFuture<'_, Vec<Listed>> {
        let state = self.state();
        let listed = |key| Listed { key, session: state.records[&key].clone() };
        let mut list: Vec<Listed> = state.keys(user).into_iter().map(listed).collect();
        list.sort_by_key(|entry| std::cmp::Reverse((entry.session.last_seen, entry.key)));
        drop(state);
        Box::pin(ready(Ok(list)))
    }

    fn sweep(&self, now: Timestamp, limit: usize) -> StoreFuture<'_, usize> {
        let mut state = self.state();
        let over = state.records.iter().filter(|(_, session)| session.due() <= now).map(|(key, _)| *key);
        let over: Vec<SessionKey> = over.take(limit).collect();
        let swept = over.into_iter().filter_map(|key| state.remove(key)).count();
        Box::pin(ready(Ok(swept)))
    }
}
