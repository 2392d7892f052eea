//! `portcullis user`. One decision: a password is typed twice without echo or piped in, and never an argument, which every
//! other user of the machine could read. Knows nothing of the running gateway, which notices the changed file by itself.

use std::io::{BufRead, Write};
use std::path::Path;
use std::process::ExitCode;

use zeroize::Zeroizing;

use crate::config::{Config, LocalLogin};
use crate::login::Argon2Params;
use crate::login::password::{self, LONGEST, SHORTEST};
use crate::login::users::{User, Users, canonical};

use super::{BAD_INPUT, CANNOT_START, chain, load, say};

/// What to do.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Add a user.
    Add {
        /// The name to sign in with.
        name: String,
        /// A declared role; may be repeated.
        #[arg(long = "role")]
        roles: Vec<String>,
        /// Name for display.
        #[arg(long)]
        display_name: Option<String>,
        /// E-mail address.
        #[arg(long)]
        email: Option<String>,
        /// Read the password from the first line of standard input.
        #[arg(long)]
        password_stdin: bool,
    },
    /// List all users.
    List,
    /// Change a password; the running gateway ends the sessions of the one before within seconds.
    Passwd {
        /// Whose.
        name: String,
        /// Read the password from the first line of standard input.
        #[arg(long)]
        password_stdin: bool,
    },
    /// Remove a user; the running gateway ends their sessions within seconds.
    Remove {
        /// Whom.
        name: String,
    },
}

/// Carry it out.
pub(super) fn run(path: &Path, command: Command) -> ExitCode {
    let config = match load::load(path) {
        Ok(config) => config,
        Err(error) => {
            say(&error.to_string());
            return ExitCode::from(BAD_INPUT);
        }
    };
    let Some(local) = config.local.clone() else {
        say("portcullis: the configuration has no [login.local]; write it with `users = \"users.toml\"`");
        return ExitCode::from(BAD_INPUT);
    };
    let done = match command {
        Command::List => list(&local),
        Command::Remove { name } => remove(&local, &name),
        Command::Passwd { name, password_stdin } => passwd(&local, &name, password_stdin),
        Command::Add { name, roles, display_name, email, password_stdin } => {
            let new = User::new(String::new(), roles).map_err(|error| chain(&error));
            new.and_then(|new| add(&config, &local, &name, User { name: display_name, email, ..new }, password_stdin))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            say(&format!("portcullis: {wrong}"));
            ExitCode::from(CANNOT_START)
        }
    }
}

fn named(name: &str) -> Result<String, String> {
    canonical(name).ok_or_else(|| format!("`{name}` is not a user name; use letters, digits and . _ @ + -"))
}

fn add(config: &Config, local: &LocalLogin, name: &str, user: User, stdin: bool) -> Result<(), String> {
    let name = named(name)?;
    if let Some(unknown) = user.roles.iter().find(|role| config.roles.id(role).is_none()) {
        let declared: Vec<&str> = config.roles.iter().collect();
        return Err(format!("role `{unknown}` is not declared in `roles`; declared: {}", declared.join(", ")));
    }
    for (what, text) in [("display name", &user.name), ("e-mail address", &user.email)] {
        // No header carries it, and an application that is told by other means would take one line for two.
        if text.as_ref().is_some_and(|text| text.is_empty() || text.chars().any(char::is_control)) {
            return Err(format!("the {what} is empty or has control characters in it"));
        }
    }
    let password = hashed(local, &name, stdin)?;
    let added = Users::change(&local.users, |users| match users.user.contains_key(&name) {
        true => false,
        false => users.user.insert(name.clone(), User { password, ..user }).is_none(),
    });
    match added.map_err(|error| chain(&error))? {
        true => {
            say(&format!("added `{name}`"));
            Ok(())
        }
        false => Err(format!("there is a user `{name}` already; change the password by `user passwd {name}`")),
    }
}

fn passwd(local: &LocalLogin, name: &str, stdin: bool) -> Result<(), String> {
    let name = named(name)?;
    let password = hashed(local, &name, stdin)?;
    let changed = Users::change(&local.users, |users| {
        users.user.get_mut(&name).map(|user| user.change_password(password)).is_some()
    });
    match changed.map_err(|error| chain(&error))? {
        true => {
            // ASVS 7.4.3: whoever changes a password because somebody else knew it wants that one out.
            say(&format!("changed the password of `{name}`; a running gateway ends their sessions within seconds"));
            Ok(())
        }
        false => Err(format!("there is no user `{name}`")),
    }
}

fn remove(local: &LocalLogin, name: &str) -> Result<(), String> {
    let name = named(name)?;
    let removed = Users::change(&local.users, |users| users.user.remove(&name).is_some());
    match removed.map_err(|error| chain(&error))? {
        true => {
            say(&format!("removed `{name}`; a running gateway ends their sessions within seconds"));
            Ok(())
        }
        false => Err(format!("there is no user `{name}`")),
    }
}

fn list(local: &LocalLogin) -> Result<(), String> {
    // What cannot be looked at is there: whoever may not read it must not take it for nobody.
    if let Ok(false) = local.users.try_exists() {
        return Ok(());
    }
    let users = Users::read(&local.users).map_err(|error| chain(&error))?;
    let mut out = std::io::stdout().lock();
    for (name, user) in &users.user {
        let state = if user.disabled { " (disabled)" } else { "" };
        let _ = writeln!(out, "{name}{state}\t{}", user.roles.join(","));
    }
    Ok(())
}

/// Ask for a password and hash it.
fn hashed(local: &LocalLogin, name: &str, stdin: bool) -> Result<String, String> {
    let password = if stdin { piped()? } else { prompted()? };
    if password.chars().count() < SHORTEST || password.len() > LONGEST {
        return Err(format!("a password has {SHORTEST} characters at least and {LONGEST} bytes at most"));
    }
    if password.eq_ignore_ascii_case(name) {
        return Err("a password must not be the user's name".to_owned());
    }
    let params = Argon2Params { m_kib: local.argon2_memory_kib, t: local.argon2_passes, p: local.argon2_lanes };
    password::hash(&password, params).map_err(|error| chain(&error))
}

fn piped() -> Result<Zeroizing<String>, String> {
    let mut line = Zeroizing::new(String::new());
    std::io::stdin().lock().read_line(&mut line).map_err(|error| chain(&error))?;
    Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}

fn prompted() -> Result<Zeroizing<String>, String> {
    let nowhere = |error| {
        format!("no terminal to ask for the password on ({}); `--password-stdin` reads it from a pipe", chain(&error))
    };
    let ask = |prompt| rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(nowhere);
    let (first, second) = (ask("Password: ")?, ask("Once more: ")?);
    if *first == *second { Ok(first) } else { Err("the two passwords differ".to_owned()) }
}
