//! `portcullis run`. One decision: it says in one line where it listens and in one line why it cannot, after everything that is wrong
//! with the files; it reads its configuration again on SIGHUP, ends on SIGTERM, SIGINT or SIGQUIT after a drain, and without it on a
//! second one. A process manager is told the same. Knows nothing of requests.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::clock::SystemClock;
use crate::config::{Config, LogFormat};
use crate::proxy::Format;
use crate::startup::{self, Gateway, ReloadError, Setup};

use super::load::LoadError;
use super::manager::Manager;
use super::messages::Messages;
use super::records::StandardOutput;
use super::{BAD_INPUT, CANNOT_START, chain, is_terminal, load, say};

/// Start, serve, drain.
pub fn run(path: &Path) -> ExitCode {
    // Before the file is read: what is written into it from then on is asked for by a signal that counts.
    let (runtime, hangup) = match signals() {
        Ok(signals) => signals,
        Err(error) => {
            say(&format!("portcullis: cannot start: {error}"));
            return ExitCode::from(CANNOT_START);
        }
    };
    let config = match load::load(path) {
        Ok(config) => Arc::new(config),
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
    startup::raise_descriptors();
    // Dropped last: what the end has to say is said.
    match start(config.clone(), &messages) {
        Ok(gateway) => runtime.block_on(serve(gateway, hangup, path, &messages)),
        Err(reason) => {
            say_mistakes(&config, path, &messages);
            messages.say(&format!("portcullis: cannot start: {reason}"));
            ExitCode::from(CANNOT_START)
        }
    }
}

fn start(config: Arc<Config>, messages: &Messages) -> Result<Gateway, String> {
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

/// Where signals are waited for. Those that other servers reopen their logs on end nobody, from the first moment on; nor does a hangup
/// where no terminal is, which is kept for when there is something to reload.
fn signals() -> io::Result<(Runtime, Option<Signal>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    // Whatever becomes of what is made here: the system no longer ends the process for them.
    for kind in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
        drop(signal(kind)?);
    }
    let hangup = if io::stdin().is_terminal() { None } else { Some(signal(SignalKind::hangup())?) };
    drop(entered);
    Ok((runtime, hangup))
}

async fn serve(gateway: Gateway, hangup: Option<Signal>, path: &Path, messages: &Messages) -> ExitCode {
    let mut signals = match Signals::new(hangup) {
        Ok(signals) => signals,
        Err(error) => {
            messages.say(&format!("portcullis: signals cannot be received: {error}"));
            return ExitCode::from(CANNOT_START);
        }
    };
    let manager = Manager::of_environment();
    // Said only now: whoever reads it may send a signal at once.
    announce(&gateway, messages);
    manager.tell("READY=1", &format!("listening on https://{}", shown(gateway.address())));
    while let Asked::Reload = signals.next().await {
        let done = reload(&gateway, path, messages);
        messages.say(&format!("portcullis: {done}"));
        manager.tell("", &done);
    }
    let stopping = "stopping; requests on their way may finish, or end with a second signal";
    messages.say(&format!("portcullis: {stopping}"));
    manager.tell("STOPPING=1", stopping);
    let hurry = gateway.hurry();
    let mut stopping = tokio::task::spawn_blocking(move || gateway.stop());
    loop {
        tokio::select! {
            stopped = &mut stopping => return stopped.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
            asked = signals.next() => if let Asked::Stop = asked {
                messages.say("portcullis: stopping at once");
                hurry.now();
            },
        }
    }
}

/// What a signal asks for.
enum Asked {
    Stop,
    Reload,
}

struct Signals {
    stop: [Signal; 3],
    hangup: Signal,
}

impl Signals {
    /// With the hangups that came before.
    fn new(hangup: Option<Signal>) -> io::Result<Signals> {
        let stop = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::quit())?];
        let hangup = hangup.map_or_else(|| signal(SignalKind::hangup()), Ok)?;
        Ok(Signals { stop, hangup })
    }

    async fn next(&mut self) -> Asked {
        let [terminate, interrupt, quit] = &mut self.stop;
        tokio::select! {
            _ = terminate.recv() => Asked::Stop,
            _ = interrupt.recv() => Asked::Stop,
            _ = quit.recv() => Asked::Stop,
            // The terminal is gone; or, where there is none, the file is to be read again.
            _ = self.hangup.recv() => if io::stdin().is_terminal() { Asked::Stop } else { Asked::Reload },
        }
    }
}

/// Read the file again, and say what is wrong with it; what came of it is answered, in one line.
fn reload(gateway: &Gateway, path: &Path, messages: &Messages) -> String {
    let refused = match load::load(path) {
        Ok(config) => {
            let config = Arc::new(config);
            match gateway.reload(config.clone()) {
                Ok(()) => return "configuration reloaded".to_owned(),
                Err(error) => {
                    if matches!(error, ReloadError::Start(_)) {
                        say_mistakes(&config, path, messages);
                    }
                    chain(&error)
                }
            }
        }
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
    format!("not reloaded, everything stays as it was: {refused}")
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
