//! Sessions in one file of this machine (redb). One decision: one writer thread commits what arrived within a short window
//! together – sign-ins and revocations are on the disk before their answer, last-seen rides along – and reads go beside it,
//! straight from the page cache. It knows nothing of cookies, caches or limits of time.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::{Database, Durability, ReadTransaction, ReadableDatabase};
use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::session::{
    Committed, Creation, Event, Keep, Kept, Listed, Restored, Revocation, Session, SessionKey, SessionStore, ShelfKey,
    StoreError, StoreFuture, UserKey,
};

use super::record::decode;
use super::rows::{Reading, exactly, failed};
use super::tables::{SESSIONS, Tables};
use super::{newest_first, older, standing, tables};

/// How long the first write of a batch waits for company. An fsync takes about as long; nobody notices it at a sign-in.
const WINDOW: Duration = Duration::from_millis(2);
/// Writes in one commit: bounds how long the last one waits.
const BATCH: usize = 256;
/// Last-seen that nothing durable took along is made durable after so long.
const SETTLE: Duration = Duration::from_secs(1);
/// redb's default of 1 GiB is a surprise on a small machine; hot pages of a million sessions fit in this.
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// Why the file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("another gateway is using this store; one file serves one process")]
    Locked,
    /// Not ours, broken, or not readable.
    #[error("the store cannot be opened")]
    Database(#[source] Box<redb::Error>),
    /// It is no store, or not a whole one.
    #[error("the store is broken; put a copy of it back, or move it away, and everybody signs in anew")]
    Broken(#[source] Box<redb::Error>),
    /// Its tables cannot be made, or brought over from an older program's.
    #[error("the store cannot be made ready")]
    Prepare(#[source] StoreError),
    /// The writer thread.
    #[error("the system gave no thread")]
    Thread(#[source] std::io::Error),
}

/// After a failure nothing is written for so long at least.
const REOPEN: Duration = Duration::from_secs(1);

/// How a file is opened.
type Way = Box<dyn Fn(&Path) -> Result<Database, redb::DatabaseError> + Send + Sync>;

/// The file, while it is open. redb lets a database go for good after the first error of the disk: one moment without space would
/// be a store that is away until a restart.
struct File {
    path: PathBuf,
    way: Way,
    open: RwLock<Option<Database>>,
    /// The last write that was to be on the disk is not.
    refuses: AtomicBool,
}

impl File {
    fn open(path: &Path) -> Result<Database, redb::DatabaseError> {
        // redb would make it for whomever the umask lets read: names and addresses of people, in a folder that may be open.
        fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Database::builder().set_cache_size(CACHE_BYTES).create(path)
    }

    /// Nobody is answered while it is closed.
    fn with<T>(&self, what: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        what(open.as_ref().ok_or(redb::Error::PreviousIo)?)
    }

    /// Say when writes begin to fail, and when they are taken again: once, however many fail between.
    fn wrote(&self, failure: Option<&redb::Error>) {
        match (failure, self.refuses.swap(failure.is_some(), Ordering::AcqRel)) {
            (Some(error), false) => tracing::error!(
                %error,
                "the session store takes no writes; sessions that stand go on, signing in and out and revoking get 503 until it does"
            ),
            (Some(error), true) => tracing::debug!(%error, "the session store still takes no writes"),
            (None, true) => tracing::warn!("the session store takes writes again"),
            (None, false) => {}
        }
    }

    fn is_closed(&self) -> bool {
        self.open.read().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn reopen(&self) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // Closed first: a file is opened once.
        drop(open.take());
        match (self.way)(&self.path) {
            Ok(database) => {
                *open = Some(database);
                tracing::warn!("the session store was opened anew after an error of the disk");
            }
            Err(error) => tracing::error!(%error, "the session store cannot be opened anew"),
        }
    }
}

/// The store. Dropping it writes what is queued and closes the file.
pub struct Embedded {
    file: Arc<File>,
    queue: Mutex<Option<Sender<Job>>>,
    writer: Option<JoinHandle<()>>,
}

/// What a store holds.
#[derive(Clone, Debug)]
pub struct Export {
    /// Sessions within their limits.
    pub sessions: Vec<Listed>,
    /// Revocations that still count.
    pub revoked: Vec<Event>,
    /// What lies on the shelf.
    pub shelf: Vec<(ShelfKey, Kept)>,
}

/// A write, and who waits for it.
enum Job {
    Create(Box<Creation>, Reply<Vec<Event>>),
    Touch(Vec<(SessionKey, Timestamp)>, Reply<Vec<bool>>),
    Revoke(Revocation, Timestamp, Reply<Committed>),
    Keep(Keep, Timestamp, Reply<Option<u64>>),
    Discard(ShelfKey, u64, Reply<bool>),
    Restore(SessionKey, Box<Session>, Reply<Restored>),
    Repeat(Event, Reply<()>),
    Sweep(Timestamp, usize, Reply<usize>),
}

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;
/// Called with the outcome of the commit.
type Settled = Box<dyn FnOnce(Option<&Arc<redb::Error>>) + Send>;

impl Embedded {
    /// Open, or make, the file.
    ///
    /// # Errors
    /// [`OpenError`]; `Locked` where another process has it open.
    pub fn open(path: &Path) -> Result<Embedded, OpenError> {
        Embedded::by(Box::new(File::open), path)
    }

    fn by(way: Way, path: &Path) -> Result<Embedded, OpenError> {
        let database = way(path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => OpenError::Locked,
            other => unusable(other.into()),
        })?;
        prepare(&database).map_err(OpenError::Prepare)?;
        let file = Arc::new(File {
            path: path.to_owned(),
            way,
            open: RwLock::new(Some(database)),
            refuses: AtomicBool::new(false),
        });
        let (queue, jobs) = channel();
        let theirs = file.clone();
        let writer = std::thread::Builder::new()
            .name("session-store".to_owned())
            .spawn(move || write_all(&theirs, &jobs))
            .map_err(OpenError::Thread)?;
        Ok(Embedded { file, queue: Mutex::new(Some(queue)), writer: Some(writer) })
    }

    /// Everything that another store needs to go on from here.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn export(&self, now: Timestamp) -> Result<Export, StoreError> {
        self.read(|transaction| {
            let session =
                |key: &[u8], record: &[u8]| Ok(Listed { key: SessionKey(exactly(key)?), session: decode(record)? });
            let mut sessions = Reading::open(transaction, SESSIONS)?.all(session)?;
            sessions.retain(|entry| entry.session.due() > now);
            let mut shelf = standing::shelf(transaction)?;
            shelf.retain(|(_, kept)| kept.until > now);
            Ok(Export { sessions, revoked: standing::remembered(transaction, now)?, shelf })
        })
    }

    fn ask<T: Send + 'static>(&self, job: impl FnOnce(Reply<T>) -> Job) -> StoreFuture<'_, T> {
        let (reply, answer) = oneshot::channel();
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queue.as_ref() {
            // A writer that is gone drops the reply, which the answer tells.
            let _ = queue.send(job(reply));
        }
        Box::pin(async move { answer.await.unwrap_or_else(|gone| Err(StoreError::Unavailable(Box::new(gone)))) })
    }

    /// A read is a microsecond of memory; moving it to another thread would cost more than it takes.
    fn read<T>(&self, what: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.file.with(|database| Ok(what(&database.begin_read()?))).map_err(failed)?
    }

    fn read_session(&self, key: SessionKey) -> Result<Option<Session>, StoreError> {
        self.read(|transaction| {
            let found = Reading::open(transaction, SESSIONS)?;
            found.get(&key.0)?.map(|record| decode(record.value())).transpose()
        })
    }

    fn read_user(&self, user: UserKey) -> Result<Vec<Listed>, StoreError> {
        let mut list = self.read(|transaction| tables::list(transaction, user))?;
        newest_first(&mut list);
        Ok(list)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the writer of the session store panicked");
        }
    }
}

