//! What the node core and a revocation do, step by step: the rules that the simulation rests on, and the counter-examples that it
//! found.

use std::time::Duration;

use portcullis::clock::Timestamp;
use portcullis::session::coherence::{Ask, Core, Moment, Revoking, Rules, Standing, Step};
use portcullis::session::shared::{Boot, Cycle, Entry, Opening, Position, Receipt, Registered, Term};
use portcullis::session::{Event, EventId, Revoked, SessionKey, TokenId, Wait};

const ONE: Term = Term([1; 20]);
const TWO: Term = Term([2; 20]);
const ME: Boot = Boot([9; 16]);

fn ms(ms: u64) -> Moment {
    Duration::from_millis(ms)
}

fn at(ms: u64) -> Position {
    Position { ms, seq: 0 }
}

fn entry(n: u8, ms: u64) -> Entry {
    let event = Event::Ended { key: SessionKey([n; 16]), until: Timestamp(u64::MAX) };
    Entry { at: at(ms), id: EventId([n; 16]), event }
}

fn opening(term: Term, last: u64) -> Opening {
    Opening { term, last: at(last), trimmed: at(0), replicas: true, store: 1 }
}

/// A core under test, and what it applied.
struct Node {
    core: Core,
    applied: Vec<u8>,
}

impl Node {
    fn new() -> Node {
        Node { core: Core::new(Rules::new(ms(0)), ME), applied: Vec::new() }
    }

    fn cycle(&mut self, now: u64, entries: &[Entry]) {
        assert!(matches!(self.core.next(ms(now)), Ask::Cycle(..)), "{:?}", self.core);
        let Node { core, applied } = self;
        let cycle = Cycle { entries: entries.to_vec(), more: false, ..Cycle::default() };
        core.cycled(&cycle, ms(now + 5), &mut |event| applied.push(number(event)));
    }

    fn push(&mut self, term: Term, now: u64, entries: &[Entry]) {
        let Node { core, applied } = self;
        core.pushed(term, entries, ms(now), &mut |event| applied.push(number(event)));
    }

    /// Connected to a master of the term, and live.
    fn live(term: Term, entries: &[Entry]) -> Node {
        let mut node = Node::new();
        assert_eq!(node.core.next(ms(0)), Ask::Connect);
        assert!(!node.core.opened(opening(term, 0), ms(0)), "there is nothing in memory");
        node.cycle(0, entries);
        assert_eq!(node.core.standing(ms(10)), Standing::Live);
        node
    }
}

fn number(event: &Event) -> u8 {
    match event {
        Event::Ended { key, .. } => key.0[0],
        other => panic!("{other:?}"),
    }
}

/// Until when its memory is answered: I3.
#[test]
fn a_lease_counts_from_before_the_heartbeat_and_nothing_else_renews_it() {
    let mut node = Node::live(ONE, &[]);
    assert_eq!(node.core.lease(), Some(ms(2_000)), "asked for at 0, answered at 5");
    assert_eq!(node.core.next(ms(299)), Ask::Rest(ms(300)));
    node.cycle(300, &[entry(1, 50)]);
    assert_eq!(node.core.lease(), Some(ms(2_300)));
    node.push(ONE, 310, &[entry(2, 60)]);
    assert_eq!(
        (node.core.lease(), &*node.applied),
        (Some(ms(2_300)), &[1, 2][..]),
        "a push is applied and renews nothing"
    );
    node.core.failed(ms(400));
    assert_eq!(node.core.standing(ms(2_299)), Standing::Suspect);
    assert_eq!(node.core.standing(ms(2_300)), Standing::Stale);
    let mut rules = Rules::new(ms(1_000));
    rules.lease = ms(2_000);
    let mut lenient = Node { core: Core::new(rules, ME), applied: Vec::new() };
    lenient.core.next(ms(0));
    lenient.core.opened(opening(ONE, 0), ms(0));
    assert_eq!(lenient.core.standing(ms(1)), Standing::CatchUp);
    lenient.cycle(0, &[]);
    lenient.core.failed(ms(10));
    assert_eq!(lenient.core.standing(ms(2_999)), Standing::Grace);
    assert_eq!(lenient.core.standing(ms(3_000)), Standing::Stale);
    assert!(rules.bound() > ms(3_000), "whoever revokes waits for the grace too");
}

