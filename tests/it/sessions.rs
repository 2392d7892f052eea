//! What the session layer promises while its store is slow, away or busy, and what no store ever holds.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use portcullis::clock::Timestamp;
use portcullis::session::store::{Embedded, Memory};
use portcullis::session::{
    Activity, Committed, CookieCodec, Creation, EndedBecause, Event, Keep, Kept, Lifetimes, Listed, Lookup, NewSession,
    Part, Revocation, Session, SessionKey, SessionKeys, SessionStore, Sessions, Settings, ShelfKey, StoreError,
    StoreFuture, TokenId, UNKNOWN_ENDS, UserKey, Wait,
};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_oneof, proptest};
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
        self.answer(|inner| inner.create(creation))
    }

    fn touch(&self, touches: Vec<(SessionKey, Timestamp)>) -> StoreFuture<'_, Vec<bool>> {
        self.touches.fetch_add(touches.len(), Ordering::SeqCst);
        self.answer(|inner| inner.touch(touches))
    }

    fn revoke(&self, what: Revocation, now: Timestamp) -> StoreFuture<'_, Committed> {
        self.answer(|inner| inner.revoke(what, now))
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

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Create {
        n: u8,
        user: u8,
        seen: u64,
        replaces: Option<u8>,
        limit: Option<u32>,
    },
    Touch(Vec<(u8, u64)>),
    One(u8),
    User {
        user: u8,
        except: Option<u8>,
    },
    Everyone,
    Deny {
        n: u8,
        until: u64,
    },
    /// `over`: the version that lies there, or one that does not.
    Keep {
        n: u8,
        over: Over,
        until: u64,
        now: u64,
    },
    Discard {
        n: u8,
        over: Over,
    },
    Sweep(u64),
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Over {
    Nothing,
    Current,
    Stale,
}

fn over() -> impl Strategy<Value = Over> {
    prop_oneof![Just(Over::Nothing), Just(Over::Current), Just(Over::Stale)]
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0_u8..12;
    prop_oneof![
        5 => (n(), 0_u8..3, 0_u64..1000, proptest::option::of(n()), proptest::option::of(1_u32..4))
            .prop_map(|(n, user, seen, replaces, limit)| Step::Create { n, user, seen, replaces, limit }),
        3 => proptest::collection::vec((n(), 0_u64..2000), 0..4).prop_map(Step::Touch),
        1 => n().prop_map(Step::One),
        1 => (0_u8..3, proptest::option::of(n())).prop_map(|(user, except)| Step::User { user, except }),
        1 => any::<bool>().prop_map(|all| if all { Step::Everyone } else { Step::Reopen }),
        1 => (n(), 0_u64..4000).prop_map(|(n, until)| Step::Deny { n, until }),
        3 => (0_u8..3, over(), 0_u64..4000, 0_u64..4000)
            .prop_map(|(n, over, until, now)| Step::Keep { n, over, until, now }),
        1 => (0_u8..3, over()).prop_map(|(n, over)| Step::Discard { n, over }),
        1 => (0_u64..4000).prop_map(Step::Sweep),
    ]
}

/// The oracle: a list of sessions, and everything done to it by looking at each.
#[derive(Default)]
struct Oracle {
    sessions: Vec<(SessionKey, Session)>,
    epochs: HashMap<UserKey, u64>,
    everyone: u64,
    highest: u64,
    ended: HashMap<SessionKey, u64>,
    denied: HashMap<TokenId, u64>,
    shelf: HashMap<ShelfKey, (u64, u64)>,
    versions: Vec<u64>,
}

impl Oracle {
    fn list(&self, user: UserKey) -> Vec<SessionKey> {
        let mut list: Vec<_> = self.sessions.iter().filter(|(_, session)| session.user() == user).collect();
        list.sort_by_key(|(key, session)| std::cmp::Reverse((session.last_seen, *key)));
        list.into_iter().map(|(key, _)| *key).collect()
    }

