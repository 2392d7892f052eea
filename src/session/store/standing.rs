//! What stands beside the records in the embedded store: tombstones, epochs, the shelf, counters. One decision: everything that
//! ends by time has one index entry by that time, written in the same transaction, so that one sweep finds all of it.
//! Knows nothing of sessions.

use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::clock::Timestamp;
use crate::session::revocation::EPOCHS_KEPT;
use crate::session::{Event, Keep, Kept, Part, SessionKey, ShelfKey, StoreError, TokenId, UserKey};

use super::tables::failed;

/// Kind and id, to the moment it is over.
const TOMBSTONES: TableDefinition<'static, [u8; 17], u64> = TableDefinition::new("tombstone");
const EPOCHS: TableDefinition<'static, [u8; 16], u64> = TableDefinition::new("epoch");
/// Version, end, and what was written.
const SHELF: TableDefinition<'static, [u8; 16], &[u8]> = TableDefinition::new("shelf");
/// The moment it is over (big endian), kind and id.
const BY_END: TableDefinition<'static, [u8; 25], ()> = TableDefinition::new("by_end");
const COUNTERS: TableDefinition<'static, &str, u64> = TableDefinition::new("counter");

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
    tombstones: Table<'t, [u8; 17], u64>,
    epochs: Table<'t, [u8; 16], u64>,
    shelf: Table<'t, [u8; 16], &'static [u8]>,
    by_end: Table<'t, [u8; 25], ()>,
    counters: Table<'t, &'static str, u64>,
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

fn id_in(name: &[u8]) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&name[name.len() - 16..]);
    id
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
            tombstones: transaction.open_table(TOMBSTONES)?,
            epochs: transaction.open_table(EPOCHS)?,
            shelf: transaction.open_table(SHELF)?,
            by_end: transaction.open_table(BY_END)?,
            counters: transaction.open_table(COUNTERS)?,
        })
    }

    fn counter(&self, name: &'static str) -> Result<u64, StoreError> {
        Ok(self.counters.get(name).map_err(failed)?.map_or(0, |count| count.value()))
    }

    fn count(&mut self, name: &'static str, to: u64) -> Result<u64, StoreError> {
        self.counters.insert(name, to).map_err(failed)?;
        Ok(to)
    }

    fn bury(&mut self, name: [u8; 17], until: Timestamp) -> Result<Timestamp, StoreError> {
        let stands = self.tombstones.get(name).map_err(failed)?.map(|until| Timestamp(until.value()));
        if let Some(stands) = stands {
            if stands >= until {
                return Ok(stands);
            }
            self.by_end.remove(end_entry(stands, name)).map_err(failed)?;
        }
        self.tombstones.insert(name, until.0).map_err(failed)?;
        self.by_end.insert(end_entry(until, name), ()).map_err(failed)?;
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
        let own = self.epochs.get(user.0).map_err(failed)?.map_or(0, |epoch| epoch.value());
        Ok(own.max(self.counter(EVERYONE)?))
    }

    fn next_epoch(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        let next = now.0.max(self.counter(HIGHEST)? + 1);
        self.count(HIGHEST, next)
    }

    /// Whether a session has a tombstone.
    pub(super) fn is_ended(&self, key: SessionKey) -> Result<bool, StoreError> {
        Ok(self.tombstones.get(named(SESSION, key.0)).map_err(failed)?.is_some())
    }

    /// Whatever epoch is given next is higher than this.
    pub(super) fn reach(&mut self, epoch: u64) -> Result<(), StoreError> {
        let highest = self.counter(HIGHEST)?.max(epoch);
        self.count(HIGHEST, highest).map(drop)
    }

    /// Raise a user's epoch to this, where it is lower.
    pub(super) fn raise_user_to(&mut self, user: UserKey, epoch: u64) -> Result<(), StoreError> {
        self.reach(epoch)?;
        if self.epochs.get(user.0).map_err(failed)?.is_some_and(|stands| stands.value() >= epoch) {
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
        let before = self.epochs.insert(user.0, epoch).map_err(failed)?.map(|epoch| epoch.value());
        if let Some(before) = before {
            self.by_end.remove(end_entry(Timestamp(before).plus(EPOCHS_KEPT), name)).map_err(failed)?;
        }
        self.by_end.insert(end_entry(Timestamp(epoch).plus(EPOCHS_KEPT), name), ()).map_err(failed)?;
        Ok(epoch)
    }

    /// End everybody's epoch.
    pub(super) fn raise_everyone(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        let epoch = self.next_epoch(now)?;
        self.count(EVERYONE, epoch)
    }

    fn on_shelf(&self, key: ShelfKey) -> Result<Option<Kept>, StoreError> {
        self.shelf.get(key.0).map_err(failed)?.map(|record| unshelved(record.value())).transpose()
    }

    pub(super) fn keep(&mut self, keep: &Keep, now: Timestamp) -> Result<Option<u64>, StoreError> {
        let (there, name) = (self.on_shelf(keep.key)?, named(SHELVED, keep.key.0));
        let counts = there.as_ref().filter(|kept| kept.until > now).map(|kept| kept.version);
        if counts != keep.over {
            return Ok(None);
        }
        if let Some(there) = there {
            self.by_end.remove(end_entry(there.until, name)).map_err(failed)?;
        }
        let version = self.counter(VERSIONS)? + 1;
        self.count(VERSIONS, version)?;
        self.shelf.insert(keep.key.0, shelved(version, keep.until, &keep.bytes).as_slice()).map_err(failed)?;
        self.by_end.insert(end_entry(keep.until, name), ()).map_err(failed)?;
        Ok(Some(version))
    }

    pub(super) fn discard(&mut self, key: ShelfKey, over: u64) -> Result<bool, StoreError> {
        let Some(there) = self.on_shelf(key)?.filter(|kept| kept.version == over) else { return Ok(false) };
        self.shelf.remove(key.0).map_err(failed)?;
        self.by_end.remove(end_entry(there.until, named(SHELVED, key.0))).map_err(failed)?;
        Ok(true)
    }

    /// Remove what is over, at most `limit` entries.
    pub(super) fn sweep(&mut self, now: Timestamp, limit: usize) -> Result<(), StoreError> {
        let end = end_entry(now, [u8::MAX; 17]);
        let over: Result<Vec<[u8; 25]>, redb::StorageError> =
            self.by_end.range(..=end).map_err(failed)?.take(limit).map(|entry| Ok(entry?.0.value())).collect();
        for entry in over.map_err(failed)? {
            self.by_end.remove(entry).map_err(failed)?;
            let id = id_in(&entry);
            match entry[8] {
                USER => drop(self.epochs.remove(id).map_err(failed)?),
                SHELVED => drop(self.shelf.remove(id).map_err(failed)?),
                kind => drop(self.tombstones.remove(named(kind, id)).map_err(failed)?),
            }
        }
        Ok(())
    }
}

