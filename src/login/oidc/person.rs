//! Who a provider's claims make of a person here. Pure. One decision: an e-mail address counts only where the provider says that
//! it was verified; roles that are not declared are dropped; who is on no list that is asked for is nobody. Knows nothing of
//! tokens.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::policy::Names;
use crate::token::{find, values};

use super::error::ProviderError;

/// A name that no header can carry, or no person has.
const LONGEST: usize = 255;

/// What is configured of a provider's people.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Where roles or groups stand.
    pub roles_claim: Option<String>,
    /// From a value there to a role; empty: a value is the role of its name.
    pub role_map: BTreeMap<String, String>,
    /// Declared roles; others are dropped.
    pub declared: Vec<String>,
    /// What applications are told as the name.
    pub user_claim: String,
    /// And what is made of it.
    pub names: Names,
    /// Every address counts as verified.
    pub trust_email: bool,
    /// Domains of addresses that may sign in, lower-case.
    pub allow_domains: Vec<String>,
    /// Addresses that may sign in, lower-case.
    pub allow_emails: Vec<String>,
    /// Groups of which one is needed.
    pub allow_groups: Vec<String>,
}

/// A person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) user: String,
    pub(super) name: Option<String>,
    pub(super) email: Option<String>,
    pub(super) roles: Vec<String>,
    /// How many values led to no declared role.
    pub(super) dropped: usize,
}

/// Somebody whom the provider knows and this gateway does not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotAllowed {
    /// No verified address that is on a list.
    Email,
    /// In none of the groups.
    Group,
}

impl NotAllowed {
    /// A stable name for the audit.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            NotAllowed::Email => "email_not_allowed",
            NotAllowed::Group => "group_not_allowed",
        }
    }
}

impl Rules {
    /// Whether the claims at hand lack some that are used: then userinfo is asked.
    pub(super) fn lacks(&self, claims: &Map<String, Value>) -> bool {
        let wanted = [self.roles_claim.as_deref(), Some(&*self.user_claim), Some("email"), Some("name")];
        wanted.into_iter().flatten().any(|claim| find(claims, claim).is_none())
    }

    /// The person, and whether they may come in.
    ///
    /// # Errors
    /// [`ProviderError::Claim`] where the name is not there or is none.
    pub(super) fn person(
        &self,
        claims: &Map<String, Value>,
    ) -> Result<(Person, Result<(), NotAllowed>), ProviderError> {
        let email = self.email(claims);
        let named = match self.user_claim.as_str() {
            // The name decides whom applications see: an address that nobody verified is anybody's to choose.
            "email" => email.clone(),
            claim => text(claims, claim).map(str::to_owned),
        };
        let user = named.and_then(|named| self.names.told(&named));
        let user = user.ok_or_else(|| ProviderError::Claim(self.user_claim.clone()))?;
        let groups = self.roles_claim.as_deref().and_then(|claim| values(claims, claim)).unwrap_or_default();
        let allowed = self.allowed_by_email(email.as_deref()).and_then(|()| self.allowed_by_group(&groups));
        let (roles, dropped) = self.roles(&groups);
        let name = text(claims, "name").map(str::to_owned);
        Ok((Person { user, name, email, roles, dropped }, allowed))
    }

    /// The roles of somebody who was let in with this address and these roles, by claims that need not tell everything: what is not
    /// told stays as it was. `None`: on no list any more.
    pub(super) fn roles_now(
        &self,
        mut claims: Map<String, Value>,
        email: Option<&str>,
        roles: &[String],
    ) -> Option<Vec<String>> {
        // What counted as verified does so until it is denied, or another one is told.
        if let Some(email) = email.filter(|email| claims.get("email").is_none_or(|told| told == email)) {
            claims.entry("email").or_insert_with(|| email.into());
            claims.entry("email_verified").or_insert(Value::Bool(true));
        }
        self.allowed_by_email(self.email(&claims).as_deref()).ok()?;
        let told = self.roles_claim.as_deref().map(|claim| values(&claims, claim));
        if told == Some(None) {
            return Some(roles.iter().filter(|role| self.declared.contains(role)).cloned().collect());
        }
        let groups = told.flatten().unwrap_or_default();
        self.allowed_by_group(&groups).ok()?;
        Some(self.roles(&groups).0)
    }

    fn email(&self, claims: &Map<String, Value>) -> Option<String> {
        let verified = match claims.get("email_verified") {
            Some(Value::Bool(verified)) => *verified,
            // Some write the word.
            Some(Value::String(word)) => word == "true",
            _ => self.trust_email,
        };
        text(claims, "email").filter(|_| verified).filter(|email| is_address(email)).map(str::to_owned)
    }

