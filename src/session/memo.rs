//! What a worker's last cookies led to, and who calls in its last sessions. One decision: the same bytes lead to the same session
//! without a MAC and a hash being computed again, and the same session to the same caller, and to nothing else: whether that
//! session still stands is compared on every request, by whoever asks ([`super::Sessions::remembered`]). A caller is three
//! times as large as its session, so only sessions in use have one. A cookie leads to both at once: of a thousand sessions in use
//! each piece of memory that has to be looked into lies far away. Knows nothing of revocations and limits.

use std::sync::Arc;

use crate::places::{Mark, Places, Secrets, put};
use crate::policy::Caller;

use super::cookie::VALUE_CHARACTERS;
use super::view::View;

/// A part of the value that is random, whoever's it is.
const RANDOM: std::ops::Range<usize> = 12..20;

/// A worker's memory. Its locks are never contended.
#[derive(Default)]
pub struct Memo {
    cookies: Secrets<[u8; VALUE_CHARACTERS], Seen>,
    callers: Places<Calling>,
}

/// A session, and who calls in it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The session as it was then.
    pub view: Arc<View>,
    /// Who calls, as long as it is that session.
    pub caller: Arc<Caller>,
}

/// Held by its session in memory, not by a key: what is known of a user may change, and the session is loaded anew then.
struct Calling {
    view: Arc<View>,
    caller: Option<Arc<Caller>>,
}

impl Memo {
    /// Who calls in a session; found out by `ask` where it is not remembered. `None` where the user is gone.
    pub fn caller(&self, view: &Arc<View>, ask: impl FnOnce(&View) -> Option<Arc<Caller>>) -> Option<Arc<Caller>> {
        let mark = *view.key.0.first_chunk()?;
        self.callers.at(mark, |set| {
            if let Some(held) = set.iter().flatten().find(|held| Arc::ptr_eq(&held.view, view)) {
                return held.caller.clone();
            }
            let caller = ask(view);
            put(set, Calling { view: view.clone(), caller: caller.clone() });
            caller
        })
    }

    /// Forget everything, and give the room back.
    pub fn forget(&self) {
        self.cookies.forget();
        self.callers.forget();
    }

    /// The session that these very bytes led to.
    pub(super) fn find(&self, cookie: &str) -> Option<Seen> {
        self.cookies.find(mark(cookie)?, cookie.as_bytes())
    }

    /// Remember. Only a cookie that was verified comes here.
    pub fn keep(&self, cookie: &str, view: &Arc<View>, caller: &Arc<Caller>) {
        let (Some(mark), Ok(cookie)) = (mark(cookie), cookie.as_bytes().try_into()) else { return };
        self.cookies.keep(mark, cookie, Seen { view: view.clone(), caller: caller.clone() });
    }
}

fn mark(cookie: &str) -> Option<Mark> {
    cookie.as_bytes().get(RANDOM)?.first_chunk().copied().filter(|_| cookie.len() == VALUE_CHARACTERS)
}
