//! Every reading of a path that has several. One decision: they are gathered by doing over and over what servers are known to
//! do, until nothing new comes, instead of thinking out which server does what in which order. Knows nothing of routes.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::path::{PathError, before_query, check_segments, lenient, narrow, unescaped};

/// A path that can be read in more ways than this is meant to confuse. The plain ones of applications have ten at most.
const MOST: usize = 64;

/// What a server may do to a path.
type Step = fn(&str) -> Result<Cow<'_, str>, PathError>;

const STEPS: [Step; 6] = [
    unescaped,
    |path| Ok(Cow::Owned(path.replace('\\', "/"))),
    |path| Ok(merged(path)),
    |path| Ok(Cow::Borrowed(before_query(path))),
    |path| Ok(narrow(path)),
    |path| Ok(lenient(path).map_or(Cow::Borrowed(path), Cow::Owned)),
];

/// Whatever servers make of this path, each of them with all of its dots and control bytes looked at.
///
/// # Errors
/// [`PathError`]: in one of the readings it climbs, or is no text, or there is no end of them.
pub fn readings(raw: &str) -> Result<BTreeSet<String>, PathError> {
    let mut known = BTreeSet::new();
    let mut fresh = vec![raw.to_owned()];
    while let Some(path) = fresh.pop() {
        check_segments(&merged(&path))?;
        for step in STEPS {
            let next = step(&path)?;
            if next != path && !known.contains(&*next) {
                fresh.push(next.into_owned());
            }
        }
        known.insert(path);
        if known.len() > MOST {
            return Err(PathError::EncodedDelimiter);
        }
    }
    Ok(known)
}

/// `//` as `/`.
fn merged(path: &str) -> Cow<'_, str> {
    let mut path = Cow::Borrowed(path);
    while path.contains("//") {
        path = Cow::Owned(path.replace("//", "/"));
    }
    path
}
