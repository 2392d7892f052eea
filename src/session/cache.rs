//! Sessions in local memory. One decision: an entry carries the generations it was loaded under, and is answered only while
//! they stand: a revocation raises a generation, so that a load that was under way when it came can never be answered from
//! memory afterwards. moka stays inside this file. Knows nothing of limits of time.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use moka::future::Cache as Moka;

use crate::clock::Timestamp;
use crate::policy::Caller;

use super::generations::{Generations, STRIPES, Stamp};
use super::{Session, SessionKey, StoreError, UserKey};

/// How long an id that the store does not know is remembered.
const ABSENT_FOR: Duration = Duration::from_secs(5);
/// Kept apart, so that a flood of ended cookies cannot push live sessions out.
const ABSENT_ENTRIES: u64 = 10_000;

/// A session in memory.
#[derive(Debug)]
pub struct View {
    /// Its key.
    pub key: SessionKey,
    /// Its user.
    pub user: UserKey,
    /// The record as it was loaded.
    pub session: Session,
    /// Who calls in it, built once; `None` where the user is gone.
    pub caller: OnceLock<Option<Arc<Caller>>>,
    /// The latest activity that is written or queued, in milliseconds; may be behind the store, never ahead of what happened.
    pub(super) last_seen: AtomicU64,
    stamp: Stamp,
}

impl View {
    /// Last activity, as far as this node knows.
    pub fn last_seen(&self) -> Timestamp {
        Timestamp(self.last_seen.load(Ordering::Relaxed))
    }
}

/// Keys are uniform already: their first bytes are a hash.
#[derive(Default)]
pub struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // The length prefix of an array comes first; the key itself comes last and is what stays.
        if let Some(head) = bytes.first_chunk::<8>() {
            self.0 = u64::from_ne_bytes(*head);
        }
    }

    fn write_usize(&mut self, _: usize) {}
}

type Hash = BuildHasherDefault<FirstBytes>;

/// What a load found, for all who waited for it.
#[derive(Clone, Debug)]
pub(super) enum NotLoaded {
    /// The store knows no such session.
    Absent,
    /// The store did not answer; remembered for nobody.
    Failed(Arc<StoreError>),
}

/// The cache.
pub(super) struct Cache {
    views: Moka<SessionKey, Arc<View>, Hash>,
    absent: Moka<SessionKey, (), Hash>,
    /// What views are compared with.
    pub(super) generations: Generations,
}

impl Cache {
    pub(super) fn new(entries: u64) -> Cache {
        let absent = Moka::builder().max_capacity(ABSENT_ENTRIES).time_to_live(ABSENT_FOR);
        Cache {
            views: Moka::builder().max_capacity(entries).build_with_hasher(Hash::default()),
            absent: absent.build_with_hasher(Hash::default()),
            generations: Generations::new(STRIPES),
        }
    }

    /// Sessions held, about.
    pub(super) fn len(&self) -> u64 {
        self.views.entry_count()
    }

    /// A view that still counts.
    pub(super) async fn get(&self, key: SessionKey) -> Option<Arc<View>> {
        let view = self.views.get(&key).await?;
        self.counts(&view).then_some(view)
    }

    /// Whether the store said lately that there is no such session.
    pub(super) fn is_absent(&self, key: SessionKey) -> bool {
        self.absent.contains_key(&key)
    }

    /// Forget a view, so that the next question is the store's.
    pub(super) async fn forget(&self, key: SessionKey) {
        self.views.invalidate(&key).await;
    }

    /// Load; callers that come while one is under way wait for it. The generations are read before the store is asked and
    /// compared when the answer is used: the caller asks again where they moved.
    pub(super) async fn load<F>(&self, key: SessionKey, ask: F) -> Result<Option<Arc<View>>, NotLoaded>
    where
        F: Future<Output = Result<Option<Session>, StoreError>> + Send,
    {
        let before = self.generations.before(key);
        let asked = self.views.try_get_with(key, async {
            match ask.await {
                Ok(Some(record)) => {
                    let user = record.user();
                    Ok(Arc::new(new_view(key, user, record, self.generations.stamp(before, user))))
                }
                Ok(None) => Err(NotLoaded::Absent),
                Err(error) => Err(NotLoaded::Failed(Arc::new(error))),
            }
        });
        match asked.await {
            Ok(view) if self.counts(&view) => Ok(Some(view)),
            Ok(_) => {
                self.views.invalidate(&key).await;
                Ok(None)
            }
            Err(not) => {
                if matches!(*not, NotLoaded::Absent) && self.generations.is_untouched(before, key) {
                    self.absent.insert(key, ()).await;
                }
                Err(NotLoaded::clone(&not))
            }
        }
    }

    /// A view beside the cache: of a session that ended before it could be loaded.
    pub(super) fn detached(&self, key: SessionKey, session: Session) -> Arc<View> {
        let user = session.user();
        Arc::new(new_view(key, user, session, Stamp::NEVER))
    }

    /// A view beside the cache, of the generations of this moment: of a session that a token tells of.
    pub(super) fn adopted(&self, key: SessionKey, session: Session) -> Arc<View> {
        let user = session.user();
        let stamp = self.generations.stamp(self.generations.before(key), user);
        Arc::new(new_view(key, user, session, stamp))
    }

    /// Whether no generation of a view has moved.
    pub(super) fn counts(&self, view: &View) -> bool {
        self.generations.counts(view.stamp, view.key, view.user)
    }
}

fn new_view(key: SessionKey, user: UserKey, session: Session, stamp: Stamp) -> View {
    let last_seen = AtomicU64::new(session.last_seen.0);
    View { key, user, session, caller: OnceLock::new(), last_seen, stamp }
}
