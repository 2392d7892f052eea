//! Sessions that browsers carry themselves, without a gateway: the tokens and a store. Many ask at once, keys change, and who reads the
//! store alone comes by nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use portcullis::clock::{SystemClock, Timestamp};
use portcullis::session::store::{Embedded, Memory};
use portcullis::session::{
    Activity, CookieCodec, EndedBecause, Keep, Kept, Lifetimes, Lookup, NewSession, Session, SessionKey, SessionKeys,
    SessionStore, Sessions, Settings, ShelfKey,
};
use portcullis::token::ring::KeyRing;
use portcullis::token::{Algorithm, Current, Format, Learnt, OwnSettings, OwnTokens, Pair};

use crate::tokens::NOW;

struct AsBegun;

impl Current for AsBegun {
    fn current(&self, _: SessionKey, session: Session) -> Option<Session> {
        Some(session)
    }
}

fn signed() -> Format {
    Format::Signed { issuer: "https://gateway.example".into(), audience: "apps".into() }
}

fn layer(store: Arc<dyn SessionStore>, keys: &SessionKeys) -> Arc<Sessions> {
    let settings = Settings {
        lifetimes: Lifetimes::new(Duration::from_secs(1_800), Duration::from_secs(400 * 3_600)),
        cache_entries: 1_000,
        max_sessions: None,
        store_timeout: Duration::from_secs(20),
    };
    Sessions::new(store, CookieCodec::new(keys, ""), settings)
}

async fn node(
    store: Arc<dyn SessionStore>,
    keys: &SessionKeys,
    format: Format,
    now: Timestamp,
) -> (Arc<Sessions>, Arc<KeyRing>, OwnTokens) {
    node_of("", store, keys, format, now).await
}

async fn node_of(
    site: &str,
    store: Arc<dyn SessionStore>,
    keys: &SessionKeys,
    format: Format,
    now: Timestamp,
) -> (Arc<Sessions>, Arc<KeyRing>, OwnTokens) {
    let sessions = layer(store, keys);
    let ring = KeyRing::open(sessions.clone(), keys.derive("ring"), Algorithm::EdDsa, now).await.unwrap();
    let ring = Arc::new(ring);
    let (life, grace) = (Duration::from_secs(300), Duration::from_secs(10));
    let settings = OwnSettings { format, life, grace, cookie: "t".into(), site: site.into(), entries: 1_000 };
    let mac = keys.derive_for("mac", site);
    let tokens = OwnTokens::new(sessions.clone(), ring.clone(), &mac, Arc::new(SystemClock), settings);
    (sessions, ring, tokens)
}

fn alice() -> NewSession {
    let (name, email, roles, provided) = (None, None, vec!["staff".into()], None);
    NewSession {
        provider: "local".into(),
        subject: "alice".into(),
        entry: 0,
        name,
        email,
        roles,
        device: "t".into(),
        provided,
    }
}

async fn ask(tokens: &OwnTokens, pair: (Option<&str>, Option<&str>), now: Timestamp) -> Learnt {
    tokens.lookup(pair, &AsBegun, Activity::Active, now, &|| Box::new(|_, _| ())).await.unwrap()
}

/// Sites of one secret, even where they have keys and records in common.
#[tokio::test]
async fn a_pair_of_one_site_is_nothing_at_another() {
    for format in [Format::Sealed, signed()] {
        let (store, keys): (Arc<dyn SessionStore>, _) = (Arc::new(Memory::new()), SessionKeys::random().unwrap());
        for own in ["", "one", "two"] {
            let (sessions, _, tokens) = node_of(own, store.clone(), &keys, format.clone(), NOW).await;
            let begun = sessions.begin(alice(), None, NOW).await.unwrap();
            let Pair { access, refresh } = tokens.begin(&begun.view, NOW).await.unwrap();
            for other in ["", "one", "two"] {
                let (_, _, there) = node_of(other, store.clone(), &keys, format.clone(), NOW).await;
                for pair in [(Some(&*access), None), (None, Some(&*refresh))] {
                    let lookup = ask(&there, pair, NOW).await.lookup;
                    assert_eq!(matches!(lookup, Lookup::Alive(_)), own == other, "{own:?} at {other:?}: {lookup:?}");
                }
                assert_eq!(there.session_of(&refresh).is_some(), own == other, "{own:?} at {other:?}");
            }
        }
    }
}

