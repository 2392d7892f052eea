//! `portcullis run`. One decision: it says in one line where it listens and in one line why it cannot, after everything that is wrong
//! with the files; it reads its configuration again on SIGHUP, and ends on SIGTERM or SIGINT after a drain. Knows nothing of requests.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use crate::clock::SystemClock;
use crate::config::{Config, LogFormat};
use crate::proxy::Format;
use crate::startup::{self, Gateway, ReloadError, Setup};

use super::load::LoadError;
use super::messages::Messages;
use super::records::StandardOutput;
use super::{BAD_INPUT, CANNOT_START, chain, is_terminal, load, say};

/// Start, serve, drain.
pub fn run(path: &Path) -> ExitCode {
    let config = match load::load(path) {
        Ok(config) => config,
        Err(error) => {
            say(&error.to_string());
            return ExitCode::from(BAD_INPUT);
        }
    };
    let messages = match Messages::take_over(config.log.format == Some(LogFormat::Json)) {
        Ok(messages) => messages,
        Err(error) => {
            say(&format!("portcullis: cannot start: {error}"));
            return ExitCode::from(CANNOT_START);
        }
    };
    // Dropped last: what the end has to say is said.
    match start(config.clone(), &messages) {
        Ok(gateway) => serve(gateway, path, &messages),
        Err(reason) => {
            say_mistakes(&config, path, &messages);
            messages.say(&format!("portcullis: cannot start: {reason}"));
            ExitCode::from(CANNOT_START)
        }
    }
}

fn start(config: Config, messages: &Messages) -> Result<Gateway, String> {
    let format = match config.log.format {
        Some(LogFormat::Json) => Format::Json,
        Some(LogFormat::Text) => Format::Text,
        None if is_terminal() => Format::Text,
        None => Format::Json,
    };
    let records = StandardOutput::new(format, messages.pen()).map_err(|error| chain(&error))?;
    let setup = Setup { config, clock: Arc::new(SystemClock), records: Arc::new(records), store: None };
    startup::start(setup).map_err(|error| chain(&error))
}

fn serve(gateway: Gateway, path: &Path, messages: &Messages) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            messages.say(&format!("portcullis: cannot start: {error}"));
            return ExitCode::from(CANNOT_START);
        }
    };
    let waited = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        // Said only now: whoever reads it may send a signal at once.
        announce(&gateway, messages);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                // The terminal is gone; or, where there is none, the file is to be read again.
                _ = hangup.recv() => match std::io::stdin().is_terminal() {
                    true => break,
                    false => reload(&gateway, path, messages),
                },
            }
        }
        Ok::<_, std::io::Error>(())
    });
    if let Err(error) = waited {
        messages.say(&format!("portcullis: signals cannot be received: {error}"));
    }
    messages.say("portcullis: stopping; requests on their way may finish");
    gateway.stop();
    ExitCode::SUCCESS
}

/// Read the file again, and say in one line what came of it, after what is wrong with it.
fn reload(gateway: &Gateway, path: &Path, messages: &Messages) {
    let refused = match load::load(path) {
        Ok(config) => match gateway.reload(config.clone()) {
            Ok(()) => return messages.say("portcullis: configuration reloaded"),
            Err(error) => {
                if matches!(error, ReloadError::Start(_)) {
                    say_mistakes(&config, path, messages);
                }
                chain(&error)
            }
        },
        Err(error) => {
            gateway.refuse_reload();
            match error {
                LoadError::Config(errors) => {
                    errors.problems.iter().for_each(|problem| messages.say(&format!("{}:{problem}", errors.file)));
                    errors.count()
                }
                LoadError::File { path, source } => format!("{}: {source}", path.display()),
            }
        }
    };
    messages.say(&format!("portcullis: not reloaded, everything stays as it was: {refused}"));
}

/// A start ends at the first file that is wrong; whoever mends it wants to know of the others.
fn say_mistakes(config: &Config, path: &Path, messages: &Messages) {
    let file = load::name(path);
    startup::check(config)
        .iter()
        .filter(|flaw| flaw.is_fatal)
        .for_each(|flaw| messages.say(&format!("{file}:{}", flaw.at)));
}

fn announce(gateway: &Gateway, messages: &Messages) {
    if let Some(demo) = gateway.demo() {
        messages.say(&format!(
            "portcullis: made the user `{}` with the password {}  (shown only now)",
            demo.user, demo.password
        ));
    }
    if let Some(address) = gateway.admin_address() {
        messages.say(&format!("portcullis: the operator's listener is http://{address}/"));
    }
    messages.say(&format!("portcullis: listening on https://{}", shown(gateway.address())));
}

/// An address as a person would type it.
fn shown(address: std::net::SocketAddr) -> String {
    if address.ip().is_loopback() || address.ip().is_unspecified() {
        format!("localhost:{}/", address.port())
    } else {
        format!("{address}/")
    }
}
