//! The local user file. One decision: the file is the truth and is small: it is read whole when it changed, and written whole,
//! beside itself and renamed, so that nobody ever reads half of it. Knows nothing of sign-ins.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use serde::{Deserialize, Serialize};

use super::password::{PasswordError, acceptable};

/// So many changes of a password may a node's copy of the file be behind another's before it takes their sessions for somebody else's.
const AHEAD: u32 = 16;

/// Why there is no user file.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// Not readable or writable.
    #[error("{path}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It would belong to somebody else, who may be the only one that the gateway is not.
    #[error(
        "{path}: belongs to user {uid} and group {gid}, to whom this user cannot give it; do it as root or as its owner"
    )]
    Owner {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
        /// And whose.
        gid: u32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Nothing stands in it, where users did: an editor, a copy or a full disk has cut it, and will write it or not.
    #[error("{0}: is empty; where no user is left, write a comment into it")]
    Empty(PathBuf),
    /// Not a user file. The place alone is told: the line may hold a hash, and what is said here stands in logs.
    #[error("{path}:{line}:{column}: is not a user file: {message}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// Where in the line, in characters, from 1.
        column: usize,
        /// Why.
        message: String,
    },
    /// A name that is no canonical user name.
    #[error("{path}: user.{name}: not a user name; write lower-case letters, digits and . _ @ + -, at most 128")]
    Name {
        /// Which.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// A hash this program will not verify.
    #[error(
        "{path}: user.{name}.password: not an argon2 hash, or one too costly to verify; set it by `portcullis user passwd {name}`"
    )]
    Hash {
        /// Which.
        path: PathBuf,
        /// Whose.
        name: String,
    },
    /// It could not be written as TOML.
    #[error("{path}: cannot be written")]
    Encode {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<toml::ser::Error>,
    },
    /// A password could not be hashed.
    #[error("the password could not be hashed")]
    Password(#[from] PasswordError),
    /// The system's generator failed.
    #[error("the random generator failed")]
    Random,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// An argon2id hash (PHC string).
    pub password: String,
    /// Roles by name.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Name for display.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// E-mail address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Cannot sign in, and has no sessions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// Which entry of this name it is: a random word of `user add`. A session counts for the entry that it was begun for, so that
    /// somebody new of an old name does not find the sessions of whoever had it before, however little anybody saw of the change.
    /// What follows a dot is how often the password was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
}

impl User {
    /// A new entry of somebody with this hash.
    ///
    /// # Errors
    /// [`UsersError::Random`].
    pub fn new(password: String, roles: Vec<String>) -> Result<User, UsersError> {
        let mut entry = [0; 12];
        rand::fill(&mut entry).map_err(|_| UsersError::Random)?;
        let entry = Some(URL_SAFE_NO_PAD.encode(entry));
        Ok(User { password, roles, name: None, email: None, disabled: false, entry })
    }

    /// The entry as sessions know it; 0 where the file names none.
    pub fn entry(&self) -> u64 {
        self.entry.as_deref().map_or(0, known_as)
    }

    /// Another password, from now on. Counted instead of drawn: where the command is given at each node in place of a copy, all say the
    /// same again.
    pub fn change_password(&mut self, hash: String) {
        let (word, passwords) = self.word();
        // Where there is no next number, it is a word of its own.
        let entry = passwords.checked_add(1).map(|passwords| format!("{word}.{passwords}"));
        self.entry = entry.or_else(|| Some(format!("{word}.{passwords}.1")));
        self.password = hash;
    }

    /// Whether a session that was begun for this entry is this user's: by the password of now, or by one that another node's copy
    /// of the file has already. Of an earlier one it is nobody's: whoever knew it may have signed in where the copy was still old,
    /// after a revocation that was to keep them out.
    pub(super) fn counts(&self, entry: u64) -> bool {
        let (word, passwords) = self.word();
        let mut ahead = (1..=AHEAD).filter_map(|more| passwords.checked_add(more));
        entry == self.entry() || ahead.any(|passwords| entry == known_as(&format!("{word}.{passwords}")))
    }

    /// Whether this is the same user with a password from before this one.
    pub(super) fn precedes(&self, other: &User) -> bool {
        let ((word, passwords), (other, others)) = (self.word(), other.word());
        word == other && passwords < others
    }

    /// Which user it is, and how often the password was changed.
    fn word(&self) -> (&str, u32) {
        let entry = self.entry.as_deref().unwrap_or_default();
        let counted = entry.rsplit_once('.').and_then(|(word, passwords)| Some((word, passwords.parse().ok()?)));
        counted.unwrap_or((entry, 0))
    }
}