impl SessionStore for Embedded {
    fn load(&self, key: SessionKey) -> StoreFuture<'_, Option<Session>> {
        Box::pin(std::future::ready(self.read_session(key)))
    }

    fn create(&self, creation: Creation) -> StoreFuture<'_, Vec<Event>> {
        self.ask(|reply| Job::Create(Box::new(creation), reply))
    }

    fn touch(&self, touches: Vec<(SessionKey, Timestamp)>) -> StoreFuture<'_, Vec<bool>> {
        self.ask(|reply| Job::Touch(touches, reply))
    }

    fn revoke(&self, what: Revocation, now: Timestamp) -> StoreFuture<'_, Committed> {
        self.ask(|reply| Job::Revoke(what, now, reply))
    }

    fn list(&self, user: UserKey) -> StoreFuture<'_, Vec<Listed>> {
        Box::pin(std::future::ready(self.read_user(user)))
    }

    fn sweep(&self, now: Timestamp, limit: usize) -> StoreFuture<'_, usize> {
        self.ask(|reply| Job::Sweep(now, limit, reply))
    }

    fn remembered(&self, now: Timestamp) -> StoreFuture<'_, Vec<Event>> {
        Box::pin(std::future::ready(self.read(|transaction| standing::remembered(transaction, now))))
    }

    fn kept(&self, key: ShelfKey, now: Timestamp) -> StoreFuture<'_, Option<Kept>> {
        let kept = self.read(|transaction| standing::kept(transaction, key));
        Box::pin(std::future::ready(kept.map(|kept| kept.filter(|kept| kept.until > now))))
    }

    fn keep(&self, keep: Keep, now: Timestamp) -> StoreFuture<'_, Option<u64>> {
        self.ask(|reply| Job::Keep(keep, now, reply))
    }

    fn restore(&self, key: SessionKey, session: Session) -> StoreFuture<'_, Restored> {
        self.ask(|reply| Job::Restore(key, Box::new(session), reply))
    }

    fn repeat(&self, event: Event) -> StoreFuture<'_, ()> {
        self.ask(|reply| Job::Repeat(event, reply))
    }

    fn discard(&self, key: ShelfKey, over: u64) -> StoreFuture<'_, bool> {
        self.ask(|reply| Job::Discard(key, over, reply))
    }

    fn takes_writes(&self) -> bool {
        !self.file.refuses.load(Ordering::Acquire)
    }
}

