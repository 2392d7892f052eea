//! The rooms and their direction, held by reading the source: who may use whom, which crate stays in which file, and how long
//! files and functions may get.

use std::fs;
use std::path::{Path, PathBuf};

/// A room may use those listed. `main` and tests are not rooms.
const MAY_USE: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("counter", &[]),
    ("seats", &[]),
    ("sparing", &[]),
    ("memory", &[]),
    ("places", &[]),
    ("budget", &["clock"]),
    ("policy", &[]),
    ("causes", &[]),
    ("small", &[]),
    ("seldom", &[]),
    ("task", &[]),
    ("private", &[]),
    ("stamp", &[]),
    ("socket", &[]),
    ("reach", &[]),
    ("trust", &[]),
    ("fetch", &["reach", "task", "trust"]),
    ("upstream", &["causes", "counter", "reach", "seldom", "socket", "sparing", "task", "trust"]),
    ("whoami", &["small", "task"]),
    ("config", &["policy"]),
    ("session", &["causes", "clock", "counter", "memory", "places", "policy", "private", "reach", "task", "trust"]),
    ("token", &["budget", "clock", "fetch", "memory", "places", "policy", "session", "task"]),
    ("authn", &["clock", "policy", "session", "token"]),
    (
        "login",
        &["authn", "budget", "clock", "counter", "fetch", "memory", "policy", "session", "stamp", "task", "token"],
    ),
    (
        "proxy",
        &[
            "authn", "causes", "clock", "counter", "login", "policy", "seldom", "session", "sparing", "task", "token",
            "upstream",
        ],
    ),
    (
        "server",
        &[
            "budget", "causes", "counter", "private", "proxy", "seats", "seldom", "small", "socket", "sparing",
            "stamp", "task", "trust",
        ],
    ),
    (
        "admin",
        &[
            "causes", "clock", "counter", "private", "proxy", "seats", "server", "session", "small", "sparing", "task",
            "token",
        ],
    ),
    (
        "startup",
        &[
            "admin", "authn", "causes", "clock", "config", "fetch", "login", "private", "proxy", "server", "session",
            "stamp", "task", "token", "trust", "upstream", "whoami",
        ],
    ),
    ("cli", &["causes", "clock", "config", "fetch", "login", "policy", "proxy", "startup", "whoami"]),
];

/// A crate stays where it is named, so that it is replaced by editing one room.
const STAYS_IN: &[(&str, &[&str])] = &[
    ("jsonwebtoken", &["token/"]),
    ("moka", &["memory.rs", "session/cache.rs"]),
    ("redb", &["session/store/"]),
    ("redis", &["session/store/redis/"]),
    ("rustls", &["server/", "session/store/redis/", "trust.rs", "upstream/tls.rs"]),
    ("rcgen", &["server/tls.rs"]),
    ("rustix", &["clock.rs", "login/password.rs", "socket.rs", "startup/descriptors.rs"]),
    ("toml", &["config/", "login/users.rs"]),
    ("argon2", &["login/password.rs"]),
    ("minijinja", &["login/pages.rs", "whoami.rs"]),
    ("h2", &["server/", "upstream/mod.rs"]),
    ("hyper", &["admin/", "fetch/", "proxy/", "server/", "small.rs", "upstream/", "whoami.rs"]),
    ("prometheus_client", &["admin/metrics.rs"]),
    ("clap", &["cli/"]),
];

struct Source {
    name: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut found) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                found.push(Source { name, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    assert!(found.len() > 40, "the sources were found");
    found
}

/// The text without its tests and comments.
fn code(source: &Source) -> String {
    let body = source.text.split("#[cfg(test)]").next().unwrap_or_default();
    body.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn rooms_use_each_other_in_one_direction() {
    for source in sources().iter().filter(|source| !matches!(source.name.as_str(), "main.rs" | "lib.rs")) {
        let room = source.name.split('/').next().unwrap().trim_end_matches(".rs");
        let (_, allowed) =
            MAY_USE.iter().find(|(name, _)| *name == room).unwrap_or_else(|| panic!("{room} has no row"));
        for used in code(source).split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            let fine = used == room || allowed.contains(&used.as_str());
            assert!(fine, "{} uses {used}; {room} may use {allowed:?}", source.name);
        }
    }
}

#[test]
fn a_crate_stays_in_its_room() {
    for source in sources() {
        let code = code(&source);
        for (name, places) in STAYS_IN {
            let named = [format!("use {name}::"), format!(" {name}::"), format!("({name}::"), format!("<{name}::")];
            let uses = named.iter().any(|form| code.contains(form.as_str()));
            let fine = places.iter().any(|place| source.name.starts_with(place))
                || (*name == "rustls" && source.name.starts_with("startup/"));
            assert!(fine || !uses, "{} uses {name}, which stays in {places:?}", source.name);
        }
    }
}

/// attacks: policy 10. Within the crate privacy of fields ends at the file; so nobody else there may be.
#[test]
fn only_decide_makes_a_permit_and_only_forward_sends() {
    for source in sources() {
        let code = code(&source);
        let makes = code.contains("Permit {") && source.name != "policy/decide.rs";
        assert!(!makes, "{} makes a permit", source.name);
        let sends = code.contains(".send(") && code.contains("pools[") && source.name != "proxy/forward.rs";
        assert!(!sends, "{} sends to an application", source.name);
    }
}

/// `Instant` stands still while a machine is suspended, and a lease that it measures does not end.
#[test]
fn leases_are_measured_by_a_clock_that_goes_on_in_suspension() {
    for source in sources().iter().filter(|source| source.name.starts_with("session/coherence/")) {
        let code = code(source);
        assert!(!code.contains("Instant") && !code.contains("sleep_until"), "{}", source.name);
        assert!(
            source.name != "session/coherence/driver.rs" || code.contains("since_boot().saturating_sub(self.began)")
        );
    }
}

#[test]
fn policy_is_pure() {
    for source in sources().iter().filter(|source| source.name.starts_with("policy/")) {
        for line in code(source).lines().filter(|line| line.trim_start().starts_with("use ")) {
            let line = line.trim_start().trim_start_matches("use ");
            let fine = ["std::", "http::", "super::"].iter().any(|start| line.starts_with(start));
            assert!(fine, "{}: {line}", source.name);
        }
        for word in ["async ", "SystemTime", "Instant", "std::fs", "std::env"] {
            assert!(!code(source).contains(word), "{}: {word}", source.name);
        }
    }
}

#[test]
fn files_and_functions_stay_short_and_say_what_they_are() {
    for source in sources() {
        assert!(source.text.starts_with("//! "), "{} opens without saying what it is", source.name);
        assert!(source.text.lines().count() <= 600, "{} is too long", source.name);
        let code = code(&source);
        for word in ["::*;", "todo!(", "unimplemented!(", "dbg!("] {
            assert!(!code.contains(word), "{}: {word}", source.name);
        }
        let (mut begun, mut depth): (Option<(usize, usize)>, _) = (None, 0);
        for (number, line) in source.text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let start = line.trim_start();
            if begun.is_none() && (start.starts_with("fn ") || start.contains(" fn ")) && !start.starts_with("//") {
                (begun, depth) = (Some((number, indent)), indent);
            }
            if let Some((from, _)) = begun
                && indent == depth
                && (start.starts_with('}') || start.ends_with('}') || start.ends_with(';'))
            {
                assert!(number - from < 70, "{}:{} is a function of {} lines", source.name, from + 1, number - from);
                begun = None;
            }
        }
    }
}
