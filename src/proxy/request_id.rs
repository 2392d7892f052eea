//! Fresh ids. One decision: 128 random bits, drawn many at a time, so that an id can serve as a trace id (W3C Trace Context)
//! and asking the generator costs nothing per request. Knows nothing of who uses them.

use std::sync::{Mutex, PoisonError};

const DRAWN_AT_ONCE: usize = 256;

/// A request's id, as the 32 hexadecimal digits that it is everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId([u8; 32]);

/// A worker's source of ids.
pub struct RequestIds {
    drawn: Mutex<Vec<[u8; 16]>>,
}

impl RequestIds {
    /// An empty source.
    pub fn new() -> RequestIds {
        RequestIds { drawn: Mutex::new(Vec::new()) }
    }

    /// The next id.
    pub fn next(&self) -> RequestId {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if drawn.is_empty() {
            let mut bytes = [0; 16 * DRAWN_AT_ONCE];
            // Ids are names, not secrets: should the generator fail, zeros serve the request better than a refusal.
            let _ = aws_lc_rs::rand::fill(&mut bytes);
            drawn.extend(bytes.as_chunks::<16>().0);
        }
        RequestId(hexadecimal(drawn.pop().unwrap_or_default()))
    }
}

impl Default for RequestIds {
    fn default() -> Self {
        RequestIds::new()
    }
}

fn hexadecimal(bytes: [u8; 16]) -> [u8; 32] {
    let mut text = [0; 32];
    for (digits, four) in text.as_chunks_mut::<8>().0.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *digits = eight_digits(u32::from_be_bytes(*four));
    }
    text
}

/// All at once: each half of a byte is moved into a byte of its own, and those above nine are letters.
fn eight_digits(number: u32) -> [u8; 8] {
    let each = |byte: u8| u64::from_ne_bytes([byte; 8]);
    let spread = [(16, 0x0000_ffff_0000_ffff), (8, 0x00ff_00ff_00ff_00ff), (4, 0x0f0f_0f0f_0f0f_0f0f)];
    let halves = spread.into_iter().fold(u64::from(number), |bits, (by, kept)| (bits | (bits << by)) & kept);
    let letters = ((halves + each(6)) >> 4) & each(1);
    (halves + each(b'0') + letters * u64::from(b'a' - b'9' - 1)).to_be_bytes()
}

impl RequestId {
    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits are ASCII")
    }

    /// What an application is told of it.
    pub fn lines(&self) -> IdLines {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
        text[IdLines::ID].copy_from_slice(&self.0);
        text[36..52].copy_from_slice(&self.0[16..]);
        IdLines(text)
    }
}

/// The lines that tell of an id: the first is a part of the second.
pub struct IdLines([u8; 55]);

impl IdLines {
    const ID: std::ops::Range<usize> = 3..35;

    /// The value of `X-Request-Id`.
    pub fn id(&self) -> &[u8] {
        &self.0[Self::ID]
    }

    /// A `traceparent` that begins a trace with this id (W3C Trace Context §3.2).
    pub fn trace(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::hexadecimal;

    #[test]
    fn digits_are_those_of_the_standard_library() {
        let numbers = (0..=u8::MAX).map(|byte| u128::from_be_bytes([byte; 16]));
        for number in numbers.chain((0..128).flat_map(|bit| [1 << bit, u128::MAX >> bit, 0xa5 << bit])) {
            assert_eq!(hexadecimal(number.to_be_bytes()), format!("{number:032x}").as_bytes());
        }
    }
}
