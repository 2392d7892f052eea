//! `[login]`. One decision: a parameter that makes passwords cheap to guess is a mistake, not a choice. Knows nothing of users.

use std::path::Path;

use crate::policy::RoleNames;

use super::oidc::providers;
use super::table::Table;
use super::{LocalLogin, OidcLogin};

/// OWASP's first recommendation for argon2id; stronger ones are the user's to choose.
const ARGON2: (u32, u32, u32) = (19 * 1024, 2, 1);

/// Where people sign in. `None` stands for a mistake.
pub(super) struct Logins {
    pub(super) local: Option<Option<LocalLogin>>,
    pub(super) oidc: Option<Vec<OidcLogin>>,
    /// The names that a route may ask for, right or mistaken.
    pub(super) names: Vec<String>,
}

/// All places.
pub(super) fn login(root: &mut Table<'_, '_>, roles: &RoleNames, base: &Path) -> Logins {
    let Some(mut login) = root.table("login") else {
        let fine = !root.has_problem("login");
        return Logins { local: fine.then_some(None), oidc: fine.then(Vec::new), names: Vec::new() };
    };
    let local = login.table("local").map(|table| local_login(table, base));
    let mut names: Vec<String> = local.iter().map(|_| "local".to_owned()).collect();
    names.extend(login.names("oidc"));
    let oidc = providers(&mut login, local.is_some(), roles, base);
    let local = local.map_or_else(|| (!login.has_problem("local")).then_some(None), |local| local.map(Some));
    login.done();
    Logins { local, oidc, names }
}

fn local_login(mut table: Table<'_, '_>, base: &Path) -> Option<LocalLogin> {
    let users = table.text("users", "the path of the user file");
    if users.is_none() && !table.has_problem("users") {
        table.missing("users", "write the path of the user file, such as \"users.toml\"");
    }
    let demo_user = table.text("demo_user", "a user name").map(|at| at.value);
    let (memory, passes, lanes) = ARGON2;
    let number = |found: Option<u64>, default| found.and_then(|number| u32::try_from(number).ok()).unwrap_or(default);
    // Below OWASP's list of equal choices a stolen file is guessed too fast: 7 MiB with five passes is its least.
    let argon2_memory_kib = number(table.number("argon2_memory_kib", 7 * 1024..4 * 1024 * 1024), memory);
    let argon2_passes = number(table.number("argon2_passes", 1..101), passes);
    let argon2_lanes = number(table.number("argon2_lanes", 1..17), lanes);
    if u64::from(argon2_memory_kib) * u64::from(argon2_passes) < 5 * 7 * 1024 {
        let span = table.span().clone();
        let accepted = "argon2_memory_kib times argon2_passes at least 35840, as in 19456 and 2, or 7168 and 5";
        table.problem(&span, "argon2_memory_kib", format!("too weak for passwords; {accepted}"));
    }
    table.done();
    let users = base.join(users?.value);
    Some(LocalLogin { users, demo_user, argon2_memory_kib, argon2_passes, argon2_lanes })
}
