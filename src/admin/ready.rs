//! Whether requests should be sent here. One decision: ready is what every check says at this moment, and a check says in one
//! line what is missing; alive is something else and asks nobody, for a process manager must not kill a gateway because its
//! store is away. Knows nothing of stores.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::causes;
use crate::session::Sessions;
use crate::token::ring::KeyRing;

use super::Admin;

/// What a check found; what is amiss although it holds.
pub type CheckFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Option<String>, Box<dyn Error + Send + Sync>>> + Send + 'a>>;

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
        Box::pin(async {
            let missed = self.probe().await?;
            // Whoever is signed in is answered here, and nowhere else: out of a balancer nobody would be.
            if !self.takes_writes() {
                return Ok(Some("it takes no writes; signing in and out and revoking get 503".to_owned()));
            }
            Ok((missed > 0).then(|| format!("{missed} parts of it are away; sessions in them get 503")))
        })
    }
}

/// The keys of tokens were found: a gateway that started while the store was away has none yet.
impl Check for Arc<KeyRing> {
    fn name(&self) -> &'static str {
        "token keys"
    }

    fn ask(&self) -> CheckFuture<'_> {
        Box::pin(async { Ok(self.found().map(|()| None)?) })
    }
}

/// Whether it is ready, and what is missing or amiss, a line each.
pub(super) async fn judge(admin: &Admin) -> (bool, String) {
    let (mut ready, mut lines) = (true, String::new());
    if admin.draining.is() {
        ready = false;
        lines.push_str("gateway: stopping\n");
    }
    for check in &admin.checks {
        let name = check.name();
        match check.ask().await {
            Ok(None) => {}
            Ok(Some(amiss)) => lines.push_str(&format!("{name}: {amiss}\n")),
            Err(error) => {
                ready = false;
                lines.push_str(&format!("{name}: {}\n", causes::line(&*error)));
            }
        }
    }
    (ready, lines)
}
