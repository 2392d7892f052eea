//! What stands beside the records in the embedded store: tombstones, epochs, the shelf, counters. One decision: everything that
//! ends by time has one index entry by that time, written in the same transaction, so that one sweep finds all of it.
//! Knows nothing of sessions.

use redb::{ReadTransaction, WriteTransaction};

use crate::clock::Timestamp;
use crate::session::revocation::EPOCHS_KEPT;
use crate::session::{Event, Keep, Kept, Part, SessionKey, ShelfKey, StoreError, TokenId, UserKey};

use super::rows::{Definition, Reading, Rows, exactly, number};

/// Kind and id, to the moment it is over.
pub(super) const TOMBSTONES: Definition = Definition::new("tombstone");
pub(super) const EPOCHS: Definition = Definition::new("epoch");
/// Version, end, and what was written.
pub(super) const SHELF: Definition = Definition::new("shelf");
/// The moment it is over (big endian), kind and id.
pub(super) const BY_END: Definition = Definition::new("by_end");
pub(super) const COUNTERS: Definition = Definition::new("counter");

const SESSION: u8 = 1;
const TOKEN: u8 = 2;
const USER: u8 = 3;
const SHELVED: u8 = 4;

/// The highest epoch ever given; the one of everybody; the last version on the shelf.
const HIGHEST: &str = "highest_epoch";
const EVERYONE: &str = "everyone_epoch";
const VERSIONS: &str = "shelf_version";

/// The tables of a write transaction.
pub(super) struct Standing<'t> {
    tombstones: Rows<'t>,
    epochs: Rows<'t>,
    shelf: Rows<'t>,
    by_end: Rows<'t>,
    counters: Rows<'t>,
}

fn named(kind: u8, id: [u8; 16]) -> [u8; 17] {
    let mut name = [kind; 17];
    name[1..].copy_from_slice(&id);
    name
}

fn end_entry(until: Timestamp, name: [u8; 17]) -> [u8; 25] {
    let mut entry = [0; 25];
    entry[..8].copy_from_slice(&until.0.to_be_bytes());
    entry[8..].copy_from_slice(&name);
    entry
}

/// What a name says: kind and id.
fn parts(name: [u8; 17]) -> (u8, [u8; 16]) {
    let [kind, id @ ..] = name;
    (kind, id)
}

fn shelved(version: u64, until: Timestamp, bytes: &[u8]) -> Vec<u8> {
    [&version.to_be_bytes(), &until.0.to_be_bytes(), bytes].concat()
}

fn unshelved(record: &[u8]) -> Result<Kept, StoreError> {
    let parts =
        record.split_first_chunk::<8>().and_then(|(version, rest)| Some((version, rest.split_first_chunk::<8>()?)));
    let (version, (until, bytes)) = parts.ok_or_else(|| StoreError::Corrupt("a shelved record is too short".into()))?;
    let (version, until) = (u64::from_be_bytes(*version), Timestamp(u64::from_be_bytes(*until)));
    Ok(Kept { version, bytes: bytes.to_vec(), until })
}

