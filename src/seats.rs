//! Places of connections. One decision: when all are taken, whoever has asked for nothing for the longest time gives theirs up: idle
//! connections, however many, keep nobody out; and the fewer places somebody has the sooner they get one: whoever comes again at once
//! as often as they are closed has no more of them. Knows nothing of what is asked.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Idle for less than this, nobody has to leave for somebody who has fewer places either.
const LEAST: Duration = Duration::from_secs(1);
/// So many are looked at for one who has more places.
const LOOKED_AT: usize = 256;

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
    /// Of each who is counted.
    each: HashMap<IpAddr, usize>,
    leaving: usize,
    /// The turn that was given last.
    turn: u64,
    /// Who asks for nothing, in the order in which that began.
    idle: BTreeMap<u64, Idle>,
}

#[derive(Debug)]
struct Idle {
    since: Instant,
    whose: Option<IpAddr>,
    leave: CancellationToken,
}

/// A place. Dropping it gives it back.
#[derive(Debug)]
pub struct Seat {
    seats: Seats,
    /// Among those that are idle, or [`ASKS`]. Changed under the table's lock; looked at without it.
    turn: AtomicU64,
    asked: AtomicBool,
    whose: Option<IpAddr>,
    /// Cancelled when it has to be given up.
    pub leave: CancellationToken,
}

impl Seats {
    /// So many, for whoever asks within `least`, and then for as long as nobody else comes; `leaving` may be on their way out.
    pub fn new(most: usize, least: Duration, leaving: usize) -> Seats {
        Seats(Arc::new(Room { most, least, leaving, table: Mutex::default() }))
    }

    /// Take one, for this address where it is counted, and whether somebody has to leave for it; `None` where nobody does.
    pub fn take(&self, whose: Option<IpAddr>) -> Option<(Seat, bool)> {
        let mut table = self.lock();
        let is_full = table.taken >= self.0.most;
        // More than one, where some asked in the very moment in which they had to leave.
        while table.taken >= self.0.most {
            let turn = table.turn_for(whose, self.0.least).filter(|_| table.leaving < self.0.leaving)?;
            let idle = table.idle.remove(&turn)?;
            idle.leave.cancel();
            table.remove(idle.whose);
            table.leaving += 1;
        }
        table.add(whose);
        let leave = CancellationToken::new();
        let turn = table.rest(whose, &leave).into();
        drop(table);
        Some((Seat { seats: self.clone(), turn, asked: AtomicBool::new(false), whose, leave }, is_full))
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
    fn rest(&mut self, whose: Option<IpAddr>, leave: &CancellationToken) -> u64 {
        self.turn += 1;
        self.idle.insert(self.turn, Idle { since: Instant::now(), whose, leave: leave.clone() });
        self.turn
    }

    fn add(&mut self, whose: Option<IpAddr>) {
        self.taken += 1;
        if let Some(whose) = whose {
            *self.each.entry(whose).or_default() += 1;
        }
    }

    fn remove(&mut self, whose: Option<IpAddr>) {
        self.taken -= 1;
        if let Some((whose, places)) = whose.and_then(|whose| Some((whose, self.each.get_mut(&whose)?))) {
            *places -= 1;
            if *places == 0 {
                self.each.remove(&whose);
            }
        }
    }

    fn places(&self, whose: Option<IpAddr>) -> usize {
        whose.and_then(|whose| self.each.get(&whose)).copied().unwrap_or_default()
    }

    /// Who has to leave for this one: who is idle for longest, if for so long at `least`, or has twice as many places as this one would.
    fn turn_for(&self, whose: Option<IpAddr>, least: Duration) -> Option<u64> {
        let twice = 2 * (self.places(whose) + 1);
        let leaves = |idle: &Idle, since: Duration| since >= least || self.places(idle.whose) >= twice;
        let looked_at = self.idle.iter().take(LOOKED_AT).map(|(turn, idle)| (turn, idle, idle.since.elapsed()));
        let mut long = looked_at.take_while(|(.., since)| *since >= least.min(LEAST));
        long.find(|(_, idle, since)| leaves(idle, *since)).map(|(turn, ..)| *turn)
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
            table.add(self.whose);
        }
        self.asked.store(true, Ordering::Relaxed);
    }

