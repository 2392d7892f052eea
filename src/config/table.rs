//! A table of the file, read key by key. One decision: a reader takes what it knows out of the table and what is left when it
//! is done is unknown; so every wrong type, missing key and unknown key is found in one pass, each with its line.
//! Knows nothing of what keys mean.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::lines::Lines;
use super::problems::{Problem, did_you_mean, listed};
use super::questions::{Kind, NAME, Questions};

/// Mistakes found so far, and the text that their lines are counted in.
#[derive(Clone)]
pub(super) struct Findings<'t> {
    text: &'t str,
    problems: Rc<RefCell<Vec<Problem>>>,
    /// The keys that were read, and the bytes they begin at.
    places: Rc<RefCell<Vec<(String, usize)>>>,
    /// Where somebody wants to know what is asked for, and not what is found.
    questions: Option<Rc<RefCell<Questions>>>,
}

impl<'t> Findings<'t> {
    pub(super) fn new(text: &'t str) -> Findings<'t> {
        Findings { text, problems: Rc::default(), places: Rc::default(), questions: None }
    }

    /// Of no text: every table that is asked for is there, with nothing in it, so that what is asked of it is heard as well.
    pub(super) fn listening(questions: Rc<RefCell<Questions>>) -> Findings<'t> {
        Findings { text: "", problems: Rc::default(), places: Rc::default(), questions: Some(questions) }
    }

    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    pub(super) fn add(&self, span: &Range<usize>, key: impl Into<String>, message: impl Into<String>) {
        let problem = Problem { line: self.line(span), key: key.into(), message: message.into() };
        self.problems.borrow_mut().push(problem);
    }

    fn note(&self, key: &str, span: &Range<usize>) {
        if self.questions.is_none() {
            self.places.borrow_mut().push((key.to_owned(), span.start));
        }
    }

    /// Where everything stands that was read.
    pub(super) fn lines(&self) -> Lines {
        Lines::new(self.text, self.places.take())
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = std::mem::take(&mut *self.problems.borrow_mut());
        problems.sort_unstable();
        problems.dedup();
        problems
    }
}

/// A value with the place it stands at.
#[derive(Clone)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
    pub(super) key: String,
}

/// A table that is being read.
pub(super) struct Table<'f, 't> {
    findings: &'f Findings<'t>,
    path: String,
    span: Range<usize>,
    entries: BTreeMap<String, (Range<usize>, Spanned<DeValue<'t>>)>,
    known: Vec<&'static str>,
    taken: Vec<&'static str>,
}

impl<'f, 't> Table<'f, 't> {
    pub(super) fn new(findings: &'f Findings<'t>, path: String, span: Range<usize>, table: DeTable<'t>) -> Self {
        let entry = |(key, value): (Spanned<_>, Spanned<DeValue<'t>>)| {
            let span = key.span();
            let key: std::borrow::Cow<'t, str> = key.into_inner();
            (key.into_owned(), (span, value))
        };
        findings.note(&path, &span);
        Table {
            findings,
            path,
            span,
            entries: table.into_iter().map(entry).collect(),
            known: Vec::new(),
            taken: Vec::new(),
        }
    }

