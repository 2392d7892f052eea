//! A store that an older program left, whose tables were of a type each.

use std::path::Path;

use portcullis::clock::{Clock, SystemClock, Timestamp};
use portcullis::session::store::Embedded;
use portcullis::session::{
    Creation, Event, Keep, Listed, Revocation, Session, SessionKey, SessionStore, ShelfKey, TokenId, UserKey,
};
use redb::{Database, Key, ReadableDatabase, ReadableTable, TableDefinition, Value};

const ALL: [&str; 8] = ["session", "by_user", "by_due", "tombstone", "epoch", "shelf", "by_end", "counter"];

fn session(subject: &str, now: Timestamp, idle_ms: u64) -> Session {
    Session {
        provider: "local".into(),
        subject: subject.into(),
        entry: 0,
        name: Some("Somebody".into()),
        email: None,
        roles: vec!["admin".into()],
        created: now,
        ends: Timestamp(now.0 + 1_000_000),
        idle_ms,
        last_seen: now,
        epoch: 0,
        device: "test".into(),
        provided: None,
    }
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// Write a store's tables as an older program did.
fn make_older(path: &Path) {
    let database = Database::open(path).unwrap();
    let newer = database.begin_read().unwrap();
    let transaction = database.begin_write().unwrap();
    for table in ALL {
        assert!(transaction.delete_table(TableDefinition::<&[u8], &[u8]>::new(table)).unwrap(), "{table}");
    }
    let rows = |table: &'static str| {
        let table = newer.open_table(TableDefinition::<&[u8], &[u8]>::new(table)).unwrap();
        let rows = table.iter().unwrap().map(|row| {
            let (key, value) = row.unwrap();
            (key.value().to_vec(), value.value().to_vec())
        });
        rows.collect::<Rows>()
    };
    fn write<K: Key + 'static, V: Value + 'static>(
        transaction: &redb::WriteTransaction,
        (table, rows): (&str, Rows),
        value: impl for<'a> Fn(&'a [u8]) -> V::SelfType<'a>,
    ) {
        assert!(!rows.is_empty(), "{table}");
        let mut table = transaction.open_table(TableDefinition::<K, V>::new(table)).unwrap();
        for (key, bytes) in &rows {
            table.insert(K::from_bytes(key), value(bytes)).unwrap();
        }
    }
    fn number(bytes: &[u8]) -> u64 {
        u64::from_be_bytes(bytes.try_into().unwrap())
    }
    let of = |table| (table, rows(table));
    write::<[u8; 16], &[u8]>(&transaction, of("session"), |bytes| bytes);
    write::<[u8; 32], ()>(&transaction, of("by_user"), |_| ());
    write::<[u8; 24], ()>(&transaction, of("by_due"), |_| ());
    write::<[u8; 17], u64>(&transaction, of("tombstone"), number);
    write::<[u8; 16], u64>(&transaction, of("epoch"), number);
    write::<[u8; 16], &[u8]>(&transaction, of("shelf"), |bytes| bytes);
    write::<[u8; 25], ()>(&transaction, of("by_end"), |_| ());
    write::<&str, u64>(&transaction, of("counter"), number);
    transaction.commit().unwrap();
}

fn rows(path: &Path) -> Rows {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_read().unwrap();
    let mut all = Vec::new();
    for table in ALL {
        let rows = transaction.open_table(TableDefinition::<&[u8], &[u8]>::new(table)).unwrap();
        for row in rows.iter().unwrap() {
            let (key, value) = row.unwrap();
            all.push(([table.as_bytes(), key.value()].concat(), value.value().to_vec()));
        }
    }
    all
}

#[tokio::test]
async fn the_store_of_an_older_program_is_brought_over_whole_and_refused_by_it_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let (path, now) = (folder.path().join("s.redb"), SystemClock.now());
    let later = Timestamp(now.0 + 500_000);
    let store = Embedded::open(&path).unwrap();
    for (n, subject, idle_ms) in
        [(1, "alice", 900_000), (2, "alice", 800_000), (3, "bob", 1_000), (4, "carol", 900_000)]
    {
        let creation =
            Creation { key: SessionKey([n; 16]), session: session(subject, now, idle_ms), replaces: None, limit: None };
        store.create(creation).await.unwrap();
    }
    let place = ShelfKey::of("test", b"kept");
    let keep = |over, until| Keep { key: place, over, bytes: b"here".to_vec(), until };
    let version = store.keep(keep(None, later), now).await.unwrap();
    store.revoke(Revocation::Session(SessionKey([2; 16])), now).await.unwrap();
    store
        .revoke(Revocation::Token { id: TokenId::of("https://id.example.com", "2"), until: later }, now)
        .await
        .unwrap();
    let (alice, bob, carol) =
        (UserKey::of("local", "alice"), UserKey::of("local", "bob"), UserKey::of("local", "carol"));
    store.revoke(Revocation::User { user: carol, except: None }, now).await.unwrap();
    let remembered = store.remembered(now).await.unwrap();
    assert_eq!(remembered.len(), 3, "{remembered:?}");
    drop(store);

    let before = rows(&path);
    make_older(&path);
    drop(Embedded::open(&path).unwrap());
    assert_eq!(rows(&path), before, "row by row, with what points at each");
    let database = Database::open(&path).unwrap();
    let theirs = TableDefinition::<[u8; 16], &[u8]>::new("session");
    assert!(
        database.begin_write().unwrap().open_table(theirs).is_err(),
        "an older program sees that it is not its own"
    );
    drop(database);

    let store = Embedded::open(&path).unwrap();
    let keys = |list: Vec<Listed>| list.into_iter().map(|entry| entry.key.0[0]).collect::<Vec<_>>();
    assert_eq!(keys(store.list(alice).await.unwrap()), [1]);
    assert_eq!(store.remembered(now).await.unwrap(), remembered);
    assert!(store.keep(keep(version, later), now).await.unwrap() > version, "versions go on");
    assert_eq!(store.sweep(Timestamp(now.0 + 2_000), 10).await.unwrap(), 1, "bob's is found by its end");
    assert_eq!(keys(store.list(bob).await.unwrap()), [0; 0]);
    let again = store.revoke(Revocation::User { user: carol, except: None }, now).await.unwrap();
    let [Event::UserEpoch { epoch, .. }] = again.events[..] else { panic!("{again:?}") };
    assert!(
        remembered.iter().all(|event| !matches!(event, Event::UserEpoch { epoch: before, .. } if *before >= epoch))
    );
}

#[tokio::test]
async fn a_record_that_cannot_be_read_keeps_no_store_from_being_brought_over() {
    let folder = tempfile::tempdir().unwrap();
    let (path, now) = (folder.path().join("s.redb"), SystemClock.now());
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let broken = SessionKey([7; 16]);
    transaction
        .open_table(TableDefinition::<[u8; 16], &[u8]>::new("session"))
        .unwrap()
        .insert(broken.0, &b"\xff not of this program"[..])
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let store = Embedded::open(&path).unwrap();
    assert!(store.load(broken).await.is_err(), "unreadable is not signed out");
    let creation =
        Creation { key: SessionKey([1; 16]), session: session("alice", now, 1_000), replaces: None, limit: None };
    store.create(creation).await.unwrap();
    assert!(store.load(SessionKey([1; 16])).await.unwrap().is_some());
}
