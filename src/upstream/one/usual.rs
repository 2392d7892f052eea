//! The lines that a server's answers usually have. One decision: a server says the same ones in the same places again and again, so
//! what has the very bytes that were read there before is not looked up, checked and copied anew. Knows nothing of what a line
//! means.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};

use super::Malformed;

/// Lines of a head, and bytes of a value, that are worth remembering.
const LINES: usize = 16;
const VALUE_BYTES: usize = 64;
/// So often another value, and it is the one remembered.
const OTHERS: u8 = 16;

/// Those of one server, for all connections of a worker to it: of each connection its own would lie in memory that the processor has
/// long forgotten when its turn comes.
#[derive(Clone, Default)]
pub(in crate::upstream) struct Usual(Arc<Mutex<Lines>>);

/// By their places.
#[derive(Default)]
pub(super) struct Lines(Vec<Line>);

struct Line {
    /// The name, as the server writes it.
    written: Box<[u8]>,
    name: HeaderName,
    value: HeaderValue,
    /// How often another value came since this one did.
    others: u8,
}

impl Usual {
    /// While a head is read.
    pub(super) fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// The line in this place of a head: its name, and where in the text its value stands.
    pub(super) fn line(
        &mut self,
        index: usize,
        written: &[u8],
        value: Range<usize>,
        text: &Bytes,
    ) -> Result<(HeaderName, HeaderValue), Malformed> {
        let bytes = &text[value.clone()];
        if let Some(usual) = self.0.get_mut(index).filter(|usual| *usual.written == *written) {
            if usual.value.as_bytes() == bytes {
                usual.others = 0;
                return Ok((usual.name.clone(), usual.value.clone()));
            }
            usual.others += 1;
            if usual.others < OTHERS {
                let value = HeaderValue::from_maybe_shared(text.slice(value)).map_err(|_| Malformed::Field)?;
                return Ok((usual.name.clone(), value));
            }
        }
        let name = HeaderName::from_bytes(written).map_err(|_| Malformed::Field)?;
        let value = HeaderValue::from_maybe_shared(text.slice(value)).map_err(|_| Malformed::Field)?;
        self.keep(index, written, &name, &value);
        Ok((name, value))
    }

    /// Remember a line: a copy, because what it lies in is large. A cookie is somebody's, and stays in no memory for longer than it has to.
    fn keep(&mut self, index: usize, written: &[u8], name: &HeaderName, value: &HeaderValue) {
        let is_usual = value.len() <= VALUE_BYTES && *name != header::SET_COOKIE;
        let value = is_usual.then(|| HeaderValue::from_bytes(value.as_bytes()).ok()).flatten();
        let value = value.unwrap_or(HeaderValue::from_static(""));
        let line = Line { written: written.into(), name: name.clone(), value, others: 0 };
        if let Some(old) = self.0.get_mut(index) {
            *old = line;
        } else if index == self.0.len() && index < LINES {
            self.0.push(line);
        }
    }
}
