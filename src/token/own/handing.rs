//! An answer that brings a new refresh token, on its way to the client. One decision: it counts as handed over when whoever answers
//! lets go of this, and that is written down beside the answer, which waits for no store. Knows nothing of answers.

use std::fmt;
use std::sync::Arc;

use crate::clock::Clock;
use crate::session::Sessions;

use super::family::{Families, Refresh};

/// Kept until the head of an answer is complete, or nobody waits for it any more.
pub struct Handing {
    families: Arc<Families>,
    sessions: Arc<Sessions>,
    token: Option<Refresh>,
    clock: Arc<dyn Clock>,
}

impl Handing {
    pub(super) fn new(
        families: Arc<Families>,
        sessions: Arc<Sessions>,
        token: Refresh,
        clock: Arc<dyn Clock>,
    ) -> Handing {
        Handing { families, sessions, token: Some(token), clock }
    }
}

/// What it holds is a secret.
impl fmt::Debug for Handing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handing").finish_non_exhaustive()
    }
}

impl Drop for Handing {
    fn drop(&mut self) {
        // Without a runtime the gateway is gone, and the bound of what was never handed over holds.
        let (Some(token), Ok(runtime)) = (self.token.take(), tokio::runtime::Handle::try_current()) else { return };
        let (families, sessions, at) = (self.families.clone(), self.sessions.clone(), self.clock.now());
        runtime.spawn(async move {
            if let Err(error) = families.handed(&sessions, &token, at).await {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "that a token was handed over is not written"
                );
            }
        });
    }
}
