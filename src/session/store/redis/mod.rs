//! Sessions in Redis or Valkey, shared by several nodes. One decision: every operation is one script in one partition, so that
//! a record, its index entries, epochs and the log change together or not at all; nothing is ever scanned.
//! Knows nothing of cookies, caches or leases.

mod connect;
mod error;
mod facts;
mod log;
mod options;
mod place;
#[cfg(any(test, fuzzing))]
pub(crate) mod probe;
mod scripts;
mod secure;
mod text;
mod way;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::SystemTime;

use tokio::sync::oneshot;

use crate::causes;
use crate::clock::Timestamp;
use crate::session::shared::SharedLog;
use crate::session::{
    Committed, Creation, Event, EventId, Keep, Kept, KeyError, Listed, Part, Restored, Revocation, Session, SessionKey,
    SessionStore, ShelfKey, StoreError, StoreFuture, UserKey,
};

use super::newest_first;
use super::record::{decode, encode};
pub use error::RedisError;
use log::RedisLog;
pub use options::{Address, Deployment, Login, RedisOptions, Tls, Trusted};
use scripts::Script;
use text::{NONE, hex};
use way::Way;

/// Touches in one script: bounds how long the server is busy with them.
const TOUCHES: usize = 128;

/// Records of a list in one script, for the same reason.
const LISTED: usize = 200;

/// The store. Dropping it closes its connections.
pub struct Redis {
    ways: Arc<[Way]>,
    /// Ends the thread when it is dropped.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Redis {
    /// Start its thread and reach its first partition. A server that is away now is tried again with every operation; one that
    /// must not be used is an error.
    ///
    /// # Errors
    /// [`RedisError`], where a person has to change something.
    pub fn open(options: RedisOptions) -> Result<Redis, RedisError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RedisError::Thread)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (options, handle) = (Arc::new(options), runtime.handle().clone());
        let told = Arc::new(AtomicBool::new(false));
        let way = |index| Way::new(options.clone(), handle.clone(), index, told.clone());
        let ways = (0..options.partitions.max(1)).map(way);
        let ways: Arc<[Way]> = ways.collect();
        let (theirs, (told, answer)) = (ways.clone(), std::sync::mpsc::channel());
        let work = async move {
            // Whoever opens may have left.
            let _ = told.send(reach(&theirs).await);
            let _ = stopped.await;
        };
        let thread = std::thread::Builder::new()
            .name("shared-store".to_owned())
            .spawn(move || runtime.block_on(work))
            .map_err(RedisError::Thread)?;
        let store = Redis { ways, stop: Some(stop), thread: Some(thread) };
        match answer.recv().unwrap_or(Err(RedisError::Closed)) {
            Ok(()) => Ok(store),
            Err(error) if error.is_passing() => {
                tracing::warn!(error = %causes::line(&error), "the session store is away; protected routes answer 503 until it is back");
                Ok(store)
            }
            Err(error) => Err(error),
        }
    }

    /// End a session whose place was taken in another partition.
    async fn replace(&self, old: SessionKey) -> Result<Vec<Event>, StoreError> {
        let (id, whom) = (hex(&new_id()?.0), hex(&old.0));
        let arguments = [&*id, "r", &*whom, "0", NONE].map(str::as_bytes);
        let told: Option<String> = self.of(old.shard()).run(Script::Revoke, &arguments).await.map_err(unavailable)?;
        let receipt = told.map(|told| text::receipt(&told, self.part(old.shard()))).transpose().map_err(unavailable)?;
        Ok(receipt.map(|receipt| receipt.events).unwrap_or_default())
    }

    fn parts(&self) -> u8 {
        u8::try_from(self.ways.len()).unwrap_or(u8::MAX)
    }

    fn part(&self, shard: u8) -> Part {
        Part { index: shard % self.parts(), of: self.parts() }
    }

    fn of(&self, shard: u8) -> &Way {
        &self.ways[usize::from(self.part(shard).index)]
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the shared store panicked");
        }
    }
}

/// The first partition, for a start that fails where it must.
async fn reach(ways: &[Way]) -> Result<(), RedisError> {
    match ways.first() {
        Some(first) => first.term().await.map(drop),
        None => Ok(()),
    }
}