#[test]
fn events_are_acknowledged_at_once_and_by_what_was_applied() {
    let mut node = Node::live(ONE, &[entry(1, 50)]);
    let Ask::Cycle(beat, after) = node.core.next(ms(5)) else {
        panic!("an event is acknowledged before the next beat")
    };
    assert_eq!((beat.applied, after, beat.boot), (at(50), at(50), ME));
    node.core.cycled(&Cycle::default(), ms(6), &mut |_| ());
    assert_eq!(node.core.next(ms(100)), Ask::Rest(ms(305)));
    node.push(ONE, 100, &[entry(2, 60)]);
    let Ask::Cycle(beat, _) = node.core.next(ms(100)) else { panic!("{:?}", node.core) };
    assert_eq!(beat.applied, at(60));
    node.push(TWO, 101, &[entry(3, 900)]);
    assert_eq!(node.applied, [1, 2], "what an earlier link still brings is of another history");
}

/// A log longer than one answer gives no lease before its end.
#[test]
fn there_is_no_lease_before_the_end_of_the_log() {
    let mut node = Node::new();
    node.core.next(ms(0));
    node.core.opened(opening(ONE, 100), ms(0));
    assert!(matches!(node.core.next(ms(0)), Ask::Cycle(_, after) if after == at(0)));
    let cycle = Cycle { entries: vec![entry(1, 50)], more: true, ..Cycle::default() };
    node.core.cycled(&cycle, ms(1), &mut |_| ());
    assert_eq!((node.core.lease(), node.core.follow()), (None, None));
    assert!(matches!(node.core.next(ms(1)), Ask::Cycle(_, after) if after == at(50)));
    node.core.cycled(&Cycle::default(), ms(2), &mut |_| ());
    assert_eq!((node.core.lease(), node.core.follow()), (Some(ms(2_001)), Some(at(50))));
}

/// I6. The log of another term is read whole: a promoted server with a slower clock writes ids far below the lost tail.
#[test]
fn after_a_failover_the_whole_log_is_read_and_what_it_lost_is_written_again() {
    let mut node = Node::live(ONE, &[entry(1, 500_000), entry(2, 500_001)]);
    node.core.failed(ms(400));
    assert!(!node.core.opened(opening(TWO, 200_000), ms(500)), "memory is kept: the log tells what was missed");
    let Ask::Cycle(beat, after) = node.core.next(ms(500)) else { panic!("{:?}", node.core) };
    assert_eq!(
        (beat.applied, after),
        (at(0), at(0)),
        "no position of the old history is acknowledged in the new one (I10)"
    );
    let cycle = Cycle { entries: vec![entry(1, 100_000), entry(3, 200_000)], more: false, ..Cycle::default() };
    node.core.cycled(&cycle, ms(501), &mut |event| node.applied.push(number(event)));
    assert_eq!(node.applied, [1, 2, 3], "what was applied is not applied again");
    assert_eq!(node.core.lease(), Some(ms(2_000)), "no lease before the repair");
    let lost = vec![(EventId([2; 16]), entry(2, 0).event)];
    // Some of it was long ago, and is remembered by no log.
    assert_eq!(node.core.next(ms(501)), Ask::Recollect);
    let long_ago = Event::Token { id: TokenId([7; 16]), until: Timestamp(900) };
    node.core.recollected([long_ago], ms(501));
    let lost = [lost, vec![(EventId::of(&long_ago), long_ago)]].concat();
    let Ask::Reassert(mut asked) = node.core.next(ms(501)) else { panic!("{:?}", node.core) };
    asked.sort_by_key(|(_, event)| *event == long_ago);
    assert_eq!(asked, lost);
    // The link fails before the answer: found by the simulation, which had forgotten what to write again.
    node.core.failed(ms(600));
    node.core.opened(opening(TWO, 200_000), ms(700));
    node.cycle(700, &[]);
    assert_eq!(node.core.next(ms(705)), Ask::Recollect);
    node.core.recollected([], ms(705));
    assert!(matches!(node.core.next(ms(705)), Ask::Reassert(events) if events.len() == 2));
    node.core.reasserted(&lost, ms(706));
    node.cycle(706, &[entry(2, 200_001)]);
    assert_eq!(node.core.lease(), Some(ms(2_706)));
    assert_eq!(node.applied, [1, 2, 3]);
}

