//! The text of an access line. One decision: a line is written into one buffer of its worker, from values that are shared and
//! not copied; keys and stable names stand as they are, whatever a client had a hand in is escaped. Knows nothing of what is
//! recorded.

use std::fmt::Write;
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
        let _ = write!(self.text, "{text}.{:03}Z", at.0 % 1000);
    }
}

impl JsonLine<'_> {
    fn key(&mut self, key: &'static str) {
        let text = &mut self.0.text;
        text.push_str(if text.len() == 1 { "\"" } else { ",\"" });
        text.push_str(key);
        text.push_str("\":");
    }

    /// A text. Escaped where that changes anything (RFC 8259 §7).
    pub fn text(&mut self, key: &'static str, value: &str) {
        self.key(key);
        if value.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
            self.0.text.push('"');
            self.0.text.push_str(value);
            self.0.text.push('"');
        } else {
            self.0.text.push_str(&serde_json::Value::from(value).to_string());
        }
    }

    /// A time.
    pub fn time(&mut self, key: &'static str, at: Timestamp) {
        self.key(key);
        self.0.text.push('"');
        self.0.time(at);
        self.0.text.push('"');
    }

    /// A number.
    pub fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        let _ = write!(self.0.text, "{value}");
    }

    /// A duration in milliseconds, to three places.
    pub fn milliseconds(&mut self, key: &'static str, value: Duration) {
        self.key(key);
        let _ = write!(self.0.text, "{}.{:03}", value.as_millis(), value.subsec_micros() % 1000);
    }

    /// The end of the line.
    pub fn end(self) {
        self.0.text.push('}');
    }
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
                line.text("text", value);
                line.time("time", Timestamp(1_700_000_000_007 + round * 1_000));
                line.number("number", u64::MAX);
                line.milliseconds("took", Duration::from_micros(12_034));
                line.end();
                let read: serde_json::Value = serde_json::from_str(buffer.text()).unwrap();
                assert_eq!(read["text"], value);
                assert_eq!(read["time"], format!("2023-11-14T22:13:{:02}.007Z", 20 + round));
                assert_eq!((&read["number"], &read["took"]), (&u64::MAX.into(), &12.034.into()));
                assert!(!buffer.text().contains('\n'), "one line");
            }
        }
    }
}
