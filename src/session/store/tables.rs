//! The tables of the embedded store, and the one way to change them. One decision: a record and its index entries change in
//! the same transaction, here alone, so that an index entry without record cannot come to be. Knows nothing of threads.

use std::ops::RangeInclusive;

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::clock::Timestamp;
use crate::session::{Creation, Event, Revocation, Revoked, Session, SessionKey, StoreError, UserKey};

use super::record::{decode, encode};

pub(super) const SESSIONS: TableDefinition<'static, [u8; 16], &[u8]> = TableDefinition::new("session");
/// User and session.
pub(super) const BY_USER: TableDefinition<'static, [u8; 32], ()> = TableDefinition::new("by_user");
/// The moment it ends unless it is used (big endian), and session.
const BY_DUE: TableDefinition<'static, [u8; 24], ()> = TableDefinition::new("by_due");
const EPOCHS: TableDefinition<'static, [u8; 16], u64> = TableDefinition::new("epoch");

/// All tables of a write transaction.
pub(super) struct Tables<'t> {
    sessions: Table<'t, [u8; 16], &'static [u8]>,
    by_user: Table<'t, [u8; 32], ()>,
    by_due: Table<'t, [u8; 24], ()>,
    epochs: Table<'t, [u8; 16], u64>,
}

/// The index entries of a user.
pub(super) fn in_user(user: UserKey) -> RangeInclusive<[u8; 32]> {
    user_entry(user, SessionKey([0; 16]))..=user_entry(user, SessionKey([0xff; 16]))
}

/// The session that a user's index entry names.
pub(super) fn key_in(entry: &[u8; 32]) -> SessionKey {
    let mut key = [0; 16];
    key.copy_from_slice(&entry[16..]);
    SessionKey(key)
}

fn user_entry(user: UserKey, key: SessionKey) -> [u8; 32] {
    let mut entry = [0; 32];
    entry[..16].copy_from_slice(&user.0);
    entry[16..].copy_from_slice(&key.0);
    entry
}

fn due_entry(due: Timestamp, key: SessionKey) -> [u8; 24] {
    let mut entry = [0; 24];
    entry[..8].copy_from_slice(&due.0.to_be_bytes());
    entry[8..].copy_from_slice(&key.0);
    entry
}

fn failed(error: redb::StorageError) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Tables<'t>, redb::Error> {
        Ok(Tables {
            sessions: transaction.open_table(SESSIONS)?,
            by_user: transaction.open_table(BY_USER)?,
            by_due: transaction.open_table(BY_DUE)?,
            epochs: transaction.open_table(EPOCHS)?,
        })
    }

    fn get(&self, key: SessionKey) -> Result<Option<Session>, StoreError> {
        self.sessions.get(key.0).map_err(failed)?.map(|bytes| decode(bytes.value())).transpose()
    }

    fn put(&mut self, key: SessionKey, session: &Session) -> Result<(), StoreError> {
        self.sessions.insert(key.0, encode(session)?.as_slice()).map_err(failed)?;
        self.by_user.insert(user_entry(session.user(), key), ()).map_err(failed)?;
        self.by_due.insert(due_entry(session.due(), key), ()).map_err(failed)?;
        Ok(())
    }

    fn remove(&mut self, key: SessionKey) -> Result<bool, StoreError> {
        let Some(session) = self.get(key)? else { return Ok(false) };
        self.sessions.remove(key.0).map_err(failed)?;
        self.by_user.remove(user_entry(session.user(), key)).map_err(failed)?;
        self.by_due.remove(due_entry(session.due(), key)).map_err(failed)?;
        Ok(true)
    }

    fn keys(&self, user: UserKey) -> Result<Vec<SessionKey>, StoreError> {
        let entries = self.by_user.range(in_user(user)).map_err(failed)?;
        entries.map(|entry| Ok(key_in(&entry.map_err(failed)?.0.value()))).collect()
    }

    pub(super) fn create(&mut self, creation: Creation) -> Result<Vec<Event>, StoreError> {
        let Creation { key, mut session, replaces, limit } = creation;
        let (user, mut ended) = (session.user(), Vec::new());
        if let Some(old) = replaces
            && self.remove(old)?
        {
            ended.push(old);
        }
        session.epoch = self.epochs.get(user.0).map_err(failed)?.map_or(0, |epoch| epoch.value());
        if let Some(limit) = limit {
            let mut others = Vec::new();
            for other in self.keys(user)? {
                others.extend(self.get(other)?.map(|session| (session.last_seen, other)));
            }
            others.sort_by_key(|other| std::cmp::Reverse(*other));
            for (_, surplus) in others.into_iter().skip(limit.saturating_sub(1) as usize) {
                self.remove(surplus)?;
                ended.push(surplus);
            }
        }
        self.put(key, &session)?;
        Ok(ended.into_iter().map(|key| Event::Ended { key }).collect())
    }

    pub(super) fn touch(&mut self, touches: Vec<(SessionKey, Timestamp)>) -> Result<Vec<bool>, StoreError> {
        touches.into_iter().map(|(key, at)| self.touch_one(key, at)).collect()
    }

    fn touch_one(&mut self, key: SessionKey, at: Timestamp) -> Result<bool, StoreError> {
        // The record is required: a touch that comes after a revocation must not bring the session back.
        let Some(mut session) = self.get(key)? else { return Ok(false) };
        if at > session.last_seen {
            self.by_due.remove(due_entry(session.due(), key)).map_err(failed)?;
            session.last_seen = at;
            self.put(key, &session)?;
        }
        Ok(true)
    }

    pub(super) fn revoke(&mut self, what: Revocation) -> Result<Revoked, StoreError> {
        match what {
            Revocation::Session(key) => {
                let ended = u64::from(self.remove(key)?);
                Ok(Revoked { ended, events: vec![Event::Ended { key }] })
            }
            Revocation::User { user, except } => self.revoke_user(user, except),
            Revocation::Everyone => {
                let mut ended = 0;
                while let Some(key) = self.any()? {
                    ended += u64::from(self.remove(key)?);
                }
                Ok(Revoked { ended, events: vec![Event::Everyone] })
            }
        }
    }

    fn revoke_user(&mut self, user: UserKey, except: Option<SessionKey>) -> Result<Revoked, StoreError> {
        let epoch = self.epochs.get(user.0).map_err(failed)?.map_or(0, |epoch| epoch.value()) + 1;
        self.epochs.insert(user.0, epoch).map_err(failed)?;
        let mut ended = 0;
        for key in self.keys(user)? {
            if Some(key) != except {
                ended += u64::from(self.remove(key)?);
            } else if let Some(mut spared) = self.get(key)? {
                spared.epoch = epoch;
                self.put(key, &spared)?;
            }
        }
        Ok(Revoked { ended, events: vec![Event::UserEpoch { user, epoch }] })
    }

    fn any(&self) -> Result<Option<SessionKey>, StoreError> {
        let first = self.sessions.first().map_err(failed)?;
        Ok(first.map(|(key, _)| SessionKey(key.value())))
    }

    pub(super) fn sweep(&mut self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let end = due_entry(now, SessionKey([0xff; 16]));
        let mut over = Vec::new();
        for entry in self.by_due.range(..=end).map_err(failed)?.take(limit) {
            let entry = entry.map_err(failed)?.0.value();
            let mut key = [0; 16];
            key.copy_from_slice(&entry[8..]);
            over.push(SessionKey(key));
        }
        for key in &over {
            self.remove(*key)?;
        }
        Ok(over.len())
    }
}
