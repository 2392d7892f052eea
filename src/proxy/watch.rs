//! What ends an answer from outside: its session or token, and standing still. One decision: an exchange is watched from the first
//! moment that its answer makes somebody wait, or goes on for some time without – most answers never do, and an event stream
//! does at once – so that no stream outlives what let it begin. Knows nothing of frames.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::authn::Evidence;
use crate::policy::Route;
use crate::session::{MayGoOn, OpenExchange, View};

use super::Runtime;
use super::stall::Stall;

/// Steps that an answer makes before it is watched though it never waits: an application and a client that are both fast would
/// carry an endless one past the end of its session.
const UNWATCHED: u32 = 16;

/// The close code where the route names none: who sent it may not go on (RFC 6455 §7.4.1).
const POLICY: u16 = 1008;

/// Why an answer was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// Its session ended, or its token.
    #[error("the session ended")]
    Session,
    /// Nothing came for too long.
    #[error("nothing came for too long")]
    Idle,
}

/// What ties an exchange to what let it begin, and to what its route asks for.
#[derive(Clone)]
pub struct Tie {
    runtime: Arc<Runtime>,
    route: Arc<Route>,
    evidence: Evidence,
}

impl Tie {
    /// Of an exchange on this route.
    pub fn new(runtime: &Arc<Runtime>, route: &Arc<Route>, evidence: Evidence) -> Tie {
        Tie { runtime: runtime.clone(), route: route.clone(), evidence }
    }

    /// What let it begin.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// Register; `None` where it ended since it was checked, or may have. A revocation that came before the registration is seen by
    /// the check after it, one that comes later by the registration; the same goes for the lease.
    pub fn open(&self) -> Option<OpenExchange> {
        let sessions = self.runtime.authenticator.sessions();
        let (exchange, stands) = match &self.evidence {
            Evidence::Session(view, told_by) => {
                let exchange = sessions.open_exchange_while(view, *told_by, self.may_go_on());
                let denied = told_by.is_some_and(|id| sessions.is_token_revoked(id));
                (exchange, sessions.confirm(view).is_ok_and(|stands| stands && !denied))
            }
            Evidence::Token(verified) => {
                let exchange = sessions.open_bearer_exchange(verified.bearer);
                (exchange, sessions.confirm_bearer(&verified.bearer).is_ok_and(|stands| stands))
            }
        };
        stands.then_some(exchange)
    }

    /// Waits until it has to end; not at all, where it had to before.
    pub async fn ended(&self) {
        let Some(exchange) = self.open() else { return };
        tokio::select! {
            () = exchange.ended() => {}
            () = tokio::time::sleep(self.left()) => {}
        }
    }

    /// The role that the route asks for may be taken away.
    fn may_go_on(&self) -> MayGoOn {
        let (runtime, access) = (self.runtime.clone(), self.route.access);
        Arc::new(move |view: &View| {
            let caller = runtime.authenticator.caller_in(view);
            caller.is_some_and(|caller| access.still_holds(caller.identity.roles))
        })
    }

    /// Whether a step may be made now. A process that stood still has to ask before it hands on what lay here meanwhile.
    pub fn carries(&self) -> bool {
        let sessions = self.runtime.authenticator.sessions();
        match &self.evidence {
            Evidence::Session(view, _) => sessions.may_carry(view),
            Evidence::Token(verified) => sessions.may_carry_bearer(&verified.bearer),
        }
    }

    /// Whether what the client sends counts as use of a session.
    pub fn counts(&self) -> bool {
        !self.route.options.passive && matches!(self.evidence, Evidence::Session(..))
    }

    /// What a WebSocket is closed with when it has to end by this.
    pub fn close_code(&self) -> u16 {
        self.route.options.close_code.unwrap_or(POLICY)
    }

    /// What is left to the end that nothing moves.
    pub fn left(&self) -> Duration {
        let end = match &self.evidence {
            Evidence::Session(view, _) => view.limits().ends,
            Evidence::Token(verified) => verified.bearer.ends,
        };
        end.since(self.runtime.clock.now())
    }
}

/// Watches one answer.
pub struct Watch {
    tie: Option<Tie>,
    open: Option<Open>,
    steps: u32,
    stall: Stall,
}

struct Open {
    exchange: OpenExchange,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    over: Pin<Box<Sleep>>,
}

impl Watch {
    /// Watch an answer that is tied to this, if to anything.
    pub fn new(tie: Option<Tie>, idle: Option<Duration>) -> Watch {
        Watch { tie, open: None, steps: 0, stall: Stall::new(idle) }
    }

    /// Before a step: whether the answer has to end here. What has ended sends nothing more, however much lies ready.
    pub fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        if self.open.is_none() && self.steps < UNWATCHED {
            return false;
        }
        self.poll_end(cx).is_ready()
    }

    /// A step was made.
    pub fn moved(&mut self) {
        self.steps = self.steps.saturating_add(1);
        self.stall.moved();
    }

    /// Somebody waits: ready when the answer has to end.
    pub fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<Cut> {
        if self.poll_end(cx).is_ready() {
            return Poll::Ready(Cut::Session);
        }
        self.stall.poll_stalled(cx).map(|()| Cut::Idle)
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(tie) = &self.tie else { return Poll::Pending };
        if self.open.is_none() {
            let Some(exchange) = tie.open() else { return Poll::Ready(()) };
            let ended = Box::pin(exchange.token().cancelled_owned());
            let over = Box::pin(tokio::time::sleep(tie.left()));
            self.open = Some(Open { exchange, ended, over });
        }
        let Some(open) = &mut self.open else { return Poll::Pending };
        let is_over = open.exchange.is_over() || !tie.carries();
        let told = open.ended.as_mut().poll(cx).is_ready() || open.over.as_mut().poll(cx).is_ready();
        if is_over || told { Poll::Ready(()) } else { Poll::Pending }
    }
}
