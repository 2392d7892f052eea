//! New tokens on their way to the client. One decision: they leave while the grace of the token before them lasts or not at all, and the
//! grace counts from when they first leave. So an answer that is late, or that nobody waits for, takes nothing from whoever asked, and
//! whoever keeps one waiting gets nothing that others were handed meanwhile. Knows nothing of answers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Timestamp};
use crate::session::Sessions;

use super::family::{Families, Refresh};

/// So long an answer waits until it is written down that it hands tokens over, or found that it must not. Few wait at all.
const WAIT: Duration = Duration::from_secs(2);

/// Asked when the head of the answer is there. Dropped before, nothing was handed over.
pub struct Handing {
    families: Arc<Families>,
    sessions: Arc<Sessions>,
    token: Refresh,
    clock: Arc<dyn Clock>,
    /// Until then nobody else can have had the token for longer than the grace.
    until: Timestamp,
    written: bool,
}

impl Handing {
    /// Of a token that was `handed` over at some time as far as was known `now`.
    pub(super) fn new(
        families: Arc<Families>,
        sessions: Arc<Sessions>,
        token: Refresh,
        clock: Arc<dyn Clock>,
        (handed, now): (Option<Timestamp>, Timestamp),
    ) -> Handing {
        let until = handed.unwrap_or(now).plus(families.grace());
        Handing { families, sessions, token, clock, until, written: handed.is_some() }
    }

    /// Whether the tokens go out with an answer that leaves now. That they do is written down beside the answer, or before it where it is
    /// late: then the store says whether others were handed them meanwhile, and no browser needs them twice.
    pub async fn may_leave(self) -> bool {
        let at = self.clock.now();
        let in_time = at <= self.until;
        if self.written {
            return in_time;
        }
        let Handing { families, sessions, token, .. } = self;
        // To its end, whoever waits for it.
        let writing = tokio::spawn(async move { families.hand(&sessions, &token, at).await });
        if in_time {
            return true;
        }
        match tokio::time::timeout(WAIT, writing).await {
            Ok(Ok(Ok(may))) => may,
            // It may be written: who is not handed what counts as handed over is taken for a thief with the next request.
            _ => true,
        }
    }
}

/// What it holds is a secret.
impl fmt::Debug for Handing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handing").finish_non_exhaustive()
    }
}
