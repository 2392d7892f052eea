//! What the session layer promises while its store is slow, away or busy, and what no store ever holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use portcullis::clock::Timestamp;
use portcullis::session::store::{Embedded, Memory};
use portcullis::session::{
    Activity, Committed, CookieCodec, Creation, EndedBecause, Event, Keep, Kept, Lifetimes, Listed, Lookup, NewSession,
    Restored, Revocation, Session, SessionKey, SessionKeys, SessionStore, Sessions, Settings, ShelfKey, StoreError,
    StoreFuture, UserKey, Wait,
};
use proptest::prelude::{any, prop_assert, prop_oneof, proptest};
use proptest::test_runner::Config as ProptestConfig;
use tokio::sync::Notify;

use crate::contract::alice;
use crate::support::{run_with, shipped};

const ANSWERS: u8 = 0;
const FAILS: u8 = 1;
const HANGS: u8 = 2;

/// A memory store that counts, fails, hangs, or stops between having read and answering.
#[derive(Default)]
pub struct Faulty {
    inner: Memory,
    mode: AtomicU8,
    loads: AtomicUsize,
    touches: AtomicUsize,
    /// Loads still to be held back after reading.
    held: AtomicUsize,
    /// Sessions still to be held back before they are created or ended.
    held_changes: AtomicUsize,
    /// Writes on the shelf, and those of them that failed.
    keeps: AtomicUsize,
    refused: AtomicUsize,
    /// Whether writing on the shelf panics.
    breaks: AtomicBool,
    read: Notify,
    go: Notify,
}

impl Faulty {
    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }

    /// From now on it does not answer.
    pub fn fail(&self) {
        self.set(FAILS);
    }

    /// From now on it does.
    pub fn come_back(&self) {
        self.set(ANSWERS);
    }

    /// How often something was to be written on the shelf.
    pub fn kept_on_shelf(&self) -> usize {
        self.keeps.load(Ordering::SeqCst)
    }

    /// How often something was to be written on the shelf while it did not.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }

    /// Whether writing on the shelf panics from now on.
    pub fn break_shelf(&self, breaks: bool) {
        self.breaks.store(breaks, Ordering::SeqCst);
    }

    /// Hold the next creation or revocation back until it is let go.
    pub fn hold_change(&self) {
        self.hold_changes(1);
    }

    /// The same with so many.
    pub fn hold_changes(&self, count: usize) {
        self.held_changes.store(count, Ordering::SeqCst);
    }

    /// Hold the next load back between having read and answering.
    pub fn hold_load(&self) {
        self.held.store(1, Ordering::SeqCst);
    }

    /// Whether that many have come.
    pub fn holds_all(&self) -> bool {
        self.held_changes.load(Ordering::SeqCst) == 0 && self.held.load(Ordering::SeqCst) == 0
    }

    /// It has come.
    pub async fn held(&self) {
        self.read.notified().await;
    }

    /// Let it go.
    pub fn release(&self) {
        self.go.notify_one();
    }

    /// Let all go that have come.
    pub fn release_all(&self) {
        self.go.notify_waiters();
    }

    fn change<'a, T: Send + 'a>(&'a self, change: StoreFuture<'a, T>) -> StoreFuture<'a, T> {
        if self.held_changes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |held| held.checked_sub(1)).is_err() {
            return change;
        }
        Box::pin(async move {
            self.read.notify_one();
            self.go.notified().await;
            change.await
        })
    }

    /// Nothing reaches the store while it is away.
    fn answer<'a, T: Send + 'a>(&'a self, ask: impl FnOnce(&'a Memory) -> StoreFuture<'a, T>) -> StoreFuture<'a, T> {
        match self.mode.load(Ordering::SeqCst) {
            FAILS => Box::pin(async { Err(StoreError::Unavailable("planted".into())) }),
            HANGS => Box::pin(std::future::pending()),
            _ => ask(&self.inner),
        }
    }
}