    fn remove(&mut self, keep: impl Fn(&SessionKey, &Session) -> bool) -> Vec<Session> {
        let (kept, removed): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.sessions).into_iter().partition(|(k, s)| keep(k, s));
        self.sessions = kept;
        removed.into_iter().map(|(_, session)| session).collect()
    }

    /// Remove one and bury it; answers whether it was there.
    fn end(&mut self, key: SessionKey) -> bool {
        let removed = self.remove(|other, _| *other != key);
        removed.iter().for_each(|session| self.bury(key, session.ends.0));
        !removed.is_empty()
    }

    fn bury(&mut self, key: SessionKey, until: u64) {
        let stands = self.ended.entry(key).or_default();
        *stands = until.max(*stands);
    }

    fn next_epoch(&mut self) -> u64 {
        self.highest += 1;
        self.highest
    }

    fn version(&self, place: ShelfKey, over: Over) -> Option<u64> {
        let current = self.shelf.get(&place).map(|(version, _)| *version);
        match over {
            Over::Nothing => None,
            Over::Current => current,
            Over::Stale => self.versions.iter().rev().find(|version| Some(**version) != current).copied(),
        }
    }

    fn remembered(&self, now: u64) -> Vec<Event> {
        let until = |until: &u64| Timestamp(*until);
        let ended = self.ended.iter().filter(|(_, end)| **end > now);
        let denied = self.denied.iter().filter(|(_, end)| **end > now);
        let mut events: Vec<Event> = ended.map(|(key, end)| Event::Ended { key: *key, until: until(end) }).collect();
        events.extend(denied.map(|(id, end)| Event::Token { id: *id, until: until(end) }));
        let user = |(user, epoch): (&UserKey, &u64)| Event::UserEpoch { user: *user, epoch: *epoch, spared: None };
        events.extend(self.epochs.iter().map(user));
        events.extend((self.everyone > 0).then_some(Event::Everyone { part: Part::WHOLE, epoch: self.everyone }));
        events
    }
}

fn key(n: u8) -> SessionKey {
    SessionKey([n; 16])
}

fn subject(user: u8) -> String {
    format!("user-{user}")
}

fn record(user: u8, seen: u64, epoch: u64) -> Session {
    Session {
        provider: "local".into(),
        subject: subject(user),
        name: Some("Name".into()),
        email: None,
        roles: vec!["a".into()],
        created: Timestamp(seen),
        ends: Timestamp(3_000),
        idle_ms: 500,
        last_seen: Timestamp(seen),
        epoch,
        device: "d".into(),
        provided: None,
    }
}

async fn carry_out(oracle: &mut Oracle, store: &dyn SessionStore, step: Step) {
    match step {
        Step::Create { n, user, seen, replaces, limit } => {
            // An id is never made twice.
            if oracle.sessions.iter().any(|(other, _)| *other == key(n)) || replaces == Some(n) {
                return;
            }
            let of = UserKey::of("local", &subject(user));
            if let Some(old) = replaces {
                oracle.end(key(old));
            }
            let epoch = oracle.epochs.get(&of).copied().unwrap_or(0).max(oracle.everyone);
            let spared = limit.map_or(usize::MAX, |limit| limit as usize - 1);
            for surplus in oracle.list(of).into_iter().skip(spared) {
                oracle.end(surplus);
            }
            oracle.sessions.push((key(n), record(user, seen, epoch)));
            let creation = Creation { key: key(n), session: record(user, seen, 0), replaces: replaces.map(key), limit };
            store.create(creation).await.unwrap();
        }
        Step::Touch(touches) => {
            let mut alive = Vec::new();
            for (n, at) in &touches {
                let found = oracle.sessions.iter_mut().find(|(other, _)| *other == key(*n));
                alive.push(found.is_some());
                if let Some((_, session)) = found {
                    session.last_seen = session.last_seen.max(Timestamp(*at));
                }
            }
            let touches = touches.into_iter().map(|(n, at)| (key(n), Timestamp(at))).collect();
            assert_eq!(store.touch(touches).await.unwrap(), alive);
        }
        Step::Sweep(now) => {
            let swept = oracle.remove(|_, session| session.due() > Timestamp(now)).len();
            oracle.ended.retain(|_, until| *until > now);
            oracle.denied.retain(|_, until| *until > now);
            oracle.shelf.retain(|_, (_, until)| *until > now);
            assert_eq!(store.sweep(Timestamp(now), 1_000).await.unwrap(), swept);
        }
        Step::Keep { n, over, until, now } => {
            let place = ShelfKey::of("oracle", &[n]);
            let over = oracle.version(place, over);
            let there = oracle.shelf.get(&place).filter(|(_, until)| *until > now).map(|(version, _)| *version);
            let keep = Keep { key: place, over, bytes: vec![n, 1], until: Timestamp(until) };
            let written = store.keep(keep, Timestamp(now)).await.unwrap();
            assert_eq!(written.is_some(), there == over, "{there:?} {over:?}");
            if let Some(version) = written {
                assert!(!oracle.versions.contains(&version));
                oracle.versions.push(version);
                oracle.shelf.insert(place, (version, until));
            }
        }
        Step::Discard { n, over } => {
            let place = ShelfKey::of("oracle", &[n]);
            let Some(version) = oracle.version(place, over) else { return };
            let there = oracle.shelf.get(&place).is_some_and(|(current, _)| *current == version);
            assert_eq!(store.discard(place, version).await.unwrap(), there);
            if there {
                oracle.shelf.remove(&place);
            }
        }
        Step::One(n) => revoke(oracle, store, Revocation::Session(key(n))).await,
        Step::User { user, except } => {
            let (user, except) = (UserKey::of("local", &subject(user)), except.map(key));
            revoke(oracle, store, Revocation::User { user, except }).await;
        }
        Step::Everyone => revoke(oracle, store, Revocation::Everyone).await,
        Step::Deny { n, until } => {
            revoke(oracle, store, Revocation::Token { id: TokenId([n; 16]), until: Timestamp(until) }).await;
        }
        Step::Reopen => {}
    }
}