/// Twelve tabs ask at once with the same pair, whose access token is over; round after round.
async fn tabs(store: Arc<dyn SessionStore>, rounds: usize) {
    let keys = SessionKeys::random().unwrap();
    // Two nodes: a browser's tabs need not come to the same one.
    let one = node(store.clone(), &keys, Format::Sealed, NOW).await;
    let two = node(store, &keys, Format::Sealed, NOW).await;
    let begun = one.0.begin(alice(), None, NOW).await.unwrap();
    let mut pair = one.2.begin(&begun.view, NOW).await.unwrap();
    let nodes = [Arc::new(one.2), Arc::new(two.2)];
    let mut now = NOW;
    for round in 0..rounds {
        now = Timestamp(now.0 + 301_000);
        let mut tasks = tokio::task::JoinSet::new();
        for tab in 0..12 {
            let (tokens, pair) = (nodes[tab % 2].clone(), pair.clone());
            tasks.spawn(async move { ask(&tokens, (Some(&pair.access), Some(&pair.refresh)), now).await });
        }
        let said = tasks.join_all().await;
        assert!(
            said.iter().all(|learnt| matches!(learnt.lookup, Lookup::Alive(_))),
            "round {round}: nobody is signed out"
        );
        let successors: BTreeSet<String> = said.iter().map(|learnt| learnt.renewed.clone().unwrap().refresh).collect();
        assert_eq!(successors.len(), 1, "round {round}: one successor");
        assert!(!successors.contains(&pair.refresh), "round {round}: and a new one");
        for learnt in &said {
            let Pair { access, .. } = learnt.renewed.clone().unwrap();
            let learnt = ask(&nodes[round % 2], (Some(&access), None), now).await;
            assert!(matches!(learnt.lookup, Lookup::Alive(_)), "every access token counts, on either node");
        }
        pair = said.into_iter().next().unwrap().renewed.unwrap();
    }
    // One rotation each: the token of two rounds ago is not the one before the last.
    let learnt = ask(&nodes[0], (None, Some(&pair.refresh)), now).await;
    assert!(matches!(learnt.lookup, Lookup::Alive(_)));
}

/// I31
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twelve_tabs_that_renew_at_once_get_one_successor_and_stay_signed_in() {
    tabs(Arc::new(Memory::new()), 200).await;
    let folder = tempfile::tempdir().unwrap();
    tabs(Arc::new(Embedded::open(&folder.path().join("s.redb")).unwrap()), 20).await;
}

/// A failover that lost writes, or an older copy put back: who renewed since then stole nothing.
#[tokio::test]
async fn a_token_that_is_newer_than_the_store_is_no_stolen_one() {
    let (store, keys): (Arc<dyn SessionStore>, _) = (Arc::new(Memory::new()), SessionKeys::random().unwrap());
    let (sessions, _, tokens) = node(store, &keys, Format::Sealed, NOW).await;
    let begun = sessions.begin(alice(), None, NOW).await.unwrap();
    let family = ShelfKey::of("refresh family", &begun.view.key.0);
    let mut refresh = vec![tokens.begin(&begun.view, NOW).await.unwrap().refresh];
    let mut copies = vec![sessions.kept(family, NOW).await.unwrap().unwrap()];
    let renew = async |token: &str| ask(&tokens, (None, Some(token)), NOW).await;
    for _ in 0..4 {
        let renewed = renew(refresh.last().unwrap()).await.renewed.unwrap();
        refresh.push(renewed.refresh);
        copies.push(sessions.kept(family, NOW).await.unwrap().unwrap());
    }
    let put_back = async |copy: &Kept| {
        let now = sessions.kept(family, NOW).await.unwrap().unwrap();
        let old = Keep { key: family, over: Some(now.version), bytes: copy.bytes.clone(), until: copy.until };
        assert!(sessions.keep(old, NOW).await.unwrap().is_some());
    };
    // Back to the first but one; the browser has the last.
    put_back(&copies[1]).await;
    let renewed = renew(&refresh[4]).await;
    assert!(matches!(renewed.lookup, Lookup::Alive(_)), "{:?}", renewed.lookup);
    let next = renewed.renewed.unwrap().refresh;
    assert!(matches!(renew(&next).await.lookup, Lookup::Alive(_)), "and it goes on from there");
    // What comes before is what it always was.
    let stolen = renew(&refresh[3]).await;
    assert!(matches!(stolen.lookup, Lookup::Ended(EndedBecause::Reused)), "{:?}", stolen.lookup);
    assert!(matches!(renew(&next).await.lookup, Lookup::Ended(_)));
}

#[tokio::test]
async fn keys_rotate_without_a_sign_out_and_a_node_learns_of_it() {
    for format in [Format::Sealed, signed()] {
        let (store, keys): (Arc<dyn SessionStore>, _) = (Arc::new(Memory::new()), SessionKeys::random().unwrap());
        let (sessions, ring, tokens) = node(store.clone(), &keys, format.clone(), NOW).await;
        let (_, other_ring, other) = node(store, &keys, format, NOW).await;
        let begun = sessions.begin(alice(), None, NOW).await.unwrap();
        let mut pair = tokens.begin(&begun.view, NOW).await.unwrap();
        let before = ring.published();
        ring.rotate(NOW).await.unwrap();
        ring.rotate(NOW).await.unwrap();
        let states = |now| ring.list(now).iter().map(|key| format!("{:?}", key.state)).collect::<Vec<_>>();
        assert_eq!(states(NOW), ["Active", "Active", "Pending", "Pending"], "asking twice is asking once");
        assert_ne!(ring.published().1, before.1, "published before it signs, under another tag");
        let mut now = NOW;
        for _ in 0..12 {
            now = Timestamp(now.0 + 200_000);
            // The other node has not looked at the shelf: it learns of the key by the token that names it.
            let learnt = ask(&other, (Some(&pair.access), None), now).await;
            assert!(matches!(learnt.lookup, Lookup::Alive(_)), "{:?} at {}", learnt.lookup, now.0 - NOW.0);
            let learnt = ask(&tokens, (None, Some(&pair.refresh)), now).await;
            pair = learnt.renewed.expect("nobody is signed out");
        }
        assert_eq!(states(now), ["Gone", "Gone", "Active", "Active"]);
        ring.rotate(now).await.unwrap();
        assert_eq!(states(now), ["Active", "Active", "Pending", "Pending"], "what is gone is forgotten");
        assert!(other_ring.list(now).len() == 4);
    }
}

