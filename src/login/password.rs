//! Password hashes. One decision: hashing happens off the request threads, a bounded number at a time and behind them in the
//! system's queue, and takes the same time whether the user exists or not. Knows nothing of users.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use zeroize::Zeroizing;

/// Longer passwords are refused before they are hashed.
pub const LONGEST: usize = 1024;
/// NIST SP 800-63B §3.1.1.2 asks for eight characters where a password stands alone among users who can be throttled.
pub const SHORTEST: usize = 8;
/// Hashes that may wait for a free core; beyond it people are asked to come again.
const WAITING: usize = 64;
/// More, for those whose browser signed in before, who need not wait behind all others either: a hundred addresses that guess at names which
/// nobody has keep every other place taken, and would have nobody sign in (CWE-400).
const KNOWN_WAITING: usize = 16;
/// How far hashing stands back (`nice`, 0 to 19): who signs in waits some milliseconds longer on a busy machine, instead of everybody
/// whose request comes while a core hashes. Not the most: people must be able to sign in where requests alone would fill it.
const STANDS_BACK: i32 = 10;
/// An imported hash must not make this machine swap or stall.
const MOST: (u32, u32, u32) = (1024 * 1024, 16, 16);

/// argon2id's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Params {
    /// Memory in KiB.
    pub m_kib: u32,
    /// Passes.
    pub t: u32,
    /// Lanes.
    pub p: u32,
}

