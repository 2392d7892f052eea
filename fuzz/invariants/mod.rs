//! What must hold whatever comes. One decision: an invariant is a function of bytes that panics where it does not hold, so that libFuzzer
//! looks for a way around it and the tests ask it too (`cargo test --lib invariants`), and cannot be left behind by the program.
//! Each compares with something that knows nothing of the gateway.

mod addresses;
mod answers;
mod clients;
mod config;
mod cookies;
mod io;
mod pages;
mod paths;
mod records;
mod requests;
mod tokens;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use crate::config::Config;
use crate::policy::{Caller, Identity, Proof, RoleNames, RoleSet};

/// An invariant, by the name of its target and of its seeds.
pub type Invariant = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: [Invariant; 10] = [
    ("addresses", addresses::hold),
    ("answers", answers::hold),
    ("clients", clients::hold),
    ("config", config::hold),
    ("cookies", cookies::hold),
    ("pages", pages::hold),
    ("paths", paths::hold),
    ("records", records::hold),
    ("requests", requests::hold),
    ("tokens", tokens::hold),
];

/// The configuration that they ask.
static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    Config::parse(include_str!("gateway.toml"), "gateway.toml", Path::new("/"))
        .unwrap_or_else(|errors| panic!("{errors}"))
});

/// Somebody with these roles.
fn caller(names: &RoleNames, roles: &[&str]) -> Arc<Caller> {
    let roles: RoleSet = names.set(roles.iter().copied());
    let identity = Identity {
        subject: "alice".to_owned(),
        name: Some("Alice".to_owned()),
        email: None,
        roles,
        role_names: names.names(roles).map(str::to_owned).collect(),
        proof: Proof::Session,
        signed_in: None,
    };
    Arc::new(CONFIG.identity_headers.caller(identity))
}

/// Ask the one of this name.
pub fn hold(name: &str, data: &[u8]) {
    let (_, hold) = ALL.iter().find(|(known, _)| *known == name).expect("a target is an invariant's");
    hold(data);
}
