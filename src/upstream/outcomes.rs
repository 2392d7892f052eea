//! What became of requests to an upstream, counted. One decision: one counter for each way an exchange can end, shared by all
//! workers. Knows nothing of who reads them.

use crate::counter::Counter;

use super::ForwardError;

/// Counts of one upstream.
#[derive(Debug, Default)]
pub struct Outcomes {
    answered: Counter,
    connect_failed: Counter,
    connect_timeout: Counter,
    broke_off: Counter,
    response_timeout: Counter,
    full: Counter,
    no_upgrade: Counter,
    abandoned: Counter,
}

/// An exchange until its outcome is told: where it never is, nobody waited for it any more.
pub(super) struct Untold<'o>(Option<&'o Outcomes>);

impl Untold<'_> {
    /// It got its response head, or did not.
    pub(super) fn tell<T>(mut self, outcome: &Result<T, ForwardError>) {
        let Some(outcomes) = self.0.take() else { return };
        let counter = match outcome {
            Ok(_) => &outcomes.answered,
            Err(ForwardError::Connect { .. }) => &outcomes.connect_failed,
            Err(ForwardError::ConnectTimeout(_)) => &outcomes.connect_timeout,
            Err(ForwardError::Exchange(_)) => &outcomes.broke_off,
            Err(ForwardError::ResponseTimeout) => &outcomes.response_timeout,
            Err(ForwardError::Full(_) | ForwardError::NoDescriptor(_)) => &outcomes.full,
            Err(ForwardError::NoUpgrade(_)) => &outcomes.no_upgrade,
        };
        counter.add();
    }
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        if let Some(outcomes) = self.0 {
            outcomes.abandoned.add();
        }
    }
}

impl Outcomes {
    /// An exchange begins.
    pub(super) fn begin(&self) -> Untold<'_> {
        Untold(Some(self))
    }

    /// Each by its name.
    pub fn all(&self) -> [(&'static str, u64); 8] {
        [
            ("answered", self.answered.get()),
            ("connect_failed", self.connect_failed.get()),
            ("connect_timeout", self.connect_timeout.get()),
            ("broke_off", self.broke_off.get()),
            ("response_timeout", self.response_timeout.get()),
            ("full", self.full.get()),
            ("no_upgrade", self.no_upgrade.get()),
            ("abandoned", self.abandoned.get()),
        ]
    }
}