/// Whoever comes first makes the keys, by a clock of its own.
#[tokio::test]
async fn a_node_whose_clock_is_behind_signs_people_in_by_the_first_keys() {
    for format in [Format::Sealed, signed()] {
        let (store, keys): (Arc<dyn SessionStore>, _) = (Arc::new(Memory::new()), SessionKeys::random().unwrap());
        let ahead = NOW.plus(Duration::from_secs(300));
        let (_, first, _) = node(store.clone(), &keys, format.clone(), ahead).await;
        let (sessions, ring, tokens) = node(store, &keys, format, NOW).await;
        let begun = sessions.begin(alice(), None, NOW).await.unwrap();
        let pair = tokens.begin(&begun.view, NOW).await.expect("there are keys");
        let learnt = ask(&tokens, (Some(&pair.access), None), NOW).await;
        assert!(matches!(learnt.lookup, Lookup::Alive(_)), "{:?}", learnt.lookup);
        // One that comes later waits its turn all the same.
        ring.rotate(ahead).await.unwrap();
        let renewed = ask(&tokens, (None, Some(&pair.refresh)), NOW).await.renewed.unwrap();
        let learnt = ask(&tokens, (Some(&renewed.access), None), NOW).await;
        assert!(matches!(learnt.lookup, Lookup::Alive(_)) && learnt.renewed.is_none(), "{:?}", learnt.lookup);
        assert_eq!((ring.list(ahead).len(), first.list(ahead).len()), (4, 2), "the other one looks later");
    }
}

/// By a clock that is ahead, be it by the second that has just begun there.
#[tokio::test]
async fn a_token_of_a_moment_that_is_yet_to_come_signs_nobody_out() {
    for ahead in [Duration::from_millis(1), Duration::from_secs(1), Duration::from_secs(90)] {
        for format in [Format::Sealed, signed()] {
            let (store, keys): (Arc<dyn SessionStore>, _) = (Arc::new(Memory::new()), SessionKeys::random().unwrap());
            let now = Timestamp(NOW.0 / 1_000 * 1_000 - 1);
            let one = node(store.clone(), &keys, format.clone(), now).await;
            let two = node(store, &keys, format.clone(), now).await;
            let begun = one.0.begin(alice(), None, now.plus(ahead)).await.unwrap();
            let mut pair = one.2.begin(&begun.view, now.plus(ahead)).await.unwrap();
            for (tokens, now) in [(&two.2, now), (&one.2, now.plus(ahead)), (&two.2, now)] {
                let learnt = ask(tokens, (Some(&pair.access), Some(&pair.refresh)), now).await;
                assert!(matches!(learnt.lookup, Lookup::Alive(_)), "{:?}, {ahead:?}, {format:?}", learnt.lookup);
                pair = learnt.renewed.unwrap_or(pair);
            }
        }
    }
}

#[tokio::test]
async fn a_store_that_was_read_holds_nothing_that_works() {
    let (store, keys) = (Arc::new(Memory::new()), SessionKeys::random().unwrap());
    let (sessions, _, tokens) = node(store.clone(), &keys, Format::Sealed, NOW).await;
    let begun = sessions.begin(alice(), None, NOW).await.unwrap();
    let first = tokens.begin(&begun.view, NOW).await.unwrap();
    let second = ask(&tokens, (None, Some(&first.refresh)), NOW).await.renewed.unwrap();
    let place = ShelfKey::of("refresh family", &begun.view.key.0);
    let kept = store.kept(place, NOW).await.unwrap().unwrap();
    use base64::Engine;
    for pair in [first, second] {
        let raw = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(pair.refresh).unwrap();
        let secret: Vec<String> = raw[17..49].iter().map(u8::to_string).collect();
        assert!(!String::from_utf8_lossy(&kept.bytes).contains(&secret.join(",")), "no secret of a token");
    }
    // Another secret than the one the keys were sealed with does not open them.
    let foreign = KeyRing::open(sessions, [9; 32], Algorithm::EdDsa, NOW).await;
    assert!(foreign.is_err());
    let gone = ask(&tokens, (None, Some("x")), NOW).await;
    assert!(matches!(gone.lookup, Lookup::Ended(EndedBecause::Forged)));
}
