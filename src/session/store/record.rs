//! A record as bytes. One decision: a version byte first, so that a later program knows what it reads and an earlier one
//! refuses what it cannot. Knows nothing of tables.

use crate::session::{Session, StoreError};

const JSON: u8 = 1;

/// Why bytes are no record.
#[derive(Debug, thiserror::Error)]
enum RecordError {
    #[error("the record is empty")]
    Empty,
    #[error("the record is of version {0}, which this program does not know")]
    Version(u8),
    #[error("the record is malformed")]
    Malformed(#[source] serde_json::Error),
}

/// Write.
pub(super) fn encode(session: &Session) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![JSON];
    serde_json::to_writer(&mut bytes, session).map_err(|error| StoreError::Corrupt(Box::new(error)))?;
    Ok(bytes)
}

/// Read.
pub(super) fn decode(bytes: &[u8]) -> Result<Session, StoreError> {
    let read = match bytes {
        [] => Err(RecordError::Empty),
        [JSON, json @ ..] => serde_json::from_slice(json).map_err(RecordError::Malformed),
        [version, ..] => Err(RecordError::Version(*version)),
    };
    read.map_err(|error| StoreError::Corrupt(Box::new(error)))
}