    pub(super) fn span(&self) -> &Range<usize> {
        &self.span
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn problem(&self, span: &Range<usize>, key: &str, message: impl Into<String>) {
        self.findings.add(span, self.path_of(key), message);
    }

    /// The line it begins on.
    pub(super) fn line(&self) -> usize {
        self.findings.line(&self.span)
    }

    /// A mistake of another table, by its whole key.
    pub(super) fn problem_at(&self, span: &Range<usize>, key: &str, message: impl Into<String>) {
        self.findings.add(span, key, message);
    }

    /// The keys within a table that was not taken yet.
    pub(super) fn names(&self, key: &str) -> Vec<String> {
        match self.entries.get(key).map(|(_, value)| value.get_ref()) {
            Some(DeValue::Table(table)) => table.keys().map(|name| name.get_ref().to_string()).collect(),
            _ => Vec::new(),
        }
    }

    /// The words that the value of a key is made of – a text, those of a list, the keys of a table – each with its place. Takes nothing.
    pub(super) fn words(&self, key: &str) -> Vec<(String, Range<usize>)> {
        let Some((span, value)) = self.entries.get(key) else { return Vec::new() };
        match value.get_ref() {
            DeValue::String(text) => vec![(text.to_string(), span.clone())],
            DeValue::Table(table) => table.keys().map(|key| (key.get_ref().to_string(), key.span())).collect(),
            DeValue::Array(list) => {
                let text = |value: &Spanned<DeValue<'t>>| Some((value.get_ref().as_str()?.to_owned(), value.span()));
                list.iter().filter_map(text).collect()
            }
            _ => Vec::new(),
        }
    }

    /// A mistake at a line that is known already.
    pub(super) fn problem_at_line(&self, line: usize, key: &str, message: impl Into<String>) {
        let problem = Problem { line, key: key.to_owned(), message: message.into() };
        self.findings.problems.borrow_mut().push(problem);
    }

    /// Whether something was found wrong with a key already: then it need not be called missing as well.
    pub(super) fn has_problem(&self, key: &str) -> bool {
        let path = self.path_of(key);
        self.findings.problems.borrow().iter().any(|problem| problem.key == path || problem.key == key)
    }

    /// Whether a key stands in the file, whatever its value.
    pub(super) fn found(&self, key: &str) -> bool {
        self.taken.contains(&key)
    }

    /// A value that was taken, read as a table after all.
    pub(super) fn reread(&self, key: &str, found: Option<At<Spanned<DeValue<'t>>>>) -> Option<Table<'f, 't>> {
        let At { value, span, key: path } = found?;
        match value.into_inner() {
            DeValue::Table(table) => Some(Table::new(self.findings, path, span, table)),
            other => {
                self.problem(&span, key, format!("is {}; write a table", type_name(&other)));
                None
            }
        }
    }

    /// A missing key, told at the table's own line.
    pub(super) fn missing(&self, key: &str, accepted: &str) {
        if let Some(questions) = &self.findings.questions {
            questions.borrow_mut().needed(&self.path, key);
        }
        self.missing_beside(key, accepted);
    }

    /// A key that is missing because of what other keys say or do not say.
    pub(super) fn missing_beside(&self, key: &str, accepted: &str) {
        self.findings.add(&self.span, self.path_of(key), format!("missing; {accepted}"));
    }

    /// The value of a key that is a table, or `words` as well; read on by [`Table::reread`].
    pub(super) fn take(
        &mut self,
        key: &'static str,
        words: &'static [&'static str],
    ) -> Option<At<Spanned<DeValue<'t>>>> {
        if !words.is_empty() {
            self.hear(key, "", Kind::Words(words));
        }
        self.offer(key, "", Kind::Table);
        self.pull(key)
    }

    /// What is asked for here is told to whoever listens.
    fn hear(&self, key: &'static str, wanted: &str, kind: Kind) {
        if let Some(questions) = &self.findings.questions {
            questions.borrow_mut().add(&self.path, key, wanted, kind);
        }
    }

    /// The same of what has something within: whoever listens is given one, to hear what is asked of that.
    fn offer(&mut self, key: &'static str, wanted: &str, kind: Kind) {
        let Some(questions) = &self.findings.questions else { return };
        questions.borrow_mut().add(&self.path, key, wanted, kind.clone());
        let inner = || Spanned::new(0..0, DeValue::Table(DeTable::new()));
        let value = match kind {
            Kind::NamedTables => {
                let named = [(Spanned::new(0..0, NAME.into()), inner())];
                Spanned::new(0..0, DeValue::Table(DeTable::from_iter(named)))
            }
            Kind::Tables | Kind::TextsOrTables => {
                let mut list = DeArray::new();
                list.push(inner());
                Spanned::new(0..0, DeValue::Array(list))
            }
            _ => inner(),
        };
        if !questions.borrow().withholds(&self.path, key) {
            self.entries.insert(key.to_owned(), (0..0, value));
        }
    }

