//! A session as memory holds it. One decision: there may be a million, so what many of them have in common is held once, and
//! the rest is one block of text and a few numbers; the record is made again for the few who need it whole.
//! Knows nothing of stores and caches.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Timestamp;

use super::generations::Stamp;
use super::lifetime::Limits;
use super::{Provided, Session, SessionKey, UserKey, Who};

/// What is remembered of what sessions have in common: combinations of provider and roles. Where two fall on one place, the
/// later one takes it, and sessions hold some of it twice.
const PLACES: usize = 1024;

/// What many sessions have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Common {
    provider: String,
    roles: Vec<String>,
    idle_ms: u64,
    provided: Option<Way>,
}

/// The part of [`Provided`] that is the same for many.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Way {
    login: String,
    acr: Option<String>,
    keeps: bool,
}

/// Holds once what many sessions have in common.
#[derive(Default)]
pub(super) struct Commons {
    places: Mutex<Vec<Option<Arc<Common>>>>,
    hash: RandomState,
}

impl Commons {
    fn share(&self, common: Common) -> Arc<Common> {
        let place = self.hash.hash_one(&common) % PLACES as u64;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.is_empty() {
            places.resize_with(PLACES, || None);
        }
        let held = &mut places[usize::try_from(place).unwrap_or_default()];
        match held {
            Some(held) if **held == common => held.clone(),
            _ => held.insert(Arc::new(common)).clone(),
        }
    }
}

/// Several texts in one block.
#[derive(Debug)]
struct Texts {
    block: Box<str>,
    /// Where each ends; the next one begins there.
    ends: [u32; TEXTS],
    /// A bit for each that there is: none is not the same as an empty one.
    present: u8,
}

const SUBJECT: usize = 0;
const NAME: usize = 1;
const EMAIL: usize = 2;
const DEVICE: usize = 3;
const USER: usize = 4;
const SID: usize = 5;
const TEXTS: usize = 6;

impl Texts {
    fn of(texts: [Option<&str>; TEXTS]) -> Texts {
        let block: String = texts.into_iter().flatten().collect();
        let (mut ends, mut present, mut end) = ([0; TEXTS], 0, 0);
        for (n, text) in texts.into_iter().enumerate() {
            end += text.map_or(0, str::len);
            ends[n] = u32::try_from(end).unwrap_or(u32::MAX);
            present |= u8::from(text.is_some()) << n;
        }
        Texts { block: block.into_boxed_str(), ends, present }
    }

    fn get(&self, n: usize) -> Option<&str> {
        let from = n.checked_sub(1).map_or(0, |before| self.ends[before]);
        if self.present >> n & 1 == 0 {
            return None;
        }
        self.block.get(from as usize..self.ends[n] as usize)
    }

    fn owned(&self, n: usize) -> Option<String> {
        self.get(n).map(str::to_owned)
    }
}

/// A session in memory. Laid out as written: what each request asks for lies together.
#[derive(Debug)]
#[repr(C)]
pub struct View {
    pub(super) stamp: Stamp,
    /// The latest activity that is written or queued, in milliseconds; may be behind the store, never ahead of what happened.
    pub(super) last_seen: AtomicU64,
    ends: Timestamp,
    common: Arc<Common>,
    /// Its key.
    pub key: SessionKey,
    /// Its user.
    pub user: UserKey,
    created: Timestamp,
    /// Of a sign-in at a provider when it was proven, of a local user the entry: no session has both.
    proven_or_entry: u64,
    epoch: u64,
    texts: Texts,
}

/// The sign-in at a provider, as a view has it. See [`Provided`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProvidedIn<'v> {
    /// As there.
    pub login: &'v str,
    /// As there.
    pub user: &'v str,
    /// As there.
    pub sid: Option<&'v str>,
    /// As there.
    pub proven: Timestamp,
    /// As there.
    pub acr: Option<&'v str>,
    /// As there.
    pub keeps: bool,
}

impl View {
    pub(super) fn new(commons: &Commons, key: SessionKey, user: UserKey, session: Session, stamp: Stamp) -> View {
        let Session { provider, subject, entry, name, email, roles, created, ends, idle_ms, last_seen, epoch, .. } =
            session;
        let device = session.device;
        let (provided, told, sid, proven_or_entry) = match session.provided {
            None => (None, None, None, entry),
            Some(Provided { login, user, sid, proven, acr, keeps }) => {
                (Some(Way { login, acr, keeps }), Some(user), sid, proven.0)
            }
        };
        let texts = [Some(&subject), name.as_ref(), email.as_ref(), Some(&device), told.as_ref(), sid.as_ref()];
        let texts = Texts::of(texts.map(|text| text.map(String::as_str)));
        let common = commons.share(Common { provider, roles, idle_ms, provided });
        let last_seen = AtomicU64::new(last_seen.0);
        View { key, user, common, texts, created, ends, proven_or_entry, epoch, last_seen, stamp }
    }

    /// Last activity, as far as this node knows.
    pub fn last_seen(&self) -> Timestamp {
        Timestamp(self.last_seen.load(Ordering::Relaxed))
    }

