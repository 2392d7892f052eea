//! Sessions in which something is open and nobody asks any more. One decision: an open stream is no reason to know less of its session
//! than a request would learn: the provider's tokens are seen to as for a request, so that roles it took away, here or at another
//! node, and its taking back of the session end the stream. Knows nothing of streams.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::login::Login;

use super::tokens::LOOK;

/// Sessions that are seen to at once: one provider that hangs holds up no other.
const AT_ONCE: usize = 32;

/// See to them as often as requests would, until told to stop; by the pages of that moment.
pub async fn follow_open<R>(current: impl Fn() -> Arc<R>, clock: Arc<dyn Clock>, stop: CancellationToken)
where
    R: AsRef<Login> + Send + Sync + 'static,
{
    let some = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let (mut looks, runtime) = (JoinSet::new(), current());
        for view in (*runtime).as_ref().sessions.open_views() {
            let (runtime, clock, some) = (runtime.clone(), clock.clone(), some.clone());
            looks.spawn(async move {
                let _one_of_some = some.acquire().await;
                if let Err(error) = (*runtime).as_ref().follow(&view, clock.now()).await {
                    let error: &dyn std::error::Error = &error;
                    tracing::debug!(session = ?view.key, error, "the provider's tokens could not be seen to");
                }
            });
        }
        drop(runtime);
        tokio::select! {
            () = stop.cancelled() => return,
            _ = looks.join_all() => {}
        }
    }
}
