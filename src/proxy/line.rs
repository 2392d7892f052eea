//! The text of an access line. One decision: a line is written into one buffer of its worker, from values that are shared and
//! not copied; keys and stable names stand as they are, whatever a client had a hand in is escaped. Knows nothing of what is
//! recorded.

use std::time::Duration;

use crate::clock::Timestamp;

/// A worker's buffer, and the second it wrote last: most lines are of the same one.
#[derive(Debug, Default)]
pub struct LineBuffer {
    text: String,
    second: Option<(u64, String)>,
}

/// A JSON object that is being written.
pub struct JsonLine<'b>(&'b mut LineBuffer);

/// A key as it stands in a line, in one piece with the comma before it, before a string with its quote as well.
#[derive(Clone, Copy)]
pub struct Key {
    bare: &'static str,
    quoted: &'static str,
}

impl Key {
    /// For [`key!`] alone.
    pub(super) const fn of(bare: &'static str, quoted: &'static str) -> Key {
        Key { bare, quoted }
    }
}

/// The key of this name.
macro_rules! key {
    ($name:literal) => {
        $crate::proxy::line::Key::of(concat!(",\"", $name, "\":"), concat!(",\"", $name, "\":\""))
    };
}
pub(super) use key;

impl LineBuffer {
    /// Begin a line of JSON that is of this kind.
    pub fn json(&mut self, kind: &'static str) -> JsonLine<'_> {
        self.text.clear();
        self.text.push_str("{\"kind\":\"");
        self.text.push_str(kind);
        self.text.push('"');
        JsonLine(self)
    }

    /// Begin a line for eyes, with its time.
    pub fn plain(&mut self, at: Timestamp) -> &mut String {
        self.text.clear();
        self.time(at);
        &mut self.text
    }

    /// What was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// RFC 3339, milliseconds.
    fn time(&mut self, at: Timestamp) {
        let second = at.seconds();
        if self.second.as_ref().is_none_or(|(of, _)| *of != second) {
            let mut text = humantime::format_rfc3339_seconds(at.system_time()).to_string();
            text.truncate(text.trim_end_matches('Z').len());
            text.push('.');
            self.second = Some((second, text));
        }
        let text = self.second.as_ref().map_or("", |(_, text)| text);
        self.text.push_str(text);
        three_digits(&mut self.text, at.0 % 1000);
        self.text.push('Z');
    }
}

// Keys are copied as what they are, known when this is compiled, so every one of these is a part of where it is called.
impl JsonLine<'_> {
    /// A word of our own: a stable name, digits, an address. Nothing in it needs escaping.
    #[inline(always)]
    pub fn word(&mut self, key: Key, value: &str) {
        debug_assert!(is_plain(value), "{}: {value}", key.bare);
        self.0.text.push_str(key.quoted);
        self.0.text.push_str(value);
        self.0.text.push('"');
    }

    /// A text. Escaped where that changes anything (RFC 8259 §7).
    #[inline(always)]
    pub fn text(&mut self, key: Key, value: &str) {
        if is_plain(value) { self.word(key, value) } else { self.escaped(key, value) }
    }

    #[cold]
    fn escaped(&mut self, key: Key, value: &str) {
        self.0.text.push_str(key.bare);
        self.0.text.push_str(&serde_json::Value::from(value).to_string());
    }

    /// A time.
    #[inline(always)]
    pub fn time(&mut self, key: Key, at: Timestamp) {
        self.0.text.push_str(key.quoted);
        self.0.time(at);
        self.0.text.push('"');
    }

    /// A number.
    #[inline(always)]
    pub fn number(&mut self, key: Key, value: u64) {
        self.0.text.push_str(key.bare);
        digits(&mut self.0.text, value);
    }

    /// A duration in milliseconds, to three places.
    #[inline(always)]
    pub fn milliseconds(&mut self, key: Key, value: Duration) {
        self.0.text.push_str(key.bare);
        let microseconds = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        digits(&mut self.0.text, microseconds / 1000);
        self.0.text.push('.');
        three_digits(&mut self.0.text, microseconds % 1000);
    }

    /// The end of the line.
    pub fn end(self) {
        self.0.text.push('}');
    }
}

/// Nothing in it is escaped. Without a way out before the end: so the compiler looks at many bytes at once.
fn is_plain(value: &str) -> bool {
    value.bytes().fold(true, |plain, byte| plain & (byte >= b' ') & (byte != b'"') & (byte != b'\\'))
}

/// Every number of three digits, one behind the other.
const GROUPS: &str = match std::str::from_utf8(&GROUP_BYTES) {
    Ok(text) => text,
    Err(_) => panic!("digits are ASCII"),
};

const GROUP_BYTES: [u8; 3000] = {
    let mut bytes = [b'0'; 3000];
    let mut number = 0;
    while number < 1000 {
        bytes[number * 3] += (number / 100) as u8;
        bytes[number * 3 + 1] += (number / 10 % 10) as u8;
        bytes[number * 3 + 2] += (number % 10) as u8;
        number += 1;
    }
    bytes
};

/// The digits of a number below a thousand, the first zeros included.
fn three_digits(text: &mut String, value: u64) {
    let at = value as usize % 1000 * 3;
    text.push_str(&GROUPS[at..at + 3]);
}

/// A number, by groups: the formatter of the standard library takes as long as the rest of a line.
fn digits(text: &mut String, value: u64) {
    if value >= 1000 {
        digits(text, value / 1000);
        return three_digits(text, value % 1000);
    }
    let at = value as usize * 3;
    let zeros = usize::from(value < 10) + usize::from(value < 100);
    text.push_str(&GROUPS[at + zeros..at + 3]);
}

#[cfg(test)]
mod tests {
    use super::LineBuffer;
    use crate::clock::Timestamp;
    use std::time::Duration;

    #[test]
    fn what_is_written_is_what_a_parser_reads() {
        let mut buffer = LineBuffer::default();
        for round in 0..2_u64 {
            for value in ["", "plain", "ä€", "q\"uote", "back\\slash", "\u{0}\u{1f}\u{7f}\u{2028}\n", "\",\"x\":\"y"]
            {
                let mut line = buffer.json("test");
                line.text(key!("text"), value);
                line.time(key!("time"), Timestamp(1_700_000_000_007 + round * 1_000));
                line.word(key!("word"), "forward");
                line.number(key!("number"), u64::MAX);
                line.number(key!("zero"), 0);
                line.milliseconds(key!("took"), Duration::from_micros(12_034));
                line.end();
                let read: serde_json::Value = serde_json::from_str(buffer.text()).unwrap();
                assert_eq!(read["text"], value);
                assert_eq!(read["time"], format!("2023-11-14T22:13:{:02}.007Z", 20 + round));
                assert_eq!((&read["number"], &read["took"]), (&u64::MAX.into(), &12.034.into()));
                assert_eq!((&read["kind"], &read["word"]), (&"test".into(), &"forward".into()));
                assert_eq!(read["zero"], 0);
                assert!(!buffer.text().contains('\n'), "one line");
            }
        }
    }

    #[test]
    fn numbers_are_written_as_the_standard_library_writes_them() {
        let near = |power: u32| [10_u64.pow(power) - 1, 10_u64.pow(power), 10_u64.pow(power) + 1];
        for value in (0..2_000).chain((4..20).flat_map(near)).chain([u64::MAX]) {
            let mut text = String::new();
            super::digits(&mut text, value);
            assert_eq!(text, value.to_string());
            text.clear();
            super::three_digits(&mut text, value % 1000);
            assert_eq!(text, format!("{:03}", value % 1000));
        }
    }
}