/// I8. Found by the simulation: entries that are trimmed between the opening of a link and the first read leave no trace, and
/// ids of two histories are of two clocks. So it is judged by the node's own clock.
#[test]
fn who_was_away_for_half_the_log_drops_what_it_has_in_memory() {
    let half = 1_800_000;
    for (away, drops) in [(half - 1, false), (half + 1, true)] {
        for term in [ONE, TWO] {
            let mut node = Node::live(ONE, &[entry(1, 50)]);
            node.core.failed(ms(10));
            assert_eq!(node.core.opened(opening(term, 90), ms(away)), drops, "{away} {term:?}");
        }
    }
    let mut node = Node::live(ONE, &[entry(1, 50)]);
    node.core.failed(ms(10));
    assert!(node.core.opened(Opening { trimmed: at(51), ..opening(ONE, 90) }, ms(100)), "said by the server");
    let mut node = Node::live(ONE, &[entry(1, 50)]);
    node.core.failed(ms(10));
    assert!(node.core.opened(opening(ONE, 0), ms(100)), "the store was emptied");
}

/// Another node was faster, and wrote again what this one would have missed: what else stood in the store is lost all the same, and
/// memory may hold sessions of it.
#[test]
fn a_store_that_another_node_wrote_anew_is_behind() {
    let again = [entry(1, 900), entry(2, 901)];
    let found = |opening: Opening, entries: &[Entry]| {
        let mut node = Node::live(ONE, &[entry(1, 500), entry(2, 501)]);
        node.core.failed(ms(10));
        let drops = node.core.opened(opening, ms(100));
        node.cycle(100, entries);
        let next = node.core.next(ms(105));
        assert!(next == Ask::Recollect || node.core.lease() == Some(ms(2_100)), "{next:?}");
        (drops, next == Ask::Recollect)
    };
    for term in [ONE, TWO] {
        assert_eq!(found(Opening { store: 2, ..opening(term, 901) }, &again), (true, true), "all was deleted");
    }
    assert_eq!(found(opening(TWO, 901), &again), (false, true), "an older copy was put back");
    let kept = [entry(1, 500), entry(2, 501), entry(3, 900)];
    assert_eq!(found(opening(TWO, 900), &kept), (false, false), "nothing is lost");
    // What was read last is so old that it was trimmed.
    assert_eq!(found(Opening { trimmed: at(600), ..opening(TWO, 901) }, &again), (false, false));
    // A link that fails on the way has met nothing yet.
    let mut node = Node::live(ONE, &[entry(1, 500)]);
    node.core.failed(ms(10));
    for now in [100, 200] {
        node.core.opened(opening(TWO, 900), ms(now));
        let half = Cycle { entries: vec![entry(1, 900)], more: now == 100, ..Cycle::default() };
        node.core.next(ms(now));
        node.core.cycled(&half, ms(now + 1), &mut |_| ());
        if now == 100 {
            node.core.failed(ms(110));
        }
    }
    assert_eq!(node.core.next(ms(202)), Ask::Recollect);
}

/// A machine that was suspended finds its link well, and nothing on it tells how much of the log is gone.
#[test]
fn a_process_that_stood_still_opens_its_link_anew() {
    let mut node = Node::live(ONE, &[]);
    node.push(ONE, 4_000_000, &[entry(2, 90)]);
    assert_eq!(node.applied, [0; 0], "what follows on a gap waits");
    assert_eq!(node.core.next(ms(4_000_000)), Ask::Connect);
    assert!(node.core.opened(opening(ONE, 90), ms(4_000_000)));
    // Nor may catching up take so long that the log moves on under it.
    let mut slow = Node::new();
    slow.core.next(ms(0));
    slow.core.opened(opening(ONE, 90), ms(0));
    assert!(matches!(slow.core.next(ms(60_000)), Ask::Cycle(..)));
    assert_eq!(slow.core.next(ms(60_001)), Ask::Connect);
}

/// A revocation on its way, for a node whose master has been known since 0.
struct Way {
    machine: Revoking,
    nodes: Vec<Registered>,
}

impl Way {
    fn new(wait: Wait, began: u64) -> Way {
        let node = Node::live(ONE, &[]);
        let machine = Revoking::new(&node.core, wait, ms(8_000), ms(began));
        let nodes = [ME, Boot([1; 16]), Boot([2; 16])];
        Way { machine, nodes: nodes.map(|boot| Registered { boot, term: ONE, applied: at(0) }).to_vec() }
    }

    fn commit(&mut self, term: Term, now: u64) {
        assert_eq!(self.machine.next(Some(term), ms(now)), Step::Commit);
        let events = vec![entry(1, 0).event];
        self.machine.committed(term, true, &Receipt { at: at(77), events, ended: 1 }, ms(now));
    }

