//! What ends an answer from outside: its session or token, another configuration, and standing still. One decision: an exchange is
//! watched from the first moment that its answer makes somebody wait, or goes on for some time without – most answers never do, and an
//! event stream does at once – so that no stream outlives what let it begin. Knows nothing of frames.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::authn::Evidence;
use crate::clock::Clock;
use crate::policy::{Asked, Route};
use crate::session::{MayGoOn, MayStay, OpenExchange, Over, Sessions, StoreError};

use super::record::Recorder;
use super::stall::Stall;
use super::{Current, Worker};

/// Steps that an answer makes before it is watched though it never waits: an application and a client that are both fast would
/// carry an endless one past the end of its session.
const UNWATCHED: u32 = 16;

/// The close code where the route names none: who sent it may not go on (RFC 6455 §7.4.1).
const POLICY: u16 = 1008;
/// The one where nobody was signed out (IANA's registry: "Try Again Later").
const TRY_AGAIN: u16 = 1013;

/// Why an answer was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// What let it begin does so no more.
    #[error(transparent)]
    Over(#[from] Over),
    /// Nothing came for too long.
    #[error("nothing came for too long")]
    Idle,
}

impl Cut {
    /// A stable name for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Cut::Over(over) => over.as_str(),
            Cut::Idle => "idle",
        }
    }
}

/// What ties an exchange to what let it begin, and to what its route asks for.
#[derive(Clone)]
pub struct Tie {
    worker: Arc<Worker>,
    route: Arc<Route>,
    evidence: Evidence,
}

impl Tie {
    /// Of an exchange on this route.
    pub fn new(worker: &Arc<Worker>, route: &Arc<Route>, evidence: Evidence) -> Tie {
        Tie { worker: worker.clone(), route: route.clone(), evidence }
    }

    /// What let it begin.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// Register.
    ///
    /// # Errors
    /// [`Over`], where it ended since it was checked, or may have.
    pub fn open(&self, asked: Asked) -> Result<Held, Over> {
        Held::new(&self.worker, &self.route, Some(self.evidence.clone()), asked)
    }

    /// Waits until it has to end, and says why; not at all, where it had to before.
    pub async fn ended(&self, asked: impl FnOnce() -> Asked) -> Over {
        match self.open(asked()) {
            Ok(held) => held.ended().await,
            Err(over) => over,
        }
    }
}

/// Something open, and what it depends on. It outlives the runtime that it began with.
pub struct Held {
    current: Arc<Current>,
    sessions: Arc<Sessions>,
    clock: Arc<dyn Clock>,
    route: Arc<Route>,
    /// `None`: on a route that was everybody's.
    evidence: Option<Evidence>,
    asked: Arc<Asked>,
    /// The runtime that let it through last.
    passed: AtomicU64,
    exchange: OpenExchange,
}

impl Held {
    /// Of an exchange that began on this worker. A revocation that came before the registration is seen by the check after it, one
    /// that comes later by the registration; the same goes for the lease and for another configuration.
    ///
    /// # Errors
    /// [`Over`], where it ended since it was checked, or may have.
    pub fn new(worker: &Worker, route: &Arc<Route>, evidence: Option<Evidence>, asked: Asked) -> Result<Held, Over> {
        let (runtime, current, asked) = (&worker.runtime, worker.current.clone(), Arc::new(asked));
        let sessions = runtime.authenticator.sessions().clone();
        let (exchange, stands) = register(&sessions, &current, evidence.as_ref(), &asked);
        let (clock, route, passed) = (runtime.clock.clone(), route.clone(), AtomicU64::new(runtime.number));
        let held = Held { current, sessions, clock, route, evidence, asked, passed, exchange };
        match stands {
            Err(_) => Err(Over::Unknown),
            Ok(false) => Err(Over::Ended),
            Ok(true) if held.is_allowed() => Ok(held),
            Ok(true) => Err(Over::Denied),
        }
    }

    /// Whether the file of this moment lets it through. Looked at once for each.
    fn is_allowed(&self) -> bool {
        let number = self.current.number();
        if self.passed.load(Ordering::Relaxed) == number {
            return true;
        }
        let allowed = self.current.load().still_allows(&self.asked, self.evidence.as_ref(), None);
        if allowed {
            self.passed.store(number, Ordering::Relaxed);
        }
        allowed
    }

    /// Why it may not carry what lies here now; `None`: it may. A process that stood still has to ask before it hands on what came
    /// meanwhile, and nothing is handed on that the file does not allow any more.
    pub fn over(&self) -> Option<Over> {
        let hears = match &self.evidence {
            None => true,
            Some(Evidence::Session(session, _)) => self.sessions.may_carry(session),
            Some(Evidence::Token(verified)) => self.sessions.may_carry_bearer(&verified.bearer),
        };
        match self.exchange.over() {
            None if !hears => Some(Over::Unknown),
            None if !self.is_allowed() => Some(Over::Denied),
            over => over,
        }
    }

    /// End it.
    pub fn end(&self, why: Over) {
        self.exchange.end(why);
    }

