//! What a token says, read strictly, and who that makes of its bearer. Pure. One decision: a name that stands twice anywhere in
//! a token makes it unreadable, because the one who signed it and the one who reads it may take different ones (RFC 7519 §4).
//! Knows nothing of signatures; nothing read here counts before one was verified.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::policy::{BadToken, Identity, Names, Proof, RoleNames};

/// A subject, a name or an e-mail longer than this is no person's.
const LONGEST_TEXT: usize = 255;
/// Seconds up to the year 275,760, the last one that a JavaScript date can name: beyond it is a mistake or a trick.
const LAST_SECOND: f64 = 8.64e12;

/// A JSON object of a token: its header or its claims.
pub type Object = Map<String, Value>;

/// Decode one part of a token. The alphabet is base64url without padding and a value has one spelling (RFC 7515 §2).
pub(super) fn object(part: &str) -> Option<Object> {
    let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
    let mut text = serde_json::Deserializer::from_slice(&bytes);
    let value = Strict.deserialize(&mut text).ok()?;
    text.end().ok()?;
    match value {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// Reads any JSON value and refuses an object that names a member twice.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(Strict)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated names")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Strict)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Object::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(Strict)?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

/// What one issuer's tokens must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// `iss`, compared byte for byte.
    pub issuer: String,
    /// One of these has to stand in `aud`.
    pub audiences: Vec<String>,
    /// The longest life, from `iat` to `exp`.
    pub longest: Duration,
    /// How far the issuer's clock may be off.
    pub leeway: Duration,
}

/// The moments between which a token counts, its leeway included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// From then on.
    pub from: Timestamp,
    /// Until before then.
    pub until: Timestamp,
}

impl Span {
    /// Whether it counts now.
    ///
    /// # Errors
    /// [`BadToken::NotYet`] or [`BadToken::Expired`].
    pub fn check(&self, now: Timestamp) -> Result<(), BadToken> {
        match () {
            () if now < self.from => Err(BadToken::NotYet),
            () if now >= self.until => Err(BadToken::Expired),
            () => Ok(()),
        }
    }
}

/// The claims that every token is judged by.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    /// When it counts.
    pub span: Span,
    /// `iat`.
    pub issued: Timestamp,
    /// `jti`.
    pub id: Option<String>,
    /// Everything it says.
    pub all: Object,
}

impl Claims {
    /// Whether its issuer bound it to a key of whoever it was given to (RFC 7800: DPoP, a client certificate). By itself such a token
    /// would let in whoever stole it, which is what its issuer wanted to prevent (RFC 9449 §7.2, RFC 8705 §3).
    pub(super) fn is_bound(&self) -> bool {
        self.all.get("cnf").is_some_and(|bound| !bound.is_null())
    }
}

/// The issuer that a token names, to choose by. Not yet believed.
pub(super) fn issuer(claims: &Object) -> Option<&str> {
    // An array of issuers is a text to nobody: see `attacks.md`, jsonwebtoken accepts one.
    claims.get("iss")?.as_str()
}

/// Judge what a token says against what it must say.
///
/// # Errors
/// [`BadToken`]: the first thing that is wrong.
pub(super) fn judge(all: Object, expected: &Expected, now: Timestamp) -> Result<Claims, BadToken> {
    if issuer(&all) != Some(expected.issuer.as_str()) {
        return Err(BadToken::Issuer);
    }
    let ends = moment(&all, "exp")?.ok_or(BadToken::Claims)?;
    let issued = moment(&all, "iat")?.ok_or(BadToken::Claims)?;
    let from = moment(&all, "nbf")?.unwrap_or(Timestamp(0));
    let until = ends.plus(expected.leeway);
    let span = Span { from: Timestamp(from.0.saturating_sub(milliseconds(expected.leeway))), until };
    span.check(now)?;
    // A stolen token counts as long as it says; one that says "for ever" is refused while it can still be told. Counted from `iat` alone,
    // which may be ahead by the leeway, as is looked at next: counted from now, a token of just this life would be too long for as long as its
    // issuer's clock is ahead.
    if ends.since(issued) > expected.longest {
        return Err(BadToken::TooLong);
    }
    if issued > now.plus(expected.leeway) {
        return Err(BadToken::NotYet);
    }
    if !audience(&all, &expected.audiences)? {
        return Err(BadToken::Audience);
    }
    let id = match all.get("jti") {
        None => None,
        Some(id) => Some(id.as_str().ok_or(BadToken::Claims)?.to_owned()),
    };
    Ok(Claims { span, issued, id, all })
}