impl<'t> Standing<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Standing<'t>, redb::Error> {
        Ok(Standing {
            tombstones: Rows::open(transaction, TOMBSTONES)?,
            epochs: Rows::open(transaction, EPOCHS)?,
            shelf: Rows::open(transaction, SHELF)?,
            by_end: Rows::open(transaction, BY_END)?,
            counters: Rows::open(transaction, COUNTERS)?,
        })
    }

    fn counter(&self, name: &'static str) -> Result<u64, StoreError> {
        self.counters.get(name.as_bytes())?.map_or(Ok(0), |count| number(count.value()))
    }

    fn count(&mut self, name: &'static str, to: u64) -> Result<u64, StoreError> {
        self.counters.put(name.as_bytes(), &to.to_be_bytes())?;
        Ok(to)
    }

    fn bury(&mut self, name: [u8; 17], until: Timestamp) -> Result<Timestamp, StoreError> {
        let stands = self.tombstones.get(&name)?.map(|until| number(until.value())).transpose()?.map(Timestamp);
        if let Some(stands) = stands {
            if stands >= until {
                return Ok(stands);
            }
            self.by_end.remove(&end_entry(stands, name))?;
        }
        self.tombstones.put(&name, &until.0.to_be_bytes())?;
        self.by_end.put(&end_entry(until, name), &[])?;
        Ok(until)
    }

    /// The tombstone of a session.
    pub(super) fn end(&mut self, key: SessionKey, until: Timestamp) -> Result<Event, StoreError> {
        Ok(Event::Ended { key, until: self.bury(named(SESSION, key.0), until)? })
    }

    /// The tombstone of a token.
    pub(super) fn deny(&mut self, id: TokenId, until: Timestamp) -> Result<Event, StoreError> {
        Ok(Event::Token { id, until: self.bury(named(TOKEN, id.0), until)? })
    }

    /// The epoch that a user's new sessions get.
    pub(super) fn epoch(&self, user: UserKey) -> Result<u64, StoreError> {
        Ok(self.own_epoch(user)?.unwrap_or(0).max(self.counter(EVERYONE)?))
    }

    fn own_epoch(&self, user: UserKey) -> Result<Option<u64>, StoreError> {
        self.epochs.get(&user.0)?.map(|epoch| number(epoch.value())).transpose()
    }

    fn next_epoch(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        let next = now.0.max(self.counter(HIGHEST)? + 1);
        self.count(HIGHEST, next)
    }

    /// Whether a session has a tombstone.
    pub(super) fn is_ended(&self, key: SessionKey) -> Result<bool, StoreError> {
        Ok(self.tombstones.get(&named(SESSION, key.0))?.is_some())
    }

    /// Whatever epoch is given next is higher than this.
    pub(super) fn reach(&mut self, epoch: u64) -> Result<(), StoreError> {
        let highest = self.counter(HIGHEST)?.max(epoch);
        self.count(HIGHEST, highest).map(drop)
    }

    /// Raise a user's epoch to this, where it is lower.
    pub(super) fn raise_user_to(&mut self, user: UserKey, epoch: u64) -> Result<(), StoreError> {
        self.reach(epoch)?;
        if self.own_epoch(user)?.is_some_and(|stands| stands >= epoch) {
            return Ok(());
        }
        self.set_user(user, epoch).map(drop)
    }

    /// The same of everybody's.
    pub(super) fn raise_everyone_to(&mut self, epoch: u64) -> Result<(), StoreError> {
        self.reach(epoch)?;
        let epoch = self.counter(EVERYONE)?.max(epoch);
        self.count(EVERYONE, epoch).map(drop)
    }

    /// End a user's epoch.
    pub(super) fn raise_user(&mut self, user: UserKey, now: Timestamp) -> Result<u64, StoreError> {
        let epoch = self.next_epoch(now)?;
        self.set_user(user, epoch)
    }

    fn set_user(&mut self, user: UserKey, epoch: u64) -> Result<u64, StoreError> {
        let name = named(USER, user.0);
        if let Some(before) = self.own_epoch(user)? {
            self.by_end.remove(&end_entry(Timestamp(before).plus(EPOCHS_KEPT), name))?;
        }
        self.epochs.put(&user.0, &epoch.to_be_bytes())?;
        self.by_end.put(&end_entry(Timestamp(epoch).plus(EPOCHS_KEPT), name), &[])?;
        Ok(epoch)
    }

    /// End everybody's epoch.
    pub(super) fn raise_everyone(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        let epoch = self.next_epoch(now)?;
        self.count(EVERYONE, epoch)
    }

    fn on_shelf(&self, key: ShelfKey) -> Result<Option<Kept>, StoreError> {
        self.shelf.get(&key.0)?.map(|record| unshelved(record.value())).transpose()
    }

    pub(super) fn keep(&mut self, keep: &Keep, now: Timestamp) -> Result<Option<u64>, StoreError> {
        let (there, name) = (self.on_shelf(keep.key)?, named(SHELVED, keep.key.0));
        let counts = there.as_ref().filter(|kept| kept.until > now).map(|kept| kept.version);
        if counts != keep.over {
            return Ok(None);
        }
        if let Some(there) = there {
            self.by_end.remove(&end_entry(there.until, name))?;
        }
        let version = self.counter(VERSIONS)? + 1;
        self.count(VERSIONS, version)?;
        self.shelf.put(&keep.key.0, &shelved(version, keep.until, &keep.bytes))?;
        self.by_end.put(&end_entry(keep.until, name), &[])?;
        Ok(Some(version))
    }

    pub(super) fn discard(&mut self, key: ShelfKey, over: u64) -> Result<bool, StoreError> {
        let Some(there) = self.on_shelf(key)?.filter(|kept| kept.version == over) else { return Ok(false) };
        self.shelf.remove(&key.0)?;
        self.by_end.remove(&end_entry(there.until, named(SHELVED, key.0)))?;
        Ok(true)
    }

    /// Take over a tombstone as it is.
    pub(super) fn bring_tombstone(&mut self, name: [u8; 17], until: u64) -> Result<(), StoreError> {
        self.bury(name, Timestamp(until)).map(drop)
    }

    /// Take over a user's epoch as it is.
    pub(super) fn bring_epoch(&mut self, user: UserKey, epoch: u64) -> Result<(), StoreError> {
        self.set_user(user, epoch).map(drop)
    }

    /// Take over what lies on the shelf as it is.
    pub(super) fn bring_shelved(&mut self, key: ShelfKey, record: &[u8]) -> Result<(), StoreError> {
        self.by_end.put(&end_entry(unshelved(record)?.until, named(SHELVED, key.0)), &[])?;
        self.shelf.put(&key.0, record)
    }

    /// Take over a counter as it is.
    pub(super) fn bring_counter(&mut self, name: &str, count: u64) -> Result<(), StoreError> {
        self.counters.put(name.as_bytes(), &count.to_be_bytes())
    }

    /// Remove what is over, at most `limit` entries.
    pub(super) fn sweep(&mut self, now: Timestamp, limit: usize) -> Result<(), StoreError> {
        for entry in self.by_end.keys(&[0; 25], &end_entry(now, [u8::MAX; 17]), limit)? {
            self.by_end.remove(&entry)?;
            let name = exactly(&entry[8..])?;
            match parts(name) {
                (USER, id) => self.epochs.remove(&id)?,
                (SHELVED, id) => self.shelf.remove(&id)?,
                _ => self.tombstones.remove(&name)?,
            }
        }
        Ok(())
    }
}

