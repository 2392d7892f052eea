//! Sessions of local users who went: removed, disabled, somebody else by now, or of an earlier password. One decision: to end them in the store is owed until
//! the store took it, for whoever comes back by that name would otherwise find them; until then they are refused from memory, as the
//! directory says. What a stop of the gateway leaves owed, entries and the next start make good. Knows nothing of files.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::clock::Timestamp;
use crate::session::{Revocation, Sessions, StoreError, UserKey, Wait, Who};

use super::users::User;
use super::{Audit, LOCAL};

/// Names that may be owed for. Beyond it the store was away for a file that changed altogether, more than once.
const MOST: usize = 100_000;
/// Asked of the store at a time.
const AT_ONCE: usize = 32;
/// Asked of it between two looks at the file.
const A_TURN: usize = 32 * AT_ONCE;

/// Why they are: the user is the same, and another password counts.
pub(super) const ANOTHER_PASSWORD: &str = "password_changed";

/// Why somebody's sessions are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// The entry that they were begun for; `None` where there were several.
    pub(super) entry: Option<u64>,
    /// A stable name, for the audit.
    pub(super) why: &'static str,
    /// Whether this was seen to happen: otherwise the store is asked first whether there is anything to end.
    pub(super) seen: bool,
}

/// What is owed for a name.
#[derive(Clone, Copy, Debug)]
struct Debt {
    left: Left,
    /// The audit was told that it is not certain.
    told: bool,
}

/// Everything that is owed.
#[derive(Default)]
pub(super) struct Departed {
    debts: HashMap<String, Debt>,
    /// Those tried longest ago first.
    turns: VecDeque<String>,
}

impl Departed {
    /// From now on this is owed.
    pub(super) fn owe(&mut self, name: String, left: Left) {
        if let Some(debt) = self.debts.get_mut(&name) {
            // Passwords only follow one another: what does not count for the one of now are the sessions of all before it.
            let entry = debt.left.entry.and(left.entry);
            let entry = entry.filter(|entry| left.why == ANOTHER_PASSWORD || debt.left.entry == Some(*entry));
            debt.left = Left { entry, seen: left.seen || debt.left.seen, ..left };
        } else if self.debts.len() < MOST {
            self.debts.insert(name.clone(), Debt { left, told: false });
            self.turns.push_back(name);
        } else {
            tracing::error!(
                user = name,
                "too many users left while the store was away; end their sessions by `portcullis sessions revoke`"
            );
        }
    }

    /// Pay what the store takes, a turn of it, or until it did not take something. `user` says who has a name now.
    pub(super) async fn pay(
        &mut self,
        sessions: &Arc<Sessions>,
        user: impl Fn(&str) -> Option<User>,
        now: Timestamp,
        tell: impl Fn(Audit),
    ) {
        let (mut rest, mut failed) = (self.turns.len().min(A_TURN), false);
        while rest > 0 && !failed {
            let batch: Vec<String> = self.turns.drain(..rest.min(AT_ONCE)).collect();
            rest -= batch.len();
            let mut asked = JoinSet::new();
            for name in batch {
                let Some(Debt { left, .. }) = self.debts.get(&name).copied() else { continue };
                let (sessions, current) = (sessions.clone(), user(&name));
                asked.spawn(async move {
                    let done = end(&sessions, &name, left, current.as_ref(), now).await;
                    (name, done)
                });
            }
            for (name, done) in asked.join_all().await {
                failed |= done.is_err();
                self.settle(name, done, &tell);
            }
        }
    }

    fn settle(&mut self, name: String, done: Result<u64, StoreError>, tell: impl Fn(Audit)) {
        let Some(debt) = self.debts.get_mut(&name) else { return };
        let line = |event, why| Audit::of(Who::new(LOCAL, &name, &name), event, Some(why));
        match done {
            Ok(ended) => {
                // Of several nodes that read the file one has ended them.
                if ended > 0 {
                    tell(line("sessions_revoked", debt.left.why));
                }
                self.debts.remove(&name);
            }
            Err(error) => {
                // Refused from memory all the same: the directory says that the user is gone.
                if debt.left.seen && !std::mem::replace(&mut debt.told, true) {
                    tracing::warn!(user = name, %error, "the sessions of a user who left could not be ended in the store yet");
                    tell(line("session_end_unfinished", "store_unavailable"));
                }
                self.turns.push_back(name);
            }
        }
    }
}

