//! Access and audit lines on standard output. One decision: a worker never waits for whoever reads them: lines go through a
//! bounded queue to a thread of its own, and what does not fit is counted and said. Knows nothing of what a line says.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::proxy::{Format, Records};

/// Lines that may wait: some seconds of a busy gateway.
const WAITING: usize = 65_536;

/// Standard output, through a queue. Dropping it writes what waits.
pub struct StandardOutput {
    format: Format,
    queue: Mutex<Option<SyncSender<String>>>,
    lost: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl StandardOutput {
    /// Lines of this format.
    pub fn new(format: Format) -> std::io::Result<StandardOutput> {
        let (queue, lines) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = lost.clone();
        let thread =
            std::thread::Builder::new().name("records".to_owned()).spawn(move || write_all(&lines, &counted))?;
        Ok(StandardOutput { format, queue: Mutex::new(Some(queue)), lost, thread: Mutex::new(Some(thread)) })
    }
}

impl Records for StandardOutput {
    fn line(&self, line: &str) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let queued = queue.as_ref().is_some_and(|queue| queue.try_send(line.to_owned()).is_ok());
        if !queued {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn format(&self) -> Format {
        self.format
    }
}

impl Drop for StandardOutput {
    fn drop(&mut self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

fn write_all(lines: &Receiver<String>, lost: &AtomicU64) {
    let mut out = std::io::BufWriter::new(std::io::stdout());
    while let Ok(line) = lines.recv() {
        let _ = writeln!(out, "{line}");
        // What waits already is written in one go; then the reader sees it.
        while let Ok(line) = lines.try_recv() {
            let _ = writeln!(out, "{line}");
        }
        let _ = out.flush();
        match lost.swap(0, Ordering::Relaxed) {
            0 => {}
            lost => tracing::warn!(lost, "records were lost: standard output is read too slowly"),
        }
    }
}
