//! Access and audit lines on standard output. One decision: a worker never waits for whoever reads them, and does not even wake
//! the thread that writes: lines are gathered in one buffer, written twenty times a second at most, and what does not fit
//! is counted and said. Knows nothing of what a line says.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::proxy::{Format, Records};

/// Bytes that may wait: some seconds of a busy gateway.
const WAITING: usize = 16 << 20;
/// How long lines are gathered. A wake-up for each costs a busy worker a tenth of a request; nobody sees this delay.
const GATHER: Duration = Duration::from_millis(50);

/// Standard output, through a buffer. Dropping it writes what waits.
pub struct StandardOutput {
    format: Format,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    lines: Mutex<Lines>,
    /// The first line came, or the last one.
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    waiting: Vec<u8>,
    lost: u64,
    closed: bool,
}

impl StandardOutput {
    /// Lines of this format.
    pub fn new(format: Format) -> std::io::Result<StandardOutput> {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new().name("records".to_owned()).spawn(move || write_all(&of_thread))?;
        Ok(StandardOutput { format, shared, thread: Some(thread) })
    }
}

impl Records for StandardOutput {
    fn line(&self, line: &str) {
        let mut lines = self.shared.lock();
        let room = WAITING - lines.waiting.len();
        if line.len() >= room {
            lines.lost += 1;
            return;
        }
        let first = lines.waiting.is_empty();
        lines.waiting.extend_from_slice(line.as_bytes());
        lines.waiting.push(b'\n');
        drop(lines);
        if first {
            self.shared.changed.notify_one();
        }
    }

    fn format(&self) -> Format {
        self.format
    }
}

impl Drop for StandardOutput {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a first line, gathers more for a moment, and takes them; `None` at the end.
    fn take(&self, empty: Vec<u8>) -> Option<(Vec<u8>, u64)> {
        let nothing = |lines: &mut Lines| lines.waiting.is_empty() && !lines.closed;
        let lines = self.changed.wait_while(self.lock(), nothing).unwrap_or_else(PoisonError::into_inner);
        let open = |lines: &mut Lines| !lines.closed;
        let gathered = self.changed.wait_timeout_while(lines, GATHER, open);
        let (mut lines, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        if lines.waiting.is_empty() {
            return None;
        }
        let lost = std::mem::take(&mut lines.lost);
        Some((std::mem::replace(&mut lines.waiting, empty), lost))
    }
}

fn write_all(shared: &Shared) {
    let mut out = std::io::stdout();
    let mut spare = Vec::new();
    while let Some((mut lines, lost)) = shared.take(spare) {
        // Nobody to tell where it cannot be written: standard output is where one would look.
        let _ = out.write_all(&lines).and_then(|()| out.flush());
        if lost > 0 {
            tracing::warn!(lost, "records were lost: standard output is read too slowly");
        }
        lines.clear();
        spare = lines;
    }
}
