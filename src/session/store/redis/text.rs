//! Keys, events and places as scripts and logs spell them. One decision: what stands in the store can be read by a person with
//! redis-cli; whatever cannot be parsed is an error, never left out. Knows nothing of connections.

use std::fmt::Write;

use crate::clock::Timestamp;
use crate::session::shared::{Boot, Entry, Position, Receipt, Term};
use crate::session::{Event, EventId, Part, Revocation, SessionKey, TokenId, UserKey};

use super::error::RedisError;

/// What stands where there is nothing.
pub(super) const NONE: &str = "-";

/// Hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// From it.
pub(super) fn bytes<const N: usize>(text: &str) -> Result<[u8; N], RedisError> {
    let mut bytes = [0; N];
    if text.len() != N * 2 || !text.is_ascii() {
        return Err(RedisError::Shape(None));
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).map_err(|_| RedisError::Shape(None))?;
    }
    Ok(bytes)
}

/// A session's key.
pub(super) fn key(text: &str) -> Result<SessionKey, RedisError> {
    Ok(SessionKey(bytes(text)?))
}

/// Seconds and microseconds of a server's clock, as one number.
pub(super) fn moment(text: &str) -> Result<u64, RedisError> {
    let (seconds, micros) = text.split_once('.').ok_or(RedisError::Shape(None))?;
    Ok(number(seconds)?.saturating_mul(1_000_000).saturating_add(number(micros)?))
}

/// The id of a stream entry.
pub(super) fn place(at: Position) -> String {
    format!("{}-{}", at.ms, at.seq)
}

/// From it.
pub(super) fn position(text: &str) -> Result<Position, RedisError> {
    let (ms, seq) = text.split_once('-').ok_or(RedisError::Shape(None))?;
    Ok(Position { ms: number(ms)?, seq: number(seq)? })
}

pub(super) fn number(text: &str) -> Result<u64, RedisError> {
    text.parse().map_err(|_| RedisError::Shape(None))
}

fn spared(key: Option<SessionKey>) -> String {
    key.map_or_else(|| NONE.to_owned(), |key| hex(&key.0))
}

/// Kind, whom, until and spared, as `revoke.lua` wants them.
pub(super) fn asked(what: Revocation) -> [String; 4] {
    let none = || NONE.to_owned();
    match what {
        Revocation::Session(key) => ["s".to_owned(), hex(&key.0), "0".to_owned(), none()],
        Revocation::User { user, except } => ["u".to_owned(), hex(&user.0), "0".to_owned(), spared(except)],
        Revocation::Everyone => ["g".to_owned(), none(), "0".to_owned(), none()],
        Revocation::Token { id, until } => ["t".to_owned(), hex(&id.0), until.0.to_string(), none()],
    }
}

/// Name, kind, whom, epoch, until and spared, as `reassert.lua` wants them.
pub(super) fn told(id: EventId, event: &Event) -> [String; 6] {
    let none = || NONE.to_owned();
    let (kind, whom, epoch, until, left) = match event {
        Event::Ended { key, until } => ("s", hex(&key.0), 0, until.0, none()),
        Event::UserEpoch { user, epoch, spared: left } => ("u", hex(&user.0), *epoch, 0, spared(*left)),
        Event::Everyone { epoch, .. } => ("g", none(), *epoch, 0, none()),
        Event::Token { id, until } => ("t", hex(&id.0), 0, until.0, none()),
    };
    [hex(&id.0), kind.to_owned(), whom, epoch.to_string(), until.to_string(), left]
}

/// An event as `common.lua` spells it: kind, whom, epoch, until, spared.
pub(super) fn event(text: &str, part: Part) -> Result<Event, RedisError> {
    let fields: Vec<&str> = text.split(' ').collect();
    let [kind, whom, epoch, until, left] = fields[..] else { return Err(RedisError::Shape(None)) };
    let until = Timestamp(number(until)?);
    match kind {
        "s" => Ok(Event::Ended { key: key(whom)?, until }),
        "u" => {
            let spared = if left == NONE { None } else { Some(key(left)?) };
            Ok(Event::UserEpoch { user: UserKey(bytes(whom)?), epoch: number(epoch)?, spared })
        }
        "g" => Ok(Event::Everyone { part, epoch: number(epoch)? }),
        "t" => Ok(Event::Token { id: TokenId(bytes(whom)?), until }),
        _ => Err(RedisError::Shape(None)),
    }
}

/// What a script that tells an event answers: place, how many ended, event.
pub(super) fn receipt(text: &str, part: Part) -> Result<Receipt, RedisError> {
    let mut fields = text.splitn(3, ' ');
    let (Some(at), Some(ended), Some(told)) = (fields.next(), fields.next(), fields.next()) else {
        return Err(RedisError::Shape(None));
    };
    Ok(Receipt { at: position(at)?, events: vec![event(told, part)?], ended: number(ended)? })
}

/// An entry of the log, from its id and its fields.
pub(super) fn entry((id, fields): &(String, Vec<(String, String)>), part: Part) -> Result<Entry, RedisError> {
    let field = |name: &str| {
        let found = fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str()).ok_or(RedisError::Shape(None))
    };
    Ok(Entry { at: position(id)?, id: EventId(bytes(field("u")?)?), event: event(field("e")?, part)? })
}

/// A node as `beat.lua` registers it: term, place, when.
pub(super) fn registered(node: &str, said: &str) -> Result<(Boot, Term, Position), RedisError> {
    let mut fields = said.split(' ');
    let (Some(term), Some(applied)) = (fields.next(), fields.next()) else { return Err(RedisError::Shape(None)) };
    Ok((Boot(bytes(node)?), Term(bytes(term)?), position(applied)?))
}