/// A NumericDate: seconds, perhaps with a fraction (RFC 7519 §2). A text that looks like one is none.
fn moment(claims: &Object, name: &str) -> Result<Option<Timestamp>, BadToken> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| (0.0..=LAST_SECOND).contains(seconds)).ok_or(BadToken::Claims)?;
    Ok(Some(Timestamp((seconds * 1000.0) as u64)))
}

/// One text, or a list of texts, one of which is ours. A list that holds anything else is not read leniently.
fn audience(claims: &Object, ours: &[String]) -> Result<bool, BadToken> {
    let ours = |text: &str| ours.iter().any(|our| our == text);
    match claims.get("aud") {
        Some(Value::String(one)) => Ok(ours(one)),
        Some(Value::Array(list)) => {
            let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            Ok(texts.ok_or(BadToken::Claims)?.into_iter().any(ours))
        }
        Some(_) => Err(BadToken::Claims),
        None => Err(BadToken::Audience),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Which claims say who the bearer is. A path may lead into objects: `realm_access.roles`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Who; has to be there.
    pub subject: String,
    /// What applications are told of them.
    pub names: Names,
    /// Name for display.
    pub name: Option<String>,
    /// E-mail address.
    pub email: Option<String>,
    /// A list of texts, or one text; of words where it is `scope` or `scp`.
    pub roles: Option<String>,
    /// From a value of that claim to a declared role. Where it is empty, a value is the role of its name.
    pub role_map: BTreeMap<String, String>,
}

impl Mapping {
    /// What the issuer calls the bearer.
    ///
    /// # Errors
    /// [`BadToken::Subject`] where nobody is named.
    pub fn subject<'c>(&self, claims: &'c Object) -> Result<&'c str, BadToken> {
        let text = find(claims, &self.subject).and_then(Value::as_str).filter(|text| printable(text));
        text.ok_or(BadToken::Subject)
    }

    /// Who the bearer is. Roles that are not declared are dropped: they grant nothing.
    ///
    /// # Errors
    /// [`BadToken::Subject`] where nobody is named.
    pub fn identity(&self, claims: &Object, declared: &RoleNames) -> Result<Identity, BadToken> {
        let text = |path: &str| find(claims, path).and_then(Value::as_str).filter(|text| printable(text));
        let subject = self.names.told(self.subject(claims)?).ok_or(BadToken::Subject)?;
        let optional = |path: &Option<String>| path.as_deref().and_then(text).map(str::to_owned);
        let held = self.roles.as_deref().and_then(|path| values(claims, path)).unwrap_or_default();
        let named = held.iter().filter_map(|word| match self.role_map.is_empty() {
            true => Some(*word),
            false => self.role_map.get(*word).map(String::as_str),
        });
        let roles = declared.set(named);
        Ok(Identity {
            subject,
            name: optional(&self.name),
            email: optional(&self.email),
            roles,
            role_names: declared.names(roles).map(str::to_owned).collect(),
            proof: Proof::Token,
            signed_in: None,
        })
    }
}

/// What no header can carry must not be half of a name.
fn printable(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= LONGEST_TEXT && !text.chars().any(char::is_control)
}

/// The roles or groups that a claim tells, where it is there: a list of texts, or one text. Who writes a list of one as a text (ADFS, many
/// of .NET) means the whole of it: taken for words, the group `SharePoint admin` would make whoever is in no other one an `admin`. Scopes are words
/// in a text (RFC 8693 §4.2; `scp` at Entra).
pub fn values<'c>(claims: &'c Object, path: &str) -> Option<Vec<&'c str>> {
    let are_words = matches!(path.rsplit('.').next(), Some("scope" | "scp"));
    Some(match find(claims, path)? {
        Value::String(text) if are_words => text.split_ascii_whitespace().collect(),
        Value::String(text) => vec![text],
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    })
}

