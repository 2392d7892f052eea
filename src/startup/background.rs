//! The thread of what belongs to no worker: queued touches, sweeps, the user file, keys, health checks. One decision: what belongs to
//! one configuration ends with it, everything else goes on however often the file is read again. Knows nothing of requests.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use crate::clock::Clock;
use crate::login::Audit;
use crate::login::oidc::follow_open;
use crate::proxy::{AuditLine, Current, Records, Runtime, audit};
use crate::server::{Certificates, Hurry};
use crate::task::task;
use crate::upstream;

use super::runtime::Lasting;

/// What is under way gets so long where the stop was told to hurry.
const HURRIED: Duration = Duration::from_secs(1);

/// The thread. Dropping it ends it.
pub(super) struct Background {
    stop: CancellationToken,
    clock: Arc<dyn Clock>,
    tokio: tokio::runtime::Handle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Background {
    /// Start what lasts.
    pub(super) fn start(
        lasting: &Lasting,
        current: Arc<Current>,
        certificates: Arc<Certificates>,
        hurry: Hurry,
    ) -> io::Result<Background> {
        let stop = CancellationToken::new();
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (handle, stopped) = (tokio.handle().clone(), stop.clone());
        let (sessions, ring, clock) = (lasting.sessions.clone(), lasting.ring.clone(), lasting.clock.clone());
        let (records, at) = (lasting.records.clone(), clock.clone());
        let work = async move {
            let tell = |of: Audit| told(&*records, &*at, &of);
            let maintain = sessions.clone().maintain(clock.clone(), stopped.clone());
            let users = current.load().login.maintain(clock.clone(), stopped.clone(), tell);
            let open = follow_open(|| current.load(), clock.clone(), stopped.clone());
            let certificates = certificates.watch(stopped.clone());
            let ring = async {
                if let Some(ring) = &ring {
                    ring.maintain(&*clock, &stopped).await;
                }
            };
            let hurried = async {
                tokio::join!(hurry.said(), stopped.cancelled());
                tokio::time::sleep(HURRIED).await;
            };
            tokio::select! {
                _ = async { tokio::join!(maintain, users, open, certificates, ring) } => {}
                () = hurried => tracing::warn!("cut by the stop: refreshes of tokens, or what was owed to the store"),
            }
            if let Err(error) = sessions.flush().await {
                tracing::warn!(%error, "the last activity of some sessions was not written");
            }
        };
        let thread = std::thread::Builder::new().name("background".to_owned()).spawn(move || tokio.block_on(work))?;
        Ok(Background { stop, clock: lasting.clock.clone(), tokio: handle, thread: Some(thread) })
    }

    /// Ask the servers of a runtime whether they are well, and keep its keys fresh, until what is answered is dropped.
    pub(super) fn attend(&self, runtime: &Runtime) -> DropGuard {
        let stop = self.stop.child_token();
        let (tokens, upstreams) = (runtime.authenticator.tokens().clone(), runtime.upstreams.clone());
        let (clock, stopped) = (self.clock.clone(), stop.clone());
        self.tokio.spawn(task(async move {
            tokio::join!(upstream::watch(upstreams, stopped.clone()), tokens.maintain(clock, stopped));
        }));
        stop.drop_guard()
    }
}

/// Whoever changed the user file is the operator.
fn told(records: &dyn Records, clock: &dyn Clock, of: &Audit) {
    let line = AuditLine::of_operator(of.event, of.subject.as_deref().unwrap_or_default(), clock.now());
    audit(
        records,
        &AuditLine { provider: of.provider.as_deref(), user: of.user.as_deref(), reason: of.reason, ..line },
    );
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.cancel();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the background thread panicked");
        }
    }
}