    /// It was answered.
    pub fn rests(&self) {
        let mut table = self.seats.lock();
        if self.turn.load(Ordering::Relaxed) == ASKS {
            self.turn.store(table.rest(self.whose, &self.leave), Ordering::Relaxed);
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
            table.remove(self.whose);
        } else {
            table.leaving -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::{Duration, Instant};

    use super::Seats;

    #[test]
    fn who_rests_longest_leaves_and_nobody_who_is_being_answered() {
        let seats = Seats::new(3, Duration::ZERO, 3);
        let taken: Vec<_> = (0..3).map(|_| seats.take(None).unwrap().0).collect();
        taken[0].asks();
        taken[1].asks();
        taken[1].rests();
        let (fourth, left) = seats.take(None).unwrap();
        assert!(left && taken[2].leave.is_cancelled() && !taken[1].leave.is_cancelled());
        assert!(taken[1].has_asked() && !fourth.has_asked());
        fourth.asks();
        taken[1].asks();
        assert!(seats.take(None).is_none(), "all are being answered");
        drop(fourth);
        assert!(!seats.take(None).unwrap().1, "a place was given back");
        assert!(!taken[0].leave.is_cancelled() && !taken[1].leave.is_cancelled());
        drop(taken);
        assert_eq!(seats.taken(), 0);
    }

    #[test]
    fn who_asks_while_leaving_is_counted_and_others_leave_for_it() {
        let seats = Seats::new(2, Duration::ZERO, 2);
        let [first, second] = [(); 2].map(|()| seats.take(None).unwrap().0);
        let (third, _) = seats.take(None).unwrap();
        first.asks();
        assert_eq!((first.leave.is_cancelled(), seats.taken()), (true, 3));
        let (fourth, _) = seats.take(None).unwrap();
        assert!(second.leave.is_cancelled() && third.leave.is_cancelled() && !fourth.leave.is_cancelled());
        assert_eq!(seats.taken(), 2);
        drop((first, second, third, fourth));
        assert_eq!(seats.taken(), 0);
    }

    #[test]
    fn who_has_many_places_leaves_sooner_for_who_has_few() {
        let [many, few] = [1, 2].map(|last| Some(IpAddr::from([192, 0, 2, last])));
        let seats = Seats::new(4, Duration::from_secs(3600), 4);
        let mut taken: Vec<_> = [few, many, many, many].map(|whose| seats.take(whose).unwrap().0).into();
        assert!(seats.take(few).is_none(), "all just came");
        let since = Instant::now().checked_sub(super::LEAST).unwrap();
        seats.lock().idle.values_mut().for_each(|idle| idle.since = since);
        assert!(seats.take(many).is_none());
        taken[1].asks();
        assert!(seats.take(few).is_none(), "three are not twice as many as two");
        taken.remove(0);
        taken.push(seats.take(None).unwrap().0);
        taken.push(seats.take(few).unwrap().0);
        assert_eq!(
            taken.iter().map(|seat| seat.leave.is_cancelled()).collect::<Vec<_>>(),
            [false, true, false, false, false]
        );
        assert!(seats.take(few).is_none(), "each has two by now, or is not counted");
        drop(taken);
        assert!(seats.lock().each.is_empty() && seats.taken() == 0);
    }

    #[test]
    fn nobody_leaves_at_once_and_not_all_together() {
        let young = Seats::new(1, Duration::from_secs(3600), 1);
        let _held = young.take(None).unwrap();
        assert!(young.take(None).is_none());
        let seats = Seats::new(1, Duration::ZERO, 2);
        let mut left: Vec<_> = (0..3).map(|_| seats.take(None).unwrap().0).collect();
        assert!(seats.take(None).is_none(), "as many as may are leaving yet");
        left.remove(0);
        assert!(seats.take(None).is_some());
    }
}
