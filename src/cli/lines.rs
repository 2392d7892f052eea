//! Lines for standard output or standard error, through a buffer. One decision: whoever has a line waits neither for whoever reads
//! it nor for the disk: a thread alone writes, what does not fit or cannot be written is counted and said, and the end waits only
//! while something moves. Knows nothing of what a line says.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes that are handed to the system at once: what a reader took of a blocked pipe is seen by it.
const PIECE: usize = 64 << 10;
/// Bytes that are not gathered any longer: beyond this they leave the processor's own memory before they are written.
const ENOUGH: usize = 256 << 10;
/// While nothing can be written it is said as often: standard error may be the same full disk.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// At the end nobody who takes nothing is waited for any longer than this …
const STANDSTILL: Duration = Duration::from_secs(1);
/// … and nobody who takes little for longer than this.
const LAST: Duration = Duration::from_secs(5);

/// Which of the two, and how it is written.
pub(super) struct Manner {
    /// What lines are called where they are lost.
    pub(super) what: &'static str,
    /// Where they go.
    pub(super) to: &'static str,
    /// Bytes that may wait.
    pub(super) waiting: usize,
    /// How long lines are gathered before they are written.
    pub(super) gather: Duration,
    /// Whether it is said that they cannot be written: not where that is the very place where it would be said.
    pub(super) complains: bool,
}

/// A buffer and the thread that empties it. Dropping it writes what waits, as far as somebody takes it.
pub(super) struct Lines {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Another hand on the same buffer.
#[derive(Clone)]
pub(super) struct Pen(Arc<Shared>);

struct Shared {
    manner: Manner,
    state: Mutex<State>,
    /// The first line came, or the last one.
    changed: Condvar,
    /// The thread ended.
    ended: Condvar,
    /// Lines that nobody will ever read.
    lost: AtomicU64,
    /// Bytes that were written.
    written: AtomicU64,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Lines that wait, and lines that are being written.
    lines: [u64; 2],
    lost: u64,
    closed: bool,
    ended: bool,
}

impl Lines {
    /// To standard output or standard error. Not through the library's own buffer: what it still holds when a write fails is neither
    /// written nor lost.
    ///
    /// # Errors
    /// No descriptor, or no thread.
    pub(super) fn to(stream: &impl AsFd, manner: Manner) -> io::Result<Lines> {
        Lines::into(File::from(stream.as_fd().try_clone_to_owned()?), manner)
    }

    fn into(mut out: impl Write + Send + 'static, manner: Manner) -> io::Result<Lines> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            ended: Condvar::new(),
            lost: AtomicU64::new(0),
            written: AtomicU64::new(0),
            manner,
        });
        let (of_thread, name) = (shared.clone(), shared.manner.what);
        let write = move || {
            write_all(&of_thread, &mut out);
            of_thread.lock().ended = true;
            of_thread.ended.notify_one();
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(write)?;
        Ok(Lines { shared, thread: Some(thread) })
    }

    /// Another hand, for whoever writes until the end.
    pub(super) fn pen(&self) -> Pen {
        Pen(self.shared.clone())
    }

    /// One line, without its newline. Never waits.
    pub(super) fn line(&self, line: &str) {
        self.shared.line(line.as_bytes());
    }

