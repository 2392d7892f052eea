//! From a store of one's own to a shared one. One decision: what is written out holds no cookie and no key, only what the store holds,
//! a JSON value a line; and reading it in never brings back what was revoked where it is read in, however often it is done.
//! Knows nothing of files and commands.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::clock::Timestamp;
use crate::config::{Config, Store};
use crate::session::store::Embedded;
use crate::session::{EPOCHS_KEPT, Event, Keep, Restored, Session, SessionKey, SessionStore, ShelfKey, StoreError};

use super::StartError;
use super::files::{load_keys, open_store};

/// Why nothing, or not everything, was carried over.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] StartError),
    /// There is no store yet; opening one would make it.
    #[error("{0}: there is no store to write out")]
    NoStore(PathBuf),
    /// The store is not one that is written out.
    #[error("only a store of the gateway's own (`embedded:PATH`) is written out")]
    NotEmbedded,
    /// What is read in would be gone with this process.
    #[error("a store in memory ends with this command; write the `session.store` that is to have them")]
    Memory,
    /// The store did not answer.
    #[error("the store did not answer; what was read in before stands, and may be read in again")]
    Store(#[from] StoreError),
    /// Reading or writing.
    #[error("the lines cannot be read or written")]
    Io(#[from] io::Error),
    /// A line is not one.
    #[error("line {0} is not of an export of this version")]
    Line(usize, #[source] serde_json::Error),
    /// It is not all of an export.
    #[error("this breaks off: its last line is missing; what was read in before stands, and may be read in again")]
    BreaksOff,
    /// What was revoked where it is read in may be forgotten by now.
    #[error("this was written out more than {} days ago, or by another version; write it out again", EXPORTS_COUNT.as_secs() / 86_400)]
    Old,
}

/// Sessions that are written at once: each waits for the disk or the network, and a million would for the better part of an hour.
const AT_ONCE: usize = 256;

/// How long what was written out may be read in: a day less than a store remembers that a user's sessions were revoked.
const EXPORTS_COUNT: Duration = EPOCHS_KEPT.saturating_sub(Duration::from_secs(86_400));

/// What came of reading in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Sessions that came.
    pub sessions: usize,
    /// Those that were there.
    pub there: usize,
    /// Those that were revoked there, and stay so.
    pub revoked: usize,
}

/// A line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// The first one.
    Written(Timestamp),
    Revoked(Event),
    Session {
        key: SessionKey,
        record: Box<Session>,
    },
    Shelf {
        key: [u8; 16],
        until: Timestamp,
        bytes: Vec<u8>,
    },
    /// The last one: what a full disk or a broken pipe cut at the end of a line looks whole without it.
    End,
}

/// Whether a line of an export is the same when it was read and written again, for `fuzz/`; `None`: it is none.
#[cfg(any(test, fuzzing))]
pub(crate) fn is_line_kept(text: &str) -> Option<bool> {
    let written = |line: &Line| serde_json::to_string(line).ok();
    let first = written(&serde_json::from_str(text).ok()?)?;
    Some(serde_json::from_str(&first).ok().as_ref().and_then(written).as_ref() == Some(&first))
}

/// Write out the store of a gateway that does not run; answers how many sessions it had.
///
/// # Errors
/// [`TransferError`].
pub fn export(config: &Config, to: &mut dyn Write, now: Timestamp) -> Result<usize, TransferError> {
    let Store::Embedded(folder) = &config.session.store else { return Err(TransferError::NotEmbedded) };
    let path = folder.join("sessions.redb");
    if !path.exists() {
        return Err(TransferError::NoStore(path));
    }
    let store = Embedded::open(&path).map_err(|source| StartError::Store { path, source })?;
    let all = store.export(now)?;
    let mut write = |line: &Line| -> Result<(), TransferError> {
        serde_json::to_writer(&mut *to, line).map_err(io::Error::from)?;
        Ok(to.write_all(b"\n")?)
    };
    write(&Line::Written(now))?;
    // Revocations first: what they end, where both are read in before this breaks off, must not be there in between.
    for event in all.revoked {
        // Everybody's: its records are gone, and where this is read in others may be.
        if !matches!(event, Event::Everyone { .. }) {
            write(&Line::Revoked(event))?;
        }
    }
    let sessions = all.sessions.len();
    for entry in all.sessions {
        write(&Line::Session { key: entry.key, record: Box::new(entry.session) })?;
    }
    for (key, kept) in all.shelf {
        write(&Line::Shelf { key: key.0, until: kept.until, bytes: kept.bytes })?;
    }
    write(&Line::End)?;
    to.flush()?;
    Ok(sessions)
}

/// Read into the configured store what another one wrote out. What is there already stays as it is, and what was revoked there stays
/// revoked: it may be done again, after an error as well.
///
/// # Errors
/// [`TransferError`].
pub fn import(config: &Config, from: &mut dyn BufRead, now: Timestamp) -> Result<Imported, TransferError> {
    if config.session.store == Store::Memory {
        return Err(TransferError::Memory);
    }
    let store = open_store(config, || load_keys(config))?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut imported, mut ended, mut sessions) = (Imported::default(), false, Vec::new());
    for (index, text) in from.lines().enumerate() {
        let line: Line = serde_json::from_str(&text?).map_err(|error| TransferError::Line(index + 1, error))?;
        let counts = matches!(line, Line::Written(at) if now < at.plus(EXPORTS_COUNT));
        if index == 0 && !counts {
            return Err(TransferError::Old);
        }
        ended = matches!(line, Line::End);
        if let Line::Session { key, record } = line {
            sessions.extend((record.due() > now).then_some((key, *record)));
            if sessions.len() < AT_ONCE {
                continue;
            }
            tokio.block_on(restore(&store, std::mem::take(&mut sessions), &mut imported))?;
        } else {
            // What ends sessions of the lines before has to find them.
            tokio.block_on(restore(&store, std::mem::take(&mut sessions), &mut imported))?;
            tokio.block_on(read_in(&*store, line, now))?;
        }
    }
    tokio.block_on(restore(&store, sessions, &mut imported))?;
    if ended { Ok(imported) } else { Err(TransferError::BreaksOff) }
}

/// Write sessions, all at once.
async fn restore(
    store: &Arc<dyn SessionStore>,
    sessions: Vec<(SessionKey, Session)>,
    imported: &mut Imported,
) -> Result<(), StoreError> {
    let mut writing = JoinSet::new();
    for (key, session) in sessions {
        let store = store.clone();
        writing.spawn(async move { store.restore(key, session).await });
    }
    while let Some(written) = writing.join_next().await {
        match written.map_err(|gone| StoreError::Unavailable(Box::new(gone))).flatten()? {
            Restored::Written => imported.sessions += 1,
            Restored::There => imported.there += 1,
            Restored::Revoked => imported.revoked += 1,
        }
    }
    Ok(())
}

/// Write what is no session.
async fn read_in(store: &dyn SessionStore, line: Line, now: Timestamp) -> Result<(), StoreError> {
    match line {
        Line::Written(_) | Line::Session { .. } | Line::End => {}
        Line::Revoked(event) => store.repeat(event).await?,
        Line::Shelf { key, until, bytes } => {
            let keep = Keep { key: ShelfKey(key), over: None, bytes, until };
            // Where something lies there already, that is newer.
            let _ = store.keep(keep, now).await?;
        }
    }
    Ok(())
}