async fn revoke(oracle: &mut Oracle, store: &dyn SessionStore, what: Revocation) {
    let (ended, event) = match what {
        Revocation::Session(key) => {
            let ended = oracle.end(key);
            if !ended {
                oracle.bury(key, u64::try_from(UNKNOWN_ENDS.as_millis()).unwrap());
            }
            (usize::from(ended), Event::Ended { key, until: Timestamp(oracle.ended[&key]) })
        }
        Revocation::User { user, except } => {
            let epoch = oracle.next_epoch();
            oracle.epochs.insert(user, epoch);
            let ended = oracle.remove(|other, session| session.user() != user || Some(*other) == except);
            for (_, session) in oracle.sessions.iter_mut().filter(|(_, session)| session.user() == user) {
                session.epoch = epoch;
            }
            (ended.len(), Event::UserEpoch { user, epoch, spared: except })
        }
        Revocation::Everyone => {
            oracle.everyone = oracle.next_epoch();
            let event = Event::Everyone { part: Part::WHOLE, epoch: oracle.everyone };
            (oracle.remove(|_, _| false).len(), event)
        }
        Revocation::Token { id, until } => {
            let stands = oracle.denied.entry(id).or_default();
            *stands = until.0.max(*stands);
            (0, Event::Token { id, until: Timestamp(*stands) })
        }
    };
    let committed = store.revoke(what, Timestamp(0)).await.unwrap();
    assert_eq!(committed, Committed { ended: ended as u64, events: vec![event] });
}

/// Every record, index entry, tombstone and epoch, and everything on the shelf, compared with the oracle (I21, I22).
async fn agree(oracle: &Oracle, store: &dyn SessionStore) {
    for n in 0..12 {
        let expected = oracle.sessions.iter().find(|(other, _)| *other == key(n)).map(|(_, session)| session.clone());
        assert_eq!(store.load(key(n)).await.unwrap(), expected, "record {n}");
    }
    for user in 0..3 {
        let user = UserKey::of("local", &subject(user));
        let listed: Vec<_> = store.list(user).await.unwrap().into_iter().map(|entry| entry.key).collect();
        assert_eq!(listed, oracle.list(user), "the user's index");
    }
    let (mut remembered, mut expected) = (store.remembered(Timestamp(0)).await.unwrap(), oracle.remembered(0));
    remembered.sort_by_key(|event| format!("{event:?}"));
    expected.sort_by_key(|event| format!("{event:?}"));
    assert_eq!(remembered, expected);
    for n in 0..3 {
        let place = ShelfKey::of("oracle", &[n]);
        let kept = store.kept(place, Timestamp(1_000)).await.unwrap().map(|kept| (kept.version, kept.until.0));
        assert_eq!(kept, oracle.shelf.get(&place).copied().filter(|(_, until)| *until > 1_000), "shelf {n}");
    }
}

async fn history(steps: &[Step], store: &dyn SessionStore) {
    let mut oracle = Oracle::default();
    for step in steps {
        carry_out(&mut oracle, store, step.clone()).await;
        agree(&oracle, store).await;
    }
}

async fn history_on_disk(steps: &[Step]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.redb");
    let (mut oracle, mut store) = (Oracle::default(), Embedded::open(&path).unwrap());
    for step in steps {
        if matches!(step, Step::Reopen) {
            drop(store);
            store = Embedded::open(&path).unwrap();
        }
        carry_out(&mut oracle, &store, step.clone()).await;
        agree(&oracle, &store).await;
    }
}

fn block_on(what: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(what);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_memory_store_agrees_with_the_oracle(steps in proptest::collection::vec(step(), 1..40)) {
        block_on(history(&steps, &Memory::new()));
    }
}

proptest! {
    // Every durable step waits for the disk.
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn the_embedded_store_agrees_with_the_oracle(steps in proptest::collection::vec(step(), 1..30)) {
        block_on(history_on_disk(&steps));
    }
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