/// An entry as sessions know it.
fn known_as(entry: &str) -> u64 {
    let digest = digest::digest(&digest::SHA256, entry.as_bytes());
    digest.as_ref().first_chunk().map_or(1, |first| u64::from_be_bytes(*first).max(1))
}

/// All users, by canonical name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Users {
    /// `[user.NAME]`.
    #[serde(default)]
    pub user: BTreeMap<String, User>,
}

/// The name as it is kept: lower-case ASCII. `None` for what no user can be called.
pub fn canonical(name: &str) -> Option<String> {
    let name = name.trim().to_ascii_lowercase();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._@+-".contains(&byte);
    ((1..=128).contains(&name.len()) && name.bytes().all(plain)).then_some(name)
}

impl Users {
    /// Roles that are held and not declared: by whom, and which.
    pub fn undeclared(&self, is_declared: &dyn Fn(&str) -> bool) -> Vec<(String, String)> {
        let roles = self.user.iter().flat_map(|(name, user)| user.roles.iter().map(move |role| (name, role)));
        let unknown = roles.filter(|(_, role)| !is_declared(role));
        unknown.map(|(name, role)| (name.clone(), role.clone())).collect()
    }

    /// Read and check.
    ///
    /// # Errors
    /// [`UsersError`], naming file and user.
    pub fn read(path: &Path) -> Result<Users, UsersError> {
        Users::of(&text(path)?, path)
    }

    /// The same where users were known: it is not emptied in between.
    ///
    /// # Errors
    /// [`UsersError`].
    pub(super) fn read_after(known: &Users, path: &Path) -> Result<Users, UsersError> {
        let text = text(path)?;
        let is_cut = text.trim().is_empty() && !known.user.is_empty();
        if is_cut { Err(UsersError::Empty(path.to_owned())) } else { Users::of(&text, path) }
    }

    fn of(text: &str, path: &Path) -> Result<Users, UsersError> {
        let users: Users = toml::from_str(text).map_err(|error| malformed(path, text, &error))?;
        for (name, user) in &users.user {
            if canonical(name).as_ref() != Some(name) {
                return Err(UsersError::Name { path: path.to_owned(), name: name.clone() });
            }
            if !acceptable(&user.password) {
                return Err(UsersError::Hash { path: path.to_owned(), name: name.clone() });
            }
        }
        Ok(users)
    }

    /// Change the file under a lock, so that two changes at once both count. A missing file is an empty one, and stays missing where
    /// nothing is changed. Whose it was, it stays: an operator who is root must not take it away from a gateway that is not.
    ///
    /// # Errors
    /// [`UsersError`]; the file is as it was.
    pub fn change<T>(path: &Path, change: impl FnOnce(&mut Users) -> T) -> Result<T, UsersError> {
        let failed = |source| UsersError::File { path: path.to_owned(), source };
        let before = found(path).map_err(failed)?;
        let _lock = lock(path, before.as_ref())?;
        let before = found(path).map_err(failed)?;
        let read = if before.is_some() { Users::read(path)? } else { Users::default() };
        let mut users = read.clone();
        let outcome = change(&mut users);
        if users != read {
            users.write(path, before.as_ref())?;
        }
        Ok(outcome)
    }

    fn write(&self, path: &Path, before: Option<&Metadata>) -> Result<(), UsersError> {
        let failed = |source| UsersError::File { path: path.to_owned(), source };
        let body = toml::to_string(self)
            .map_err(|source| UsersError::Encode { path: path.to_owned(), source: Box::new(source) })?;
        let text = format!(
            "# Local users of portcullis. Change with `portcullis user add|passwd|remove`; `disabled = true` keeps somebody out.\n\n{body}"
        );
        let half = path.with_extension("new");
        // What a change left that broke off. Never written to: whoever owns the folder could have put a link there.
        let _ = fs::remove_file(&half);
        let mut file = private(&half).map_err(failed)?;
        let written = give(&file, path, before).and_then(|()| {
            if let Some(before) = before {
                // Only now, and no wider than before: hashes are guessed at leisure by whoever can read them.
                file.set_permissions(Permissions::from_mode(before.mode() & 0o777)).map_err(failed)?;
            }
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
            fs::rename(&half, path).map_err(failed)
        });
        written.inspect_err(|_| drop(fs::remove_file(&half)))
    }
}

fn text(path: &Path) -> Result<String, UsersError> {
    fs::read_to_string(path).map_err(|source| UsersError::File { path: path.to_owned(), source })
}

