//! `portcullis run`. One decision: it says in one line where it listens and in one line why it cannot, after everything that is wrong
//! with the files; it reads its configuration again on SIGHUP, and ends on SIGTERM or SIGINT after a drain. Knows nothing of requests.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::clock::SystemClock;
use crate::config::{Config, LogFormat};
use crate::proxy::Format;
use crate::startup::{self, Gateway, ReloadError, Setup};

use super::load::LoadError;
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
    log_to_standard_error(&config);
    let started = start(config.clone());
    match started {
        Ok(gateway) => serve(gateway, path),
        Err(reason) => {
            say_mistakes(&config, path);
            say(&format!("portcullis: cannot start: {reason}"));
            ExitCode::from(CANNOT_START)
        }
    }
}

fn start(config: Config) -> Result<Gateway, String> {
    let format = match config.log.format {
        Some(LogFormat::Json) => Format::Json,
        Some(LogFormat::Text) => Format::Text,
        None if is_terminal() => Format::Text,
        None => Format::Json,
    };
    let records = StandardOutput::new(format).map_err(|error| chain(&error))?;
    let setup = Setup { config, clock: Arc::new(SystemClock), records: Arc::new(records), store: None };
    startup::start(setup).map_err(|error| chain(&error))
}

fn serve(gateway: Gateway, path: &Path) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("portcullis: cannot start: {error}"));
            return ExitCode::from(CANNOT_START);
        }
    };
    let waited = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        // Said only now: whoever reads it may send a signal at once.
        announce(&gateway);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                // The terminal is gone; or, where there is none, the file is to be read again.
                _ = hangup.recv() => match std::io::stdin().is_terminal() {
                    true => break,
                    false => reload(&gateway, path),
                },
            }
        }
        Ok::<_, std::io::Error>(())
    });
    if let Err(error) = waited {
        say(&format!("portcullis: signals cannot be received: {error}"));
    }
    say("portcullis: stopping; requests on their way may finish");
    gateway.stop();
    ExitCode::SUCCESS
}

/// Read the file again, and say in one line what came of it, after what is wrong with it.
fn reload(gateway: &Gateway, path: &Path) {
    let refused = match load::load(path) {
        Ok(config) => match gateway.reload(config.clone()) {
            Ok(()) => return say("portcullis: configuration reloaded"),
            Err(error) => {
                if matches!(error, ReloadError::Start(_)) {
                    say_mistakes(&config, path);
                }
                chain(&error)
            }
        },
        Err(error) => {
            gateway.refuse_reload();
            match error {
                LoadError::Config(errors) => {
                    errors.problems.iter().for_each(|problem| say(&format!("{}:{problem}", errors.file)));
                    errors.count()
                }
                LoadError::File { path, source } => format!("{}: {source}", path.display()),
            }
        }
    };
    say(&format!("portcullis: not reloaded, everything stays as it was: {refused}"));
}

/// A start ends at the first file that is wrong; whoever mends it wants to know of the others.
fn say_mistakes(config: &Config, path: &Path) {
    let file = load::name(path);
    startup::check(config).iter().filter(|flaw| flaw.is_fatal).for_each(|flaw| say(&format!("{file}:{}", flaw.at)));
}

fn announce(gateway: &Gateway) {
    if let Some(demo) = gateway.demo() {
        say(&format!(
            "portcullis: made the user `{}` with the password {}  (shown only now)",
            demo.user, demo.password
        ));
    }
    if let Some(address) = gateway.admin_address() {
        say(&format!("portcullis: the operator's listener is http://{address}/"));
    }
    say(&format!("portcullis: listening on https://{}", shown(gateway.address())));
}

/// An address as a person would type it.
fn shown(address: std::net::SocketAddr) -> String {
    if address.ip().is_loopback() || address.ip().is_unspecified() {
        format!("localhost:{}/", address.port())
    } else {
        format!("{address}/")
    }
}

/// What is said, by what `RUST_LOG` asks for; what cannot be read asks for nothing.
fn filter(asked: Option<String>) -> Targets {
    let asked = asked.filter(|asked| !asked.is_empty()).and_then(|asked| asked.parse().ok());
    asked.unwrap_or(Targets::new().with_default(LevelFilter::INFO))
}

/// What the gateway says of itself. `RUST_LOG` overrides the level, as a whole (`debug`) or by place (`info,portcullis::upstream=debug`);
/// a release has nothing finer than `debug` to say.
fn log_to_standard_error(config: &Config) {
    let filter = filter(std::env::var("RUST_LOG").ok());
    // A standard error that nobody reads any more loses lines; complaining there of it would panic, and a worker with it.
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    // A second call in one process (a test) keeps the first subscriber.
    let _ = if config.log.format == Some(LogFormat::Json) {
        registry.with(lines.json()).try_init()
    } else {
        registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init()
    };
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::filter;

    #[test]
    fn the_level_is_asked_for_as_a_whole_or_by_place() {
        let is_said = |asked: &str, place, level| filter(Some(asked.to_owned())).would_enable(place, &level);
        let places = "warn,portcullis::session=debug";
        assert!(is_said("debug", "hyper", Level::DEBUG));
        assert!(is_said(places, "portcullis::session::upkeep", Level::DEBUG));
        assert!(
            is_said(places, "portcullis::proxy", Level::WARN) && !is_said(places, "portcullis::proxy", Level::INFO)
        );
        assert!(!is_said("off", "portcullis", Level::ERROR));
        for nothing in ["", "portcullis=loud"] {
            assert!(is_said(nothing, "portcullis", Level::INFO) && !is_said(nothing, "portcullis", Level::DEBUG));
        }
    }
}
