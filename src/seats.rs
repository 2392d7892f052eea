//! Places of connections. One decision: when all are taken, whoever has asked for nothing for the longest time gives theirs up: idle
//! connections, however many, keep nobody out. Knows nothing of what is asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

/// All of them.
#[derive(Clone)]
pub struct Seats {
    most: usize,
    taken: Arc<Mutex<Vec<Taken>>>,
}

struct Taken {
    id: u64,
    /// Since when it asks for nothing; `None`: it is being answered.
    idle: Option<Instant>,
    asked: bool,
    leave: CancellationToken,
}

/// A place. Dropping it gives it back.
pub struct Seat {
    id: u64,
    seats: Seats,
    /// Cancelled when it has to be given up.
    pub leave: CancellationToken,
}

impl Seats {
    /// So many.
    pub fn new(most: usize) -> Seats {
        Seats { most, taken: Arc::default() }
    }

    /// Take one, and whether somebody has to leave for it; `None` where everybody is being answered.
    pub fn take(&self, id: u64) -> Option<(Seat, bool)> {
        let mut taken = self.lock();
        let is_full = taken.len() >= self.most;
        if is_full {
            let idle = (0..taken.len()).filter_map(|at| Some((taken[at].idle?, at)));
            let (_, longest) = idle.min()?;
            taken.swap_remove(longest).leave.cancel();
        }
        let leave = CancellationToken::new();
        taken.push(Taken { id, idle: Some(Instant::now()), asked: false, leave: leave.clone() });
        drop(taken);
        Some((Seat { id, seats: self.clone(), leave }, is_full))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// It is being answered from now on.
    pub fn asks(&self) {
        self.change(|taken| (taken.idle, taken.asked) = (None, true));
    }

    /// It was answered.
    pub fn rests(&self) {
        self.change(|taken| taken.idle = Some(Instant::now()));
    }

    /// Whether it ever asked for something.
    pub fn has_asked(&self) -> bool {
        let mut asked = false;
        self.change(|taken| asked = taken.asked);
        asked
    }

    fn change(&self, how: impl FnOnce(&mut Taken)) {
        if let Some(taken) = self.seats.lock().iter_mut().find(|taken| taken.id == self.id) {
            how(taken);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().retain(|taken| taken.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::Seats;

    #[test]
    fn who_rests_longest_leaves_and_nobody_who_is_being_answered() {
        let seats = Seats::new(3);
        let taken: Vec<_> = (0..3).map(|id| seats.take(id).unwrap().0).collect();
        taken[0].asks();
        taken[1].asks();
        taken[1].rests();
        let (fourth, left) = seats.take(3).unwrap();
        assert!(left && taken[2].leave.is_cancelled() && !taken[1].leave.is_cancelled());
        assert!(taken[1].has_asked() && !fourth.has_asked());
        fourth.asks();
        taken[1].asks();
        assert!(seats.take(4).is_none(), "all are being answered");
        drop(fourth);
        assert!(!seats.take(5).unwrap().1, "a place was given back");
        assert!(!taken[0].leave.is_cancelled() && !taken[1].leave.is_cancelled());
    }
}
