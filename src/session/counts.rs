//! What asking for sessions cost, counted. One decision: a hit is an answer from memory that was used, a call is a question to
//! the store. Knows nothing of who reads the numbers.

use crate::counter::Counter;

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Cookies answered from memory.
    pub hits: Counter,
    /// Cookies that the store had to be asked about.
    pub misses: Counter,
    /// Questions to the store.
    pub store_calls: Counter,
    /// Of them, without an answer.
    pub store_errors: Counter,
}
