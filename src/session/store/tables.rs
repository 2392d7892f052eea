//! The tables of the embedded store, and the one way to change them. One decision: a record and its index entries change in
//! the same transaction, here alone, so that an index entry without record cannot come to be. Knows nothing of threads.

use redb::{ReadTransaction, WriteTransaction};

use crate::clock::Timestamp;
use crate::session::{
    Committed, Creation, Event, Listed, Part, Restored, Revocation, Session, SessionKey, StoreError, UNKNOWN_ENDS,
    UserKey,
};

use super::record::{decode, encode};
use super::rows::{Definition, Reading, Rows, exactly};
use super::standing::Standing;
use super::surplus;

/// Sessions and their records.
pub(super) const SESSIONS: Definition = Definition::new("session");
/// User and session.
pub(super) const BY_USER: Definition = Definition::new("by_user");
/// The moment it ends unless it is used (big endian), and session.
pub(super) const BY_DUE: Definition = Definition::new("by_due");

/// The highest key there is.
const LAST: SessionKey = SessionKey([0xff; 16]);

/// All tables of a write transaction.
pub(super) struct Tables<'t> {
    sessions: Rows<'t>,
    by_user: Rows<'t>,
    by_due: Rows<'t>,
    pub(super) standing: Standing<'t>,
}

/// The first and the last index entry that a user may have.
fn in_user(user: UserKey) -> [[u8; 32]; 2] {
    [user_entry(user, SessionKey([0; 16])), user_entry(user, LAST)]
}

/// The sessions that index entries end with.
fn keys_in<const N: usize>(entries: Vec<[u8; N]>) -> Result<Vec<SessionKey>, StoreError> {
    entries.iter().map(|entry| exactly(&entry[N - 16..]).map(SessionKey)).collect()
}