/// What only a person can mend.
fn unusable(error: redb::Error) -> OpenError {
    let is_broken = match &error {
        redb::Error::Corrupted(_) => true,
        redb::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    };
    if is_broken { OpenError::Broken(Box::new(error)) } else { OpenError::Database(Box::new(error)) }
}

/// The tables exist from the first start on, so that a read never meets a missing one.
fn prepare(database: &Database) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(failed)?;
    let brought = older::bring_over(database, &transaction)?;
    Tables::open(&transaction).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    if let Some(sessions) = brought {
        tracing::info!(
            sessions,
            "the session store of an older program was written anew; that program cannot open it any more"
        );
    }
    Ok(())
}

/// The writer thread, until the store is dropped and the queue is empty.
fn write_all(file: &File, jobs: &Receiver<Job>) {
    let mut unsettled = false;
    // A disk that takes nothing is tried now and then and not by every write: each of them breaks the database for who reads, until it
    // was opened anew.
    let mut rests_until: Option<Instant> = None;
    let rests = |until: Option<Instant>| until.is_some_and(|until| Instant::now() < until);
    loop {
        // Could not be opened: tried again without a write that asks for it.
        unsettled |= rests_until.is_some() && file.is_closed();
        let first = match jobs.recv_timeout(SETTLE) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) if !unsettled || rests(rests_until) => continue,
            Err(RecvTimeoutError::Timeout) => {
                let settled = settle(file);
                unsettled = settled.is_err();
                if settled.is_err_and(|error| is_broken(&error)) {
                    rests_until = Some(mend(file));
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let mut batch = gather(first, jobs);
        if rests(rests_until) {
            continue;
        }
        let durable = batch.iter().any(|job| !matches!(job, Job::Touch(..) | Job::Sweep(..)));
        unsettled = !durable || unsettled;
        let mut settled = Vec::with_capacity(batch.len());
        let done = commit(file, &mut batch, &mut settled, durable).map_err(Arc::new);
        match &done {
            Ok(()) if durable => unsettled = false,
            // Before anybody is told: whoever asks next is answered.
            Err(error) if is_broken(error) => rests_until = Some(mend(file)),
            Ok(()) | Err(_) => {}
        }
        settled.into_iter().for_each(|tell: Settled| tell(done.as_ref().err()));
    }
    if unsettled && let Err(error) = settle(file) {
        tracing::warn!(%error, "the last activity of some sessions was not written");
    }
}

/// Open the file anew. Answers until when nothing is written: where that takes long, because much is in it, most of the time is left to
/// who reads.
fn mend(file: &File) -> Instant {
    let began = Instant::now();
    file.reopen();
    Instant::now() + REOPEN.max(began.elapsed() * 9)
}

fn gather(first: Job, jobs: &Receiver<Job>) -> Vec<Job> {
    let (mut batch, until) = (vec![first], Instant::now() + WINDOW);
    while batch.len() < BATCH {
        match jobs.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(job) => batch.push(job),
            Err(_) => break,
        }
    }
    batch
}

/// An empty durable commit makes every commit before it durable.
fn settle(file: &File) -> Result<(), redb::Error> {
    let settled = file.with(|database| {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        Ok(transaction.commit()?)
    });
    file.wrote(settled.as_ref().err());
    settled
}

/// Whether nothing more is to be had of a database that failed so.
fn is_broken(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo)
}