/// What is wrong, and where. `toml` itself quotes the line, and of what should have been something else, all of it.
fn malformed(path: &Path, text: &str, error: &toml::de::Error) -> UsersError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let (line, begun) = (before.matches('\n').count() + 1, before.rsplit('\n').next().unwrap_or_default());
    let message = error.message();
    let quotes = ["invalid type: ", "invalid value: "].iter().any(|start| message.starts_with(start));
    let message = match message.rsplit_once(", expected ") {
        Some((_, expected)) if quotes => format!("expected {expected}"),
        _ if quotes => "something else is expected".to_owned(),
        _ => message.lines().collect::<Vec<_>>().join("; "),
    };
    UsersError::Malformed { path: path.to_owned(), line, column: begun.chars().count() + 1, message }
}

fn found(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A new file, for its owner alone.
fn private(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Give a new file to whom the user file belongs; where there is none, to whom the folder does, if that can be done.
fn give(file: &File, path: &Path, before: Option<&Metadata>) -> Result<(), UsersError> {
    let failed = |source| UsersError::File { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (uid, gid) = match before {
        Some(before) => (before.uid(), before.gid()),
        None => fs::metadata(folder).map(|folder| (folder.uid(), folder.gid())).map_err(failed)?,
    };
    let is = file.metadata().map_err(failed)?;
    if (is.uid(), is.gid()) == (uid, gid) {
        return Ok(());
    }
    match fchown(file, Some(uid), Some(gid)) {
        Err(source) if before.is_some() => Err(UsersError::Owner { path: path.to_owned(), uid, gid, source }),
        _ => Ok(()),
    }
}

/// Waits for its turn; until the file is dropped, nobody else changes the user file.
fn lock(path: &Path, before: Option<&Metadata>) -> Result<File, UsersError> {
    let lock = path.with_extension("lock");
    let failed = |source| UsersError::File { path: lock.clone(), source };
    let file = match private(&lock) {
        Ok(made) => give(&made, path, before).map(|()| made).inspect_err(|_| drop(fs::remove_file(&lock))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::OpenOptions::new().append(true).open(&lock).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }?;
    file.lock().map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::{User, Users, UsersError, canonical};
    use crate::login::password::{Argon2Params, hash};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn names_are_lower_case_and_plain() {
        assert_eq!(canonical(" Alice "), Some("alice".into()));
        assert_eq!(canonical("a.b+c@example.com"), Some("a.b+c@example.com".into()));
        for name in ["", "a b", "a/b", "ä", "a\u{0}", &"a".repeat(129)] {
            assert_eq!(canonical(name), None, "{name:?}");
        }
    }

    #[test]
    fn a_session_counts_for_the_password_of_now_and_those_to_come() {
        for entry in [None, Some("word"), Some("a.word"), Some("word.4294967295")] {
            let new = User { entry: entry.map(str::to_owned), ..User::new("x".into(), vec![]).unwrap() };
            let mut users = vec![new];
            for n in 0..18 {
                let mut next = users[n].clone();
                next.change_password(format!("password {n}"));
                users.push(next);
            }
            // It counts no further, and lets in nobody of before.
            if entry.is_some_and(|entry| entry.ends_with("95")) {
                assert!(!users[1].counts(users[0].entry()) && users[1].counts(users[2].entry()));
                continue;
            }
            for (n, user) in users.iter().enumerate() {
                for (m, other) in users.iter().enumerate() {
                    assert_eq!(user.counts(other.entry()), (n..=n + 16).contains(&m), "{entry:?}: {m} at {n}");
                    assert_eq!(user.precedes(other), n < m, "{entry:?}: {n} before {m}");
                }
                let another = User { entry: Some("another.3".into()), ..user.clone() };
                assert!(!user.counts(another.entry()) && !user.precedes(&another) && !another.precedes(user));
            }
        }
    }

    #[test]
    fn a_change_keeps_the_other_users_and_the_file_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.toml");
        let password = hash("correct horse", Argon2Params { m_kib: 8, t: 1, p: 1 }).unwrap();
        let user = User::new(password, vec!["admin".into()]).unwrap();
        for name in ["alice", "bob"] {
            Users::change(&path, |users| users.user.insert(name.into(), user.clone())).unwrap();
        }
        let read = Users::read(&path).unwrap();
        assert_eq!(read.user.keys().collect::<Vec<_>>(), ["alice", "bob"]);
        assert_eq!(read.user["alice"], user);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_wrong_file_is_told_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.toml");
        std::fs::write(&path, "[user.alice]\npassword = \"secret\"\n").unwrap();
        assert!(matches!(Users::read(&path), Err(UsersError::Hash { name, .. }) if name == "alice"));
        std::fs::write(&path, "[user.Alice]\npassword = \"secret\"\n").unwrap();
        assert!(matches!(Users::read(&path), Err(UsersError::Name { name, .. }) if name == "Alice"));
        std::fs::write(&path, "[user.alice]\npasword = \"secret\"\n").unwrap();
        assert!(matches!(Users::read(&path), Err(UsersError::Malformed { .. })));
    }
}
