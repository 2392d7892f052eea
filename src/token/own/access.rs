//! Access tokens: what a browser carries for some minutes in place of an id. One decision: a token is whole or nothing – sealed or
//! signed over everything it says – and names the key that made it, whose kind decides how it is read. Knows nothing of cookies.

use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::clock::Timestamp;
use crate::policy::BadToken;
use crate::session::{Session, SessionKey, TokenId};
use crate::token::claims::Expected;
use crate::token::verify::Presented;

use super::ring::{KeyRing, OwnKey, Purpose};

/// What a sealed token begins with, so that another format can come beside it.
const SEALED: &str = "s1";
/// What a signed one says of itself (RFC 9068).
const KIND: &str = "at+jwt";

/// How access tokens are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// Sealed: gateways alone read it.
    Sealed,
    /// Signed: others may read and verify it.
    Signed {
        /// `iss`.
        issuer: String,
        /// `aud`.
        audience: String,
    },
}

/// What a token says: a session as it was when the token was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Of which session.
    pub key: SessionKey,
    /// The session.
    pub session: Session,
    /// The end of the token.
    pub ends: Timestamp,
    /// Its name, where it has one.
    pub id: Option<TokenId>,
}

/// Why a token is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Over, or made with a key that is no more: a refresh is in order.
    Over,
    /// Not ours, or changed.
    Forged,
}

#[derive(Serialize, Deserialize)]
struct Inside {
    k: SessionKey,
    s: Session,
    e: Timestamp,
}

/// A token that was just made, and its name.
pub(super) type Made = (String, Option<TokenId>);

/// Makes and reads access tokens.
pub(super) struct Codec {
    format: Format,
    life: Duration,
    /// What a sealed token is sealed for.
    place: String,
    site: String,
}

impl Codec {
    pub(super) fn new(format: Format, life: Duration, cookie: String, site: String) -> Codec {
        // No name of a cookie has the byte between them. Without a site it is as it was before there were any.
        let place = if site.is_empty() { cookie } else { format!("{cookie}\0{site}") };
        Codec { format, life, place, site }
    }

    /// A token for a session, for its life or what is left of the session's, and its name where it has one.
    pub(super) fn make(&self, ring: &KeyRing, key: SessionKey, session: &Session, now: Timestamp) -> Option<Made> {
        let ends = now.plus(self.life).min(session.ends);
        match &self.format {
            Format::Sealed => {
                let of = ring.active(Purpose::Seal, now)?;
                let plain = serde_json::to_vec(&Inside { k: key, s: session.clone(), e: ends }).ok()?;
                let sealed = of.sealer.as_ref()?.seal(&self.place(&of.id), &plain)?;
                Some((format!("{SEALED}~{}~{}", of.id, URL_SAFE_NO_PAD.encode(sealed)), None))
            }
            Format::Signed { issuer, audience } => self.sign(ring, (issuer, audience), key, session, (now, ends)),
        }
    }

    fn sign(
        &self,
        ring: &KeyRing,
        (issuer, audience): (&str, &str),
        key: SessionKey,
        session: &Session,
        (now, ends): (Timestamp, Timestamp),
    ) -> Option<Made> {
        let of = ring.active(Purpose::Sign, now)?;
        let mut jti = [0; 12];
        rand::fill(&mut jti).ok()?;
        let jti = URL_SAFE_NO_PAD.encode(jti);
        let proven = session.provided.as_ref().map_or(session.created, |provided| provided.proven);
        let told = session.provided.as_ref().map_or(&session.subject, |provided| &provided.user);
        let mut claims = json!({
            "iss": issuer,
            "aud": audience,
            "sub": told,
            "sid": URL_SAFE_NO_PAD.encode(key.0),
            "jti": jti,
            "iat": now.seconds(),
            "nbf": now.seconds(),
            "exp": ends.seconds(),
            "auth_time": proven.seconds(),
            "roles": session.roles,
            "session": session,
        });
        let acr = session.provided.as_ref().and_then(|provided| provided.acr.as_deref());
        for (name, value) in [("name", session.name.as_deref()), ("email", session.email.as_deref()), ("acr", acr)] {
            if let Some(value) = value {
                claims[name] = value.into();
            }
        }
        if !self.site.is_empty() {
            claims["site"] = self.site.as_str().into();
        }
        Some((signed(&of, KIND, &claims)?, Some(TokenId::of(issuer, &jti))))
    }

