//! Fresh ids. One decision: 128 random bits, drawn many at a time, so that an id can serve as a trace id (W3C Trace Context)
//! and asking the generator costs nothing per request. Knows nothing of who uses them.

use std::sync::{Mutex, PoisonError};

use http::HeaderValue;

const DRAWN_AT_ONCE: usize = 256;

/// A request's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId([u8; 16]);

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
        RequestId(drawn.pop().unwrap_or_default())
    }
}

impl Default for RequestIds {
    fn default() -> Self {
        RequestIds::new()
    }
}

impl RequestId {
    /// 32 hexadecimal digits.
    pub fn hex(self) -> [u8; 32] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 32];
        for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
        }
        text
    }

    /// As a header's value.
    pub fn header(self) -> HeaderValue {
        HeaderValue::from_bytes(&self.hex()).expect("hexadecimal digits are a header value")
    }

    /// A `traceparent` that begins a trace with this id (W3C Trace Context §3.2).
    pub fn traceparent(self) -> HeaderValue {
        let hex = self.hex();
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
        text[3..35].copy_from_slice(&hex);
        text[36..52].copy_from_slice(&hex[16..]);
        HeaderValue::from_bytes(&text).expect("hexadecimal digits are a header value")
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.hex().iter().try_for_each(|digit| write!(f, "{}", char::from(*digit)))
    }
}
