//! What a worker's last cookies led to, and its last sessions. One decision: the same bytes lead to the same session without a MAC and
//! a hash being computed again, and the same session to the same caller, and to nothing else: whether that session still stands is
//! compared on every request, by whoever asks ([`super::Sessions::remembered`]). Only sessions in use have a caller, who is three
//! times as large as they are. Knows nothing of revocations and limits.

use std::sync::Arc;

use crate::places::{Mark, Places, Secrets, put};
use crate::policy::Caller;

use super::cookie::VALUE_CHARACTERS;
use super::in_use::InUse;
use super::view::View;

/// A part of the value that is random, whoever's it is.
const RANDOM: std::ops::Range<usize> = 12..20;

/// A worker's memory. Its locks are never contended.
#[derive(Default)]
pub struct Memo {
    cookies: Secrets<[u8; VALUE_CHARACTERS], Arc<InUse>>,
    sessions: Places<Arc<InUse>>,
}

impl Memo {
    /// A session in use; who calls in it is found out by `ask` where it is not remembered. `None` where the user is gone. It is known
    /// by its view, not by a key: what is known of a user may change, and the session is loaded anew then.
    pub fn in_use(&self, view: &Arc<View>, ask: impl FnOnce(&View) -> Option<Arc<Caller>>) -> Option<Arc<InUse>> {
        let mark = *view.key.0.first_chunk()?;
        self.sessions.at(mark, |set| {
            if let Some(held) = set.iter().flatten().find(|held| Arc::ptr_eq(&held.view, view)) {
                return Some(held.clone());
            }
            let session = Arc::new(InUse::new(view, ask(view)?));
            put(set, session.clone());
            Some(session)
        })
    }

    /// Forget everything, and give the room back.
    pub fn forget(&self) {
        self.cookies.forget();
        self.sessions.forget();
    }

    /// The session that these very bytes led to.
    pub(super) fn find(&self, cookie: &str) -> Option<Arc<InUse>> {
        self.cookies.find(mark(cookie)?, cookie.as_bytes())
    }

    /// Remember. Only a cookie that was verified comes here.
    pub fn keep(&self, cookie: &str, session: &Arc<InUse>) {
        let (Some(mark), Ok(cookie)) = (mark(cookie), cookie.as_bytes().try_into()) else { return };
        self.cookies.keep(mark, cookie, session.clone());
    }
}

fn mark(cookie: &str) -> Option<Mark> {
    cookie.as_bytes().get(RANDOM)?.first_chunk().copied().filter(|_| cookie.len() == VALUE_CHARACTERS)
}
