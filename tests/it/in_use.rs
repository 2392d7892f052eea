//! Sessions in use, as workers remember them: whatever happens in whatever order, a worker's copy lets nobody in whom the session
//! itself would not, and signs nobody out.

use std::sync::Arc;
use std::time::Duration;

use portcullis::clock::Timestamp;
use portcullis::policy::{Caller, Identity, IdentityHeaders, Proof, RoleNames};
use portcullis::session::store::Memory;
use portcullis::session::{
    Activity, Begun, CookieCodec, Lifetimes, Lookup, Memo, Revocation, SessionKeys, SessionStore, Sessions, Settings,
    Wait,
};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_oneof, proptest};
use proptest::sample::Index;
use proptest::test_runner::{Config as ProptestConfig, TestCaseError};

use crate::contract::alice;

/// The idle window.
const IDLE: u64 = 100_000;

/// Workers of one node, and the store under it.
struct Node {
    store: Arc<Memory>,
    sessions: Arc<Sessions>,
    workers: [Memo; 2],
}

impl Node {
    /// With room for so many sessions in memory.
    fn new(cache_entries: u64) -> Node {
        let (store, keys) = (Arc::new(Memory::new()), SessionKeys::random().unwrap());
        let settings = Settings {
            lifetimes: Lifetimes::new(Duration::from_millis(IDLE), Duration::from_secs(1_000_000)),
            cache_entries,
            max_sessions: None,
            store_timeout: Duration::from_secs(2),
        };
        let sessions = Sessions::new(store.clone(), CookieCodec::new(&keys, ""), settings);
        Node { store, sessions, workers: Default::default() }
    }

    /// A request on a worker, as the gateway asks.
    async fn ask(&self, worker: usize, cookie: &str, activity: Activity, now: u64) -> bool {
        let memo = &self.workers[worker];
        if self.sessions.remembered(memo, cookie, activity, Timestamp(now)).is_some() {
            return true;
        }
        let Lookup::Alive(view) = self.sessions.lookup(cookie, activity, Timestamp(now)).await.unwrap() else {
            return false;
        };
        let session = memo.in_use(&view, |view| Some(caller(view.user_name()))).unwrap();
        memo.keep(cookie, &session);
        true
    }

    async fn begin(&self, now: u64) -> Begun {
        self.sessions.begin(alice(), None, Timestamp(now)).await.unwrap()
    }
}

fn caller(subject: &str) -> Arc<Caller> {
    let (name, email, roles, role_names) = (None, None, RoleNames::default().set([]), vec![]);
    let (subject, proof, signed_in) = (subject.to_owned(), Proof::Session, None);
    Arc::new(IdentityHeaders::none().caller(Identity { roles, proof, subject, name, email, role_names, signed_in }))
}

/// A store may lose a record without a word: it was deleted by hand, or ended by the store's clock while nobody could write to it.
#[tokio::test]
async fn what_the_store_does_not_know_no_worker_remembers() {
    let node = Node::new(1_000);
    let begun = node.begin(0).await;
    for worker in 0..2 {
        assert!(node.ask(worker, &begun.cookie, Activity::Active, 1).await);
    }
    node.store.revoke(Revocation::Session(begun.view.key), Timestamp(2)).await.unwrap();
    let written = IDLE / 5;
    assert!(node.ask(0, &begun.cookie, Activity::Active, written).await, "nobody has asked the store yet");
    node.sessions.flush().await.unwrap();
    for worker in 0..2 {
        for activity in [Activity::Active, Activity::Passive] {
            assert!(!node.ask(worker, &begun.cookie, activity, written + 1).await, "{worker} {activity:?}");
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ask(usize, Index, Activity),
    Wait(u64),
    /// The clock is set back.
    Back(u64),
    SignIn,
    End(Index),
    /// All but one.
    Others(Index),
    Everyone,
    /// What is known of the user has changed.
    Refresh,
    Forget(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let activity = prop_oneof![3 => Just(Activity::Active), 1 => Just(Activity::Passive)];
    prop_oneof![
        12 => (0_usize..2, any::<Index>(), activity).prop_map(|(worker, which, activity)| Step::Ask(worker, which, activity)),
        8 => prop_oneof![0..1_500_u64, 9_000..11_000_u64, 80_000..101_000_u64].prop_map(Step::Wait),
        1 => (0..20_000_u64).prop_map(Step::Back),
        2 => Just(Step::SignIn),
        1 => any::<Index>().prop_map(Step::End),
        1 => any::<Index>().prop_map(Step::Others),
        1 => Just(Step::Everyone),
        1 => Just(Step::Refresh),
        1 => (0_usize..2).prop_map(Step::Forget),
    ]
}

/// A session as it ought to be.
struct Truth {
    begun: Begun,
    /// When it was used last.
    used: u64,
    over: bool,
}

async fn live(steps: &[Step], cache_entries: u64) -> Result<(), TestCaseError> {
    let node = Node::new(cache_entries);
    let (mut now, mut flushed) = (1_000_000, 1_000_000);
    let mut all = vec![Truth { begun: node.begin(now).await, used: now, over: false }];
    for step in steps {
        match step {
            Step::Ask(worker, which, activity) => {
                let at = which.index(all.len());
                let truth = &mut all[at];
                let unused = now.saturating_sub(truth.used);
                let alive = node.ask(*worker, &truth.begun.cookie, *activity, now).await;
                prop_assert!(!alive || !truth.over, "let in after its end");
                prop_assert!(!alive || unused < IDLE, "let in {unused} ms after its last use");
                // What was asked for within the last tenth may be written no more.
                prop_assert!(
                    alive || truth.over || unused >= IDLE / 10 * 9,
                    "signed out {unused} ms after its last use"
                );
                if alive && *activity == Activity::Active {
                    truth.used = truth.used.max(now);
                }
            }
            Step::Wait(time) => now += time,
            Step::Back(time) => {
                now -= time;
                flushed = flushed.min(now);
            }
            Step::SignIn => all.push(Truth { begun: node.begin(now).await, used: now, over: false }),
            Step::End(which) => {
                let at = which.index(all.len());
                let truth = &mut all[at];
                let what = Revocation::Session(truth.begun.view.key);
                node.sessions.revoke(what, Wait::Fully, Timestamp(now)).await.unwrap();
                truth.over = true;
            }
            Step::Others(which) => {
                let (user, spared) = (all[0].begun.view.user, which.index(all.len()));
                let what = Revocation::User { user, except: Some(all[spared].begun.view.key) };
                node.sessions.revoke(what, Wait::Fully, Timestamp(now)).await.unwrap();
                all.iter_mut().enumerate().filter(|(at, _)| *at != spared).for_each(|(_, truth)| truth.over = true);
            }
            Step::Everyone => {
                node.sessions.revoke(Revocation::Everyone, Wait::Fully, Timestamp(now)).await.unwrap();
                all.iter_mut().for_each(|truth| truth.over = true);
            }
            Step::Refresh => node.sessions.refresh(all[0].begun.view.user),
            Step::Forget(worker) => node.workers[*worker].forget(),
        }
        if flushed + 1_000 <= now {
            flushed = now;
            node.sessions.flush().await.unwrap();
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn a_worker_s_copy_is_never_better_than_its_session(
        steps in proptest::collection::vec(step(), 1..60),
        cache_entries in prop_oneof![Just(1_u64), Just(1_000)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(live(&steps, cache_entries))?;
    }
}