    /// An address or its domain on a list; a list that is not there asks for nothing.
    fn allowed_by_email(&self, email: Option<&str>) -> Result<(), NotAllowed> {
        if !self.allow_emails.is_empty() || !self.allow_domains.is_empty() {
            let email = email.ok_or(NotAllowed::Email)?.to_ascii_lowercase();
            let domain = email.rsplit_once('@').map(|(_, domain)| domain).unwrap_or_default();
            if !self.allow_emails.contains(&email) && !self.allow_domains.iter().any(|allowed| allowed == domain) {
                return Err(NotAllowed::Email);
            }
        }
        Ok(())
    }

    /// One of the groups, in the same way.
    fn allowed_by_group(&self, groups: &[&str]) -> Result<(), NotAllowed> {
        let held = |group: &String| groups.contains(&group.as_str());
        if !self.allow_groups.is_empty() && !self.allow_groups.iter().any(held) {
            return Err(NotAllowed::Group);
        }
        Ok(())
    }

    fn roles(&self, groups: &[&str]) -> (Vec<String>, usize) {
        let (mut roles, mut dropped) = (Vec::new(), 0);
        for group in groups {
            let named = if self.role_map.is_empty() { Some(*group) } else { self.role_map.get(*group).map(|r| &**r) };
            match named.filter(|role| self.declared.iter().any(|declared| declared == role)) {
                Some(role) if roles.iter().any(|held| held == role) => {}
                Some(role) => roles.push(role.to_owned()),
                None => dropped += 1,
            }
        }
        (roles, dropped)
    }
}

/// One address and nothing beside it. Of what is quoted, encoded or listed (RFC 5321 §4.1.2, RFC 2047) mail servers and readers make
/// different ones, so that whoever reads the mail that verified it need not be in the domain at its end; and applications take a header with
/// a comma for two.
fn is_address(email: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !r#""(),:;<>@[\]"#.contains(c);
    let (who, domain) = email.split_once('@').unwrap_or_default();
    let are_plain = [who, domain].iter().all(|part| !part.is_empty() && part.chars().all(plain));
    are_plain && !email.contains("=?")
}

/// A claim that is a text that a header can carry.
fn text<'c>(claims: &'c Map<String, Value>, path: &str) -> Option<&'c str> {
    let fine = |text: &&str| !text.is_empty() && text.len() <= LONGEST && !text.chars().any(char::is_control);
    find(claims, path).and_then(Value::as_str).filter(fine)
}

#[cfg(test)]
mod tests {
    use super::{NotAllowed, Person, Rules};
    use serde_json::{Value, json};

    fn rules() -> Rules {
        Rules {
            roles_claim: Some("realm.groups".into()),
            declared: vec!["admin".into(), "staff".into()],
            user_claim: "sub".into(),
            ..Rules::default()
        }
    }

    fn person(rules: &Rules, claims: &Value) -> (Person, Result<(), NotAllowed>) {
        rules.person(claims.as_object().unwrap()).unwrap()
    }

    #[test]
    fn undeclared_roles_are_dropped_and_counted() {
        let claims = json!({ "sub": "1", "realm": { "groups": ["admin", "root", "eng", "eng", 7] } });
        let (plain, _) = person(&rules(), &claims);
        assert_eq!((plain.roles, plain.dropped), (vec!["admin".to_owned()], 3));
        let role_map = [("eng", "staff"), ("root", "nobody")].map(|(from, to)| (from.to_owned(), to.to_owned()));
        // ADFS tells one group as a text, and groups have blanks in their names.
        for (group, roles) in [("admin", vec!["admin".to_owned()]), ("SharePoint admin", vec![])] {
            let claims = json!({ "sub": "1", "realm": { "groups": group } });
            assert_eq!(person(&rules(), &claims).0.roles, roles, "{group}");
            let one = Rules { allow_groups: vec!["admin".into()], ..rules() };
            assert_eq!(person(&one, &claims).1.is_ok(), !roles.is_empty(), "{group}");
            let now = one.roles_now(claims.as_object().unwrap().clone(), None, &[]);
            assert_eq!(now.is_some(), !roles.is_empty(), "{group}");
        }
        let (mapped, _) = person(&Rules { role_map: role_map.into(), ..rules() }, &claims);
        assert_eq!((mapped.roles, mapped.dropped), (vec!["staff".to_owned()], 2), "a map is the only way in");
    }

