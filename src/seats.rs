//! Places of connections. One decision: when all are taken, whoever has asked for nothing for the longest time gives theirs up: idle
//! connections, however many, keep nobody out. Knows nothing of what is asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// The turn of who is being answered.
const ASKS: u64 = 0;

/// All of them.
#[derive(Clone, Debug)]
pub struct Seats(Arc<Room>);

#[derive(Debug)]
struct Room {
    most: usize,
    /// Idle for less than this, nobody has to leave: whoever just came is yet to ask.
    least: Duration,
    /// Those that gave their place up and are not gone yet, at most: a descriptor each, beyond those that there are places for.
    leaving: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    taken: usize,
    leaving: usize,
    /// The turn that was given last.
    turn: u64,
    /// Who asks for nothing, in the order in which that began.
    idle: BTreeMap<u64, (Instant, CancellationToken)>,
}

/// A place. Dropping it gives it back.
#[derive(Debug)]
pub struct Seat {
    seats: Seats,
    /// Among those that are idle, or [`ASKS`]. Changed under the table's lock; looked at without it.
    turn: AtomicU64,
    asked: AtomicBool,
    /// Cancelled when it has to be given up.
    pub leave: CancellationToken,
}

impl Seats {
    /// So many, for whoever asks within `least`, and then for as long as nobody else comes; `leaving` may be on their way out.
    pub fn new(most: usize, least: Duration, leaving: usize) -> Seats {
        Seats(Arc::new(Room { most, least, leaving, table: Mutex::default() }))
    }

    /// Take one, and whether somebody has to leave for it; `None` where nobody does.
    pub fn take(&self) -> Option<(Seat, bool)> {
        let mut table = self.lock();
        let is_full = table.taken >= self.0.most;
        // More than one, where some asked in the very moment in which they had to leave.
        while table.taken >= self.0.most {
            let has_room = table.leaving < self.0.leaving;
            let longest = table.idle.first_entry().filter(|longest| longest.get().0.elapsed() >= self.0.least);
            longest.filter(|_| has_room)?.remove().1.cancel();
            table.taken -= 1;
            table.leaving += 1;
        }
        table.taken += 1;
        let leave = CancellationToken::new();
        let turn = table.rest(&leave).into();
        drop(table);
        Some((Seat { seats: self.clone(), turn, asked: AtomicBool::new(false), leave }, is_full))
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.lock().taken
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Somebody asks for nothing from now on.
    fn rest(&mut self, leave: &CancellationToken) -> u64 {
        self.turn += 1;
        self.idle.insert(self.turn, (Instant::now(), leave.clone()));
        self.turn
    }
}

impl Seat {
    /// It is being answered from now on. Costs a look where that is known.
    pub fn asks(&self) {
        if self.turn.load(Ordering::Relaxed) == ASKS {
            return;
        }
        let mut table = self.seats.lock();
        let turn = self.turn.swap(ASKS, Ordering::Relaxed);
        if turn != ASKS && table.idle.remove(&turn).is_none() {
            // It had to leave, and asked in that very moment: it is answered, and counted.
            table.leaving -= 1;
            table.taken += 1;
        }
        self.asked.store(true, Ordering::Relaxed);
    }

    /// It was answered.
    pub fn rests(&self) {
        let mut table = self.seats.lock();
        if self.turn.load(Ordering::Relaxed) == ASKS {
            self.turn.store(table.rest(&self.leave), Ordering::Relaxed);
        }
    }

    /// Whether it asks for nothing.
    pub fn is_idle(&self) -> bool {
        self.turn.load(Ordering::Relaxed) != ASKS
    }

    /// Whether it ever asked for something.
    pub fn has_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let turn = *self.turn.get_mut();
        let mut table = self.seats.lock();
        if turn == ASKS || table.idle.remove(&turn).is_some() {
            table.taken -= 1;
        } else {
            table.leaving -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Seats;

    #[test]
    fn who_rests_longest_leaves_and_nobody_who_is_being_answered() {
        let seats = Seats::new(3, Duration::ZERO, 3);
        let taken: Vec<_> = (0..3).map(|_| seats.take().unwrap().0).collect();
        taken[0].asks();
        taken[1].asks();
        taken[1].rests();
        let (fourth, left) = seats.take().unwrap();
        assert!(left && taken[2].leave.is_cancelled() && !taken[1].leave.is_cancelled());
        assert!(taken[1].has_asked() && !fourth.has_asked());
        fourth.asks();
        taken[1].asks();
        assert!(seats.take().is_none(), "all are being answered");
        drop(fourth);
        assert!(!seats.take().unwrap().1, "a place was given back");
        assert!(!taken[0].leave.is_cancelled() && !taken[1].leave.is_cancelled());
        drop(taken);
        assert_eq!(seats.taken(), 0);
    }

    #[test]
    fn who_asks_while_leaving_is_counted_and_others_leave_for_it() {
        let seats = Seats::new(2, Duration::ZERO, 2);
        let [first, second] = [(); 2].map(|()| seats.take().unwrap().0);
        let (third, _) = seats.take().unwrap();
        first.asks();
        assert_eq!((first.leave.is_cancelled(), seats.taken()), (true, 3));
        let (fourth, _) = seats.take().unwrap();
        assert!(second.leave.is_cancelled() && third.leave.is_cancelled() && !fourth.leave.is_cancelled());
        assert_eq!(seats.taken(), 2);
        drop((first, second, third, fourth));
        assert_eq!(seats.taken(), 0);
    }

    #[test]
    fn nobody_leaves_at_once_and_not_all_together() {
        let young = Seats::new(1, Duration::from_secs(3600), 1);
        let _held = young.take().unwrap();
        assert!(young.take().is_none());
        let seats = Seats::new(1, Duration::ZERO, 2);
        let mut left: Vec<_> = (0..3).map(|_| seats.take().unwrap().0).collect();
        assert!(seats.take().is_none(), "as many as may are leaving yet");
        left.remove(0);
        assert!(seats.take().is_some());
    }
}
