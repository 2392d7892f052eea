//! What an application is told of a caller: header lines. One decision: their texts are one block and their names are everybody's,
//! because a thousand callers take turns, and each piece of memory that a request has to look into lies far away. Knows nothing of
//! whom it tells.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

/// How many lines there can be.
pub(super) const LINES: usize = 4;

/// What they are called; `None` where a fact is told to nobody.
pub(super) type Names = [Option<HeaderName>; LINES];

/// Header lines, and the user id, which they mostly begin with. Laid out as written.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Told {
    text: Box<str>,
    names: Arc<Names>,
    /// Where each text ends; the next one begins there. The first is the user id, told or not.
    ends: [u32; LINES],
    /// A bit for each that is a line.
    told: u8,
}

impl Told {
    /// These texts under these names. What no header can carry (control characters, blanks alone) leaves its line out: better no
    /// name than half of one.
    pub(super) fn of(names: &Arc<Names>, texts: [Option<&str>; LINES]) -> Told {
        let carries = |text: &str| !text.trim().is_empty() && HeaderValue::from_bytes(text.as_bytes()).is_ok();
        let (mut text, mut ends, mut told) = (String::new(), [0; LINES], 0);
        for (n, line) in texts.into_iter().enumerate() {
            text.push_str(line.unwrap_or_default());
            ends[n] = u32::try_from(text.len()).unwrap_or(u32::MAX);
            told |= u8::from(names[n].is_some() && line.is_some_and(carries)) << n;
        }
        Told { text: text.into_boxed_str(), names: names.clone(), ends, told }
    }

    /// Each line. Its text is one that a header can carry: UTF-8, where it is not ASCII, as applications expect it.
    pub fn lines(&self) -> impl Iterator<Item = (&HeaderName, &str)> {
        let told = (0..LINES).filter(|n| self.told >> n & 1 == 1);
        told.filter_map(|n| Some((self.names[n].as_ref()?, self.text(n)?)))
    }

    /// Whether one of them is called so.
    pub fn names(&self, name: &HeaderName) -> bool {
        (0..LINES).any(|n| self.told >> n & 1 == 1 && self.names[n].as_ref() == Some(name))
    }

    /// The user id.
    pub fn subject(&self) -> &str {
        self.text(0).unwrap_or_default()
    }

    fn text(&self, n: usize) -> Option<&str> {
        let from = n.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text.get(from as usize..self.ends[n] as usize)
    }
}
