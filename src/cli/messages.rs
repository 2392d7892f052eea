//! What the running gateway says of itself, on standard error. One decision: nothing in it writes there but the one thread of the
//! buffer, log, answers to signals and panics alike: a pipe that nobody reads would otherwise stop a worker within a request, and
//! with it leases, revocations and the stop. Knows nothing of what is said.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::lines::{Lines, Manner, Pen};

/// Bytes that may wait: thousands of lines.
const WAITING: usize = 1 << 20;

/// Standard error, through a buffer. Dropping it writes what waits, as far as somebody takes it.
pub(super) struct Messages(Lines);

impl Messages {
    /// From now on everything goes through it. As JSON, where that is asked for.
    ///
    /// # Errors
    /// No descriptor, or no thread.
    pub(super) fn take_over(json: bool) -> io::Result<Messages> {
        let (what, to) = ("messages", "standard error");
        // Written at once: the last of them is often the one that matters.
        let manner = Manner { what, to, waiting: WAITING, gather: Duration::ZERO, complains: false };
        let messages = Messages(Lines::to(&io::stderr(), manner)?);
        log(messages.pen(), json);
        let pen = messages.pen();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            let (name, backtrace) = (thread.name().unwrap_or("?").to_owned(), Backtrace::capture());
            pen.line(&format!("thread `{name}` {panic}"));
            if backtrace.status() == BacktraceStatus::Captured {
                pen.line(&backtrace.to_string());
            }
        }));
        Ok(messages)
    }

    /// One line.
    pub(super) fn say(&self, line: &str) {
        self.0.line(line);
    }

    /// Another hand.
    pub(super) fn pen(&self) -> Pen {
        self.0.pen()
    }
}

/// What is said, by what `RUST_LOG` asks for; what cannot be read asks for nothing. Libraries are heard where more than the usual is asked
/// for, or they by name: h2 warns of every PING acknowledgement that nobody waits for, and a client can send a hundred thousand of
/// them a second, which fill the disk and drown what matters (CWE-779).
fn filter(asked: Option<String>) -> Targets {
    let asked = asked.filter(|asked| !asked.is_empty()).and_then(|asked| asked.parse().ok());
    let asked = asked.unwrap_or(Targets::new().with_default(LevelFilter::INFO));
    match asked.default_level() {
        Some(level @ (LevelFilter::INFO | LevelFilter::WARN)) => {
            let own = Targets::new().with_default(LevelFilter::ERROR).with_target("portcullis", level);
            own.with_targets(asked.iter().filter(|(place, _)| !place.is_empty()))
        }
        _ => asked,
    }
}

/// The log. `RUST_LOG` overrides the level, as a whole (`debug`) or by place (`info,portcullis::upstream=debug`);
/// a release has nothing finer than `debug` to say.
fn log(pen: Pen, json: bool) {
    let filter = filter(std::env::var("RUST_LOG").ok());
    let lines = tracing_subscriber::fmt::layer().with_writer(move || pen.clone()).log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    // A second call in one process keeps the first subscriber.
    let _ = if json {
        registry.with(lines.json()).try_init()
    } else {
        registry.with(lines.with_ansi(io::stderr().is_terminal())).try_init()
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
        for asked in ["", "info", places, "warn,portcullis=warn"] {
            assert!(is_said(asked, "portcullis", Level::WARN), "{asked}");
            assert!(is_said(asked, "h2", Level::ERROR) && !is_said(asked, "h2::proto", Level::WARN), "{asked}");
        }
        assert!(is_said("info,h2=warn", "h2::proto", Level::WARN) && is_said("debug", "h2::proto", Level::DEBUG));
        for nothing in ["", "portcullis=loud"] {
            assert!(is_said(nothing, "portcullis", Level::INFO) && !is_said(nothing, "portcullis", Level::DEBUG));
        }
    }
}
