//! Signatures, one a turn. One decision: a worker verifies one signature and then lets everything else that is ready go on, so that
//! a flood of tokens – each from another address, each with another signature – keeps nobody else's request waiting for longer
//! than one of them takes. Knows nothing of tokens.

use std::sync::Arc;

use tokio::sync::Mutex;

thread_local! {
    /// A worker is a thread: what one verifies takes nothing from the others. First come, first served.
    static TURN: Arc<Mutex<()>> = Arc::default();
}

/// Compute it when it is its turn; who asked may stop waiting for it.
pub(super) async fn in_turn<T>(compute: impl FnOnce() -> T) -> T {
    let turn = TURN.with(Arc::clone).lock_owned().await;
    let computed = compute();
    // Comes back when the others went on and the sockets were looked at.
    tokio::task::yield_now().await;
    drop(turn);
    computed
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::task::JoinSet;

    use super::in_turn;

    /// attacks: a flood of bad tokens
    #[tokio::test]
    async fn between_two_signatures_everybody_else_goes_on() {
        const FLOOD: usize = 20;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for _ in 0..FLOOD {
            let seen = seen.clone();
            tasks.spawn(async move {
                in_turn(|| seen.lock().unwrap().push("signature")).await;
            });
        }
        tasks.spawn(async move {
            let count = |what| seen.lock().unwrap().iter().filter(|seen| **seen == what).count();
            while count("signature") < FLOOD {
                seen.lock().unwrap().push("other");
                tokio::task::yield_now().await;
            }
            assert!(seen.lock().unwrap().windows(2).all(|pair| pair != ["signature"; 2]), "{seen:?}");
        });
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    }
}
