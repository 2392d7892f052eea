//! The other end of a connection, as a text. Knows nothing of what is said.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Carry something out that waits for nothing.
pub(super) fn block_on<T>(what: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(what))
}

/// Says what it is, closes, and keeps what it is told.
pub(super) struct Text<'t> {
    text: &'t [u8],
    /// Who waits until it was told something.
    silent: Option<Waker>,
    told: Rc<RefCell<Vec<u8>>>,
}

impl<'t> Text<'t> {
    /// Of a client, which speaks first.
    pub(super) fn asking(text: &'t [u8]) -> Text<'t> {
        Text { text, silent: None, told: Rc::default() }
    }

    /// Of a server.
    pub(super) fn answering(text: &'t [u8]) -> Text<'t> {
        Text { text, silent: Some(Waker::noop().clone()), told: Rc::default() }
    }

    /// What it is told, also when it is gone.
    pub(super) fn told(&self) -> Rc<RefCell<Vec<u8>>> {
        self.told.clone()
    }

    /// How much nobody read.
    pub(super) fn left(&self) -> usize {
        self.text.len()
    }
}

impl AsyncRead for Text<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(waits) = &mut self.silent {
            waits.clone_from(cx.waker());
            return Poll::Pending;
        }
        let (now, later) = self.text.split_at(self.text.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.text = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Text<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(waits) = self.silent.take() {
            waits.wake();
        }
        self.told.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
