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
    no_upgrade: Counter,
}

impl Outcomes {
    /// An exchange got its response head, or did not.
    pub(super) fn count<T>(&self, outcome: &Result<T, ForwardError>) {
        match outcome {
            Ok(_) => self.answered.add(),
            Err(ForwardError::Connect { .. }) => self.connect_failed.add(),
            Err(ForwardError::ConnectTimeout(_)) => self.connect_timeout.add(),
            Err(ForwardError::Exchange(_)) => self.broke_off.add(),
            Err(ForwardError::ResponseTimeout) => self.response_timeout.add(),
            Err(ForwardError::NoUpgrade(_)) => self.no_upgrade.add(),
        }
    }

    /// Each by its name.
    pub fn all(&self) -> [(&'static str, u64); 6] {
        [
            ("answered", self.answered.get()),
            ("connect_failed", self.connect_failed.get()),
            ("connect_timeout", self.connect_timeout.get()),
            ("broke_off", self.broke_off.get()),
            ("response_timeout", self.response_timeout.get()),
            ("no_upgrade", self.no_upgrade.get()),
        ]
    }
}
