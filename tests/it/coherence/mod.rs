//! When a revocation has returned, no node serves that session any more: the node core in a simulated world, many times over, and
//! again without each of its protections, so that the simulation is known to see what they are for.
//!
//! `PORTCULLIS_SEEDS=10000 cargo test --test it coherence` runs so many; CI runs the default. `PORTCULLIS_SEED=N` runs one and
//! tells what happened in it.

mod core;
mod server;
mod world;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use world::{Protections, Report, World};

/// In the suite: some seconds.
const SEEDS: u64 = 3_000;
/// Without a protection, so many are tried at most until one of them is violated.
const UNPROTECTED: u64 = 4_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// Run seeds on two threads until one fails `fine`; answers that one, and the sum of all.
fn run(seeds: u64, protections: Protections, fine: fn(&Report) -> bool) -> (Option<(u64, Report)>, Report) {
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        let (mut bad, mut sum) = (None, Report::default());
        while bad.is_none() && !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            let report = World::new(seed, protections).run();
            sum.add(&report);
            if !fine(&report) {
                stop.store(true, Ordering::Relaxed);
                bad = Some((seed, report));
            }
        }
        (bad, sum)
    };
    let [(one, mut sum), (other, rest)] = std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.map(|thread| thread.join().unwrap())
    });
    sum.add(&rest);
    (one.or(other), sum)
}

fn is_kept(report: &Report) -> bool {
    report.violations.is_empty() && report.resurrected == 0 && report.unserved.is_empty()
}

/// I1, I3, I4, I6, I7, I9, I10, G1, G3: through delays, partitions, crashes, split brain, lossy failovers, restarts, trimmed logs
/// and store clocks that differ by minutes – and at the end nobody is missed whom nobody revoked.
#[test]
fn no_node_accepts_after_a_revocation_has_returned() {
    if let Some(seed) = number("PORTCULLIS_SEED") {
        let report = World::new(seed, Protections::ALL).run();
        println!("seed {seed}: {report:#?}");
        return assert!(is_kept(&report));
    }
    let (began, seeds) = (Instant::now(), number("PORTCULLIS_SEEDS").unwrap_or(SEEDS));
    let (bad, sum) = run(seeds, Protections::ALL, is_kept);
    println!("{seeds} seeds in {:?}: {sum:?}", began.elapsed());
    assert!(bad.is_none(), "{bad:#?}");
    // The world was not a peaceful one.
    for (what, count) in [
        ("accepts", sum.accepted / 500),
        ("returned revocations", sum.revoked / 5),
        ("returned by acknowledgement", sum.by_acknowledgement / 5),
        ("returned by time", sum.by_time * 2),
        ("promotions", sum.promotions * 2),
        ("repaired events", sum.repaired * 3),
        ("flushes", sum.flushed * 40),
    ] {
        assert!(count >= seeds, "too few {what}: {sum:?}");
    }
}

/// Each protection removed in turn lets a revoked session in.
#[test]
fn without_any_one_protection_a_revoked_session_is_accepted() {
    let all = Protections::ALL;
    let removed = [
        ("lease", Protections { lease: false, ..all }),
        ("heartbeat that writes", Protections { written_heartbeat: false, ..all }),
        ("waiting for nodes", Protections { waits_for_nodes: false, ..all }),
        ("young-master rule", Protections { young_master: false, ..all }),
        ("waiting for a replica", Protections { waits_for_replica: false, ..all }),
        ("waiting for a replica, and repair", Protections { waits_for_replica: false, repair: false, ..all }),
        ("fill guard and tombstones", Protections { fill_guard: false, tombstones: false, ..all }),
        ("fence before promotion", Protections { fence_before_promotion: false, ..all }),
    ];
    for (name, protections) in removed {
        let began = Instant::now();
        let (bad, sum) = run(UNPROTECTED, protections, |report| report.violations.is_empty());
        let (seed, report) = bad.unwrap_or_else(|| panic!("{name} protects from nothing: {sum:?}"));
        println!("without {name}: seed {seed} after {:?}: {}", began.elapsed(), report.violations[0]);
    }
}