impl SessionStore for Redis {
    fn load(&self, key: SessionKey) -> StoreFuture<'_, Option<Session>> {
        Box::pin(async move {
            let name = hex(&key.0);
            let found: Option<(Vec<u8>, u64, u64)> =
                self.of(key.shard()).run(Script::Load, &[name.as_bytes()]).await.map_err(unavailable)?;
            found.map(|(record, seen, epoch)| session(&record, seen, epoch)).transpose()
        })
    }

    fn create(&self, creation: Creation) -> StoreFuture<'_, Vec<Event>> {
        Box::pin(async move {
            let Creation { key, session, replaces, limit } = creation;
            // Of another user, the replaced one may be in another partition: ended by a second step, once the first stands.
            let elsewhere = replaces.filter(|old| self.part(old.shard()) != self.part(key.shard()));
            let here = replaces.filter(|_| elsewhere.is_none());
            let texts = [
                session.last_seen.0.to_string(),
                session.idle_ms.to_string(),
                session.ends.0.to_string(),
                here.map_or_else(|| NONE.to_owned(), |old| hex(&old.0)),
                limit.unwrap_or(0).to_string(),
                hex(&new_id()?.0),
            ];
            let (name, user, record) = (hex(&key.0), hex(&session.user().0), encode(&session)?);
            let mut arguments = vec![name.as_bytes(), user.as_bytes(), &record];
            arguments.extend(texts.iter().map(String::as_bytes));
            let told: Vec<String> = self.of(key.shard()).run(Script::Create, &arguments).await.map_err(unavailable)?;
            let part = self.part(key.shard());
            let mut events = Vec::new();
            for told in told {
                events.extend(text::receipt(&told, part).map_err(unavailable)?.events);
            }
            if let Some(old) = elsewhere {
                events.extend(self.replace(old).await?);
            }
            Ok(events)
        })
    }

    fn touch(&self, touches: Vec<(SessionKey, Timestamp)>) -> StoreFuture<'_, Vec<bool>> {
        Box::pin(async move {
            let mut alive = vec![false; touches.len()];
            for (index, link) in self.ways.iter().enumerate() {
                let mine: Vec<usize> = (0..touches.len())
                    .filter(|at| usize::from(touches[*at].0.shard()) % self.ways.len() == index)
                    .collect();
                for batch in mine.chunks(TOUCHES) {
                    let texts: Vec<String> =
                        batch.iter().flat_map(|at| [hex(&touches[*at].0.0), touches[*at].1.0.to_string()]).collect();
                    let arguments: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
                    let told: Vec<bool> = link.run(Script::Touch, &arguments).await.map_err(unavailable)?;
                    batch.iter().zip(told).for_each(|(at, told)| alive[*at] = told);
                }
            }
            Ok(alive)
        })
    }

    fn revoke(&self, what: Revocation, _: Timestamp) -> StoreFuture<'_, Committed> {
        Box::pin(async move {
            let parts: Vec<Part> = match what {
                Revocation::Session(key) => vec![self.part(key.shard())],
                Revocation::User { user, .. } => vec![self.part(user.shard())],
                Revocation::Token { id, .. } => vec![self.part(id.shard())],
                Revocation::Everyone => (0..self.parts()).map(|shard| self.part(shard)).collect(),
            };
            let [kind, whom, until, spared] = text::asked(what);
            let (id, mut done) = (hex(&new_id()?.0), Committed { ended: 0, events: Vec::new() });
            let arguments = [&id, &kind, &whom, &until, &spared].map(|text| text.as_bytes());
            for part in parts {
                let told: String = self.of(part.index).run(Script::Revoke, &arguments).await.map_err(unavailable)?;
                let receipt = text::receipt(&told, part).map_err(unavailable)?;
                done.ended += receipt.ended;
                done.events.extend(receipt.events);
            }
            Ok(done)
        })
    }

    fn list(&self, user: UserKey) -> StoreFuture<'_, Vec<Listed>> {
        Box::pin(async move {
            let (way, name) = (self.of(user.shard()), hex(&user.0));
            let keys: Vec<String> = way.run(Script::List, &[name.as_bytes()]).await.map_err(unavailable)?;
            let mut list = Vec::new();
            for some in keys.chunks(LISTED) {
                let mut arguments = vec![name.as_bytes()];
                arguments.extend(some.iter().map(String::as_bytes));
                let found: Vec<(String, Vec<u8>, u64, u64)> =
                    way.run(Script::List, &arguments).await.map_err(unavailable)?;
                for (key, record, seen, epoch) in found {
                    let (key, session) = (text::key(&key).map_err(unavailable)?, session(&record, seen, epoch)?);
                    list.push(Listed { key, session });
                }
            }
            newest_first(&mut list);
            Ok(list)
        })
    }

    fn sweep(&self, now: Timestamp, limit: usize) -> StoreFuture<'_, usize> {
        Box::pin(async move {
            let (now, mut swept, mut failed) = (now.0.to_string(), 0, None);
            for link in self.ways.iter() {
                let most = limit.saturating_sub(swept).to_string();
                let arguments = [now.as_bytes(), most.as_bytes()];
                // A partition that is away keeps none of the others from being swept.
                match link.run::<usize>(Script::Sweep, &arguments).await {
                    Ok(gone) => swept += gone,
                    Err(error) => failed = Some(error),
                }
            }
            failed.map_or(Ok(swept), |error| Err(unavailable(error)))
        })
    }

    fn remembered(&self, now: Timestamp) -> StoreFuture<'_, Vec<Event>> {
        Box::pin(async move {
            let mut events = Vec::new();
            for index in 0..self.parts() {
                let (way, part) = (self.of(index), self.part(index));
                let term = way.term().await.map_err(unavailable)?;
                events.extend(log::remembered(&term.connection, way, part).await.map_err(unavailable)?);
            }
            events.retain(|event| event.until().is_none_or(|until| until > now));
            Ok(events)
        })
    }

    fn kept(&self, key: ShelfKey, now: Timestamp) -> StoreFuture<'_, Option<Kept>> {
        Box::pin(async move {
            let name = hex(&key.0);
            let found: Option<(u64, Vec<u8>, u64)> =
                self.of(key.shard()).run(Script::Kept, &[name.as_bytes()]).await.map_err(unavailable)?;
            let kept = found.map(|(version, bytes, until)| Kept { version, bytes, until: Timestamp(until) });
            Ok(kept.filter(|kept| kept.until > now))
        })
    }

    fn keep(&self, keep: Keep, now: Timestamp) -> StoreFuture<'_, Option<u64>> {
        Box::pin(async move {
            let over = keep.over.map_or_else(|| NONE.to_owned(), |version| version.to_string());
            let (name, until, now) = (hex(&keep.key.0), keep.until.0.to_string(), now.0.to_string());
            let arguments = [name.as_bytes(), over.as_bytes(), &keep.bytes, until.as_bytes(), now.as_bytes()];
            self.of(keep.key.shard()).run(Script::Keep, &arguments).await.map_err(unavailable)
        })
    }

    fn discard(&self, key: ShelfKey, over: u64) -> StoreFuture<'_, bool> {
        Box::pin(async move {
            let (name, over) = (hex(&key.0), over.to_string());
            let arguments = [name.as_bytes(), over.as_bytes()];
            self.of(key.shard()).run(Script::Discard, &arguments).await.map_err(unavailable)
        })
    }

    fn restore(&self, key: SessionKey, session: Session) -> StoreFuture<'_, Restored> {
        Box::pin(async move {
            let (name, user, record) = (hex(&key.0), hex(&session.user().0), encode(&session)?);
            let numbers = [session.last_seen.0, session.idle_ms, session.ends.0, session.epoch];
            let numbers = numbers.map(|number| number.to_string());
            let mut arguments = vec![name.as_bytes(), user.as_bytes(), &record];
            arguments.extend(numbers.iter().map(String::as_bytes));
            let told: String = self.of(key.shard()).run(Script::Restore, &arguments).await.map_err(unavailable)?;
            match &*told {
                "written" => Ok(Restored::Written),
                "there" => Ok(Restored::There),
                "revoked" => Ok(Restored::Revoked),
                _ => Err(unavailable(RedisError::Shape(None))),
            }
        })
    }

    fn repeat(&self, event: Event) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let shards = event.shard().map_or(0..=self.parts() - 1, |shard| shard..=shard);
            for shard in shards {
                let told = text::told(new_id()?, &event);
                let arguments: Vec<&[u8]> = told.iter().map(String::as_bytes).collect();
                self.of(shard).run::<u64>(Script::Reassert, &arguments).await.map_err(unavailable)?;
            }
            Ok(())
        })
    }

    fn shown_until(&self) -> Option<SystemTime> {
        self.ways.first()?.shown_until()
    }

    fn shared(&self) -> Option<Arc<dyn SharedLog>> {
        Some(Arc::new(RedisLog::new(self.ways.clone())))
    }
}

fn new_id() -> Result<EventId, StoreError> {
    EventId::random().map_err(|error: KeyError| StoreError::Unavailable(Box::new(error)))
}

fn session(record: &[u8], seen: u64, epoch: u64) -> Result<Session, StoreError> {
    let mut session = decode(record)?;
    (session.last_seen, session.epoch) = (Timestamp(seen), epoch);
    Ok(session)
}

fn unavailable(error: RedisError) -> StoreError {
    StoreError::Unavailable(Box::new(error))
}
