//! What ends an answer from outside: its session, and standing still. One decision: a session is watched from the first
//! moment that its answer makes somebody wait – most answers never do, and an event stream does at once – so that no stream
//! outlives the session that it was opened in. Knows nothing of frames.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::clock::Timestamp;
use crate::session::{OpenExchange, Sessions, View};

use super::stall::Stall;

/// Why an answer was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// Its session ended.
    #[error("the session ended")]
    Session,
    /// Nothing came for too long.
    #[error("nothing came for too long")]
    Idle,
}

/// Watches one answer.
pub struct Watch {
    session: Option<(Arc<Sessions>, Arc<View>)>,
    open: Option<Open>,
    left: Option<Duration>,
    stall: Stall,
}

struct Open {
    _exchange: OpenExchange,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    over: Pin<Box<Sleep>>,
}

impl Watch {
    /// Watch an answer given in this session, if in any.
    pub fn new(session: Option<(Arc<Sessions>, Arc<View>)>, now: Timestamp, idle: Option<Duration>) -> Watch {
        let left = session.as_ref().map(|(_, view)| view.session.ends.since(now));
        Watch { session, open: None, left, stall: Stall::new(idle) }
    }

    /// A step was made.
    pub fn moved(&mut self) {
        self.stall.moved();
    }

    /// Somebody waits: ready when the answer has to end.
    pub fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<Cut> {
        if let Some((sessions, view)) = self.session.take() {
            let exchange = sessions.open_exchange(&view);
            // A revocation that came before the registration is seen here, one that comes after it by the registration.
            if !sessions.still_alive(&view) {
                return Poll::Ready(Cut::Session);
            }
            let ended = Box::pin(exchange.token().cancelled_owned());
            let over = Box::pin(tokio::time::sleep(self.left.unwrap_or_default()));
            self.open = Some(Open { _exchange: exchange, ended, over });
        }
        if let Some(open) = &mut self.open
            && (open.ended.as_mut().poll(cx).is_ready() || open.over.as_mut().poll(cx).is_ready())
        {
            return Poll::Ready(Cut::Session);
        }
        self.stall.poll_stalled(cx).map(|()| Cut::Idle)
    }
}
