//! `portcullis sessions`. One decision: it asks the running gateway, which alone can say that a session is served no more; this
//! command holds nothing but the address and the token, which it finds where the gateway does. Knows nothing of stores.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use http::Method;
use serde_json::json;

use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::startup::{self, transfer::Imported, transfer::TransferError};

use super::operator::Operator;
use super::{BAD_INPUT, CANNOT_START, NOT_FOUND, chain, load, say};

/// What to do.
#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List a user's sessions, latest activity first.
    List {
        /// Whose: a local user's name, or the subject (`sub`) that the provider knows them by.
        #[arg(long)]
        user: String,
        /// Where they signed in: `local`, or an OpenID provider's name or issuer.
        #[arg(long, default_value = "local")]
        provider: String,
    },
    /// Write out a store of one's own (`embedded:PATH`), while its gateway does not run.
    Export,
    /// Read what was written out, from standard input, into the store of this configuration; may be done again, and brings back nothing
    /// that was revoked there.
    Import,
    /// End sessions, and wait until no node serves them any more.
    #[command(group = clap::ArgGroup::new("what").required(true))]
    Revoke {
        /// All of a user's; named as in `list`.
        #[arg(long, group = "what")]
        user: Option<String>,
        /// Where the user signed in: `local`, or an OpenID provider's name or issuer.
        #[arg(long, default_value = "local", conflicts_with_all = ["session", "others_of", "all"])]
        provider: String,
        /// One, by the handle that `list` shows.
        #[arg(long, group = "what", value_name = "HANDLE")]
        session: Option<String>,
        /// All of the user's whose session this is, but this one.
        #[arg(long, group = "what", value_name = "HANDLE")]
        others_of: Option<String>,
        /// Everybody's.
        #[arg(long, group = "what")]
        all: bool,
    },
}

/// Carry it out.
pub(super) fn run(file: &Path, command: Command) -> ExitCode {
    match command {
        Command::Export => transfer(file, |config| {
            let sessions = startup::transfer::export(config, &mut std::io::stdout().lock(), SystemClock.now())?;
            Ok(format!("sessions: {sessions}"))
        }),
        Command::Import => transfer(file, |config| {
            let Imported { sessions, there, revoked } =
                startup::transfer::import(config, &mut std::io::stdin().lock(), SystemClock.now())?;
            Ok(format!("sessions: {sessions}; there already: {there}; revoked there, and left out: {revoked}"))
        }),
        other => asked(file, other),
    }
}

fn transfer(file: &Path, carry: impl FnOnce(&Config) -> Result<String, TransferError>) -> ExitCode {
    let config = match load::load(file) {
        Ok(config) => config,
        Err(error) => {
            say(&error.to_string());
            return ExitCode::from(BAD_INPUT);
        }
    };
    match carry(&config) {
        Ok(done) => {
            say(&done);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("portcullis: {}", chain(&error)));
            ExitCode::from(CANNOT_START)
        }
    }
}

fn asked(file: &Path, command: Command) -> ExitCode {
    // Of `--all` and `--others-of` nothing can be misspelt: none to end is as it should be.
    let is_named = matches!(&command, Command::Revoke { user, session, .. } if user.is_some() || session.is_some());
    let done = Operator::of(file).and_then(|operator| match command {
        Command::List { user, provider } => {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("user", &user).append_pair("provider", &provider);
            operator.ask(Method::GET, &format!("/sessions?{}", query.finish()), None)
        }
        Command::Export | Command::Import => Ok(json!(null)),
        Command::Revoke { user, provider, session, others_of, all: _ } => {
            let what = match (user, session, others_of) {
                (Some(user), ..) => json!({ "user": user, "provider": provider }),
                (_, Some(session), _) => json!({ "session": session }),
                (_, _, Some(session)) => json!({ "others_of": session }),
                _ => json!({ "everyone": true }),
            };
            let told = operator.ask(Method::POST, "/sessions/revoke", Some(&what))?;
            if told["ended"] == 0 {
                say("portcullis: no session was found; none was ended");
            }
            Ok(told)
        }
    });
    match done {
        Ok(told) => {
            // Whoever reads it may have gone.
            let _ = writeln!(std::io::stdout(), "{told}");
            if is_named && told["ended"] == 0 { ExitCode::from(NOT_FOUND) } else { ExitCode::SUCCESS }
        }
        Err(code) => code,
    }
}
