//! What is wrong with a file. One decision: every mistake is found before any is reported, each one line that says where,
//! what is wrong and what is accepted. Knows nothing of what is checked.

use std::fmt;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// The key, as a path; empty for a mistake of syntax.
    pub key: String,
    /// What is wrong; what is accepted.
    pub message: String,
}

/// All mistakes of a file, by line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file's name in messages.
    pub file: String,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{}:{problem}", self.file)?;
        }
        write!(f, "{}; nothing was started", self.count())
    }
}

impl ConfigErrors {
    /// How many there are, in words.
    pub fn count(&self) -> String {
        let count = self.problems.len();
        format!("{count} problem{} in {}", if count == 1 { "" } else { "s" }, self.file)
    }
}

/// Without the file.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { line, key, message } = self;
        match key.is_empty() {
            true => write!(f, "{line}: {message}"),
            false => write!(f, "{line}: {key}: {message}"),
        }
    }
}

impl std::error::Error for ConfigErrors {}

/// `; did you mean `x`?` where one of the known words is near.
pub fn did_you_mean<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    let near = known.into_iter().map(|known| (strsim::damerau_levenshtein(word, known), known)).min();
    match near {
        Some((distance, known)) if distance <= 2 && distance < known.len() => format!("; did you mean `{known}`?"),
        _ => String::new(),
    }
}

/// The words of a list, for a message.
pub(super) fn listed<'k>(known: impl IntoIterator<Item = &'k str>) -> String {
    let words: Vec<String> = known.into_iter().map(|word| format!("`{word}`")).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}
