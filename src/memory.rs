//! What is remembered of much, bounded. One decision: one kind of memory for all – a key of 32 uniform bytes, a shared value of
//! any type – because the code of the library behind it stands in the program once for each kind. Knows nothing of what is
//! remembered.

use std::any::Any;
use std::hash::{BuildHasherDefault, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::{Cache, CacheBuilder};

/// A hash, or begins with one.
pub type Key = [u8; 32];

/// Hashes what is uniform already: the first bytes are a hash.
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

type Value = Arc<dyn Any + Send + Sync>;
type Any32 = Cache<Key, Value, BuildHasherDefault<FirstBytes>>;

/// Of so many entries the most used.
pub struct Memory<E> {
    entries: Any32,
    of: PhantomData<Arc<E>>,
}

impl<E: Send + Sync + 'static> Memory<E> {
    /// For as long as there is room.
    pub fn new(most: u64) -> Self {
        Self::build(CacheBuilder::new(most))
    }

    /// For so long and no longer.
    pub fn lasting(most: u64, life: Duration) -> Self {
        Self::build(CacheBuilder::new(most).time_to_live(life))
    }

    /// For so long after the last use.
    pub fn while_used(most: u64, idle: Duration) -> Self {
        Self::build(CacheBuilder::new(most).time_to_idle(idle))
    }

    fn build(builder: CacheBuilder<Key, Value, Cache<Key, Value>>) -> Self {
        Memory { entries: builder.build_with_hasher(BuildHasherDefault::default()), of: PhantomData }
    }

    /// What is remembered.
    pub fn get(&self, key: &Key) -> Option<Arc<E>> {
        self.entries.get(key)?.downcast().ok()
    }

    /// Remember.
    pub fn put(&self, key: Key, value: Arc<E>) {
        self.entries.insert(key, value);
    }

    /// Forget.
    pub fn forget(&self, key: &Key) {
        self.entries.invalidate(key);
    }

    /// Forget everything.
    pub fn forget_all(&self) {
        self.entries.invalidate_all();
        self.entries.run_pending_tasks();
    }
}
