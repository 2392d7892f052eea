//! The local users, as the running gateway knows them. One decision: the last file that could be read counts; one that is
//! broken for a moment, because somebody edits it, signs nobody out. Knows nothing of passwords.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::authn::{Directory, Of, Standing};

use super::departed::Left;
use super::oidc::Cache;
use super::users::{User, Users, UsersError, canonical};
use super::{LOCAL, Login};

/// What became of a user between two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Removed or disabled, or somebody else has the name.
    Left(Left),
    /// Other roles, name or e-mail; or there, or enabled, only now: another node may have known them before, and a session that was
    /// refused here may be theirs.
    Altered,
}

/// The user file as it was last read.
pub struct LocalUsers {
    path: PathBuf,
    read: Mutex<Read>,
}

struct Read {
    stamp: Option<(SystemTime, u64)>,
    users: Arc<Users>,
}

impl LocalUsers {
    /// Read the file.
    ///
    /// # Errors
    /// [`UsersError`].
    pub fn open(path: &Path) -> Result<LocalUsers, UsersError> {
        let read = Read { stamp: stamp(path), users: Arc::new(Users::read(path)?) };
        Ok(LocalUsers { path: path.to_owned(), read: Mutex::new(read) })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A user who may sign in.
    pub(super) fn user(&self, name: &str) -> Option<User> {
        self.lock().users.user.get(name).filter(|user| !user.disabled).cloned()
    }

    /// The roles of a user who may sign in, if it is this entry of the name.
    fn roles(&self, name: &str, entry: u64) -> Option<Vec<String>> {
        let read = self.lock();
        let user = read.users.user.get(name).filter(|user| !user.disabled && user.entry() == entry);
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

    /// Read the file again if it changed; answers who changed with it.
    pub(super) fn look(&self) -> Vec<(String, Change)> {
        let stamp = stamp(&self.path);
        if self.lock().stamp == stamp {
            return Vec::new();
        }
        match Users::read(&self.path) {
            Ok(users) => {
                let old = std::mem::replace(&mut *self.lock(), Read { stamp, users: Arc::new(users.clone()) });
                changes(&old.users, &users)
            }
            Err(error) => {
                self.lock().stamp = stamp;
                tracing::error!(error = &error as &dyn std::error::Error, "the user file is kept as it was last read");
                Vec::new()
            }
        }
    }
}

/// A hash that was renewed is no change: nobody is signed out by signing in.
fn changes(old: &Users, new: &Users) -> Vec<(String, Change)> {
    let change = |(name, before): (&String, &User)| {
        let left = |why| Some(Change::Left(Left { entry: Some(before.entry()), why, seen: true }));
        let change = match new.user.get(name) {
            None => left("user_removed"),
            Some(after) if after.entry() != before.entry() => left("user_replaced"),
            Some(after) if after.disabled => left("user_disabled"),
            Some(after)
                if (&after.roles, &after.name, &after.email) == (&before.roles, &before.name, &before.email) =>
            {
                None
            }
            Some(_) => Some(Change::Altered),
        };
        change.map(|change| (name.clone(), change))
    };
    let holds = |users: &Users, name: &str| users.user.get(name).is_some_and(|user| !user.disabled);
    let come = new.user.keys().filter(|name| holds(new, name) && !holds(old, name));
    let come = come.map(|name| (name.clone(), Change::Altered));
    old.user.iter().filter(|(_, user)| !user.disabled).filter_map(change).chain(come).collect()
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
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
