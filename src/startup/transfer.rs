//! From a store of one's own to a shared one. One decision: what is written out holds no cookie and no key, only what the store holds,
//! a JSON value a line; it is read in by the very operations of a running gateway, so that nothing gets around their rules.
//! Knows nothing of files and commands.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::config::{Config, Store};
use crate::session::store::Embedded;
use crate::session::{
    Creation, Event, Keep, Revocation, Session, SessionKey, SessionStore, ShelfKey, StoreError, TokenId, UserKey,
};

use super::StartError;
use super::files::open_store;

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
    /// The store did not answer.
    #[error("the store did not answer; what was read in before stands, and may be read in again")]
    Store(#[from] StoreError),
    /// Reading or writing.
    #[error("the lines cannot be read or written")]
    Io(#[from] io::Error),
    /// A line is not one.
    #[error("line {0} is not of an export")]
    Line(usize, #[source] serde_json::Error),
}

/// A line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Ended(SessionKey),
    User(UserKey),
    Token { id: TokenId, until: Timestamp },
    Session { key: SessionKey, record: Box<Session> },
    Shelf { key: [u8; 16], until: Timestamp, bytes: Vec<u8> },
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
    // Revocations first: a session that is read in after them is of the new epoch.
    for event in all.revoked {
        match event {
            Event::Ended { key, .. } => write(&Line::Ended(key))?,
            Event::UserEpoch { user, .. } => write(&Line::User(user))?,
            Event::Token { id, until } => write(&Line::Token { id, until })?,
            // Its records are gone, and tokens of before live minutes.
            Event::Everyone { .. } => {}
        }
    }
    let sessions = all.sessions.len();
    for entry in all.sessions {
        write(&Line::Session { key: entry.key, record: Box::new(entry.session) })?;
    }
    for (key, kept) in all.shelf {
        write(&Line::Shelf { key: key.0, until: kept.until, bytes: kept.bytes })?;
    }
    to.flush()?;
    Ok(sessions)
}

/// Read into the configured store what another one wrote out; answers how many sessions came. What is there already stays.
///
/// # Errors
/// [`TransferError`].
pub fn import(config: &Config, from: &mut dyn BufRead, now: Timestamp) -> Result<usize, TransferError> {
    let store = open_store(config)?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut sessions = 0;
    for (index, text) in from.lines().enumerate() {
        let line: Line = serde_json::from_str(&text?).map_err(|error| TransferError::Line(index + 1, error))?;
        sessions += usize::from(tokio.block_on(read_in(&*store, line, now))?);
    }
    Ok(sessions)
}

async fn read_in(store: &dyn SessionStore, line: Line, now: Timestamp) -> Result<bool, StoreError> {
    match line {
        Line::Ended(key) => drop(store.revoke(Revocation::Session(key), now).await?),
        Line::User(user) => drop(store.revoke(Revocation::User { user, except: None }, now).await?),
        Line::Token { id, until } => drop(store.revoke(Revocation::Token { id, until }, now).await?),
        Line::Session { key, record } => {
            let session = *record;
            if session.due() <= now || store.load(key).await?.is_some() {
                return Ok(false);
            }
            store.create(Creation { key, session, replaces: None, limit: None }).await?;
            return Ok(true);
        }
        Line::Shelf { key, until, bytes } => {
            let keep = Keep { key: ShelfKey(key), over: None, bytes, until };
            // Where something lies there already, that is newer.
            let _ = store.keep(keep, now).await?;
        }
    }
    Ok(false)
}
