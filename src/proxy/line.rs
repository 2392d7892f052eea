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

/// A key as it stands in a line, in one piece: after a comma, which the first one loses.
#[derive(Clone, Copy)]
pub struct Key(&'static str);

impl Key {
    /// For [`key!`] alone.
    pub(super) const fn of(text: &'static str) -> Key {
        Key(text)
    }
}

/// The key of this name.
macro_rules! key {
    ($name:literal) => {
        $crate::proxy::line::Key::of(concat!(",\"", $name, "\":"))
    };
}
pub(super) use key;

impl LineBuffer {
    /// Begin a line of JSON.
    pub fn json(&mut self) -> JsonLine<'_> {
        self.text.clear();
        self.text.push('{');
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
            self.second = Some((second, text));
        }
        let text = self.second.as_ref().map_or("", |(_, text)| text);
        self.text.push_str(text);
        self.text.push('.');
        digits(&mut self.text, at.0 % 1000, 3);
        self.text.push('Z');
    }
}

impl JsonLine<'_> {
    fn key(&mut self, key: Key) {
        let text = &mut self.0.text;
        text.push_str(if text.len() > 1 { key.0 } else { &key.0[1..] });
    }

    /// A word of our own: a stable name, digits, an address. Nothing in it needs escaping.
    pub fn word(&mut self, key: Key, value: &str) {
        debug_assert!(value.bytes().all(is_plain), "{}: {value}", key.0);
        self.key(key);
        self.0.text.push('"');
        self.0.text.push_str(value);
        self.0.text.push('"');
    }

    /// A text. Escaped where that changes anything (RFC 8259 §7).
    pub fn text(&mut self, key: Key, value: &str) {
        if value.bytes().all(is_plain) {
            self.word(key, value);
        } else {
            self.key(key);
            self.0.text.push_str(&serde_json::Value::from(value).to_string());
        }
    }

    /// A time.
    pub fn time(&mut self, key: Key, at: Timestamp) {
        self.key(key);
        self.0.text.push('"');
        self.0.time(at);
        self.0.text.push('"');
    }

    /// A number.
    pub fn number(&mut self, key: Key, value: u64) {
        self.key(key);
        digits(&mut self.0.text, value, 1);
    }

    /// A duration in milliseconds, to three places.
    pub fn milliseconds(&mut self, key: Key, value: Duration) {
        self.key(key);
        digits(&mut self.0.text, u64::try_from(value.as_millis()).unwrap_or(u64::MAX), 1);
        self.0.text.push('.');
        digits(&mut self.0.text, (value.subsec_micros() % 1000).into(), 3);
    }

    /// The end of the line.
    pub fn end(self) {
        self.0.text.push('}');
    }
}

fn is_plain(byte: u8) -> bool {
    byte >= b' ' && byte != b'"' && byte != b'\\'
}

/// A number with at least so many digits. The formatter of the standard library takes as long as the rest of a line.
fn digits(text: &mut String, mut value: u64, least: usize) {
    let mut place = [b'0'; 20];
    let mut first = place.len();
    while value > 0 || place.len() - first < least {
        first -= 1;
        place[first] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    text.push_str(std::str::from_utf8(&place[first..]).unwrap_or_default());
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
                let mut line = buffer.json();
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
                assert_eq!((&read["word"], &read["zero"]), (&"forward".into(), &0.into()));
                assert!(!buffer.text().contains('\n'), "one line");
            }
        }
    }
}
