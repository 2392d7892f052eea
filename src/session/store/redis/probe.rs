//! What stores read and write, for `fuzz/`. One decision: the very functions are asked, not a copy. Knows nothing of what is held against them.

use crate::session::shared::{Boot, Position};
use crate::session::{Event, EventId, Part, Session, StoreError};

use super::super::record;
use super::{RedisError, text};

/// Write a record.
pub(crate) fn encode(session: &Session) -> Result<Vec<u8>, StoreError> {
    record::encode(session)
}

/// Read one.
pub(crate) fn decode(bytes: &[u8]) -> Result<Session, StoreError> {
    record::decode(bytes)
}

/// Read an event of the shared store.
pub(crate) fn event(said: &str, part: Part) -> Result<Event, RedisError> {
    text::event(said, part)
}

/// Write one.
pub(crate) fn told(event: &Event) -> String {
    text::told(EventId([0; 16]), event)[1..].join(" ")
}

/// Read whatever else its scripts say.
pub(crate) fn answers(said: &str) -> (Option<Position>, Option<Boot>) {
    let fields = said.split('\n').map(|line| line.split_once('=').unwrap_or((line, "")));
    let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let entry =
        text::entry(&(said.lines().next().unwrap_or_default().to_owned(), fields), Part { index: 0, of: 1 }).ok();
    let receipt = text::receipt(said, Part { index: 0, of: 1 }).ok();
    let (node, rest) = said.split_once('\n').unwrap_or_default();
    let at = entry.map(|entry| entry.at).or(receipt.map(|receipt| receipt.at));
    let at = at.or(text::moment(said).ok().map(|ms| Position { ms, seq: 0 }));
    (at, text::registered(node, rest).ok().map(|(boot, ..)| boot))
}