    fn pull(&mut self, key: &'static str) -> Option<At<Spanned<DeValue<'t>>>> {
        self.known.push(key);
        let (span, value) = self.entries.remove(key)?;
        self.taken.push(key);
        let path = self.path_of(key);
        self.findings.note(&path, &span);
        Some(At { value, span, key: path })
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        read: impl FnOnce(DeValue<'t>) -> Option<T>,
    ) -> Option<At<T>> {
        let At { value, span, key } = self.pull(key)?;
        let found = type_name(value.get_ref());
        match read(value.into_inner()) {
            Some(value) => Some(At { value, span, key }),
            None => {
                self.findings.add(&span, key, format!("is {found}; write {wanted}"));
                None
            }
        }
    }

    pub(super) fn text(&mut self, key: &'static str, wanted: &str) -> Option<At<String>> {
        self.hear(key, wanted, Kind::Text);
        self.typed(key, wanted, text)
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Option<At<bool>> {
        self.hear(key, "", Kind::Flag);
        self.typed(key, "true or false", |value| match value {
            DeValue::Boolean(flag) => Some(flag),
            _ => None,
        })
    }

    /// A whole number within a range.
    pub(super) fn number(&mut self, key: &'static str, range: Range<u64>) -> Option<u64> {
        self.number_at(key, range).map(|at| at.value)
    }

    /// The same with its place.
    pub(super) fn number_at(&mut self, key: &'static str, range: Range<u64>) -> Option<At<u64>> {
        let wanted = format!("a whole number from {} to {}", range.start, range.end - 1);
        self.hear(key, &wanted, Kind::Number(range.clone()));
        let number = self.typed(key, &wanted, |value| match value {
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        })?;
        match u64::try_from(number.value) {
            Ok(value) if range.contains(&value) => Some(At { value, span: number.span, key: number.key }),
            _ => {
                self.findings.add(
                    &number.span,
                    number.key,
                    format!("`{}` is out of range; write {wanted}", number.value),
                );
                None
            }
        }
    }

    /// A duration such as `"30m"`, within a range.
    pub(super) fn duration(&mut self, key: &'static str, range: Range<Duration>) -> Option<At<Duration>> {
        let wanted = "a duration such as \"500ms\", \"30s\", \"15m\" or \"12h\"";
        let bounds = || (humantime::format_duration(range.start), humantime::format_duration(range.end));
        if self.findings.questions.is_some() {
            let (least, most) = bounds();
            self.hear(key, &format!("{wanted}; at least {least} and below {most}"), Kind::Text);
        }
        let At { value, span, key } = self.typed(key, wanted, text)?;
        let Ok(duration) = humantime::parse_duration(&value) else {
            self.findings.add(&span, key, format!("`{value}` is not a duration; write {wanted}"));
            return None;
        };
        if !range.contains(&duration) {
            let (least, most) = bounds();
            self.findings.add(&span, key, format!("`{value}` is out of range; at least {least} and below {most}"));
            return None;
        }
        Some(At { value: duration, span, key })
    }

    /// A list of texts or tables; the latter are read on by [`Table::within`].
    pub(super) fn values(&mut self, key: &'static str, wanted: &str) -> Option<At<DeArray<'t>>> {
        self.offer(key, wanted, Kind::TextsOrTables);
        self.list(key, wanted)
    }

    fn list(&mut self, key: &'static str, wanted: &str) -> Option<At<DeArray<'t>>> {
        self.typed(key, wanted, |value| match value {
            DeValue::Array(array) => Some(array),
            _ => None,
        })
    }

    /// The entries of a table whose keys its users choose.
    pub(super) fn entries(&mut self, key: &'static str) -> Vec<(String, Range<usize>, DeValue<'t>)> {
        self.hear(key, "", Kind::Entries);
        let Some(mut inner) = self.inner(key) else { return Vec::new() };
        let entries = std::mem::take(&mut inner.entries);
        entries.into_iter().map(|(name, (span, value))| (name, span, value.into_inner())).collect()
    }

    /// A table found within the value of a key.
    pub(super) fn within(&self, key: &str, span: Range<usize>, table: DeTable<'t>) -> Table<'f, 't> {
        Table::new(self.findings, self.path_of(key), span, table)
    }

    /// A list of texts, each with its place.
    pub(super) fn texts(&mut self, key: &'static str, wanted: &str) -> Option<At<Vec<At<String>>>> {
        self.hear(key, wanted, Kind::Texts);
        let list = self.list(key, wanted)?;
        let mut texts = Vec::new();
        for value in list.value {
            let span = value.span();
            match text(value.into_inner()) {
                Some(value) => texts.push(At { value, span, key: list.key.clone() }),
                None => self.findings.add(
                    &span,
                    list.key.clone(),
                    format!("holds something that is no text; write {wanted}"),
                ),
            }
        }
        Some(At { value: texts, span: list.span, key: list.key })
    }

    /// A table within.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Table<'f, 't>> {
        self.offer(key, "", Kind::Table);
        self.inner(key)
    }

    fn inner(&mut self, key: &'static str) -> Option<Table<'f, 't>> {
        let findings = self.findings;
        let table = self.typed(key, "a table", |value| match value {
            DeValue::Table(table) => Some(table),
            _ => None,
        })?;
        Some(Table::new(findings, table.key, table.span, table.value))
    }

    /// The tables within, each by the name its users gave it.
    pub(super) fn named_tables(&mut self, key: &'static str) -> Vec<(String, Table<'f, 't>)> {
        self.offer(key, "", Kind::NamedTables);
        let Some(mut outer) = self.inner(key) else { return Vec::new() };
        let mut tables = Vec::new();
        for (name, (span, value)) in std::mem::take(&mut outer.entries) {
            let path = outer.path_of(&name);
            match value.into_inner() {
                DeValue::Table(table) => tables.push((name, Table::new(self.findings, path, span, table))),
                other => self.findings.add(&span, path, format!("is {}; write a table", type_name(&other))),
            }
        }
        tables
    }

    /// A text that has to be there.
    pub(super) fn needed(&mut self, key: &'static str, accepted: &str) -> Option<At<String>> {
        let found = self.text(key, accepted);
        match &found {
            None if !self.has_problem(key) => self.missing(key, &format!("write {accepted}")),
            Some(at) if at.value.is_empty() => self.problem(&at.span, key, format!("is empty; write {accepted}")),
            _ => {}
        }
        found.filter(|at| !at.value.is_empty())
    }

    /// Whether the value of a key is a list; takes nothing.
    fn holds_list(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|(_, value)| matches!(value.get_ref(), DeValue::Array(_)))
    }

    /// One table (`[key]`) or several (`[[key]]`).
    pub(super) fn one_or_more(&mut self, key: &'static str) -> Vec<Table<'f, 't>> {
        self.hear(key, "", Kind::TableToo);
        let one = self.entries.contains_key(key) && !self.holds_list(key);
        if one { self.inner(key).into_iter().collect() } else { self.array_of_tables(key) }
    }

    /// A text that has to be there, or several.
    pub(super) fn text_or_texts(&mut self, key: &'static str, accepted: &str) -> Option<At<Vec<At<String>>>> {
        if self.holds_list(key) {
            return self.texts(key, accepted);
        }
        self.hear(key, accepted, Kind::Texts);
        let one = self.needed(key, accepted)?;
        Some(At { span: one.span.clone(), key: one.key.clone(), value: vec![one] })
    }

    /// An array of tables (`[[key]]`).
    pub(super) fn array_of_tables(&mut self, key: &'static str) -> Vec<Table<'f, 't>> {
        let wanted = format!("tables, each headed `[[{key}]]`");
        self.offer(key, "", Kind::Tables);
        let Some(list) = self.list(key, &wanted) else { return Vec::new() };
        let mut tables = Vec::new();
        for (index, value) in list.value.into_iter().enumerate() {
            let (span, path) = (value.span(), format!("{}[{index}]", list.key));
            match value.into_inner() {
                DeValue::Table(table) => tables.push(Table::new(self.findings, path, span, table)),
                other => self.findings.add(&span, path, format!("is {}; write {wanted}", type_name(&other))),
            }
        }
        tables
    }

    /// What is left is unknown.
    pub(super) fn done(self) {
        for (key, (span, _)) in &self.entries {
            let near = did_you_mean(key, self.known.iter().copied());
            let known =
                if near.is_empty() { format!("; known here: {}", listed(self.known.iter().copied())) } else { near };
            let place = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
            self.findings.add(span, "", format!("{place}unknown key `{key}`{known}"));
        }
    }
}

/// A text value.
pub(super) fn text(value: DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.into_owned()),
        _ => None,
    }
}

/// What a value is, for a message.
pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
