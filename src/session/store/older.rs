//! Stores of before all tables were of one type. One decision: such a store is written anew in the one transaction that opens it, so
//! that it is of either kind and never of both; the names of its tables stay, so that an older program refuses what a newer one wrote
//! instead of finding nothing in it. Knows nothing of what a record says.

use redb::{
    Database, Key, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError, TableHandle, Value,
    WriteTransaction,
};

use crate::session::{SessionKey, ShelfKey, StoreError, UserKey};

use super::rows::{Definition, failed};
use super::standing::{BY_END, COUNTERS, EPOCHS, SHELF, TOMBSTONES};
use super::tables::{BY_DUE, BY_USER, SESSIONS, Tables};

/// Where the store is an older one, bring over what it holds; answers with how many sessions those were.
///
/// # Errors
/// [`StoreError`]; nothing has changed unless the transaction is committed.
pub(super) fn bring_over(database: &Database, transaction: &WriteTransaction) -> Result<Option<u64>, StoreError> {
    match transaction.open_table(SESSIONS) {
        Ok(_) => return Ok(None),
        Err(TableError::TableTypeMismatch { .. }) => {}
        Err(error) => return Err(failed(error)),
    }
    // As it was: what the transaction removes stays for who began to read before.
    let older = database.begin_read().map_err(failed)?;
    for table in [SESSIONS, BY_USER, BY_DUE, TOMBSTONES, EPOCHS, SHELF, BY_END, COUNTERS] {
        transaction.delete_table(table).map_err(failed)?;
    }
    let mut new = Tables::open(transaction).map_err(failed)?;
    let mut sessions = 0;
    each::<[u8; 16], &[u8]>(&older, SESSIONS, |key, record| {
        sessions += 1;
        new.bring(SessionKey(key), record)
    })?;
    let standing = &mut new.standing;
    each::<[u8; 17], u64>(&older, TOMBSTONES, |name, until| standing.bring_tombstone(name, until))?;
    each::<[u8; 16], u64>(&older, EPOCHS, |user, epoch| standing.bring_epoch(UserKey(user), epoch))?;
    each::<[u8; 16], &[u8]>(&older, SHELF, |key, record| standing.bring_shelved(ShelfKey(key), record))?;
    each::<&str, u64>(&older, COUNTERS, |name, count| standing.bring_counter(name, count))?;
    Ok(Some(sessions))
}

fn each<K: Key + 'static, V: Value + 'static>(
    older: &ReadTransaction,
    table: Definition,
    mut bring: impl for<'a> FnMut(K::SelfType<'a>, V::SelfType<'a>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let rows = match older.open_table(TableDefinition::<K, V>::new(table.name())) {
        Ok(rows) => rows,
        // Stores of the first days lack what later ones hold.
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for row in rows.iter().map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        bring(key.value(), value.value())?;
    }
    Ok(())
}