    #[test]
    fn an_address_counts_only_where_it_was_verified() {
        let email = |verified: Value, trust_email| {
            let claims = json!({ "sub": "1", "email": "a@b.example", "email_verified": verified });
            person(&Rules { trust_email, ..rules() }, &claims).0.email.is_some()
        };
        assert!(email(json!(true), false) && email(json!("true"), false) && email(Value::Null, true));
        for verified in [json!(false), json!("false"), json!("TRUE")] {
            assert!(!email(verified.clone(), true), "{verified}: what the provider denies is not overruled");
        }
        for verified in [Value::Null, json!(1), json!("yes")] {
            assert!(!email(verified, false));
        }
        let by_email = Rules { user_claim: "email".into(), names: crate::policy::Names::new("corp:", []), ..rules() };
        let claims = |verified| json!({ "sub": "1", "email": "a@b.example", "email_verified": verified });
        assert_eq!(person(&by_email, &claims(true)).0.user, "corp:a@b.example");
        assert!(by_email.person(claims(false).as_object().unwrap()).is_err());
    }

    #[test]
    fn who_is_on_no_list_is_not_let_in() {
        let lists = Rules {
            allow_domains: vec!["b.example".into()],
            allow_emails: vec!["guest@c.example".into()],
            allow_groups: vec!["eng".into()],
            ..rules()
        };
        let told = |email: &str, groups: &[&str]| {
            let claims = json!({ "sub": "1", "email": email, "email_verified": true, "realm": { "groups": groups } });
            person(&lists, &claims).1
        };
        assert_eq!(told("A@B.example", &["eng"]), Ok(()));
        assert_eq!(told("guest@c.example", &["x", "eng"]), Ok(()));
        for email in ["a@c.example", "a@b.example.evil.example", "a@evil-b.example", "a@b.example@evil.example", "a"] {
            assert_eq!(told(email, &["eng"]), Err(NotAllowed::Email), "{email}");
        }
        for email in
            ["a@c.example,b@b.example", "\"a@c.example\"@b.example", "<a@c.example>b@b.example", "a b@b.example"]
        {
            assert_eq!(told(email, &["eng"]), Err(NotAllowed::Email), "{email}");
        }
        for email in
            ["=?utf-8?q?a=40c.example?=@b.example", "a(x)@b.example", "a@b.example ", "@b.example", "a:b@b.example"]
        {
            assert_eq!(told(email, &["eng"]), Err(NotAllowed::Email), "{email}");
        }
        for email in ["o'neil+x=y@b.example", "jörg_#1.2@b.example"] {
            assert_eq!(told(email, &["eng"]), Ok(()), "{email}");
        }
        for groups in [&[][..], &["Eng"], &["english"]] {
            assert_eq!(told("a@b.example", groups), Err(NotAllowed::Group), "{groups:?}");
        }
    }

    #[test]
    fn what_a_refresh_does_not_tell_stays_and_what_it_tells_counts() {
        let lists = Rules { allow_domains: vec!["b.example".into()], allow_groups: vec!["admin".into()], ..rules() };
        let now = |claims: Value| {
            lists.roles_now(claims.as_object().unwrap().clone(), Some("a@b.example"), &["admin".into(), "gone".into()])
        };
        let admin = Some(vec!["admin".to_owned()]);
        assert_eq!(now(json!({})), admin, "a role that is declared no more is none");
        assert_eq!(now(json!({ "email": "a@b.example" })), admin, "it was verified");
        let both = Some(vec!["staff".to_owned(), "admin".to_owned()]);
        assert_eq!(now(json!({ "realm": { "groups": ["staff", "admin"] } })), both);
        for told in [
            json!({ "realm": { "groups": [] } }),
            json!({ "realm": { "groups": ["staff"] } }),
            json!({ "email_verified": false }),
            json!({ "email": "a@b.example", "email_verified": false }),
            json!({ "email": "other@b.example" }),
            json!({ "email": "a@c.example", "email_verified": true }),
            json!({ "email": null }),
        ] {
            assert_eq!(now(told.clone()), None, "{told}");
        }
        let nowhere = Rules { roles_claim: None, ..rules() };
        let none = nowhere.roles_now(serde_json::Map::new(), None, &["admin".into()]);
        assert_eq!(none, Some(vec![]), "roles are read nowhere any more");
    }

    #[test]
    fn a_name_that_no_header_carries_is_none() {
        for sub in [json!(""), json!("a\r\nX-Admin: 1"), json!(7), Value::Null, json!("a".repeat(256))] {
            assert!(rules().person(json!({ "sub": sub }).as_object().unwrap()).is_err());
        }
    }
}