    /// Read a token. A key's kind decides how: a name of one kind cannot be used for the other.
    pub(super) fn read(&self, ring: &KeyRing, token: &str, now: Timestamp) -> Result<Access, Unread> {
        match &self.format {
            Format::Sealed => self.open(ring, token, now),
            Format::Signed { issuer, audience } => self.verify(ring, token, (issuer, audience), now),
        }
    }

    fn open(&self, ring: &KeyRing, token: &str, now: Timestamp) -> Result<Access, Unread> {
        let mut parts = token.split('~');
        let (Some(SEALED), Some(id), Some(text), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            // A token of the other format, of before the configuration changed.
            return Err(if token.split('.').count() == 3 { Unread::Over } else { Unread::Forged });
        };
        let key = ring.named(id, now).ok_or(Unread::Over)?;
        let sealer = key.sealer.as_ref().ok_or(Unread::Forged)?;
        let sealed = URL_SAFE_NO_PAD.decode(text).map_err(|_| Unread::Forged)?;
        let plain = sealer.open(&self.place(id), &sealed).ok_or(Unread::Forged)?;
        // Ours, but of another version of this program: as good as over.
        let Inside { k, s, e } = serde_json::from_slice(&plain).map_err(|_| Unread::Over)?;
        if now >= e { Err(Unread::Over) } else { Ok(Access { key: k, session: s, ends: e, id: None }) }
    }

    fn verify(
        &self,
        ring: &KeyRing,
        token: &str,
        (issuer, audience): (&str, &str),
        now: Timestamp,
    ) -> Result<Access, Unread> {
        if token.starts_with(SEALED) {
            return Err(Unread::Over);
        }
        let presented = Presented::parse(token).map_err(|_| Unread::Forged)?;
        if !presented.is_any(&[KIND.to_owned()]) {
            return Err(Unread::Forged);
        }
        let expected = Expected {
            issuer: issuer.to_owned(),
            audiences: vec![audience.to_owned()],
            longest: self.life + Duration::from_secs(1),
            leeway: Duration::ZERO,
        };
        // Before the signature, which costs more than a request: most of what does not hold any more was left lying in a browser.
        let claims = presented.judge(&expected, now).map_err(|bad| match bad {
            BadToken::Expired | BadToken::TooLong | BadToken::Issuer | BadToken::Audience => Unread::Over,
            // By the clock of another node, which is ahead. Nobody is signed out by that: they are renewed by this one's.
            BadToken::NotYet => Unread::Over,
            _ => Unread::Forged,
        })?;
        match ring.verifying(|keys| presented.verify(keys)) {
            Ok(()) => {}
            Err(BadToken::UnknownKey) => return Err(Unread::Over),
            Err(_) => return Err(Unread::Forged),
        }
        let text = |name| claims.all.get(name).and_then(serde_json::Value::as_str);
        // Of another site of this secret: whoever is signed in there is nobody here.
        if text("site").unwrap_or_default() != self.site {
            return Err(Unread::Over);
        }
        let key = text("sid").and_then(|sid| URL_SAFE_NO_PAD.decode(sid).ok()?.try_into().ok()).ok_or(Unread::Over)?;
        let session = claims.all.get("session").cloned().ok_or(Unread::Over)?;
        let session = serde_json::from_value(session).map_err(|_| Unread::Over)?;
        let id = claims.id.as_deref().map(|jti| TokenId::of(issuer, jti));
        Ok(Access { key: SessionKey(key), session, ends: claims.span.until, id })
    }

    fn place<'p>(&'p self, id: &'p str) -> [&'p [u8]; 3] {
        [b"portcullis/access/1", self.place.as_bytes(), id.as_bytes()]
    }
}

/// A token over these claims, of this kind.
pub(super) fn signed(key: &OwnKey, kind: &str, claims: &serde_json::Value) -> Option<String> {
    let (algorithm, encoding) = key.signer.as_ref()?;
    let mut header = jsonwebtoken::Header::new(algorithm.library());
    (header.typ, header.kid) = (Some(kind.to_owned()), Some(key.id.clone()));
    jsonwebtoken::encode(&header, claims, encoding).ok()
}

#[cfg(test)]
mod tests {
    use super::{Codec, Format};
    use std::time::Duration;

    /// Who is signed in stays so where a version comes that knows of sites.
    #[test]
    fn without_a_site_a_token_is_sealed_for_what_it_was_before_there_were_any() {
        let codec = |site: &str| Codec::new(Format::Sealed, Duration::ZERO, "__Host-c".into(), site.into());
        assert_eq!(codec("").place("k"), [&b"portcullis/access/1"[..], b"__Host-c", b"k"]);
        assert_ne!(codec("a").place("k"), codec("").place("k"));
    }
}
