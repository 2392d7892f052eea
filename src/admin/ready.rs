//! Whether requests should be sent here. One decision: ready is what every check says at this moment, and a check says in one
//! line what is missing; alive is something else and asks nobody, for a process manager must not kill a gateway because its
//! store is away. Knows nothing of stores.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::session::Sessions;

use super::Admin;

/// What a check found.
pub type CheckFuture<'a> = Pin<Box<dyn Future<Output = Result<(), Box<dyn Error + Send + Sync>>> + Send + 'a>>;

/// One thing that has to hold for requests to be answered. It bounds its own time.
pub trait Check: Send + Sync + 'static {
    /// Its name in the answer.
    fn name(&self) -> &'static str;

    /// Whether it holds now.
    fn ask(&self) -> CheckFuture<'_>;
}

/// The store answers.
impl Check for Arc<Sessions> {
    fn name(&self) -> &'static str {
        "store"
    }

    fn ask(&self) -> CheckFuture<'_> {
        Box::pin(async { self.probe().await.map_err(Into::into) })
    }
}

/// What is missing, a line each; empty: ready.
pub(super) async fn missing(admin: &Admin) -> String {
    let mut lines = String::new();
    if admin.draining.is() {
        lines.push_str("gateway: stopping\n");
    }
    for check in &admin.checks {
        if let Err(error) = check.ask().await {
            lines.push_str(&format!("{}: {error}", check.name()));
            let mut cause = error.source();
            while let Some(error) = cause {
                lines.push_str(&format!(": {error}"));
                cause = error.source();
            }
            lines.push('\n');
        }
    }
    lines
}
