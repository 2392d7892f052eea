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
use crate::policy::Permit;
use crate::session::{MayGoOn, OpenExchange, Sessions, View};

use super::Runtime;
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

/// What ties an exchange to the session that it was opened in, and to what its route asks for.
#[derive(Clone)]
pub struct Tie {
    sessions: Arc<Sessions>,
    view: Arc<View>,
    may_go_on: MayGoOn,
    /// What the client sends does not count as use of the session.
    pub passive: bool,
}

impl Tie {
    /// Of an exchange that this permit allowed.
    pub fn new(runtime: &Arc<Runtime>, permit: &Permit, view: Arc<View>) -> Tie {
        let (access, asked) = (permit.route().access, runtime.clone());
        let may_go_on: MayGoOn = Arc::new(move |view: &View| {
            let caller = asked.authenticator.caller_in(view);
            caller.is_some_and(|caller| access.still_holds(caller.identity.roles))
        });
        let sessions = runtime.authenticator.sessions().clone();
        Tie { sessions, view, may_go_on, passive: permit.route().options.passive }
    }

    /// Register; `None` where the session ended since it was checked. A revocation that came before the registration is seen by
    /// the check after it, one that comes later by the registration.
    pub fn open(&self) -> Option<OpenExchange> {
        let exchange = self.sessions.open_exchange_while(&self.view, self.may_go_on.clone());
        self.sessions.still_alive(&self.view).then_some(exchange)
    }

    /// What is left to the absolute end.
    pub fn left(&self, now: Timestamp) -> Duration {
        self.view.session.ends.since(now)
    }
}

/// Watches one answer.
pub struct Watch {
    tie: Option<Tie>,
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
    pub fn new(tie: Option<Tie>, now: Timestamp, idle: Option<Duration>) -> Watch {
        let left = tie.as_ref().map(|tie| tie.left(now));
        Watch { tie, open: None, left, stall: Stall::new(idle) }
    }

    /// A step was made.
    pub fn moved(&mut self) {
        self.stall.moved();
    }

    /// Somebody waits: ready when the answer has to end.
    pub fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<Cut> {
        if let Some(tie) = self.tie.take() {
            let Some(exchange) = tie.open() else { return Poll::Ready(Cut::Session) };
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