/// Read a shelved record.
pub(super) fn kept(transaction: &ReadTransaction, key: ShelfKey) -> Result<Option<Kept>, StoreError> {
    Reading::open(transaction, SHELF)?.get(&key.0)?.map(|record| unshelved(record.value())).transpose()
}

/// Read everything on the shelf.
pub(super) fn shelf(transaction: &ReadTransaction) -> Result<Vec<(ShelfKey, Kept)>, StoreError> {
    Reading::open(transaction, SHELF)?.all(|key, record| Ok((ShelfKey(exactly(key)?), unshelved(record)?)))
}

/// Read everything that was revoked and still counts.
pub(super) fn remembered(transaction: &ReadTransaction, now: Timestamp) -> Result<Vec<Event>, StoreError> {
    let tombstone = |name: &[u8], until: &[u8]| {
        let until = Timestamp(number(until)?);
        Ok(match parts(exactly(name)?) {
            (TOKEN, id) => (until, Event::Token { id: TokenId(id), until }),
            (_, id) => (until, Event::Ended { key: SessionKey(id), until }),
        })
    };
    let epoch = |user: &[u8], epoch: &[u8]| {
        Ok(Event::UserEpoch { user: UserKey(exactly(user)?), epoch: number(epoch)?, spared: None })
    };
    let ended = Reading::open(transaction, TOMBSTONES)?.all(tombstone)?;
    let mut events: Vec<Event> = ended.into_iter().filter(|(until, _)| *until > now).map(|(_, event)| event).collect();
    events.extend(Reading::open(transaction, EPOCHS)?.all(epoch)?);
    if let Some(epoch) = Reading::open(transaction, COUNTERS)?.get(EVERYONE.as_bytes())? {
        events.push(Event::Everyone { part: Part::WHOLE, epoch: number(epoch.value())? });
    }
    Ok(events)
}
