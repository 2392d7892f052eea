//! Access and audit lines on standard output. One decision: a worker never waits for whoever reads them, and does not even wake
//! the thread that writes: lines are gathered in one buffer, written twenty times a second at most, and what does not fit,
//! or cannot be written, is counted and said. Knows nothing of what a line says.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::proxy::{Format, Records};

/// Bytes that may wait: some seconds of a busy gateway.
const WAITING: usize = 16 << 20;
/// How long lines are gathered. A wake-up for each costs a busy worker a tenth of a request; nobody sees this delay.
const GATHER: Duration = Duration::from_millis(50);
/// While nothing can be written it is said as often: standard error may be the same full disk.
const SAY_EVERY: Duration = Duration::from_secs(60);

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
    /// Lines that nobody will ever read.
    lost: AtomicU64,
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
        // Not through the library's own buffer: what it still holds when a write fails is neither written nor lost.
        let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let write = move || write_all(&of_thread, &mut out);
        let thread = std::thread::Builder::new().name("records".to_owned()).spawn(write)?;
        Ok(StandardOutput { format, shared, thread: Some(thread) })
    }
}

impl Records for StandardOutput {
    fn line(&self, line: &str) {
        let mut lines = self.shared.lock();
        let room = WAITING - lines.waiting.len();
        if line.len() >= room {
            lines.lost += 1;
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
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

    fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
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

fn write_all(shared: &Shared, out: &mut impl Write) {
    let (mut spare, mut trouble) = (Vec::new(), Trouble::default());
    while let Some((mut lines, lost)) = shared.take(spare) {
        let (unwritten, written) = put(out, &lines, &mut trouble.torn);
        shared.lost.fetch_add(unwritten, Ordering::Relaxed);
        trouble.tell(unwritten, written);
        if lost > 0 {
            tracing::warn!(lost, "records were lost: standard output is read too slowly");
        }
        lines.clear();
        spare = lines;
    }
    trouble.tell_rest();
}

/// Write as many of these lines as can be; how many could not, and why. `torn`: what was written last has no end.
fn put(out: &mut impl Write, lines: &[u8], torn: &mut bool) -> (u64, io::Result<()>) {
    if *torn && let Err(error) = out.write_all(b"\n") {
        return (count(lines), Err(error));
    }
    *torn = false;
    let mut rest = lines;
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => return (count(rest), Err(io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                *torn = rest[written - 1] != b'\n';
                rest = &rest[written..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (count(rest), Err(error)),
        }
    }
    (0, Ok(()))
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

/// What is amiss with standard output, and when that was said last.
#[derive(Default)]
struct Trouble {
    torn: bool,
    said: Option<Instant>,
    unsaid: u64,
}

impl Trouble {
    fn tell(&mut self, lost: u64, written: io::Result<()>) {
        self.unsaid += lost;
        match (written, self.said) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => {
                tracing::warn!(lost = self.unsaid, "records can be written to standard output again");
                (self.said, self.unsaid) = (None, 0);
            }
            (Err(_), Some(said)) if said.elapsed() < SAY_EVERY => {}
            (Err(error), _) => {
                tracing::error!(lost = self.unsaid, %error, "records are lost: standard output cannot be written");
                (self.said, self.unsaid) = (Some(Instant::now()), 0);
            }
        }
    }

    fn tell_rest(&self) {
        if self.unsaid > 0 {
            tracing::error!(lost = self.unsaid, "records were lost until the end: standard output cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::put;
    use std::io::{self, Write};

    /// Takes so many bytes, three at a time.
    struct Full(Vec<u8>, usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let some = bytes.len().min(3).min(self.1 - self.0.len());
            if some == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.extend_from_slice(&bytes[..some]);
            Ok(some)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_spoil_no_later_one() {
        let (mut out, mut torn) = (Full(Vec::new(), 7), false);
        let (lost, written) = put(&mut out, b"one\ntwo three\nfour\n", &mut torn);
        assert!((lost, written.is_err(), torn) == (2, true, true), "{lost}");
        let (lost, written) = put(&mut out, b"five\n", &mut torn);
        assert!((lost, written.is_err(), torn) == (1, true, true), "{lost}");
        out.1 = 100;
        let (lost, written) = put(&mut out, b"six\nseven\n", &mut torn);
        assert!((lost, written.is_ok(), torn) == (0, true, false), "{lost}");
        assert_eq!(String::from_utf8(out.0).unwrap(), "one\ntwo\nsix\nseven\n");
    }
}