    /// What bounds it in time.
    pub fn limits(&self) -> Limits {
        Limits { ends: self.ends, idle_ms: self.common.idle_ms }
    }

    /// When the person signed in.
    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// The user's epoch at sign-in.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Where the person signed in. See [`Session`].
    pub fn provider(&self) -> &str {
        &self.common.provider
    }

    /// The provider's name for the person. See [`Session`].
    pub fn subject(&self) -> &str {
        self.texts.get(SUBJECT).unwrap_or_default()
    }

    /// Which entry of a local user it was begun for. See [`Session`].
    pub fn entry(&self) -> u64 {
        if self.common.provided.is_none() { self.proven_or_entry } else { 0 }
    }

    /// What applications are told as the user's name.
    pub fn user_name(&self) -> &str {
        self.texts.get(USER).unwrap_or(self.subject())
    }

    /// Who it is, to be written down.
    pub fn who(&self) -> Who {
        Who::new(self.provider(), self.subject(), self.user_name())
    }

    /// Name for display.
    pub fn name(&self) -> Option<&str> {
        self.texts.get(NAME)
    }

    /// E-mail address.
    pub fn email(&self) -> Option<&str> {
        self.texts.get(EMAIL)
    }

    /// Names of the roles held at sign-in.
    pub fn roles(&self) -> &[String] {
        &self.common.roles
    }

    /// What an OpenID provider said of the sign-in; `None` for a local user.
    pub fn provided(&self) -> Option<ProvidedIn<'_>> {
        let Way { login, acr, keeps } = self.common.provided.as_ref()?;
        let (user, sid, proven) = (self.user_name(), self.texts.get(SID), Timestamp(self.proven_or_entry));
        Some(ProvidedIn { login, user, sid, proven, acr: acr.as_deref(), keeps: *keeps })
    }

    /// The record, with the last activity that this node knows.
    pub fn record(&self) -> Session {
        let provided = self.provided().map(|provided| Provided {
            login: provided.login.to_owned(),
            user: provided.user.to_owned(),
            sid: provided.sid.map(str::to_owned),
            proven: provided.proven,
            acr: provided.acr.map(str::to_owned),
            keeps: provided.keeps,
        });
        Session {
            provider: self.common.provider.clone(),
            subject: self.subject().to_owned(),
            entry: self.entry(),
            name: self.texts.owned(NAME),
            email: self.texts.owned(EMAIL),
            roles: self.common.roles.clone(),
            created: self.created,
            ends: self.ends,
            idle_ms: self.common.idle_ms,
            last_seen: self.last_seen(),
            epoch: self.epoch,
            device: self.texts.owned(DEVICE).unwrap_or_default(),
            provided,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Commons, View};
    use crate::clock::Timestamp;
    use crate::session::generations::Stamp;
    use crate::session::{Provided, Session, SessionKey, UserKey};

    fn session(subject: &str, name: Option<&str>, provided: Option<Provided>) -> Session {
        Session {
            provider: "https://id.example.com".into(),
            subject: subject.into(),
            entry: if provided.is_none() { 7 } else { 0 },
            name: name.map(str::to_owned),
            email: Some("zoë@example.com".into()),
            roles: vec!["staff".into(), "".into()],
            created: Timestamp(1),
            ends: Timestamp(2),
            idle_ms: 3,
            last_seen: Timestamp(4),
            epoch: 5,
            device: String::new(),
            provided,
        }
    }

    fn view(commons: &Commons, session: &Session) -> View {
        View::new(commons, SessionKey([1; 16]), UserKey([2; 16]), session.clone(), Stamp::NEVER)
    }

    #[test]
    fn a_view_gives_the_record_back_as_it_was() {
        let commons = Commons::default();
        let provided = |sid: Option<&str>, acr: Option<&str>| Provided {
            login: "corp".into(),
            user: "zoë".into(),
            sid: sid.map(str::to_owned),
            proven: Timestamp(6),
            acr: acr.map(str::to_owned),
            keeps: acr.is_none(),
        };
        let signed_in =
            [None, Some(provided(None, None)), Some(provided(Some(""), Some("2"))), Some(provided(Some("s"), None))];
        for provided in signed_in {
            for (subject, name) in [("", None), ("zoë", Some("")), ("a", Some("Zoë Ω"))] {
                let session = session(subject, name, provided.clone());
                assert_eq!(view(&commons, &session).record(), session);
            }
        }
    }

    #[test]
    fn what_sessions_have_in_common_is_held_once_and_nothing_else_is() {
        let commons = Commons::default();
        let [one, two] = ["a", "b"].map(|subject| view(&commons, &session(subject, None, None)));
        assert!(Arc::ptr_eq(&one.common, &two.common));
        let mut other = session("c", None, None);
        other.roles.pop();
        assert!(!Arc::ptr_eq(&one.common, &view(&commons, &other).common));
        assert_eq!((one.subject(), two.subject()), ("a", "b"));
    }
}