    /// How many were lost.
    pub(super) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Pen {
    /// One line, without its newline. Never waits.
    pub(super) fn line(&self, line: &str) {
        self.0.line(line.as_bytes());
    }

    /// How many were lost.
    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

/// Each write is one line.
impl Write for Pen {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.line(line.strip_suffix(b"\n").unwrap_or(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let shared = &*self.shared;
        shared.lock().closed = true;
        shared.changed.notify_one();
        let (begun, mut written) = (Instant::now(), None);
        let mut state = shared.lock();
        // A thread that stands in a write of its own ends with the process: nothing here can wake it.
        while !state.ended && begun.elapsed() < LAST {
            let now = Some(shared.written.load(Ordering::Relaxed));
            if std::mem::replace(&mut written, now) == now {
                break;
            }
            let waited = shared.ended.wait_timeout_while(state, STANDSTILL, |state| !state.ended);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let (ended, left) = (state.ended, state.lines.iter().sum::<u64>());
        drop(state);
        match self.thread.take() {
            Some(thread) if ended => drop(thread.join()),
            _ => shared.left(left),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, line: &[u8]) {
        let mut state = self.lock();
        if line.len() >= self.manner.waiting - state.waiting.len() {
            state.lost += 1;
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let before = state.waiting.len();
        state.waiting.extend_from_slice(line);
        state.waiting.push(b'\n');
        state.lines[0] += 1;
        let is_due = before == 0 || before < ENOUGH && state.waiting.len() >= ENOUGH;
        drop(state);
        if is_due {
            self.changed.notify_one();
        }
    }

    /// Waits for a first line, gathers more for a moment, and takes them; `None` at the end.
    fn take(&self, empty: Vec<u8>) -> Option<(Vec<u8>, u64)> {
        let nothing = |state: &mut State| state.waiting.is_empty() && !state.closed;
        let mut state = self.lock();
        state.lines[1] = 0;
        state = self.changed.wait_while(state, nothing).unwrap_or_else(PoisonError::into_inner);
        if !self.manner.gather.is_zero() {
            let open = |state: &mut State| !state.closed && state.waiting.len() < ENOUGH;
            let gathered = self.changed.wait_timeout_while(state, self.manner.gather, open);
            (state, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        }
        if state.waiting.is_empty() {
            return None;
        }
        state.lines = [0, state.lines[0]];
        let lost = std::mem::take(&mut state.lost);
        Some((std::mem::replace(&mut state.waiting, empty), lost))
    }

    /// So many wait at the end, and nobody takes them.
    fn left(&self, lost: u64) {
        self.lost.fetch_add(lost, Ordering::Relaxed);
        if self.manner.complains {
            let Manner { what, to, .. } = self.manner;
            tracing::error!(lost, "{what} were lost until the end: nobody reads {to}");
        }
    }
}

fn write_all(shared: &Shared, out: &mut impl Write) {
    let Manner { what, to, .. } = shared.manner;
    let (mut spare, mut trouble) = (Vec::new(), Trouble::default());
    while let Some((mut lines, lost)) = shared.take(spare) {
        let (unwritten, written) = put(out, &lines, &mut trouble.torn, &shared.written);
        shared.lost.fetch_add(unwritten, Ordering::Relaxed);
        trouble.tell(&shared.manner, unwritten, written);
        if lost > 0 {
            tracing::warn!(lost, "{what} were lost: {to} is read too slowly");
        }
        lines.clear();
        spare = lines;
    }
    trouble.tell_rest(&shared.manner);
}

/// Write as many of these lines as can be; how many could not, and why. `torn`: what was written last has no end.
fn put(out: &mut impl Write, lines: &[u8], torn: &mut bool, moved: &AtomicU64) -> (u64, io::Result<()>) {
    if *torn && let Err(error) = out.write_all(b"\n") {
        return (count(lines), Err(error));
    }
    *torn = false;
    let mut rest = lines;
    while !rest.is_empty() {
        match out.write(&rest[..rest.len().min(PIECE)]) {
            Ok(0) => return (count(rest), Err(io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                moved.fetch_add(written as u64, Ordering::Relaxed);
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

/// What is amiss, and when that was said last.
#[derive(Default)]
struct Trouble {
    torn: bool,
    said: Option<Instant>,
    unsaid: u64,
}

impl Trouble {
    fn tell(&mut self, manner: &Manner, lost: u64, written: io::Result<()>) {
        let Manner { what, to, complains, .. } = manner;
        self.unsaid += lost;
        match (written, self.said) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => {
                tracing::warn!(lost = self.unsaid, "{what} can be written to {to} again");
                (self.said, self.unsaid) = (None, 0);
            }
            (Err(_), Some(said)) if said.elapsed() < SAY_EVERY => {}
            (Err(_), _) if !complains => self.said = Some(Instant::now()),
            (Err(error), _) => {
                tracing::error!(lost = self.unsaid, %error, "{what} are lost: {to} cannot be written");
                (self.said, self.unsaid) = (Some(Instant::now()), 0);
            }
        }
    }

    fn tell_rest(&self, manner: &Manner) {
        let Manner { what, to, complains, .. } = manner;
        if self.unsaid > 0 && *complains {
            tracing::error!(lost = self.unsaid, "{what} were lost until the end: {to} cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Lines, Manner, put};
    use std::io::{self, Read, Write};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

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
        let (mut out, mut torn, moved) = (Full(Vec::new(), 7), false, AtomicU64::new(0));
        let (lost, written) = put(&mut out, b"one\ntwo three\nfour\n", &mut torn, &moved);
        assert!((lost, written.is_err(), torn) == (2, true, true), "{lost}");
        let (lost, written) = put(&mut out, b"five\n", &mut torn, &moved);
        assert!((lost, written.is_err(), torn) == (1, true, true), "{lost}");
        out.1 = 100;
        let (lost, written) = put(&mut out, b"six\nseven\n", &mut torn, &moved);
        assert!((lost, written.is_ok(), torn) == (0, true, false), "{lost}");
        assert_eq!(String::from_utf8(out.0).unwrap(), "one\ntwo\nsix\nseven\n");
        assert_eq!(moved.load(Ordering::Relaxed), 17);
    }

    fn manner(waiting: usize) -> Manner {
        Manner { what: "lines", to: "a pipe", waiting, gather: Duration::ZERO, complains: true }
    }

    /// Nobody reads: no line waits, what does not fit is counted, and the end comes, with the rest counted too.
    #[test]
    fn whoever_has_a_line_and_whoever_ends_wait_for_no_reader() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (lines, line) = (Lines::into(writer, manner(1 << 20)).unwrap(), "x".repeat(1 << 10));
        (0..4 << 10).for_each(|_| lines.line(&line));
        let (pen, lost) = (lines.pen(), lines.lost());
        assert!(lost >= 2 << 10, "{lost} of four times what may wait");
        drop(lines);
        assert!(pen.lost() > lost, "what waited is lost as well");
        // The thread that stands there goes on when somebody reads.
        let mut first = vec![0; line.len() + 1];
        reader.read_exact(&mut first).unwrap();
        assert_eq!(first, format!("{line}\n").as_bytes());
    }

    /// What is said last is written, by whichever hand, before the end is over.
    #[test]
    fn the_end_waits_for_what_somebody_takes() {
        let (mut reader, writer) = io::pipe().unwrap();
        let lines = Lines::into(writer, manner(16 << 20)).unwrap();
        let reading = std::thread::spawn(move || {
            let mut read = Vec::new();
            reader.read_to_end(&mut read).map(|_| read)
        });
        let line = "x".repeat(1 << 10);
        (0..8 << 10).for_each(|_| lines.line(&line));
        lines.pen().write_all(b"last\n").unwrap();
        drop(lines);
        let read = reading.join().unwrap().unwrap();
        assert_eq!((read.len(), read.ends_with(b"x\nlast\n")), ((8 << 10) * (1 + (1 << 10)) + 5, true));
    }

    /// Gathered for an hour they would fill the memory first.
    #[test]
    fn many_lines_are_written_before_their_time() {
        let (mut reader, writer) = io::pipe().unwrap();
        let lines = Lines::into(writer, Manner { gather: Duration::from_secs(3_600), ..manner(16 << 20) }).unwrap();
        let line = "x".repeat((1 << 10) - 1);
        (0..2 << 10).for_each(|_| lines.line(&line));
        let mut read = vec![0; super::ENOUGH];
        reader.read_exact(&mut read).unwrap();
        let rest = std::thread::spawn(move || reader.read_to_end(&mut Vec::new()));
        drop(lines);
        assert_eq!(rest.join().unwrap().unwrap() + read.len(), 2 << 20);
    }
}
