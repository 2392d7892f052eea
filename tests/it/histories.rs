//! Any history of what can be done to a store, held against an oracle that looks at every session: all stores agree with it.

use std::collections::HashMap;

use portcullis::clock::Timestamp;
use portcullis::session::store::{Embedded, Memory};
use portcullis::session::{
    Committed, Creation, Event, Keep, Part, Revocation, Session, SessionKey, SessionStore, ShelfKey, TokenId,
    UNKNOWN_ENDS, UserKey,
};
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use proptest::test_runner::Config as ProptestConfig;

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
        entry: 0,
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