impl SessionStore for Faulty {
    fn restore(&self, key: SessionKey, session: Session) -> StoreFuture<'_, Restored> {
        self.answer(|inner| inner.restore(key, session))
    }

    fn repeat(&self, event: Event) -> StoreFuture<'_, ()> {
        self.answer(|inner| inner.repeat(event))
    }

    fn load(&self, key: SessionKey) -> StoreFuture<'_, Option<Session>> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        let held = self.held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |held| held.checked_sub(1)).is_ok();
        self.answer(|inner| {
            Box::pin(async move {
                let found = inner.load(key).await;
                if held {
                    self.read.notify_one();
                    self.go.notified().await;
                }
                found
            })
        })
    }

    fn create(&self, creation: Creation) -> StoreFuture<'_, Vec<Event>> {
        self.answer(|inner| self.change(inner.create(creation)))
    }

    fn touch(&self, touches: Vec<(SessionKey, Timestamp)>) -> StoreFuture<'_, Vec<bool>> {
        self.touches.fetch_add(touches.len(), Ordering::SeqCst);
        self.answer(|inner| inner.touch(touches))
    }

    fn revoke(&self, what: Revocation, now: Timestamp) -> StoreFuture<'_, Committed> {
        self.answer(|inner| self.change(inner.revoke(what, now)))
    }

    fn list(&self, user: UserKey) -> StoreFuture<'_, Vec<Listed>> {
        self.answer(|inner| inner.list(user))
    }

    fn sweep(&self, now: Timestamp, limit: usize) -> StoreFuture<'_, usize> {
        self.answer(|inner| inner.sweep(now, limit))
    }

    fn remembered(&self, now: Timestamp) -> StoreFuture<'_, Vec<Event>> {
        self.answer(|inner| inner.remembered(now))
    }

    fn kept(&self, key: ShelfKey, now: Timestamp) -> StoreFuture<'_, Option<Kept>> {
        self.answer(|inner| inner.kept(key, now))
    }

    fn keep(&self, keep: Keep, now: Timestamp) -> StoreFuture<'_, Option<u64>> {
        assert!(!self.breaks.load(Ordering::SeqCst), "planted");
        self.keeps.fetch_add(1, Ordering::SeqCst);
        if self.mode.load(Ordering::SeqCst) == FAILS {
            self.refused.fetch_add(1, Ordering::SeqCst);
        }
        self.answer(|inner| inner.keep(keep, now))
    }

    fn discard(&self, key: ShelfKey, over: u64) -> StoreFuture<'_, bool> {
        self.answer(|inner| inner.discard(key, over))
    }
}

fn node(store: Arc<dyn SessionStore>, keys: &SessionKeys, max_sessions: Option<u32>) -> Arc<Sessions> {
    let lifetimes = Lifetimes::new(Duration::from_secs(100), Duration::from_secs(1_000));
    // Longer than a held load is held on a busy machine; a store that hangs is waited for as long.
    let store_timeout = Duration::from_millis(500);
    let settings = Settings { lifetimes, cache_entries: 1_000, max_sessions, store_timeout };
    Sessions::new(store, CookieCodec::new(keys, ""), settings)
}

fn faulty() -> (Arc<Faulty>, Arc<Sessions>) {
    let store = Arc::new(Faulty::default());
    (store.clone(), node(store, &SessionKeys::random().unwrap(), None))
}

async fn alive(node: &Sessions, cookie: &str, at: u64) -> bool {
    matches!(node.lookup(cookie, Activity::Active, Timestamp(at)).await, Ok(Lookup::Alive(_)))
}

/// I4: a revocation between the store's reading and the cache's filling.
#[tokio::test]
async fn a_load_that_a_revocation_overtook_is_not_answered_nor_kept() {
    for all in [false, true] {
        let (store, node) = faulty();
        let begun = node.begin(alice(), None, Timestamp(0)).await.unwrap();
        node.refresh(begun.view.user);
        store.held.store(1, Ordering::SeqCst);
        let asked = {
            let (node, cookie) = (node.clone(), begun.cookie.clone());
            tokio::spawn(async move { alive(&node, &cookie, 1).await })
        };
        store.read.notified().await;
        let what = match all {
            true => Revocation::User { user: begun.view.user, except: None },
            false => Revocation::Session(begun.view.key),
        };
        node.revoke(what, Wait::Fully, Timestamp(1)).await.unwrap();
        store.go.notify_one();
        assert!(!asked.await.unwrap(), "the request that was on its way");
        assert!(!alive(&node, &begun.cookie, 2).await, "and every later one");
    }
}

/// Where the sessions of many are ended, loads of all others go on.
#[tokio::test]
async fn what_is_revoked_of_others_overtakes_no_load() {
    let (store, node) = faulty();
    let begun = node.begin(alice(), None, Timestamp(0)).await.unwrap();
    let user = begun.view.user;
    let other = |n: u16| {
        let mut key = user.0;
        let place = u16::from_be_bytes([key[0], key[1]]).wrapping_add(1 + n % 4_000);
        key[..2].copy_from_slice(&place.to_be_bytes());
        UserKey(key)
    };
    // More than are told apart are as good as one's own.
    for (own, others, loads) in [(false, 1, 1), (false, 1_000, 1), (true, 0, 2), (true, 1_000, 2), (false, 2_000, 2)] {
        node.refresh(user);
        let before = store.loads.load(Ordering::SeqCst);
        store.held.store(1, Ordering::SeqCst);
        let asked = {
            let (node, cookie) = (node.clone(), begun.cookie.clone());
            tokio::spawn(async move { alive(&node, &cookie, 1).await })
        };
        store.read.notified().await;
        (0..others / 2).for_each(|n| node.refresh(other(n)));
        if own {
            node.refresh(user);
        }
        (others / 2..others).for_each(|n| node.refresh(other(n)));
        store.go.notify_one();
        assert!(asked.await.unwrap());
        assert_eq!(store.loads.load(Ordering::SeqCst) - before, loads, "{own} {others}");
    }
}

