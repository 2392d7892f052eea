//! `portcullis schema`: what it prints is held against files by a validator of another ecosystem, and against the parser.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use portcullis::config::Config;
use serde_json::Value;

use crate::tools;

const RIGHT: [&str; 3] = [
    include_str!("../../gateway.toml"),
    include_str!("../data/config/right/everything.toml"),
    include_str!("../data/config/right/least.toml"),
];

fn schema() -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis")).arg("schema").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What the validator says of each text: `fine`, or what is wrong.
fn validated(texts: &[String]) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), schema().to_string()).unwrap();
    let mut command = tools::python("python");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/schema.py")).arg(file.path());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(serde_json::to_string(texts).unwrap().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let said: Vec<String> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(said.len(), texts.len());
    said
}

fn parsed(text: &str) -> Result<Config, String> {
    Config::parse(text, "gateway.toml", Path::new("/")).map_err(|errors| errors.to_string())
}

/// The keys of every table; those that users choose are not among them.
fn keys(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    for form in schema["anyOf"].as_array().into_iter().flatten() {
        keys(form, path, found);
    }
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        keys(value, &path, found);
        found.insert(path);
    }
    for within in ["items", "additionalProperties"].iter().filter_map(|name| schema.get(name)) {
        keys(within, path, found);
    }
}

#[test]
fn files_that_start_are_fine_by_the_schema() {
    for (text, said) in RIGHT.iter().zip(validated(&RIGHT.map(str::to_owned))) {
        parsed(text).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert_eq!(said, "fine", "{text}");
    }
}

/// So that a key that the parser learns cannot be left out of the files that are held against the schema.
#[test]
fn every_key_of_the_schema_stands_in_a_file_that_starts() {
    let mut known = BTreeSet::new();
    keys(&schema(), "", &mut known);
    assert!(known.len() > 130, "{} keys", known.len());
    let words: BTreeSet<&str> = RIGHT
        .iter()
        .flat_map(|text| text.lines().filter(|line| !line.starts_with('#')))
        .flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .collect();
    let absent: Vec<&String> = known.iter().filter(|key| !words.contains(key.rsplit('.').next().unwrap())).collect();
    assert!(absent.is_empty(), "{absent:?}");
}

#[test]
fn the_schema_refuses_what_the_parser_does_not_know() {
    let everything = RIGHT[1];
    let (mut wrong, mut at) = (Vec::new(), 0);
    // In every table, headed or written inline, but the three whose keys users choose.
    for line in everything.split_inclusive('\n') {
        let chosen =
            line.starts_with("role_map") || line.contains("set_headers") || line.contains("set_response_headers");
        let place = if line.starts_with('[') { Some(line.len()) } else { line.find("{ ").map(|brace| brace + 2) };
        if let Some(place) = place.filter(|_| !chosen) {
            let key = if line.starts_with('[') { "stray = 1\n" } else { "stray = 1, " };
            wrong.push(format!("{}{key}{}", &everything[..at + place], &everything[at + place..]));
        }
        at += line.len();
    }
    wrong.push(format!("stray = 1\n{everything}"));
    // Other types and bounds, and what has to be there.
    for (right, other) in [
        ("workers = 2", "workers = 0"),
        ("workers = 2", "workers = \"two\""),
        ("proxy_protocol = true", "proxy_protocol = 1"),
        ("methods = [\"GET\"]", "methods = \"GET\""),
        ("access = \"public\"", "access = \"everybody\""),
        ("access = \"public\"", ""),
        ("listen = \"127.0.0.1:8443\"", ""),
        ("[identity_headers]", "[log_headers]"),
        ("users = \"users.toml\"", ""),
        ("max_age = \"12h\"", "max_age = 12"),
    ] {
        wrong.push(everything.replacen(right, other, 1));
    }
    assert!(wrong.len() > 30, "{} files", wrong.len());
    for (text, said) in wrong.iter().zip(validated(&wrong)) {
        assert!(parsed(text).is_err(), "the parser takes {text}");
        assert_ne!(said, "fine", "the schema takes {text}");
    }
}