/// OWASP's first choice.
impl Default for Argon2Params {
    fn default() -> Argon2Params {
        Argon2Params { m_kib: 19 * 1024, t: 2, p: 1 }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Too many wait already.
    #[error("too many sign-ins at once")]
    Busy,
    /// The parameters are not argon2's.
    #[error("argon2 refuses these parameters")]
    Parameters(#[source] argon2::Error),
    /// The hash is not one.
    #[error("the stored hash cannot be read")]
    Hash(#[source] argon2::password_hash::phc::Error),
    /// Hashing failed.
    #[error("the password could not be hashed")]
    Hashing(#[source] argon2::password_hash::Error),
    /// The system gave no thread to hash on.
    #[error("no thread to hash on")]
    Thread(#[source] std::io::Error),
    /// The thread that hashed panicked.
    #[error("the hashing thread is gone")]
    Gone,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Wrong password, or no such user.
    Wrong,
    /// Right; `rehashed` where the stored hash was weaker than what is configured.
    Right {
        /// The new hash to keep.
        rehashed: Option<String>,
    },
}

/// A place in the queue of those whose password is checked.
pub struct Place {
    known: bool,
    _permit: OwnedSemaphorePermit,
}

/// Hashes and checks.
pub struct Passwords {
    params: Argon2Params,
    nobody: String,
    slots: Arc<Semaphore>,
    known_slots: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    known_waiting: Arc<Semaphore>,
}

impl Passwords {
    /// With these parameters for new hashes.
    ///
    /// # Errors
    /// [`PasswordError`] of the parameters.
    pub fn new(params: Argon2Params) -> Result<Passwords, PasswordError> {
        parameters(params)?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let [slots, known_slots, waiting, known_waiting] =
            [cores, 1, WAITING, KNOWN_WAITING].map(|places| Arc::new(Semaphore::new(places)));
        Ok(Passwords { params, nobody: nobody(params), slots, known_slots, waiting, known_waiting })
    }

    /// A place in the queue for somebody who is `known` here, or is not; dropped, it is somebody else's.
    ///
    /// # Errors
    /// [`PasswordError::Busy`].
    pub fn place(&self, known: bool) -> Result<Place, PasswordError> {
        let of_strangers = self.waiting.clone().try_acquire_owned();
        let place =
            if known { of_strangers.or_else(|_| self.known_waiting.clone().try_acquire_owned()) } else { of_strangers };
        place.map(|permit| Place { known, _permit: permit }).map_err(|_| PasswordError::Busy)
    }

    /// A turn to hash: in the order of coming, and one more for whoever is known.
    async fn slot(&self, known: bool) -> Result<OwnedSemaphorePermit, PasswordError> {
        let (any, own) = (self.slots.clone().acquire_owned(), self.known_slots.clone().acquire_owned());
        let slot = tokio::select! {
            biased;
            slot = any => slot,
            slot = own, if known => slot,
        };
        slot.map_err(|_| PasswordError::Busy)
    }

    /// Check a password against the hash of a user, or, where there is no such user, against nobody's: the same work, so that
    /// the time tells nothing (ASVS 6.3.8). `told` hears whether it was right, also when nobody waits for the answer any more; what
    /// was not checked it does not hear of.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub async fn check(
        &self,
        place: &Place,
        stored: Option<String>,
        password: Zeroizing<String>,
        told: impl FnOnce(bool) + Send + 'static,
    ) -> Result<Checked, PasswordError> {
        let slot = self.slot(place.known).await?;
        let (params, known) = (self.params, stored.is_some());
        let stored = stored.unwrap_or_else(|| self.nobody.clone());
        let work = move || {
            let _slot = slot;
            let right = verify(&stored, &password)? && known;
            told(right);
            if !right {
                return Ok(Checked::Wrong);
            }
            let rehashed = weaker(&stored, params).then(|| hash(&password, params)).transpose()?;
            Ok(Checked::Right { rehashed })
        };
        aside(work).await?
    }
}

/// Do it on a thread of its own, which costs a thousandth of a hash: what tokio's blocking threads do for others may not wait.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PasswordError> {
    let (tell, told) = oneshot::channel();
    let work = move || {
        // Of this thread alone, on Linux. Where it is refused, hashing takes its turn like everything else.
        let _ = rustix::process::setpriority_process(None, STANDS_BACK);
        // Whoever asked may be gone.
        let _ = tell.send(work());
    };
    std::thread::Builder::new().name("password".to_owned()).spawn(work).map_err(PasswordError::Thread)?;
    told.await.map_err(|_| PasswordError::Gone)
}

/// Hash a password with a fresh salt.
///
/// # Errors
/// [`PasswordError`].
pub fn hash(password: &str, params: Argon2Params) -> Result<String, PasswordError> {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters(params)?);
    let hash = argon2.hash_password(password.as_bytes()).map_err(PasswordError::Hashing)?;
    Ok(hash.to_string())
}

/// What is checked where there is no user: a hash in form, and of no password. Checking one against it is the same work as any;
/// making a real one would cost every start as much.
fn nobody(Argon2Params { m_kib, t, p }: Argon2Params) -> String {
    // Zeroes: sixteen bytes of salt and thirty-two of hash, as `hash` makes them.
    let (salt, hash) = ("A".repeat(22), "A".repeat(43));
    format!("$argon2id$v=19$m={m_kib},t={t},p={p}${salt}${hash}")
}

/// Whether a stored hash is one that this program will verify.
pub fn acceptable(stored: &str) -> bool {
    read(stored).is_ok_and(|(_, params)| params.m_kib <= MOST.0 && params.t <= MOST.1 && params.p <= MOST.2)
}

fn parameters(params: Argon2Params) -> Result<Params, PasswordError> {
    Params::new(params.m_kib, params.t, params.p, None).map_err(PasswordError::Parameters)
}

fn read(stored: &str) -> Result<(PasswordHash, Argon2Params), PasswordError> {
    let hash = PasswordHash::new(stored).map_err(PasswordError::Hash)?;
    let params = Params::try_from(&hash).map_err(PasswordError::Hashing)?;
    let params = Argon2Params { m_kib: params.m_cost(), t: params.t_cost(), p: params.p_cost() };
    Ok((hash, params))
}

fn verify(stored: &str, password: &str) -> Result<bool, PasswordError> {
    if !acceptable(stored) {
        return Ok(false);
    }
    let (hash, _) = read(stored)?;
    match Argon2::default().verify_password(password.as_bytes(), &hash) {
        Ok(()) => Ok(true),
        Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(PasswordError::Hashing(error)),
    }
}

fn weaker(stored: &str, wanted: Argon2Params) -> bool {
    read(stored).is_ok_and(|(_, params)| params.m_kib < wanted.m_kib || params.t < wanted.t || params.p < wanted.p)
}

#[cfg(test)]
mod tests {
    use super::{
        Argon2Params, KNOWN_WAITING, PasswordError, Passwords, STANDS_BACK, WAITING, aside, hash, nobody, read, verify,
    };

    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// The rank of the thread that asks (proc(5): `stat`, field 19).
    fn rank() -> i32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse().unwrap()
    }

    #[tokio::test]
    async fn hashing_stands_back_and_nobody_else_does() {
        let ours = rank();
        assert_eq!(aside(rank).await.unwrap(), ours.max(STANDS_BACK));
        assert_eq!(rank(), ours);
        assert!(matches!(aside(|| panic!("as a broken hash might")).await, Err::<(), _>(PasswordError::Gone)));
    }

    #[test]
    fn strangers_do_not_keep_whoever_is_known_out_of_the_queue() {
        let passwords = Passwords::new(Argon2Params::default()).unwrap();
        let taken = |known| std::iter::from_fn(|| passwords.place(known).ok()).collect::<Vec<_>>();
        let mut strangers = taken(false);
        assert_eq!(strangers.len(), WAITING);
        let known = taken(true);
        assert_eq!(known.len(), KNOWN_WAITING);
        assert!(matches!(passwords.place(true), Err(PasswordError::Busy)));
        let turn = |known| pin!(passwords.slot(known)).poll(&mut Context::from_waker(Waker::noop()));
        let turns: Vec<_> = std::iter::from_fn(|| Some(turn(false)).filter(Poll::is_ready)).collect();
        assert!(!turns.is_empty() && turn(false).is_pending());
        let own = turn(true);
        assert!(own.is_ready() && turn(true).is_pending());
        strangers.pop();
        assert!(passwords.place(false).is_ok() && passwords.place(true).is_ok());
    }

    #[test]
    fn nobodys_hash_is_as_much_work_as_any_and_no_password_is_right() {
        let params = Argon2Params { m_kib: 64, t: 2, p: 1 };
        let [real, nobodys] = [hash("a password", params).unwrap(), nobody(params)].map(|text| read(&text).unwrap());
        assert_eq!(nobodys.1, params);
        let shape = |hash: &argon2::password_hash::phc::PasswordHash| {
            (hash.algorithm, hash.version, hash.salt.map(|salt| salt.len()), hash.hash.map(|hash| hash.len()))
        };
        assert_eq!(shape(&nobodys.0), shape(&real.0));
        for password in ["", "a password", "\0"] {
            assert!(!verify(&nobody(params), password).unwrap());
        }
    }
}
