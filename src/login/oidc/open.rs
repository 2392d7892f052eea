//! Sessions in which something is open and nobody asks any more. One decision: an open stream is no reason to know less of its session
//! than a request would learn: the provider's tokens are seen to as for a request, so that roles it took away, here or at another
//! node, and its taking back of the session end the stream. Knows nothing of streams.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::login::Login;
use crate::task::task;

use super::tokens::{LOOK, Needs};

/// Sessions that are seen to at once: one provider that hangs holds up no other.
const AT_ONCE: usize = 32;
/// How long the gateway's stop waits for refreshes that have begun: as long as a provider may take for one.
const GRACE: Duration = Duration::from_secs(15);

/// See to them as often as requests would, until told to stop; by the pages of that moment.
pub async fn follow_open<R>(current: impl Fn() -> Arc<R>, clock: Arc<dyn Clock>, stop: CancellationToken)
where
    R: AsRef<Login> + Send + Sync + 'static,
{
    let (some, acts) = (Arc::new(Semaphore::new(AT_ONCE)), TaskTracker::new());
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        let (mut looks, runtime) = (JoinSet::new(), current());
        for view in (*runtime).as_ref().sessions.open_views() {
            let (runtime, clock, some) = (runtime.clone(), clock.clone(), some.clone());
            let acts = acts.clone();
            looks.spawn(task(async move {
                let _one_of_some = some.acquire().await;
                let followed = Login::follow(&runtime, &acts, &view, Needs::Outcome, clock.now()).await;
                if let Err(error) = followed {
                    let error: &dyn std::error::Error = &error;
                    tracing::debug!(session = ?view.key, error, "the provider's tokens could not be seen to");
                }
            }));
        }
        drop(runtime);
        if stop.run_until_cancelled(looks.join_all()).await.is_none() {
            break;
        }
    }
    // A provider that was asked may have taken the old refresh token back: what it gave instead is still to be kept.
    acts.close();
    if tokio::time::timeout(GRACE, acts.wait()).await.is_err() {
        tracing::warn!(refreshes = acts.len(), "cut at the stop: their sessions may end at the next refresh");
    }
}
