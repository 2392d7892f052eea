//! Access and audit lines on standard output. One decision: a worker does not even wake the thread that writes: lines are gathered
//! and written twenty times a second, or when there are many. Knows nothing of what a line says.

use std::io;
use std::time::Duration;

use crate::proxy::{Format, Records};

use super::lines::{Lines, Manner, Pen};

/// Bytes that may wait: some seconds of a busy gateway.
const WAITING: usize = 16 << 20;
/// How long lines are gathered. A wake-up for each costs a busy worker a tenth of a request; nobody sees this delay.
const GATHER: Duration = Duration::from_millis(50);

/// Standard output, through a buffer. Dropping it writes what waits.
pub(super) struct StandardOutput {
    format: Format,
    lines: Lines,
    /// Standard error, for what was lost there.
    messages: Pen,
}

impl StandardOutput {
    /// Lines of this format.
    ///
    /// # Errors
    /// No descriptor, or no thread.
    pub(super) fn new(format: Format, messages: Pen) -> io::Result<StandardOutput> {
        let manner =
            Manner { what: "records", to: "standard output", waiting: WAITING, gather: GATHER, complains: true };
        Ok(StandardOutput { format, lines: Lines::to(&io::stdout(), manner)?, messages })
    }
}

impl Records for StandardOutput {
    fn line(&self, line: &str) {
        self.lines.line(line);
    }

    fn format(&self) -> Format {
        self.format
    }

    fn lost(&self) -> u64 {
        self.lines.lost()
    }

    fn messages_lost(&self) -> u64 {
        self.messages.lost()
    }
}