#[tokio::test]
async fn requests_that_come_together_load_once() {
    let (store, node) = faulty();
    let begun = node.begin(alice(), None, Timestamp(0)).await.unwrap();
    node.refresh(begun.view.user);
    let before = store.loads.load(Ordering::SeqCst);
    store.held.store(1, Ordering::SeqCst);
    let asked: Vec<_> = (0..50)
        .map(|_| {
            let (node, cookie) = (node.clone(), begun.cookie.clone());
            tokio::spawn(async move { alive(&node, &cookie, 1).await })
        })
        .collect();
    store.read.notified().await;
    store.go.notify_one();
    for answered in asked {
        assert!(answered.await.unwrap());
    }
    assert_eq!(store.loads.load(Ordering::SeqCst) - before, 1);
}

/// I13, the fail-closed oracle: an outage ends nothing and lets nobody in who cannot be proven.
#[tokio::test]
async fn a_store_that_is_away_ends_nobody_and_admits_nobody_new() {
    for mode in [FAILS, HANGS] {
        let (store, node) = faulty();
        let known = node.begin(alice(), None, Timestamp(0)).await.unwrap();
        let bob = NewSession { subject: "bob".into(), ..alice() };
        let unknown = node.begin(bob, None, Timestamp(0)).await.unwrap();
        node.refresh(unknown.view.user);
        store.set(mode);
        assert!(alive(&node, &known.cookie, 1).await, "what memory knows is served");
        assert!(alive(&node, &known.cookie, 95_000).await, "within its limits, though nothing could be written");
        let said = node.lookup(&unknown.cookie, Activity::Active, Timestamp(1)).await;
        assert!(matches!(said, Err(StoreError::Unavailable(_))), "{said:?}");
        assert!(node.begin(alice(), None, Timestamp(1)).await.is_err());
        assert!(node.revoke(Revocation::Everyone, Wait::Fully, Timestamp(1)).await.is_err(), "never said to be done");
        store.set(ANSWERS);
        assert!(alive(&node, &unknown.cookie, 2).await, "the failure was not remembered");
        node.flush().await.unwrap();
        let listed = node.list(known.view.user, Timestamp(150_000)).await.unwrap();
        assert_eq!(listed.len(), 1, "the activity of the outage was written after it: {listed:?}");
    }
}

/// The same through the gateway: 503 with `Retry-After`, the cookie untouched, public routes as ever.
#[test]
fn an_outage_is_503_and_signs_nobody_out() {
    let store = Arc::new(Faulty::default());
    let text = format!("{}\n[limits]\nstore_timeout = \"100ms\"\n", shipped("memory"));
    let clock = Arc::new(portcullis::clock::SystemClock);
    let running = run_with(tempfile::tempdir().unwrap(), &text, clock, Some(store.clone()));
    assert_eq!(running.sign_in("/", &running.password).status, 303);
    let jar = std::fs::read_to_string(running.folder.path().join("jar")).unwrap();
    let key = |line: &str| line.contains("__Host-portcullis\t");
    assert!(jar.lines().any(key));
    for mode in [FAILS, HANGS] {
        running.gateway.sessions().refresh_everyone();
        store.set(mode);
        for accept in ["text/html", "application/json", "*/*"] {
            let said = running.curl("/", &["-H", &format!("accept: {accept}")]);
            assert_eq!((said.status, said.header("retry-after").as_deref()), (503, Some("2")), "{}", said.head);
            assert_eq!((said.header("set-cookie"), said.header("location")), (None, None));
        }
        assert_eq!(running.curl("/public", &[]).status, 200);
        store.set(ANSWERS);
        assert_eq!(running.curl("/", &[]).status, 200, "still signed in");
    }
}

/// I24
#[tokio::test]
async fn no_number_of_sign_ins_at_once_exceeds_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let stores: [Arc<dyn SessionStore>; 2] =
        [Arc::new(Memory::new()), Arc::new(Embedded::open(&folder.path().join("s.redb")).unwrap())];
    for store in stores {
        let node = node(store, &SessionKeys::random().unwrap(), Some(5));
        let begun: Vec<_> = (0..50)
            .map(|n| {
                let node = node.clone();
                tokio::spawn(async move { node.begin(alice(), None, Timestamp(n)).await.unwrap() })
            })
            .collect();
        let mut cookies = Vec::new();
        for begun in begun {
            cookies.push(begun.await.unwrap());
        }
        let mut living = 0;
        for begun in cookies {
            living += usize::from(alive(&node, &begun.cookie, 60).await);
        }
        assert_eq!(living, 5);
        assert_eq!(node.list(UserKey::of("local", "alice"), Timestamp(60)).await.unwrap().len(), 5);
    }
}