/// Carry out a batch as one transaction. `settled` answers those who wait, once it is committed or not; whose write was not come to
/// is left in the batch.
fn commit(file: &File, batch: &mut Vec<Job>, settled: &mut Vec<Settled>, durable: bool) -> Result<(), redb::Error> {
    let committed = file.with(|database| {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
        {
            let mut tables = Tables::open(&transaction)?;
            for job in batch.drain(..) {
                settled.push(carry_out(&mut tables, job));
            }
        }
        Ok(transaction.commit()?)
    });
    // What is not on the disk yet proves nothing.
    if durable || committed.is_err() {
        file.wrote(committed.as_ref().err());
    }
    committed
}

fn carry_out(tables: &mut Tables<'_>, job: Job) -> Settled {
    match job {
        Job::Create(creation, reply) => later(tables.create(*creation), reply),
        Job::Touch(touches, reply) => later(tables.touch(touches), reply),
        Job::Revoke(what, now, reply) => later(tables.revoke(what, now), reply),
        Job::Keep(keep, now, reply) => later(tables.standing.keep(&keep, now), reply),
        Job::Restore(key, session, reply) => later(tables.restore(key, &session), reply),
        Job::Repeat(event, reply) => later(tables.repeat(&event), reply),
        Job::Discard(key, over, reply) => later(tables.standing.discard(key, over), reply),
        Job::Sweep(now, limit, reply) => later(tables.sweep(now, limit), reply),
    }
}

/// The answer, told once the transaction is committed: before that it is a hope.
fn later<T: Send + 'static>(done: Result<T, StoreError>, reply: Reply<T>) -> Settled {
    Box::new(move |failure| {
        let told = match failure {
            Some(error) => Err(StoreError::Unavailable(Box::new(error.clone()))),
            None => done,
        };
        // Whoever asked may have left; the write stands.
        let _ = reply.send(told);
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::{fs, io};

    use redb::{Database, StorageBackend, backends::FileBackend};

    use super::Embedded;
    use crate::clock::Timestamp;
    use crate::session::{Creation, Session, SessionKey, SessionStore, UserKey};

    /// A disk that may be full: what was never written to before is refused then.
    #[derive(Clone, Debug, Default)]
    struct Disk {
        full: Arc<AtomicBool>,
        taken: Arc<AtomicU64>,
    }

    /// A file on it.
    #[derive(Debug)]
    struct OnDisk {
        file: FileBackend,
        disk: Disk,
    }

    impl StorageBackend for OnDisk {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.file.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.file.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            let end = offset + data.len() as u64;
            if self.disk.full.load(Ordering::SeqCst) && end > self.disk.taken.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.disk.taken.fetch_max(end, Ordering::SeqCst);
            self.file.write(offset, data)
        }

        fn close(&self) -> io::Result<()> {
            self.file.close()
        }
    }

    fn store(path: &Path, disk: &Disk) -> Embedded {
        let disk = disk.clone();
        let way = move |path: &Path| {
            let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            Database::builder().create_with_backend(OnDisk { file: FileBackend::new(file)?, disk: disk.clone() })
        };
        Embedded::by(Box::new(way), path).unwrap()
    }

    fn creation(n: u16) -> Creation {
        let mut key = [7; 16];
        key[..2].copy_from_slice(&n.to_be_bytes());
        let session = Session {
            provider: "local".into(),
            subject: "alice".into(),
            entry: 0,
            name: None,
            email: None,
            roles: vec!["staff".into(); 8],
            created: Timestamp(1),
            ends: Timestamp(1_000_000),
            idle_ms: 1_000_000,
            last_seen: Timestamp(1),
            epoch: 0,
            device: "test".into(),
            provided: None,
        };
        Creation { key: SessionKey(key), session, replaces: None, limit: None }
    }

    #[tokio::test]
    async fn however_many_would_write_on_a_full_disk_who_reads_is_answered() {
        let (folder, disk) = (tempfile::tempdir().unwrap(), Disk::default());
        let store = store(&folder.path().join("s.redb"), &disk);
        for n in 0..400 {
            store.create(creation(n)).await.unwrap();
        }
        disk.full.store(true, Ordering::SeqCst);
        let (mut made, mut refused) = (400, 0);
        while refused < 50 {
            match store.create(creation(made)).await {
                Ok(_) => made += 1,
                Err(_) => {
                    refused += 1;
                    let found = store.load(creation(refused * 8 % 400).key).await.unwrap();
                    assert!(found.is_some(), "after {refused} of {made}");
                }
            }
        }
        assert!(!store.takes_writes());
        assert_eq!(store.list(UserKey::of("local", "alice")).await.unwrap().len(), usize::from(made));
        disk.full.store(false, Ordering::SeqCst);
        while store.create(creation(made)).await.is_err() {
            tokio::task::yield_now().await;
        }
        assert!(store.takes_writes());
    }
}
