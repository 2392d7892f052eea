//! What a person was on the way to when they had to sign in, and what has to be true of the sign-in. One decision: it is made from
//! the route's rule and sealed; whoever leaves parts of it out comes back to the same demand, and whoever writes one is not heard.
//! Knows nothing of how people sign in.

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};

use crate::policy::SignInRule;

use super::return_to::{ReturnTo, open, seal};

const PURPOSE: &str = "wanted";
/// The longest way back that goes along to a provider: what its servers accept of an address nobody here knows.
const LONGEST_AWAY: usize = 2048;

/// On the way to where, and how to sign in for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wanted {
    #[serde(rename = "b", skip_serializing_if = "String::is_empty")]
    back: String,
    /// Where to sign in; `None`: anywhere.
    #[serde(rename = "l", skip_serializing_if = "Option::is_none")]
    pub(super) login: Option<String>,
    /// Seconds since the person may have proven who they are.
    #[serde(rename = "m", skip_serializing_if = "Option::is_none")]
    pub(super) max_age: Option<u64>,
    /// How strongly, one of these.
    #[serde(rename = "a", skip_serializing_if = "Vec::is_empty")]
    pub(super) acr: Vec<String>,
    /// Being signed in is not enough: the sign-in lacks what is asked.
    #[serde(rename = "g", skip_serializing_if = "std::ops::Not::not")]
    pub(super) again: bool,
}

impl Wanted {
    /// From what was asked for, and the rule that it fell under.
    pub fn new(path: &str, query: Option<&str>, rule: &SignInRule, again: bool) -> Wanted {
        let back = ReturnTo::here(path, query);
        Wanted {
            back: if back == ReturnTo::start() { String::new() } else { back.as_str().to_owned() },
            login: rule.login.clone(),
            max_age: rule.max_auth_age.map(|age| age.as_secs()),
            acr: rule.acr.clone(),
            again,
        }
    }

    /// Nothing but a way back.
    pub(super) fn back_to(back: &ReturnTo) -> Wanted {
        Wanted { back: back.as_str().to_owned(), ..Wanted::default() }
    }

    /// The way back. Sealed by us, and still read with the same suspicion.
    pub(super) fn back(&self) -> ReturnTo {
        let (path, query) = self.back.split_once('?').map_or((self.back.as_str(), None), |(p, q)| (p, Some(q)));
        if path.is_empty() { ReturnTo::start() } else { ReturnTo::here(path, query) }
    }

    /// The same for an address of a provider, without a way back that is too long for it.
    pub(super) fn away(mut self) -> Wanted {
        if self.back.len() > LONGEST_AWAY {
            self.back.clear();
        }
        self
    }

    /// As a word for an address line.
    pub(super) fn seal(&self, key: &hmac::Key) -> String {
        // Texts and numbers: there is nothing in it that could not be written.
        seal(key, PURPOSE, &serde_json::to_vec(self).unwrap_or_default())
    }

    /// A short word for it, which nobody else can make.
    pub(super) fn mark(&self, key: &hmac::Key) -> String {
        seal(key, &format!("again {}", serde_json::to_string(self).unwrap_or_default()), b"")
    }

    /// Open a sealed one.
    pub(super) fn open(sealed: &str, key: &hmac::Key) -> Option<Wanted> {
        serde_json::from_slice(&open(key, PURPOSE, sealed)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::Wanted;
    use crate::policy::SignInRule;
    use aws_lc_rs::hmac;
    use std::time::Duration;

    fn key(byte: u8) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32])
    }

    #[test]
    fn a_changed_seal_is_not_opened() {
        let rule = SignInRule {
            login: Some("corp".into()),
            max_auth_age: Some(Duration::from_secs(60)),
            acr: vec!["gold".into()],
            access_token: None,
        };
        let wanted = Wanted::new("/a", Some("x=1"), &rule, true);
        let sealed = wanted.seal(&key(7));
        assert_eq!(Wanted::open(&sealed, &key(7)), Some(wanted.clone()));
        assert_eq!(wanted.back().as_str(), "/a?x=1");
        assert_eq!(Wanted::open(&sealed.replace('.', "A."), &key(7)), None);
        assert_eq!(Wanted::open(&sealed, &key(8)), None);
        assert_eq!(Wanted::open("L2V2aWw.", &key(7)), None);
        assert_eq!(Wanted::default().back().as_str(), "/");
    }
}
