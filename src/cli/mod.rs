//! The command line. One decision: exit code 0 is fine, 1 is *cannot start*, 2 is bad arguments or configuration; what is
//! said goes to standard error, what was asked for to standard output. Knows nothing of how anything is done.

mod check;
mod explain;
mod lines;
mod load;
mod manager;
mod messages;
mod operator;
mod records;
mod run;
mod sessions;
mod token;
mod user;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::causes::line as chain;
use crate::config::Config;

/// An authentication gateway in front of applications you cannot change.
#[derive(Parser)]
#[command(name = "portcullis", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration file; paths in it are relative to the folder it is named in here, links not followed.
    #[arg(long, global = true, default_value = "gateway.toml", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Start the gateway (what is done without a command, too).
    Run,
    /// Say everything that is wrong with a configuration, and start nothing.
    Check {
        /// Ask the OpenID providers as well, and say what is wrong with them.
        #[arg(long)]
        online: bool,
    },
    /// Say which route a request would fall under, why, and what would be forwarded.
    Explain(explain::Arguments),
    /// Local users.
    User {
        #[command(subcommand)]
        command: user::Command,
    },
    /// Tokens: their keys, and revoking them. Asks the running gateway.
    Token {
        #[command(subcommand)]
        command: token::Command,
    },
    /// Sessions of the running gateway.
    Sessions {
        #[command(subcommand)]
        command: sessions::Command,
    },
    /// A small application that shows what it received.
    Whoami {
        /// Where it listens (plain HTTP).
        #[arg(long, default_value = "127.0.0.1:9000", value_name = "ADDR")]
        listen: SocketAddr,
    },
    /// The JSON schema of the configuration file, on standard output, for editors and validators.
    Schema,
    /// Completions for a shell, on standard output.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// It cannot start.
const CANNOT_START: u8 = 1;
/// Bad arguments or configuration.
const BAD_INPUT: u8 = 2;
/// What was named was not there: a name that is misspelt must not look like work done.
const NOT_FOUND: u8 = 3;

/// Run the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = &arguments.config;
    match arguments.command.unwrap_or(Command::Run) {
        Command::Run => run::run(config),
        Command::Check { online } => check::run(config, online),
        Command::Explain(arguments) => explain::run(config, &arguments),
        Command::User { command } => user::run(config, command),
        Command::Sessions { command } => sessions::run(config, command),
        Command::Token { command } => token::run(config, command),
        Command::Whoami { listen } => whoami(listen),
        Command::Schema => print(format!("{:#}\n", Config::schema()).as_bytes()),
        Command::Completions { shell } => {
            // Not to the output itself, where a full disk would be a panic.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "portcullis", &mut script);
            print(&script)
        }
    }
}

/// What was asked for, on standard output.
fn print(what: &[u8]) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(what).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("portcullis: standard output cannot be written: {error}"));
            ExitCode::from(CANNOT_START)
        }
    }
}

fn whoami(listen: SocketAddr) -> ExitCode {
    match crate::whoami::Whoami::start(listen) {
        Ok(whoami) => {
            say(&format!("whoami listens on http://{}", whoami.address()));
            whoami.wait();
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("portcullis: cannot listen on {listen}: {error}"));
            ExitCode::from(CANNOT_START)
        }
    }
}

/// A line on standard error; a closed one is nobody's problem.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}
