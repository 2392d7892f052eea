//! The local users, as the running gateway knows them. One decision: the last file that could be read counts; one that is
//! broken for a moment, because somebody edits it, signs nobody out; one that cannot be read is tried until it can, and lets nobody in
//! meanwhile. Knows nothing of passwords.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Mutex as Turns, Notify, oneshot};

use crate::authn::{Directory, Of, Standing};
use crate::stamp::Stamp;

use super::departed::{ANOTHER_PASSWORD, Left};
use super::oidc::Cache;
use super::users::{User, Users, UsersError, canonical};
use super::{LOCAL, Login};

/// What became of a user between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Removed or disabled, or somebody else has the name, or has another password.
    Left(Left),
    /// Other roles, name or e-mail; or there, or enabled, only now: another node may have known them before, and a session that was
    /// refused here may be theirs.
    Altered,
}

/// How long a look at the file may take: on a disk that hangs nobody is let in, and nothing else waits.
const LOOK: Duration = Duration::from_secs(2);
/// What was written so short before it was read may be written once more in the same tick of the disk's clock, and look the same.
const SETTLED: Duration = Duration::from_secs(1);
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The user file as it was last read.
pub struct LocalUsers {
    path: PathBuf,
    read: Mutex<Read>,
    /// One looks at a time, so that what was read earlier never takes the place of what was read later.
    turns: Arc<Turns<()>>,
    changed: Mutex<Vec<(String, Change)>>,
    found: Notify,
}

/// Nobody can say what stands in the file now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unseen {
    /// The disk hangs.
    #[error("the user file could not be looked at in time")]
    Late,
    /// The system gave no thread to look on.
    #[error("no thread to look at the user file on")]
    Thread(#[source] std::io::Error),
    /// What it was last may be true no longer, and nobody knows.
    #[error("the user file cannot be read")]
    Unread(#[from] UsersError),
    /// The thread that looked panicked.
    #[error("the thread that looked at the user file is gone")]
    Gone,
}

/// What is said while nobody can: at first, as long as it lasts once a minute, and that it is over.
#[derive(Default)]
pub(super) struct Blind {
    told: Option<(String, Instant)>,
}

impl Blind {
    pub(super) fn looked(&mut self, looked: Result<(), Unseen>) {
        match looked {
            Ok(()) if self.told.take().is_some() => tracing::info!("the user file is seen again"),
            Ok(()) => {}
            Err(error) => {
                let why = format!("{error:?}");
                let known = self.told.as_ref().is_some_and(|(said, at)| *said == why && at.elapsed() < TOLD_EVERY);
                if !known {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "the users are those of the last look, and no local user can sign in");
                    self.told = Some((why, Instant::now()));
                }
            }
        }
    }
}

struct Read {
    known_by: Option<Option<Stamp>>,
    users: Arc<Users>,
}

