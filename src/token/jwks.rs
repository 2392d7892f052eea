//! Where an issuer's keys come from, and how they are kept fresh. One decision: the last good set stands until a better one was
//! read whole; a key server that is away, slow or wrong signs nobody out and lets nobody in. Strangers cannot make us ask it
//! more often than [`Asks`] says, or than once in two seconds while it never gave any. Knows nothing of tokens.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};
use crate::fetch::{Address, Client, Credential, FetchError};
use crate::policy::BadToken;
use crate::task::task;

use super::asks::{Asks, EVERY};
use super::keys::{Algorithm, Key, KeyError, KeySet};
use super::turns::in_turn;
use super::verify::Presented;

/// How long a server is left alone that failed. While none were ever had nobody can come in meanwhile.
const PAUSE: Duration = Duration::from_secs(2);
/// How often a file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Where keys are.
pub enum Source {
    /// Known at start, for good: a shared secret.
    Fixed,
    /// A file, of a set or of one key in PEM.
    File(PathBuf),
    /// A key server.
    Url {
        /// Where.
        address: Address,
        /// Asks it.
        client: Client,
        /// How often it is asked unless there is a reason: by [`Keys::maintain`], or beside [`Keys::verify`].
        every: Duration,
    },
}

/// Who brought a token that names an unknown key. What strangers use up must not keep a key from being learnt that its issuer exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brought {
    /// Anybody.
    ByAnybody,
    /// Whoever signs with it.
    ByIssuer,
}

/// Why no new keys could be had.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file.
    #[error("{path} cannot be read")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The server.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The server, by its status.
    #[error("{0} answers {1}")]
    Status(Address, http::StatusCode),
    /// What it holds.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The keys could not be had: nobody can say whether a token holds.
#[derive(Debug, thiserror::Error)]
#[error("the keys could not be had")]
pub struct Away;

/// A set, and how many there were before it.
pub(super) struct Generation {
    pub(super) set: KeySet,
    /// 0: none was read yet.
    pub(super) number: u64,
    text: Vec<u8>,
}

/// The keys of one issuer.
pub struct Keys {
    source: Source,
    allowed: Vec<Algorithm>,
    current: ArcSwap<Generation>,
    /// One asks, the others wait for what it learns. One count for each of [`Brought`].
    asking: Mutex<[Asks; 2]>,
    /// When they were asked for last; where that failed, when it had.
    asked: AtomicU64,
    /// How often they were, to its end.
    ended: AtomicU64,
    failing: AtomicBool,
}

impl Keys {
    /// Keys that are known, for good.
    pub fn fixed(set: KeySet) -> Arc<Keys> {
        Keys::new(Source::Fixed, Vec::new(), Generation { set, number: 1, text: Vec::new() })
    }

    /// A shared secret's only key.
    ///
    /// # Errors
    /// [`KeyError`]: too short.
    pub fn secret(secret: &[u8]) -> Result<Arc<Keys>, KeyError> {
        let set = KeySet::one(Key::from_secret(secret)?);
        // Tells one secret from another, and says nothing of either.
        let text = digest(&SHA256, secret).as_ref().to_vec();
        Ok(Keys::new(Source::Fixed, Vec::new(), Generation { set, number: 1, text }))
    }

