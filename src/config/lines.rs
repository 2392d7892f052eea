//! Where keys stand in the file. One decision: every key that is read has its line noted, so that what only the disk can tell – a file
//! that is missing – is said like a mistake of the text. Knows nothing of what keys mean.

use std::collections::BTreeMap;

/// The lines of keys and tables, by their paths (`tls.also[0].certificate`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines(BTreeMap<String, usize>);

impl Lines {
    /// From the bytes of the text that they begin at.
    pub(super) fn new(text: &str, places: impl IntoIterator<Item = (String, usize)>) -> Lines {
        let ends: Vec<usize> =
            text.bytes().enumerate().filter_map(|(at, byte)| (byte == b'\n').then_some(at)).collect();
        let line = |at: usize| ends.partition_point(|end| *end < at) + 1;
        Lines(places.into_iter().map(|(key, at)| (key, line(at))).collect())
    }

    /// Whether the file has this key.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// The line of a key, from 1; of the table that it would stand in, where the file does not have it.
    pub fn of(&self, mut key: &str) -> usize {
        loop {
            match (self.0.get(key), key.rfind(['.', '['])) {
                (Some(line), _) => return *line,
                (None, Some(end)) => key = &key[..end],
                (None, None) => return 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    #[test]
    fn a_key_that_is_not_there_is_told_at_its_table() {
        let text = "[tls]\ncertificate = \"a\"\n\n[[tls.also]]\ncertificate = \"b\"\n";
        let places = [("tls", 1), ("tls.certificate", 6), ("tls.also", 30), ("tls.also[0]", 26)];
        let lines = Lines::new(text, places.map(|(key, at)| (key.to_owned(), at)));
        for (key, line) in
            [("tls.certificate", 2), ("tls.private_key", 1), ("tls.also[0].private_key", 4), ("session.secret", 1)]
        {
            assert_eq!(lines.of(key), line, "{key}");
        }
        assert!(lines.has("tls.also[0]") && !lines.has("tls.also[1]"));
    }
}
