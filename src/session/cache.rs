//! Sessions in local memory. One decision: an entry carries the generations it was loaded under, and is answered only while
//! they stand: a revocation raises a generation, so that a load that was under way when it came can never be answered from
//! memory afterwards. An entry holds a few sessions: one of its own costs as much as the session in it. Knows nothing of limits
//! of time.

use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::Duration;

use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache as Moka;

use crate::memory::{FirstBytes, Memory};

use super::generations::{Generations, STRIPES, Stamp};
use super::loads::Loads;
use super::view::{Commons, View};
use super::{Session, SessionKey, StoreError, UserKey};

/// How long an id that the store does not know is remembered.
const ABSENT_FOR: Duration = Duration::from_secs(5);
/// Kept apart, so that a flood of ended cookies cannot push live sessions out.
const ABSENT_ENTRIES: u64 = 10_000;
/// Sessions of an entry when memory is full, about. Of eight, what moka keeps of an entry (330 bytes) is 40 bytes each.
const IN_A_SET: u64 = 8;
/// At most: bounds what a lookup compares.
const SET: usize = 16;
type Hash = BuildHasherDefault<FirstBytes>;

/// What a load found, for all who waited for it.
#[derive(Clone, Debug)]
pub(super) enum NotLoaded {
    /// The store knows no such session.
    Absent,
    /// It has a record of one that this node knows to be over.
    Over,
    /// The store did not answer; remembered for nobody.
    Failed(Arc<StoreError>),
}

/// Sessions whose keys fall together. Never changed in place: whoever reads one has it for himself.
type Set = Arc<[Arc<View>]>;

/// Which set: its number, spread over all bits.
type SetKey = [u8; 8];

/// The cache.
pub(super) struct Cache {
    sets: Moka<SetKey, Set, Hash>,
    /// How many sets there can be.
    count: u64,
    /// How many sessions.
    entries: u64,
    /// One load for all who ask at once.
    loads: Loads<Result<Arc<View>, NotLoaded>>,
    absent: Memory<()>,
    commons: Commons,
    /// What views are compared with.
    pub(super) generations: Generations,
}