/// A user's sessions.
pub(super) fn list(transaction: &ReadTransaction, user: UserKey) -> Result<Vec<Listed>, StoreError> {
    let (index, table) = (Reading::open(transaction, BY_USER)?, Reading::open(transaction, SESSIONS)?);
    let [first, last] = in_user(user);
    let mut list = Vec::new();
    for key in keys_in(index.keys(&first, &last)?)? {
        if let Some(record) = table.get(&key.0)? {
            list.push(Listed { key, session: decode(record.value())? });
        }
    }
    Ok(list)
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

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Tables<'t>, redb::Error> {
        Ok(Tables {
            sessions: Rows::open(transaction, SESSIONS)?,
            by_user: Rows::open(transaction, BY_USER)?,
            by_due: Rows::open(transaction, BY_DUE)?,
            standing: Standing::open(transaction)?,
        })
    }

    fn get(&self, key: SessionKey) -> Result<Option<Session>, StoreError> {
        self.sessions.get(&key.0)?.map(|record| decode(record.value())).transpose()
    }

    /// Take over a record as it is; what cannot be read is kept for who can.
    pub(super) fn bring(&mut self, key: SessionKey, record: &[u8]) -> Result<(), StoreError> {
        match decode(record) {
            Ok(session) => self.put(key, &session),
            Err(_) => self.sessions.put(&key.0, record),
        }
    }

    fn put(&mut self, key: SessionKey, session: &Session) -> Result<(), StoreError> {
        self.sessions.put(&key.0, &encode(session)?)?;
        self.by_user.put(&user_entry(session.user(), key), &[])?;
        self.by_due.put(&due_entry(session.due(), key), &[])
    }

    fn remove(&mut self, key: SessionKey) -> Result<Option<Session>, StoreError> {
        let Some(session) = self.get(key)? else { return Ok(None) };
        self.sessions.remove(&key.0)?;
        self.by_user.remove(&user_entry(session.user(), key))?;
        self.by_due.remove(&due_entry(session.due(), key))?;
        Ok(Some(session))
    }

    /// Remove a record and leave its tombstone.
    fn end(&mut self, key: SessionKey) -> Result<Option<Event>, StoreError> {
        let Some(session) = self.remove(key)? else { return Ok(None) };
        self.standing.end(key, session.ends).map(Some)
    }

    fn keys(&self, user: UserKey) -> Result<Vec<SessionKey>, StoreError> {
        let [first, last] = in_user(user);
        keys_in(self.by_user.keys(&first, &last, usize::MAX)?)
    }

    fn every_key(&self) -> Result<Vec<SessionKey>, StoreError> {
        keys_in(self.sessions.keys(&[0; 16], &LAST.0, usize::MAX)?)
    }

    pub(super) fn create(&mut self, creation: Creation) -> Result<Vec<Event>, StoreError> {
        let Creation { key, mut session, replaces, limit } = creation;
        let (user, mut events) = (session.user(), Vec::new());
        if let Some(old) = replaces {
            events.extend(self.end(old)?);
        }
        session.epoch = self.standing.epoch(user)?;
        if let Some(limit) = limit {
            let mut others = Vec::new();
            for other in self.keys(user)? {
                others.extend(self.get(other)?.map(|session| (session.last_seen, other)));
            }
            for surplus in surplus(others, limit) {
                events.extend(self.end(surplus)?);
            }
        }
        self.put(key, &session)?;
        Ok(events)
    }

    pub(super) fn touch(&mut self, touches: Vec<(SessionKey, Timestamp)>) -> Result<Vec<bool>, StoreError> {
        touches.into_iter().map(|(key, at)| self.touch_one(key, at)).collect()
    }

    fn touch_one(&mut self, key: SessionKey, at: Timestamp) -> Result<bool, StoreError> {
        // The record is required: a touch that comes after a revocation must not bring the session back.
        let Some(mut session) = self.get(key)? else { return Ok(false) };
        if at > session.last_seen {
            self.by_due.remove(&due_entry(session.due(), key))?;
            session.last_seen = at;
            self.put(key, &session)?;
        }
        Ok(true)
    }

    pub(super) fn revoke(&mut self, what: Revocation, now: Timestamp) -> Result<Committed, StoreError> {
        match what {
            Revocation::Session(key) => match self.end(key)? {
                Some(event) => Ok(Committed { ended: 1, events: vec![event] }),
                None => Ok(Committed { ended: 0, events: vec![self.standing.end(key, now.plus(UNKNOWN_ENDS))?] }),
            },
            Revocation::User { user, except } => self.revoke_user(user, except, now),
            Revocation::Everyone => {
                let mut ended = 0;
                for key in self.every_key()? {
                    ended += u64::from(self.remove(key)?.is_some());
                }
                let epoch = self.standing.raise_everyone(now)?;
                Ok(Committed { ended, events: vec![Event::Everyone { part: Part::WHOLE, epoch }] })
            }
            Revocation::Token { id, until } => Ok(Committed { ended: 0, events: vec![self.standing.deny(id, until)?] }),
        }
    }

    pub(super) fn restore(&mut self, key: SessionKey, session: &Session) -> Result<Restored, StoreError> {
        if self.get(key)?.is_some() {
            return Ok(Restored::There);
        }
        if self.standing.is_ended(key)? || session.epoch < self.standing.epoch(session.user())? {
            return Ok(Restored::Revoked);
        }
        self.standing.reach(session.epoch)?;
        self.put(key, session)?;
        Ok(Restored::Written)
    }

    pub(super) fn repeat(&mut self, event: &Event) -> Result<(), StoreError> {
        match *event {
            Event::Ended { key, until } => {
                self.remove(key)?;
                self.standing.end(key, until)?;
            }
            Event::UserEpoch { user, epoch, .. } => {
                self.standing.raise_user_to(user, epoch)?;
                let keys = self.keys(user)?;
                self.end_older(keys, epoch)?;
            }
            Event::Everyone { epoch, .. } => {
                self.standing.raise_everyone_to(epoch)?;
                let keys = self.every_key()?;
                self.end_older(keys, epoch)?;
            }
            Event::Token { id, until } => drop(self.standing.deny(id, until)?),
        }
        Ok(())
    }

    fn end_older(&mut self, keys: Vec<SessionKey>, epoch: u64) -> Result<(), StoreError> {
        for key in keys {
            if self.get(key)?.is_some_and(|session| session.epoch < epoch) {
                self.remove(key)?;
            }
        }
        Ok(())
    }

    fn revoke_user(
        &mut self,
        user: UserKey,
        except: Option<SessionKey>,
        now: Timestamp,
    ) -> Result<Committed, StoreError> {
        let epoch = self.standing.raise_user(user, now)?;
        let mut ended = 0;
        for key in self.keys(user)? {
            if Some(key) != except {
                ended += u64::from(self.remove(key)?.is_some());
            } else if let Some(mut spared) = self.get(key)? {
                spared.epoch = epoch;
                self.put(key, &spared)?;
            }
        }
        Ok(Committed { ended, events: vec![Event::UserEpoch { user, epoch, spared: except }] })
    }

    pub(super) fn sweep(&mut self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let end = due_entry(now, LAST);
        let over = keys_in(self.by_due.keys(&[0; 24], &end, limit)?)?;
        for key in &over {
            self.remove(*key)?;
        }
        self.standing.sweep(now, limit)?;
        Ok(over.len())
    }
}
