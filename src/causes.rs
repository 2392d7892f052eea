//! Errors and what caused them. One decision: a log has them on one line, the outermost first. Knows nothing of any error.

use std::error::Error;

/// An error and its causes.
pub fn of<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'e (dyn Error + 'static)| (*error).source())
}

/// All of them, on one line.
pub fn line(error: &(dyn Error + 'static)) -> String {
    of(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