impl LocalUsers {
    /// Read the file.
    ///
    /// # Errors
    /// [`UsersError`].
    pub fn open(path: &Path) -> Result<LocalUsers, UsersError> {
        let known_by = known_by(Stamp::of(path));
        let read = Mutex::new(Read { known_by, users: Arc::new(Users::read(path)?) });
        let (turns, changed, found) = (Arc::default(), Mutex::default(), Notify::new());
        Ok(LocalUsers { path: path.to_owned(), read, turns, changed, found })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A user who may sign in.
    pub(super) fn user(&self, name: &str) -> Option<User> {
        self.lock().users.user.get(name).filter(|user| !user.disabled).cloned()
    }

    /// The roles of a user who may sign in, if this entry is theirs.
    fn roles(&self, name: &str, entry: u64) -> Option<Vec<String>> {
        let read = self.lock();
        let user = read.users.user.get(name).filter(|user| !user.disabled && user.counts(entry));
        user.map(|user| user.roles.clone())
    }

    /// Those who may not sign in, as whoever finds them so.
    pub(super) fn disabled(&self) -> Vec<(String, Left)> {
        let left = |user: &User| Left { entry: Some(user.entry()), why: "user_disabled", seen: false };
        let users = self.users();
        users.user.iter().filter(|(_, user)| user.disabled).map(|(name, user)| (name.clone(), left(user))).collect()
    }

    fn users(&self) -> Arc<Users> {
        self.lock().users.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Look at the file, and read it if it changed: whatever was written before this was called counts when it returns.
    ///
    /// # Errors
    /// [`Unseen`].
    pub(super) async fn look(self: &Arc<Self>) -> Result<(), Unseen> {
        let look = async {
            let turn = self.turns.clone().lock_owned().await;
            let (users, (tell, told)) = (self.clone(), oneshot::channel());
            let work = move || {
                // Held until the disk answered, also when nobody waits any more: of threads that hang there is one.
                let _turn = turn;
                let _ = tell.send(users.read_again());
            };
            std::thread::Builder::new().name("users".to_owned()).spawn(work).map_err(Unseen::Thread)?;
            Ok(told.await.map_err(|_| Unseen::Gone)??)
        };
        tokio::time::timeout(LOOK, look).await.map_err(|_| Unseen::Late)?
    }

    /// Read the file again if it changed.
    fn read_again(&self) -> Result<(), UsersError> {
        let stamp = Stamp::of(&self.path);
        if self.lock().known_by == Some(stamp) {
            return Ok(());
        }
        let known_by = known_by(stamp);
        match Users::read_after(&self.users(), &self.path) {
            Ok(users) => {
                let old = std::mem::replace(&mut *self.lock(), Read { known_by, users: Arc::new(users.clone()) });
                let changes = changes(&old.users, &users);
                if !changes.is_empty() {
                    self.changed().extend(changes);
                    self.found.notify_one();
                }
            }
            // Not marked as seen: it may be for want of a descriptor, and nothing about the file will change when there is one again.
            Err(error @ (UsersError::File { .. } | UsersError::Empty(_))) => {
                self.lock().known_by = None;
                return Err(error);
            }
            Err(error) => {
                self.lock().known_by = known_by;
                tracing::error!(error = &error as &dyn std::error::Error, "the user file is kept as it was last read");
            }
        }
        Ok(())
    }

    /// Who changed since this was asked last.
    pub(super) fn changes(&self) -> Vec<(String, Change)> {
        std::mem::take(&mut *self.changed())
    }

    /// Somebody changed.
    pub(super) async fn found(&self) {
        self.found.notified().await;
    }

    fn changed(&self) -> MutexGuard<'_, Vec<(String, Change)>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A hash that was renewed is no change: nobody is signed out by signing in.
fn changes(old: &Users, new: &Users) -> Vec<(String, Change)> {
    let change = |(name, before): (&String, &User)| {
        let left = |why| Some(Change::Left(Left { entry: Some(before.entry()), why, seen: true }));
        let change = match new.user.get(name) {
            None => left("user_removed"),
            Some(after) if before.precedes(after) => left(ANOTHER_PASSWORD),
            // A copy from before the last password ends nothing: it is passing, and nobody gets in by it whom it does not know.
            Some(after) if after.entry() != before.entry() && !after.precedes(before) => left("user_replaced"),
            Some(after) if after.disabled => left("user_disabled"),
            Some(after) => {
                let told = |user: &User| (user.roles.clone(), user.name.clone(), user.email.clone(), user.entry());
                (told(after) != told(before)).then_some(Change::Altered)
            }
        };
        change.map(|change| (name.clone(), change))
    };
    let holds = |users: &Users, name: &str| users.user.get(name).is_some_and(|user| !user.disabled);
    let come = new.user.keys().filter(|name| holds(new, name) && !holds(old, name));
    let come = come.map(|name| (name.clone(), Change::Altered));
    old.user.iter().filter(|(_, user)| !user.disabled).filter_map(change).chain(come).collect()
}

/// What a file that is read at this moment will be known by; `None`: it is to be read once more, whatever it looks like. `modified` is
/// what whoever copied it says, and does not count here.
fn known_by(stamp: Option<Stamp>) -> Option<Option<Stamp>> {
    let Some(there) = stamp else { return Some(None) };
    (there.changed()? + SETTLED < SystemTime::now()).then_some(stamp)
}

/// Everybody: local users by their file, others by what their provider said last.
pub struct People {
    local: Option<Arc<LocalUsers>>,
    provided: Arc<Cache>,
}

impl People {
    /// Of these.
    pub fn new(local: Option<Arc<LocalUsers>>, provided: Arc<Cache>) -> People {
        People { local, provided }
    }
}

impl Directory for People {
    fn standing(&self, of: Of<'_>) -> Standing {
        if of.provider != LOCAL {
            return self.provided.roles(of.key).map_or(Standing::AsAtSignIn, Standing::Roles);
        }
        match &self.local {
            None => Standing::AsAtSignIn,
            Some(local) => local.roles(of.subject, of.entry).map_or(Standing::Gone, Standing::Roles),
        }
    }
}

/// People, as an operator names them.
impl Login {
    /// Their provider and subject, as sessions know them, by the place where they sign in: `local`, or the name or the issuer of
    /// an OpenID provider. `None` where nobody signs in there.
    pub fn person(&self, place: &str, user: &str) -> Option<(String, String)> {
        if place == LOCAL {
            self.users.as_ref()?;
            return Some((LOCAL.to_owned(), canonical(user).unwrap_or_else(|| user.to_owned())));
        }
        self.oidc.issuer(place).map(|issuer| (issuer.to_owned(), user.to_owned()))
    }

    /// Roles of local users that are not declared, as their file was last read: who holds them, and which.
    pub fn undeclared(&self, is_declared: &dyn Fn(&str) -> bool) -> Vec<(String, String)> {
        self.users.as_ref().map_or_else(Vec::new, |local| local.users().undeclared(is_declared))
    }

    /// The names of all places where people sign in.
    pub fn places(&self) -> Vec<&str> {
        self.users.iter().map(|_| LOCAL).chain(self.oidc.titles().map(|(name, _)| name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Left, changes};
    use crate::login::users::{User, Users};

    fn users(list: &[(&str, &[&str], bool)]) -> Users {
        let user = |(name, roles, disabled): &(&str, &[&str], bool)| {
            let roles = roles.iter().map(|role| (*role).to_owned()).collect();
            (
                (*name).to_owned(),
                User { password: "x".into(), roles, name: None, email: None, disabled: *disabled, entry: None },
            )
        };
        Users { user: list.iter().map(user).collect() }
    }

    /// Of one user, whose entry changes.
    #[test]
    fn a_password_ends_what_came_before_it_and_an_old_copy_of_the_file_nothing() {
        let of = |entry: Option<&str>, disabled: bool| {
            let mut users = users(&[("a", &[], disabled)]);
            users.user.values_mut().for_each(|user| user.entry = entry.map(str::to_owned));
            users
        };
        for (old, new, why) in [
            (None, Some(".1"), "password_changed"),
            (Some("w"), Some("w.1"), "password_changed"),
            (Some("w.9"), Some("w.10"), "password_changed"),
            (Some("w.1"), Some("w"), ""),
            (Some("w.10"), Some("w.9"), ""),
            (Some("w.1"), Some("v.2"), "user_replaced"),
            (Some("w"), Some("w.0"), "user_replaced"),
            (Some("w.1"), None, "user_replaced"),
        ] {
            let (before, after) = (of(old, false), of(new, false));
            let entry = Some(before.user["a"].entry());
            let change = if why.is_empty() { Change::Altered } else { Change::Left(Left { entry, why, seen: true }) };
            assert_eq!(changes(&before, &after), [("a".to_owned(), change)], "{old:?} to {new:?}");
            let why = if why.is_empty() { "user_disabled" } else { why };
            let left = Change::Left(Left { entry, why, seen: true });
            assert_eq!(changes(&before, &of(new, true)), [("a".to_owned(), left)], "{old:?} to {new:?}, disabled");
        }
    }

    #[test]
    fn who_is_gone_who_changed_and_who_came_is_told_apart() {
        let old =
            users(&[("a", &["x"], false), ("b", &[], false), ("c", &[], false), ("d", &[], true), ("e", &[], false)]);
        let new = users(&[
            ("a", &[], false),
            ("b", &[], true),
            ("d", &[], false),
            ("e", &[], false),
            ("f", &[], false),
            ("g", &[], true),
        ]);
        let left = |why| Change::Left(Left { entry: Some(0), why, seen: true });
        let (disabled, removed, altered) = (left("user_disabled"), left("user_removed"), Change::Altered);
        let expected = [("a", altered), ("b", disabled), ("c", removed), ("d", altered), ("f", altered)];
        assert_eq!(changes(&old, &new), expected.map(|(name, change)| (name.to_owned(), change)));
    }
}