/// Read a shelved record.
pub(super) fn kept(
    transaction: &ReadTransaction,
    key: ShelfKey,
) -> Result<Option<Result<Kept, StoreError>>, redb::Error> {
    let table = transaction.open_table(SHELF)?;
    Ok(table.get(key.0)?.map(|record| unshelved(record.value())))
}

/// A place on the shelf and what lies there.
type Shelved = Result<(ShelfKey, Kept), StoreError>;

/// Read everything on the shelf.
pub(super) fn shelf(transaction: &ReadTransaction) -> Result<Vec<Shelved>, redb::Error> {
    let mut all = Vec::new();
    for entry in transaction.open_table(SHELF)?.iter()? {
        let (key, record) = entry?;
        all.push(unshelved(record.value()).map(|kept| (ShelfKey(key.value()), kept)));
    }
    Ok(all)
}

/// Read everything that was revoked and still counts.
pub(super) fn remembered(transaction: &ReadTransaction, now: Timestamp) -> Result<Vec<Event>, redb::Error> {
    let mut events = Vec::new();
    for entry in transaction.open_table(TOMBSTONES)?.iter()? {
        let (name, until) = entry?;
        let (name, until) = (name.value(), Timestamp(until.value()));
        if until > now {
            events.push(match name[0] {
                TOKEN => Event::Token { id: TokenId(id_in(&name)), until },
                _ => Event::Ended { key: SessionKey(id_in(&name)), until },
            });
        }
    }
    for entry in transaction.open_table(EPOCHS)?.iter()? {
        let (user, epoch) = entry?;
        events.push(Event::UserEpoch { user: UserKey(user.value()), epoch: epoch.value(), spared: None });
    }
    if let Some(epoch) = transaction.open_table(COUNTERS)?.get(EVERYONE)? {
        events.push(Event::Everyone { part: Part::WHOLE, epoch: epoch.value() });
    }
    Ok(events)
}
