//! `portcullis token`: keys of our own tokens, and revoking anybody's. One decision: what is revoked is named as the token names it –
//! issuer and id, issuer and subject – because that is what an operator reads in a log. Knows nothing of how it is carried out.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::operator::Operator;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make new keys; they sign when everybody knows them, and nobody is signed out.
    RotateKeys,
    /// The keys, and what they may do.
    Keys,
    /// Revoke tokens, on all nodes, before they end by themselves.
    Revoke(Revoke),
}

#[derive(Args)]
#[command(group(ArgGroup::new("what").required(true).args(["jti", "user", "all"])))]
pub(super) struct Revoke {
    /// The one token that calls itself so (`jti`).
    #[arg(long, requires = "issuer")]
    jti: Option<String>,
    /// Everything of this subject that was issued until now.
    #[arg(long)]
    user: Option<String>,
    /// Whose token or user it is (`iss`, or an OpenID provider's name); local users without.
    #[arg(long, conflicts_with = "all")]
    issuer: Option<String>,
    /// Everything of everybody that was issued until now, sessions included.
    #[arg(long)]
    all: bool,
}

/// The provider of local users.
const LOCAL: &str = "local";

pub(super) fn run(file: &Path, command: Command) -> ExitCode {
    match asked(file, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}

fn asked(file: &Path, command: Command) -> Result<(), ExitCode> {
    let operator = Operator::of(file)?;
    match command {
        Command::RotateKeys => show(&operator.ask(Method::POST, "/token/rotate", None)?),
        Command::Keys => show(&operator.ask(Method::GET, "/token/keys", None)?),
        Command::Revoke(Revoke { jti, user, issuer, .. }) => {
            let issuer = issuer.unwrap_or_else(|| LOCAL.to_owned());
            let is_one = jti.is_some();
            let body = match (jti, user) {
                (Some(jti), _) => json!({ "jti": jti, "issuer": issuer }),
                (_, Some(user)) => json!({ "user": user, "issuer": issuer }),
                _ => json!({ "everyone": true }),
            };
            let said = operator.ask(Method::POST, "/token/revoke", Some(&body))?;
            print(&match said["sessions_ended"].as_u64() {
                _ if is_one => "revoked".to_owned(),
                Some(0) => "revoked; no session was found, so none ended with it".to_owned(),
                _ => format!("revoked; sessions that ended with it: {}", said["sessions_ended"]),
            });
        }
    }
    Ok(())
}

fn show(keys: &Value) {
    for key in keys.as_array().into_iter().flatten() {
        let text = |name| key[name].as_str().unwrap_or_default();
        print(&format!("{:<10} {:<6} {}", text("id"), text("purpose"), text("state")));
    }
}

/// A closed standard output is nobody's problem.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