/// I18: a request every second for an hour of a session's time.
#[tokio::test]
async fn activity_is_written_at_most_once_per_tenth_of_the_idle_window() {
    let (store, node) = faulty();
    let begun = node.begin(alice(), None, Timestamp(0)).await.unwrap();
    for second in 1..900 {
        assert!(alive(&node, &begun.cookie, second * 1000).await);
        if second % 3 == 0 {
            node.flush().await.unwrap();
        }
    }
    let written = store.touches.load(Ordering::SeqCst);
    assert!((80..=90).contains(&written), "{written}");
}

/// I27
#[tokio::test]
async fn a_cookie_with_any_bit_changed_is_refused_without_asking_the_store() {
    let (store, node) = faulty();
    let cookie = node.begin(alice(), None, Timestamp(0)).await.unwrap().cookie;
    let before = store.loads.load(Ordering::SeqCst);
    for at in 0..cookie.len() {
        for bit in 0..7 {
            let mut changed = cookie.clone().into_bytes();
            changed[at] ^= 1 << bit;
            let changed = String::from_utf8(changed).unwrap();
            let said = node.lookup(&changed, Activity::Active, Timestamp(1)).await.unwrap();
            assert!(matches!(said, Lookup::Ended(EndedBecause::Forged)), "{changed}");
        }
    }
    for cut in [&cookie[1..], &cookie[..51], &format!("{cookie}A"), &format!(" {cookie}"), &format!("{cookie}="), ""] {
        let said = node.lookup(cut, Activity::Active, Timestamp(1)).await.unwrap();
        assert!(matches!(said, Lookup::Ended(EndedBecause::Forged)), "{cut}");
    }
    assert_eq!(store.loads.load(Ordering::SeqCst), before);
}

/// attacks: policy 5. I26: whoever reads the store's file cannot make a cookie from it.
#[tokio::test]
async fn the_store_holds_no_cookie_in_any_form() {
    use base64::Engine;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.redb");
    let keys = SessionKeys::load_or_create(&folder.path().join("keys")).unwrap();
    let node = node(Arc::new(Embedded::open(&path).unwrap()), &keys, None);
    let begun = node.begin(alice(), None, Timestamp(0)).await.unwrap();
    let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(&begun.cookie).unwrap();
    let key = begun.view.key;
    drop((begun.view, node));
    let file = std::fs::read(&path).unwrap();
    let holds = |needle: &[u8]| file.windows(needle.len()).any(|window| window == needle);
    assert!(holds(&key.0), "the file is the one");
    assert!(!holds(begun.cookie.as_bytes()) && !holds(&raw) && !holds(&raw[3..23]), "the secret id");
}

/// Two nodes over one store, a user who asks either, and time that passes as it does: memory is flushed once a second.
async fn wander(steps: &[(u64, bool)]) -> Result<(), String> {
    let (store, keys): (Arc<dyn SessionStore>, _) = (Arc::new(Memory::new()), SessionKeys::random().unwrap());
    let settings = Settings {
        lifetimes: Lifetimes::new(Duration::from_secs(100), Duration::from_secs(1_000_000)),
        cache_entries: 1_000,
        max_sessions: None,
        store_timeout: Duration::from_secs(2),
    };
    let node = || Sessions::new(store.clone(), CookieCodec::new(&keys, ""), settings);
    let nodes = [node(), node()];
    let begun = nodes[0].begin(alice(), None, Timestamp(0)).await.unwrap();
    let (mut now, mut flushed) = (0, 0);
    for (gap, other) in steps {
        now += gap;
        while flushed + 1_000 <= now {
            flushed += 1_000;
            nodes[0].flush().await.unwrap();
            nodes[1].flush().await.unwrap();
        }
        if !alive(&nodes[usize::from(*other)], &begun.cookie, now).await {
            return Err(format!("signed out at {now} ms"));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 500, ..ProptestConfig::default() })]

    /// The write-through zone: within nine tenths of the window nobody is signed out, whichever node they were seen by.
    #[test]
    fn a_user_active_on_two_nodes_is_never_signed_out_early(
        steps in proptest::collection::vec((prop_oneof![0_u64..1_500, 8_500_u64..10_000, 88_500_u64..90_000], any::<bool>()), 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let kept = runtime.block_on(wander(&steps));
        prop_assert!(kept.is_ok(), "{:?}", kept);
    }
}
