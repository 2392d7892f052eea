//! A table of the embedded store: bytes in order, each with bytes. One decision: every table is of this one type, because redb's
//! code comes once for every type that is written: a third of a megabyte of program for eight of them. Knows nothing of what the
//! bytes are.

use redb::{
    AccessGuard, Range, ReadOnlyTable, ReadTransaction, ReadableTable, StorageError, Table, TableDefinition,
    WriteTransaction,
};

use crate::session::StoreError;

/// The type of all tables, by name.
pub(super) type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;
/// What is found; gone with the transaction.
pub(super) type Found<'a> = AccessGuard<'a, &'static [u8]>;

/// A table in a transaction that writes.
pub(super) struct Rows<'t>(Table<'t, &'static [u8], &'static [u8]>);

impl<'t> Rows<'t> {
    /// Open, or make, the table.
    pub(super) fn open(transaction: &'t WriteTransaction, table: Definition) -> Result<Rows<'t>, redb::Error> {
        Ok(Rows(transaction.open_table(table)?))
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Found<'_>>, StoreError> {
        self.0.get(key).map_err(failed)
    }

    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.0.insert(key, value).map(drop).map_err(failed)
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.0.remove(key).map(drop).map_err(failed)
    }

    /// The keys from the first to the last, both of them within, and at most so many.
    pub(super) fn keys<const N: usize>(
        &self,
        first: &[u8; N],
        last: &[u8; N],
        limit: usize,
    ) -> Result<Vec<[u8; N]>, StoreError> {
        keys(self.0.range::<&[u8]>(first.as_slice()..=last.as_slice()), limit)
    }
}

/// A table in a transaction that reads.
pub(super) struct Reading(ReadOnlyTable<&'static [u8], &'static [u8]>);

impl Reading {
    /// Open the table.
    pub(super) fn open(transaction: &ReadTransaction, table: Definition) -> Result<Reading, StoreError> {
        transaction.open_table(table).map(Reading).map_err(failed)
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Found<'_>>, StoreError> {
        self.0.get(key).map_err(failed)
    }

    /// As [`Rows::keys`], all of them.
    pub(super) fn keys<const N: usize>(&self, first: &[u8; N], last: &[u8; N]) -> Result<Vec<[u8; N]>, StoreError> {
        keys(self.0.range::<&[u8]>(first.as_slice()..=last.as_slice()), usize::MAX)
    }

    /// What is made of every row.
    pub(super) fn all<T>(
        &self,
        mut read: impl FnMut(&[u8], &[u8]) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut all = Vec::new();
        for row in self.0.iter().map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            all.push(read(key.value(), value.value())?);
        }
        Ok(all)
    }
}

fn keys<const N: usize>(
    rows: Result<Range<'_, &'static [u8], &'static [u8]>, StorageError>,
    limit: usize,
) -> Result<Vec<[u8; N]>, StoreError> {
    rows.map_err(failed)?.take(limit).map(|row| exactly(row.map_err(failed)?.0.value())).collect()
}

/// Bytes that were written as so many.
pub(super) fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|wrong| StoreError::Corrupt(Box::new(wrong)))
}

/// A number that was written as eight bytes, the highest first.
pub(super) fn number(bytes: &[u8]) -> Result<u64, StoreError> {
    exactly(bytes).map(u64::from_be_bytes)
}

/// What redb says went wrong.
pub(super) fn failed(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Unavailable(Box::new(error.into()))
}