    /// Keys of a file, read now.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn file(path: PathBuf, allowed: Vec<Algorithm>) -> Result<Arc<Keys>, KeysError> {
        let text = read_file(&path)?;
        let first = Generation { set: parse(&text, &allowed)?, number: 1, text };
        Ok(Keys::new(Source::File(path), allowed, first))
    }

    /// Keys of a server, which is asked when [`Keys::maintain`] begins, or by the first token.
    pub fn url(address: Address, client: Client, every: Duration, allowed: Vec<Algorithm>) -> Arc<Keys> {
        let none = Generation { set: KeySet::default(), number: 0, text: Vec::new() };
        Keys::new(Source::Url { address, client, every }, allowed, none)
    }

    fn new(source: Source, allowed: Vec<Algorithm>, first: Generation) -> Arc<Keys> {
        let (asked, ended, failing) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let (current, asking) = (ArcSwap::from_pointee(first), Mutex::default());
        Arc::new(Keys { source, allowed, current, asking, asked, ended, failing })
    }

    /// Whether these come from where those do.
    pub(super) fn are_from_where(&self, others: &Keys) -> bool {
        self.allowed == others.allowed
            && match (&self.source, &others.source) {
                (Source::Fixed, Source::Fixed) => {
                    let (ours, theirs) = (self.current.load(), others.current.load());
                    !ours.text.is_empty() && ours.text == theirs.text
                }
                (Source::File(one), Source::File(other)) => one == other,
                (Source::Url { address: one, .. }, Source::Url { address: other, .. }) => one == other,
                _ => false,
            }
    }

    /// Go on with what a server said before the configuration was read again: it may be away just now, and nobody asks it more often
    /// because of that.
    pub(crate) fn inherit(&self, old: &Keys) {
        if matches!(self.source, Source::Url { .. }) && self.are_from_where(old) {
            self.current.store(old.current.load_full());
            self.asked.store(old.asked.load(Ordering::SeqCst), Ordering::SeqCst);
            self.failing.store(old.failing.load(Ordering::SeqCst), Ordering::SeqCst);
        }
    }

    /// The set that counts now.
    pub(super) fn current(&self) -> arc_swap::Guard<Arc<Generation>> {
        self.current.load()
    }

    /// The number of the set that counts now.
    pub(super) fn generation(&self) -> u64 {
        self.current.load().number
    }

    /// A token named a key that is not in the set of this number, or was signed with another: it may be new. `false` where nobody
    /// could be asked, so that nothing is known.
    pub(super) async fn ask_for_unknown(
        self: &Arc<Self>,
        (name, brought): (Option<&str>, Brought),
        number: u64,
        now: Timestamp,
    ) -> bool {
        if !matches!(self.source, Source::Url { .. }) {
            return true;
        }
        let name = name.map(str::to_owned);
        let (keys, ended) = (self.clone(), self.ended.load(Ordering::SeqCst));
        // A task of its own: the client that happened to ask first may leave, and the others go on waiting.
        let asked = tokio::spawn(task(async move {
            let mut all = keys.asking.lock().await;
            let asks = &mut all[brought as usize];
            let fails = || keys.failing.load(Ordering::SeqCst);
            if keys.generation() != number || (fails() && keys.ended.load(Ordering::SeqCst) != ended) {
                // What was learnt meanwhile may be it. What failed did so for all who waited: a server that hangs would make a
                // queue of them.
                return;
            }
            let last = Timestamp(keys.asked.load(Ordering::SeqCst));
            let pauses = (fails() || number == 0) && last != Timestamp(0) && now.since(last) < PAUSE;
            if !pauses && (number == 0 || asks.may(name.as_deref(), now)) {
                keys.refresh(now).await;
                if !fails() && keys.generation() == number {
                    asks.in_vain(name.as_deref(), now);
                }
            }
        }));
        asked.await.is_ok() && !self.failing.load(Ordering::SeqCst)
    }

    /// Verify a signature. New keys are asked for where it names one that is not here, and where it does not hold: a key may have been
    /// replaced under its name, or have none. The inner error is the token's fault. Keys that are old are asked for beside it.
    ///
    /// # Errors
    /// [`Away`]: the keys could not be had.
    pub async fn verify(
        self: &Arc<Self>,
        presented: &Presented<'_>,
        brought: Brought,
        may: &(dyn Fn() -> bool + Sync),
        now: Timestamp,
    ) -> Result<Option<Result<(), BadToken>>, Away> {
        // Not held while waiting: a guard keeps an old set alive for everybody.
        let judged = || {
            in_turn(|| {
                let keys = self.current();
                may().then(|| (presented.verify(&keys.set), keys.number))
            })
        };
        match judged().await {
            Some((Err(BadToken::UnknownKey | BadToken::Signature | BadToken::Algorithm), number))
                if !self.ask_for_unknown((presented.key_id(), brought), number, now).await =>
            {
                Err(Away)
            }
            Some((Err(_), number)) if number != self.generation() => Ok(judged().await.map(|(verdict, _)| verdict)),
            Some((verdict, _)) => {
                self.renew_beside(now);
                Ok(Some(verdict))
            }
            None => Ok(None),
        }
    }

    /// How long they are left alone that are asked for so often: less where the last time failed.
    fn pause(&self, every: Duration) -> Duration {
        if self.failing.load(Ordering::SeqCst) { every.min(EVERY) } else { every }
    }

    /// Ask for the keys again where they are old, and wait for nothing. A key that its owner withdrew counts once more, and not for
    /// as long as nobody brings a new one.
    fn renew_beside(self: &Arc<Self>, now: Timestamp) {
        let Source::Url { every, .. } = self.source else { return };
        let keys = self.clone();
        let is_due = move || now.since(Timestamp(keys.asked.load(Ordering::SeqCst))) >= keys.pause(every);
        if is_due() {
            let keys = self.clone();
            tokio::spawn(task(async move {
                // Whoever is asking already asks for everybody.
                let Ok(_one) = keys.asking.try_lock() else { return };
                if is_due() {
                    keys.refresh(now).await;
                }
            }));
        }
    }

    /// Read them anew. What fails is logged, and the last good ones stand.
    pub async fn refresh(&self, now: Timestamp) {
        self.asked.store(now.0, Ordering::SeqCst);
        let begun = tokio::time::Instant::now();
        match self.load().await {
            Ok(()) => self.failing.store(false, Ordering::SeqCst),
            Err(error) => {
                self.asked.store(now.plus(begun.elapsed()).0, Ordering::SeqCst);
                let first = !self.failing.swap(true, Ordering::SeqCst);
                let error: &dyn std::error::Error = &error;
                if first {
                    tracing::warn!(error, "keys of tokens could not be read anew; the last ones stand");
                }
            }
        }
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    /// Read them anew.
    ///
    /// # Errors
    /// [`KeysError`]; the last good ones stand.
    pub async fn load(&self) -> Result<(), KeysError> {
        let text = match &self.source {
            Source::Fixed => return Ok(()),
            Source::File(path) => read_file(path)?,
            Source::Url { address, client, .. } => {
                let document = client.get(address, Credential::None).await?;
                if !document.status.is_success() {
                    return Err(KeysError::Status(address.clone(), document.status));
                }
                document.body.to_vec()
            }
        };
        let current = self.current.load();
        // The same text is the same generation: what was verified under it stays so.
        if current.number == 0 || current.text != text {
            let set = parse(&text, &self.allowed)?;
            tracing::info!(keys = set.len(), "new keys of tokens");
            self.current.store(Arc::new(Generation { set, number: current.number + 1, text }));
        }
        Ok(())
    }

    /// Keep them fresh until told to stop.
    pub async fn maintain(self: Arc<Self>, clock: Arc<dyn Clock>, stop: CancellationToken) {
        let (first, every) = match &self.source {
            Source::Fixed => return,
            Source::File(_) => (LOOK_EVERY, LOOK_EVERY),
            Source::Url { every, .. } => (Duration::ZERO, *every),
        };
        let mut wait = first;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let _one = self.asking.lock().await;
            self.refresh(clock.now()).await;
            wait = self.pause(every);
        }
    }
}

fn read_file(path: &std::path::Path) -> Result<Vec<u8>, KeysError> {
    std::fs::read(path).map_err(|source| KeysError::File { path: path.to_owned(), source })
}

/// A set, or one key in PEM where one algorithm is configured.
fn parse(text: &[u8], allowed: &[Algorithm]) -> Result<KeySet, KeyError> {
    match allowed {
        [only] if text.trim_ascii_start().starts_with(b"-----BEGIN") => Ok(KeySet::one(Key::from_pem(text, *only)?)),
        _ => KeySet::from_jwks(text, allowed),
    }
}