impl Cache {
    pub(super) fn new(entries: u64) -> Cache {
        // The least recently used go first. Sets are used alike, so that how often one was says little of the sessions in it.
        let sets = Moka::builder()
            .max_capacity(entries)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_: &SetKey, set: &Set| u32::try_from(set.len()).unwrap_or(u32::MAX));
        Cache {
            sets: sets.build_with_hasher(Hash::default()),
            count: (entries / IN_A_SET).max(1),
            entries,
            loads: Loads::default(),
            absent: Memory::lasting(ABSENT_ENTRIES, ABSENT_FOR),
            commons: Commons::default(),
            generations: Generations::new(STRIPES),
        }
    }

    /// Sessions held, about.
    pub(super) fn len(&self) -> u64 {
        self.sets.weighted_size()
    }

    fn set_of(&self, key: SessionKey) -> SetKey {
        let first = key.0.first_chunk::<8>().map_or(0, |first| u64::from_ne_bytes(*first));
        (first % self.count).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_ne_bytes()
    }

    /// A view that still counts.
    pub(super) fn get(&self, key: SessionKey) -> Option<Arc<View>> {
        let set = self.sets.get(&self.set_of(key))?;
        let view = set.iter().find(|view| view.key == key)?;
        self.counts(view).then(|| view.clone())
    }

    /// Whether the store said lately that there is no such session.
    pub(super) fn is_absent(&self, key: SessionKey) -> bool {
        self.absent.get(&key.widened()).is_some()
    }

    /// Forget a view, so that the next question is the store's.
    pub(super) fn forget(&self, key: SessionKey) {
        self.sets.entry(self.set_of(key)).and_compute_with(|entry| {
            let Some(set) = entry.map(moka::Entry::into_value) else { return Op::Nop };
            let rest: Set = set.iter().filter(|view| view.key != key).cloned().collect();
            if rest.is_empty() { Op::Remove } else { Op::Put(rest) }
        });
        self.loads.forget(key);
    }

    /// The store does not know it: no view of it counts any more, whoever holds one. Workers remember sessions in use beside this memory.
    pub(super) fn lose(&self, key: SessionKey) {
        self.generations.raise_session(key);
        self.forget(key);
    }

    /// Put a view into its set, in place of what does not count any more, and of the one unused longest where there is no room.
    fn put(&self, view: &Arc<View>) {
        let full = self.sets.weighted_size() >= self.entries;
        self.sets.entry(self.set_of(view.key)).and_upsert_with(|entry| {
            let set = entry.map(moka::Entry::into_value);
            let counts = |other: &&Arc<View>| other.key != view.key && self.counts(other);
            let mut others: Vec<_> = set.iter().flat_map(|set| set.iter()).filter(counts).collect();
            let room = u64::try_from(SET).map_or(self.entries, |most| most.min(self.entries));
            if (full && !others.is_empty()) || others.len() as u64 >= room {
                let unused_longest = (0..others.len()).min_by_key(|at| others[*at].last_seen());
                unused_longest.map(|at| others.swap_remove(at));
            }
            std::iter::once(view).chain(others).cloned().collect()
        });
    }

    /// Load; callers that come while one is under way wait for it. The generations are read before the store is asked and
    /// compared when the answer is used: the caller asks again where they moved. What `is_over` is never put into memory, where nobody
    /// would ask that again: a store that lost its last writes still has records of sessions that were ended.
    pub(super) async fn load<F>(
        &self,
        key: SessionKey,
        ask: F,
        is_over: impl Fn(&Session) -> bool + Send,
    ) -> Result<Option<Arc<View>>, NotLoaded>
    where
        F: Future<Output = Result<Option<Session>, StoreError>> + Send,
    {
        let before = self.generations.before(key);
        let load = self.loads.join(key, async {
            match ask.await {
                // A revocation that comes after this look finds the generations of before.
                Ok(Some(record)) if is_over(&record) => Err(NotLoaded::Over),
                Ok(Some(record)) => {
                    let user = record.user();
                    let view = self.view(key, user, record, self.generations.stamp(before, user));
                    self.put(&view);
                    Ok(view)
                }
                Ok(None) => Err(NotLoaded::Absent),
                Err(error) => Err(NotLoaded::Failed(Arc::new(error))),
            }
        });
        match load.await {
            Ok(view) => Ok(self.counts(&view).then_some(view)),
            Err(not) => {
                if matches!(not, NotLoaded::Absent) && self.generations.is_untouched(before, key) {
                    self.deny(key);
                }
                Err(not)
            }
        }
    }

    /// Remember for a while that there is no such session.
    pub(super) fn deny(&self, key: SessionKey) {
        self.absent.put(key.widened(), Arc::new(()));
    }

    /// A view beside the cache: of a session that ended before it could be loaded.
    pub(super) fn detached(&self, key: SessionKey, session: Session) -> Arc<View> {
        let user = session.user();
        self.view(key, user, session, Stamp::NEVER)
    }

    /// A view beside the cache, of the generations of this moment: of a session that a token tells of.
    pub(super) fn adopted(&self, key: SessionKey, session: Session) -> Arc<View> {
        let user = session.user();
        let stamp = self.generations.stamp(self.generations.before(key), user);
        self.view(key, user, session, stamp)
    }

    /// Whether no generation of a view has moved.
    pub(super) fn counts(&self, view: &View) -> bool {
        self.generations.counts(view.stamp, view.key, view.user)
    }

    fn view(&self, key: SessionKey, user: UserKey, session: Session, stamp: Stamp) -> Arc<View> {
        Arc::new(View::new(&self.commons, key, user, session, stamp))
    }
}