    /// Waits until it has to end, and says why.
    pub async fn ended(&self) -> Over {
        tokio::select! {
            () = self.exchange.ended() => {}
            // The end that nothing moves.
            () = tokio::time::sleep(self.left()) => {}
        }
        self.exchange.over().unwrap_or(Over::Ended)
    }

    /// The client sent something that counts as use of the session.
    pub fn used(&self) {
        self.exchange.used();
    }

    /// Whether what the client sends counts as use of a session.
    pub fn counts(&self) -> bool {
        !self.route.options.passive && matches!(self.evidence, Some(Evidence::Session(..)))
    }

    /// What a WebSocket is closed with when it has to end by this.
    pub fn close_code(&self, why: Over) -> u16 {
        match why {
            Over::Unknown => TRY_AGAIN,
            Over::Ended | Over::Denied => self.route.options.close_code.unwrap_or(POLICY),
        }
    }

    /// What is left to the end that nothing moves.
    fn left(&self) -> Duration {
        let end = match &self.evidence {
            None => return Duration::MAX,
            Some(Evidence::Session(session, _)) => session.ends(),
            Some(Evidence::Token(verified)) => verified.bearer.ends,
        };
        end.since(self.clock.now())
    }
}

/// Register an exchange, and look whether what it rests on still stands. The role that the route asks for may be taken away later,
/// and the file may ask for another one.
fn register(
    sessions: &Arc<Sessions>,
    current: &Arc<Current>,
    evidence: Option<&Evidence>,
    asked: &Arc<Asked>,
) -> (OpenExchange, Result<bool, StoreError>) {
    let (current, asked, of) = (current.clone(), asked.clone(), evidence.cloned());
    match evidence {
        Some(Evidence::Session(session, told_by)) => {
            let may_go_on: MayGoOn = Arc::new(move |view| current.load().still_allows(&asked, of.as_ref(), Some(view)));
            let exchange = sessions.open_exchange_while(&session.view, *told_by, may_go_on);
            let denied = told_by.is_some_and(|id| sessions.is_token_revoked(id));
            (exchange, sessions.confirm(session).map(|stands| stands && !denied))
        }
        Some(Evidence::Token(verified)) => {
            let may_stay: MayStay = Arc::new(move || current.load().still_allows(&asked, of.as_ref(), None));
            let exchange = sessions.open_exchange_outside(Some(verified.bearer), may_stay);
            (exchange, sessions.confirm_bearer(&verified.bearer))
        }
        None => {
            let may_stay: MayStay = Arc::new(move || current.load().still_allows(&asked, None, None));
            (sessions.open_exchange_outside(None, may_stay), Ok(true))
        }
    }
}

/// Watches one answer.
pub struct Watch {
    tie: Option<Tie>,
    /// Whether it is one that the rules let through to anybody; what goes to a browser's question of its own is not.
    public: bool,
    open: Option<Open>,
    steps: u32,
    stall: Stall,
}

struct Open {
    held: Held,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    over: Pin<Box<Sleep>>,
}

impl Watch {
    /// Watch an answer that is tied to this, if to anything.
    pub fn new(tie: Option<Tie>, public: bool, idle: Option<Duration>) -> Watch {
        Watch { tie, public, open: None, steps: 0, stall: Stall::new(idle) }
    }

    /// Before a step: ready when the answer has to end here. What has ended sends nothing more, however much lies ready.
    pub fn poll_before(&mut self, of: &Recorder, cx: &mut Context<'_>) -> Poll<Over> {
        if self.open.is_none() && self.steps < UNWATCHED {
            return Poll::Pending;
        }
        self.poll_end(of, cx)
    }

    /// A step was made.
    pub fn moved(&mut self) {
        self.steps = self.steps.saturating_add(1);
        self.stall.moved();
    }

    /// Somebody waits: ready when the answer has to end.
    pub fn poll_cut(&mut self, of: &Recorder, cx: &mut Context<'_>) -> Poll<Cut> {
        if let Poll::Ready(over) = self.poll_end(of, cx) {
            return Poll::Ready(over.into());
        }
        self.stall.poll_stalled(cx).map(|()| Cut::Idle)
    }

    fn poll_end(&mut self, of: &Recorder, cx: &mut Context<'_>) -> Poll<Over> {
        if self.open.is_none() {
            let opened = match &self.tie {
                Some(tie) => tie.open(of.asked()),
                // Nobody's, and there is nothing to be told: it is looked at when there is another file.
                None if self.public && of.is_outdated() => match of.route() {
                    Some(route) => Held::new(of.worker(), route, None, of.asked()),
                    None => Err(Over::Denied),
                },
                None => return Poll::Pending,
            };
            let held = match opened {
                Ok(held) => held,
                Err(over) => return Poll::Ready(over),
            };
            let ended = Box::pin(held.exchange.token().cancelled_owned());
            let over = Box::pin(tokio::time::sleep(held.left()));
            self.open = Some(Open { held, ended, over });
        }
        let Some(open) = &mut self.open else { return Poll::Pending };
        let told = open.ended.as_mut().poll(cx).is_ready() || open.over.as_mut().poll(cx).is_ready();
        match open.held.over() {
            Some(over) => Poll::Ready(over),
            None if told => Poll::Ready(Over::Ended),
            None => Poll::Pending,
        }
    }
}
