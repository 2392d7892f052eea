//! What the reader of the file asks for. One decision: the schema is what was asked, by the very functions that read a file; there
//! is no second list of keys that could fall behind. Knows nothing of what keys mean.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use serde_json::{Map, Value, json};
use toml::de::DeTable;

use super::Config;
use super::parse::read;
use super::table::{Findings, Table};

/// What a table whose name its users choose is called while listening.
pub(super) const NAME: &str = "name";

/// What a value may be.
#[derive(Clone)]
pub(super) enum Kind {
    Text,
    Words(&'static [&'static str]),
    Flag,
    Number(Range<u64>),
    Texts,
    Table,
    /// One table, where several may stand as well: what is within is heard there.
    TableToo,
    Tables,
    NamedTables,
    TextsOrTables,
    Entries,
}

/// The keys of a table; for each the forms its value may have, with what is accepted in words.
type Asked = BTreeMap<&'static str, Vec<(Kind, String)>>;

/// What was asked for, table by table.
#[derive(Default)]
pub(super) struct Questions {
    asked: BTreeMap<String, Asked>,
    needed: BTreeMap<String, BTreeSet<String>>,
    withheld: Option<(String, &'static str)>,
}

impl Questions {
    pub(super) fn add(&mut self, table: &str, key: &'static str, wanted: &str, kind: Kind) {
        let asked = self.asked.entry(table.to_owned()).or_default().entry(key).or_default();
        if !asked.iter().any(|(known, _)| std::mem::discriminant(known) == std::mem::discriminant(&kind)) {
            asked.push((kind, wanted.to_owned()));
        }
    }

    pub(super) fn needed(&mut self, table: &str, key: &str) {
        self.needed.entry(table.to_owned()).or_default().insert(key.to_owned());
    }

    pub(super) fn withholds(&self, table: &str, key: &str) -> bool {
        self.withheld.as_ref().is_some_and(|(place, name)| place == table && *name == key)
    }

    /// The schema of a table.
    fn table(&self, path: &str) -> Value {
        let mut properties = Map::new();
        for (key, kinds) in self.asked.get(path).into_iter().flatten() {
            let place = if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
            let mut forms: Vec<Value> = kinds.iter().map(|(kind, wanted)| self.value(&place, kind, wanted)).collect();
            let form = if forms.len() == 1 { forms.remove(0) } else { json!({ "anyOf": forms }) };
            properties.insert((*key).to_owned(), form);
        }
        let needed: Vec<&String> = self.needed.get(path).into_iter().flatten().collect();
        json!({ "type": "object", "properties": properties, "required": needed, "additionalProperties": false })
    }

    fn value(&self, place: &str, kind: &Kind, wanted: &str) -> Value {
        let within = |inner: &str| self.table(&format!("{place}{inner}"));
        let text = || json!({ "type": "string" });
        let mut value = match kind {
            Kind::Text => text(),
            Kind::Words(words) => json!({ "enum": words }),
            Kind::Flag => json!({ "type": "boolean" }),
            Kind::Number(range) => json!({ "type": "integer", "minimum": range.start, "maximum": range.end - 1 }),
            Kind::Texts => json!({ "type": "array", "items": text() }),
            Kind::Table => within(""),
            Kind::TableToo => within("[0]"),
            Kind::Tables => json!({ "type": "array", "items": within("[0]") }),
            Kind::NamedTables => json!({ "type": "object", "additionalProperties": within(&format!(".{NAME}")) }),
            Kind::TextsOrTables => json!({ "type": "array", "items": { "anyOf": [text(), within("")] } }),
            Kind::Entries => json!({ "type": "object", "additionalProperties": text() }),
        };
        if let (false, Some(object)) = (wanted.is_empty(), value.as_object_mut()) {
            object.insert("description".to_owned(), Value::from(wanted));
        }
        value
    }

    /// Every key of every table that is made up for whoever listens.
    fn tables(&self) -> Vec<(String, &'static str)> {
        let holds = |kind: &Kind| matches!(kind, Kind::Table | Kind::Tables | Kind::NamedTables | Kind::TextsOrTables);
        let keys = self.asked.iter().flat_map(|(path, keys)| keys.iter().map(move |(key, kinds)| (path, key, kinds)));
        keys.filter(|(.., kinds)| kinds.iter().any(|(kind, _)| holds(kind)))
            .map(|(path, key, _)| (path.clone(), *key))
            .collect()
    }
}

/// Read a file that is not there, and listen.
fn listen(questions: &Rc<RefCell<Questions>>) {
    let findings = Findings::listening(Rc::clone(questions));
    let mut root = Table::new(&findings, String::new(), 0..0, DeTable::new());
    let _ = read(&mut root, Path::new("/"));
}

impl Config {
    /// The JSON schema (draft 2020-12) of the file: its keys, their types and bounds, and which have to be there in any case. What
    /// depends on other keys it does not say.
    pub fn schema() -> Value {
        let questions = Rc::<RefCell<Questions>>::default();
        listen(&questions);
        // Whether a table has to be there shows where it is not.
        let tables = questions.borrow().tables();
        for table in tables {
            questions.borrow_mut().withheld = Some(table);
            listen(&questions);
        }
        let mut schema = questions.borrow().table("");
        if let Some(object) = schema.as_object_mut() {
            object.insert("$schema".to_owned(), Value::from("https://json-schema.org/draft/2020-12/schema"));
            object.insert("title".to_owned(), Value::from("The configuration of Portcullis (gateway.toml)"));
        }
        schema
    }
}