/// End them; how many there were.
async fn end(
    sessions: &Arc<Sessions>,
    name: &str,
    left: Left,
    current: Option<&User>,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let user = UserKey::of(LOCAL, name);
    match current.filter(|current| left.entry.is_some_and(|left| !current.counts(left))) {
        // Somebody else has the name by now, or the same with another password, and sessions that go on.
        Some(current) => {
            let mut ended = 0;
            for listed in sessions.list(user, now).await? {
                if !current.counts(listed.session.entry) {
                    ended += sessions.revoke(Revocation::Session(listed.key), Wait::BROWSER, now).await?.ended;
                }
            }
            Ok(ended)
        }
        None if !left.seen && sessions.list(user, now).await?.is_empty() => Ok(0),
        None => Ok(sessions.revoke(Revocation::User { user, except: None }, Wait::BROWSER, now).await?.ended),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::time::Duration;

    use super::{ANOTHER_PASSWORD, Departed, Left};
    use crate::clock::Timestamp;
    use crate::login::users::User;
    use crate::session::store::Memory;
    use crate::session::{CookieCodec, Lifetimes, NewSession, SessionKeys, Sessions, Settings, UserKey};

    fn sessions() -> Arc<Sessions> {
        let lifetimes = Lifetimes::new(Duration::from_secs(100), Duration::from_secs(1_000));
        let store_timeout = Duration::from_secs(5);
        let settings = Settings { lifetimes, cache_entries: 100, max_sessions: None, store_timeout };
        Sessions::new(Arc::new(Memory::new()), CookieCodec::new(&SessionKeys::random().unwrap(), ""), settings)
    }

    /// With this entry in the user file.
    fn user(entry: &str) -> User {
        let entry = (!entry.is_empty()).then(|| entry.to_owned());
        User { entry, ..User::new("x".into(), vec![]).unwrap() }
    }

    fn of(subject: &str, entry: &str) -> NewSession {
        NewSession {
            provider: "local".into(),
            subject: subject.into(),
            entry: user(entry).entry(),
            name: None,
            email: None,
            roles: vec![],
            device: entry.into(),
            provided: None,
        }
    }

    /// Entries of sessions that are left, and what the audit was told.
    async fn paid(entries: &[&str], left: &[Left], current: Option<&str>) -> (Vec<String>, Vec<&'static str>) {
        let (sessions, now) = (sessions(), Timestamp(1_000));
        for entry in entries {
            sessions.begin(of("dave", entry), None, now).await.unwrap();
        }
        let (mut departed, told) = (Departed::default(), RefCell::new(Vec::new()));
        left.iter().for_each(|left| departed.owe("dave".into(), *left));
        for _ in 0..2 {
            let tell = |audit: super::Audit| told.borrow_mut().extend(audit.reason);
            departed.pay(&sessions, |_| current.map(user), now, tell).await;
        }
        let list = sessions.list(UserKey::of("local", "dave"), now).await.unwrap();
        let mut list: Vec<String> = list.into_iter().map(|listed| listed.session.device).collect();
        list.sort_unstable();
        (list, told.into_inner())
    }

    #[tokio::test]
    async fn what_is_ended_is_what_was_begun_for_whoever_left() {
        let left = |entry, why| Left { entry: Some(user(entry).entry()), why, seen: true };
        let of = async |entries: &[&str], left: &[Left], current| paid(entries, left, current).await.0;
        let removed = left("a", "user_removed");
        let none: [&str; 0] = [];
        assert_eq!(paid(&["a", "a"], &[removed], None).await, (vec![], vec!["user_removed"]), "once");
        assert_eq!(paid(&[], &[removed], None).await, (vec![], vec![]), "there was nothing to end");
        assert_eq!(
            paid(&["a", "b", "b"], &[removed], Some("b")).await,
            (vec!["b".into(), "b".into()], vec!["user_removed"])
        );
        assert_eq!(paid(&["a", "a"], &[left("a", "user_disabled")], Some("a")).await, (vec![], vec!["user_disabled"]));
        assert_eq!(of(&["", ""], &[left("", "user_removed")], Some("")).await, none, "known by name alone");
        // Back to the first one, out of a backup: what was begun before is over all the same.
        assert_eq!(of(&["a", "b"], &[removed, left("b", "user_replaced")], Some("a")).await, none);
        assert_eq!(of(&["a", "b"], &[removed, removed], Some("b")).await, ["b"]);
        let passwords = ["a", "a.1", "a.2"].map(|entry| left(entry, ANOTHER_PASSWORD));
        let all = ["", "a", "a.1", "a.2", "a.3"];
        assert_eq!(of(&all, &passwords[..1], Some("a.1")).await, ["a.1", "a.2", "a.3"], "and those of other copies");
        assert_eq!(of(&all, &passwords[..2], Some("a.2")).await, ["a.2", "a.3"], "several, while the store was away");
        assert_eq!(of(&all, &[left("b", "user_replaced"), passwords[0]], Some("a.1")).await, ["a.1", "a.2", "a.3"]);
        assert_eq!(of(&all, &[passwords[0], left("a.1", "user_removed")], None).await, none);
    }
}