/// A claim by its name, or by the names on the way to it. A name may itself hold dots, as in `https://example.com/roles`.
pub fn find<'c>(claims: &'c Object, path: &str) -> Option<&'c Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    path.match_indices('.').find_map(|(dot, _)| match claims.get(&path[..dot]) {
        Some(Value::Object(inner)) => find(inner, &path[dot + 1..]),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::{Mapping, Object, find, object};
    use crate::policy::{BadToken, Names, RoleNames};
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    fn claims(value: Value) -> Object {
        value.as_object().unwrap().clone()
    }

    fn mapping(roles: &str, map: &[(&str, &str)]) -> Mapping {
        let role_map = map.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        let names = Names::default();
        let (name, email) = (None, Some("email".into()));
        Mapping { subject: "sub".into(), names, name, email, roles: Some(roles.into()), role_map }
    }

    #[test]
    fn a_name_that_stands_twice_makes_it_unreadable() {
        let part = |text: &str| object(&URL_SAFE_NO_PAD.encode(text));
        assert!(part(r#"{"a":1,"b":{"a":2}}"#).is_some());
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"[{}]"#,
            r#"{} {}"#,
            r#"{"a":01}"#,
        ] {
            assert!(part(text).is_none(), "{text}");
        }
        assert!(object(&URL_SAFE_NO_PAD.encode([b'{', b'"', 0xff, b'"', b':', b'1', b'}'])).is_none(), "not UTF-8");
    }

    #[test]
    fn claims_are_found_on_their_way_and_by_names_with_dots() {
        let claims = claims(json!({"a": {"b": {"c": 1}}, "https://x.y/roles": 2, "a.b": {"d": 3}}));
        assert_eq!(find(&claims, "a.b.c"), Some(&json!(1)));
        assert_eq!(find(&claims, "https://x.y/roles"), Some(&json!(2)));
        assert_eq!(find(&claims, "a.b.d"), Some(&json!(3)));
        assert_eq!(find(&claims, "a.c"), None);
    }

    #[test]
    fn undeclared_roles_grant_nothing_and_a_map_is_the_only_way_in() {
        let declared = RoleNames::new(vec!["admin".into(), "staff".into()]).unwrap();
        let names = |mapping: Mapping, value| mapping.identity(&claims(value), &declared).unwrap().role_names;
        let told = json!({"sub": "s", "scope": "staff root", "g": {"r": ["admin", 7, "eng"]}});
        assert_eq!(names(mapping("scope", &[]), told.clone()), ["staff"]);
        let one = json!({"sub": "s", "roles": "SharePoint admin", "r": {"scp": "admin read"}, "group": "admin"});
        assert_eq!(names(mapping("r.scp", &[]), one.clone()), ["admin"]);
        assert_eq!(names(mapping("group", &[]), one.clone()), ["admin"], "a list of one");
        assert!(names(mapping("roles", &[]), one.clone()).is_empty(), "one name, with a blank in it");
        assert_eq!(names(mapping("roles", &[("SharePoint admin", "staff"), ("admin", "admin")]), one), ["staff"]);
        assert_eq!(names(mapping("g.r", &[]), told.clone()), ["admin"]);
        assert_eq!(names(mapping("g.r", &[("eng", "staff"), ("x", "nobody")]), told), ["staff"]);
        for nobody in
            [json!({}), json!({"sub": ""}), json!({"sub": 7}), json!({"sub": "a\nb"}), json!({"sub": "a".repeat(256)})]
        {
            assert_eq!(mapping("x", &[]).identity(&claims(nobody), &declared), Err(BadToken::Subject));
        }
    }

    #[test]
    fn an_address_of_blanks_is_none() {
        let email = |value: &str| {
            let claims = claims(json!({"sub": "s", "email": value}));
            mapping("x", &[]).identity(&claims, &RoleNames::default()).unwrap().email
        };
        assert_eq!(email("a@example.com").as_deref(), Some("a@example.com"));
        assert_eq!([email(""), email("  "), email("\u{a0}")], [const { None }; 3]);
    }
}