    fn count(&mut self, known: u64, now: u64) {
        self.machine.counted(&self.nodes.clone(), ms(known), ms(now));
    }

    fn returned(&mut self, now: u64) -> Option<Revoked> {
        match self.machine.next(Some(ONE), ms(now)) {
            Step::Return(revoked) => Some(*revoked),
            _ => None,
        }
    }
}

/// I10, and what *everywhere* takes.
#[test]
fn a_revocation_is_everywhere_when_all_have_said_so_in_this_term_and_a_replica_has_it() {
    let mut way = Way::new(Wait::Fully, 10_000);
    way.commit(ONE, 10_000);
    assert_eq!(way.machine.next(Some(ONE), ms(10_000)), Step::Count);
    way.nodes[1].applied = at(77);
    way.nodes[2] = Registered { term: TWO, applied: at(900), ..way.nodes[2] };
    way.machine.replicated(true);
    way.count(0, 10_001);
    assert_eq!(way.returned(10_002), None, "one said so, one in another history");
    way.nodes[2] = Registered { term: ONE, applied: at(76), ..way.nodes[2] };
    way.count(0, 10_003);
    assert_eq!(way.returned(10_004), None, "one entry short");
    way.nodes[2].applied = at(80);
    way.count(0, 10_006);
    let revoked = way.returned(10_006).unwrap();
    assert!(revoked.everywhere && revoked.replicated && revoked.committed, "{revoked:?}");
    assert_eq!((revoked.confirmed, revoked.nodes, revoked.ended, revoked.waited), (3, 3, 1, ms(6)));
}

#[test]
fn a_silent_node_is_waited_for_until_its_lease_must_have_run_out() {
    let mut way = Way::new(Wait::Fully, 10_000);
    way.commit(ONE, 10_000);
    way.machine.replicated(true);
    way.count(0, 12_011);
    assert_eq!(way.returned(12_011), None);
    way.count(0, 12_012);
    let revoked = way.returned(12_012).unwrap();
    assert!(revoked.everywhere && (revoked.confirmed, revoked.nodes) == (1, 3), "{revoked:?}");
    assert_eq!(revoked.bound, ms(2_012));
}

/// A master that was promoted a moment ago may not know of nodes that hold a lease from the last one.
#[test]
fn acknowledgements_are_not_enough_for_a_young_master() {
    let mut way = Way::new(Wait::Fully, 10_000);
    way.commit(ONE, 10_000);
    way.machine.replicated(true);
    way.nodes.truncate(1);
    way.count(9_000, 10_100);
    assert_eq!(way.returned(10_100), None, "known for a second");
    way.count(9_000, 11_012);
    assert!(way.returned(11_012).unwrap().everywhere);
}

#[test]
fn without_a_replica_that_has_it_nothing_is_everywhere_and_another_term_begins_again() {
    let mut way = Way::new(Wait::Fully, 10_000);
    way.commit(ONE, 10_000);
    for now in [10_000, 12_500, 15_000] {
        way.count(0, now);
        assert_eq!(way.returned(now), None);
        way.machine.replicated(false);
    }
    assert!(matches!(way.machine.next(Some(ONE), ms(15_000)), Step::Count));
    // The next master has to say so itself.
    assert_eq!(way.machine.next(None, ms(15_000)), Step::Rest(ms(15_020)));
    way.commit(TWO, 15_100);
    way.machine.failed();
    way.commit(TWO, 15_200);
    assert_eq!(way.machine.next(None, ms(15_300)), Step::Rest(ms(15_320)));
    let Step::Return(revoked) = way.machine.next(None, ms(18_000)) else { panic!("it gives up") };
    assert!(revoked.committed && !revoked.replicated && !revoked.everywhere, "{revoked:?}");
    let mut never = Way::new(Wait::Fully, 0);
    assert_eq!(never.machine.next(None, ms(8_000)), Step::GiveUp);
}

#[test]
fn a_browser_waits_no_longer_than_it_has_to() {
    let mut way = Way::new(Wait::BROWSER, 10_000);
    way.commit(ONE, 10_000);
    way.count(0, 10_010);
    assert_eq!(way.returned(10_049), None);
    assert!(matches!(way.machine.next(Some(ONE), ms(10_049)), Step::Replicate(within) if within == ms(1)));
    let revoked = way.returned(10_050).unwrap();
    assert!(revoked.committed && !revoked.everywhere && revoked.bound == ms(2_012), "{revoked:?}");
}
