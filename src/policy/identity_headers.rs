//! Which headers tell an application who is calling. One decision: a name is owned in every spelling – letter case, `-`, `_`,
//! `.` and any other mark are the same – because application servers fold them (CGI makes one variable of them all).
//! Knows nothing of requests; `proxy` strips and sets.

use std::sync::Arc;

use http::HeaderName;

use super::identity::{Caller, Identity};
use super::told::{LINES, Names, Told};

/// Why a name cannot carry an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderNameError {
    /// Not a header name.
    Malformed,
    /// Steers the connection, the message or another party's authentication: `host`, `cookie`, `authorization`, hop-by-hop …
    Taken,
}

/// What is told, and what the file calls it.
const FIELDS: [&str; LINES] = ["user", "email", "name", "roles"];

/// The header names of the configuration, and how roles are joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityHeaders {
    /// Of what stands in [`FIELDS`].
    names: Arc<Names>,
    separator: String,
    /// Folded spellings of everything that is stripped.
    owned: Vec<String>,
    /// A bit for each of their lengths: most names have another.
    lengths: u64,
}

/// Names that other presets set: stripped too, whatever the chosen preset. An application written for another gateway
/// would believe them, and a client must not be the one who sets them.
const ALWAYS_STRIPPED: &[&str] = &[
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-auth-request-user",
    "x-auth-request-email",
    "x-auth-request-groups",
    "x-auth-request-preferred-username",
    "remote-user",
    "remote-email",
    "remote-groups",
    "remote-name",
    "x-portcullis-identity",
    "x-pomerium-jwt-assertion",
    "cf-access-jwt-assertion",
    "x-goog-iap-jwt-assertion",
    "x-amzn-oidc-data",
];

/// What else other gateways write beside those, for applications behind them to believe. Stripped as well, and no more than that: a route
/// may set or remove one, as files did before these stood here.
const OTHERS_STRIPPED: &[&str] = &[
    "cf-access-authenticated-user-email",
    "x-remote-user",
    "x-remote-group",
    "x-remote-groups",
    "x-remote-email",
    "x-remote-name",
];

/// Whole families of them, by what they begin with; of client certificates that others verified, too (RFC 9440 §2.4: who ends TLS and
/// writes none lets none through).
const FAMILIES_STRIPPED: &[&str] = &[
    "client-cert",
    "ssl-client-",
    "tailscale-user-",
    "x-amzn-mtls-",
    "x-amzn-oidc-",
    "x-arr-clientcert",
    "x-auth-request-",
    "x-authentik-",
    "x-client-cert",
    "x-client-dn",
    "x-client-verify",
    "x-goog-authenticated-user-",
    "x-ms-client-principal",
    "x-pomerium-claim-",
    "x-remote-extra-",
    "x-ssl-cert",
    "x-ssl-client-",
    "x-tls-client-",
    "x-webauth-",
];

/// Headers in which other gateways sign who calls, by name; an application that was written for one looks there.
pub const SIGNED_IDENTITY_PRESETS: [(&str, &str); 5] = [
    ("portcullis", "x-portcullis-identity"),
    ("pomerium", "x-pomerium-jwt-assertion"),
    ("cloudflare", "cf-access-jwt-assertion"),
    ("google-iap", "x-goog-iap-jwt-assertion"),
    ("amazon", "x-amzn-oidc-data"),
];

impl IdentityHeaders {
    /// The presets by name.
    pub const PRESETS: &'static [&'static str] = &["x-forwarded", "remote-user", "oauth2-proxy"];

    /// The names of a preset, or `None` where there is no such one.
    pub fn preset(name: &str) -> Option<IdentityHeaders> {
        let fixed = |names: [&'static str; LINES], separator| IdentityHeaders {
            names: Arc::new(names.map(|name| Some(HeaderName::from_static(name)))),
            separator: String::from(separator),
            owned: Vec::new(),
            lengths: 0,
        };
        let preferred =
            ["x-forwarded-user", "x-forwarded-email", "x-forwarded-preferred-username", "x-forwarded-groups"];
        let request = [
            "x-auth-request-user",
            "x-auth-request-email",
            "x-auth-request-preferred-username",
            "x-auth-request-groups",
        ];
        let headers = match name {
            "x-forwarded" => fixed(preferred, ","),
            "remote-user" => fixed(["remote-user", "remote-email", "remote-name", "remote-groups"], ","),
            "oauth2-proxy" => fixed(request, ","),
            _ => return None,
        };
        Some(headers.with_owned())
    }

    /// No header at all; build up with [`IdentityHeaders::set`].
    pub fn none() -> IdentityHeaders {
        IdentityHeaders { separator: ",".to_owned(), ..IdentityHeaders::bare() }.with_owned()
    }

    /// Name one header: `field` is `user`, `email`, `name` or `roles`. Unknown fields are refused by the caller.
    pub fn set(&mut self, field: &str, text: &str) -> Result<(), HeaderNameError> {
        let header: HeaderName = text.parse().map_err(|_| HeaderNameError::Malformed)?;
        if taken(header.as_str()) {
            return Err(HeaderNameError::Taken);
        }
        if let Some(index) = FIELDS.iter().position(|known| *known == field) {
            Arc::make_mut(&mut self.names)[index] = Some(header);
        }
        *self = std::mem::replace(self, IdentityHeaders::bare()).with_owned();
        Ok(())
    }

    /// Own another header, which a route's signed identity stands in.
    ///
    /// # Errors
    /// [`HeaderNameError`].
    pub fn own(&mut self, header: &HeaderName) -> Result<(), HeaderNameError> {
        if taken(header.as_str()) {
            return Err(HeaderNameError::Taken);
        }
        let folded = alias(header.as_str());
        if !self.owned.contains(&folded) {
            self.lengths |= length_bit(&folded);
            self.owned.push(folded);
        }
        Ok(())
    }

    /// Whether applications are told the user.
    pub fn names_user(&self) -> bool {
        self.names[0].is_some()
    }

    /// What stands between two roles.
    pub fn set_separator(&mut self, separator: &str) {
        separator.clone_into(&mut self.separator);
    }

    fn bare() -> IdentityHeaders {
        IdentityHeaders { names: Arc::default(), separator: String::new(), owned: Vec::new(), lengths: 0 }
    }

    fn with_owned(mut self) -> IdentityHeaders {
        let named = self.names.iter().flatten().map(HeaderName::as_str);
        let stripped = ALWAYS_STRIPPED.iter().chain(OTHERS_STRIPPED).copied();
        self.owned = named.chain(stripped).map(alias).collect();
        self.owned.sort_unstable();
        self.owned.dedup();
        self.lengths = self.owned.iter().fold(0, |bits, name| bits | length_bit(name));
        self
    }

    /// Whether the gateway owns this name, in whatever spelling. No allocation.
    pub fn owns(&self, name: &str) -> bool {
        self.tells(name) || under_variable(name).is_some_and(|name| self.tells(name))
    }

    fn tells(&self, name: &str) -> bool {
        (self.lengths & length_bit(name) != 0 && self.owned.iter().any(|owned| same_alias(owned, name)))
            || is_of_a_family(name)
    }

    /// Whether a preset or a signed identity writes this name, in whatever spelling: a route can neither set nor remove it.
    pub fn reserves(name: &str) -> bool {
        ALWAYS_STRIPPED.iter().any(|owned| same_alias(owned, name))
    }

    /// The fields whose header is this, in whatever spelling.
    pub fn fields_of(&self, name: &str) -> impl Iterator<Item = &'static str> {
        let is_it = |header: &HeaderName| is_alias(header.as_str(), name);
        let fields = FIELDS.into_iter().zip(&*self.names);
        fields.filter_map(move |(field, header)| header.as_ref().is_some_and(is_it).then_some(field))
    }

    /// A caller: an identity, and the header lines that tell of it.
    pub fn caller(&self, identity: Identity) -> Caller {
        let roles = (!identity.role_names.is_empty()).then(|| identity.role_names.join(&self.separator));
        let Identity { subject, email, name, .. } = &identity;
        let headers = Told::of(&self.names, [Some(subject), email.as_deref(), name.as_deref(), roles.as_deref()]);
        Caller { headers, identity }
    }
}

/// The spelling under which names are compared: lower-case, everything but letters and digits a `-`.
pub fn alias(name: &str) -> String {
    name.bytes().map(|byte| char::from(fold(byte))).collect()
}

/// Whether two names are one to a server that folds them.
pub fn is_alias(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(|(one, other)| fold(one) == fold(other))
}

/// The same, or the variable that servers make of a header, as `owns` takes it for one.
pub(super) fn is_alias_or_variable(one: &str, other: &str) -> bool {
    is_alias(one, other) || under_variable(other).is_some_and(|other| is_alias(one, other))
}

/// Of this length, or of this and longer.
fn length_bit(name: &str) -> u64 {
    1 << name.len().min(63)
}

fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

fn same_alias(folded: &str, name: &str) -> bool {
    folded.len() == name.len() && folded.bytes().zip(name.bytes()).all(|(one, other)| one == fold(other))
}

/// The name behind `http-`. To CGI the field `Remote-User` is `HTTP_REMOTE_USER`, and who is told that name may put another `HTTP_` before
/// it: Django's `RemoteUserMiddleware` under ASGI (5.2; django#36300) believes `Http-Remote-User`, which nobody but a client would write.
fn under_variable(name: &str) -> Option<&str> {
    let (start, rest) = name.split_at_checked("http-".len())?;
    same_alias("http-", start).then_some(rest)
}

fn is_of_a_family(name: &str) -> bool {
    // Most names begin otherwise.
    let first = name.as_bytes().first().map(|first| fold(*first));
    let is_of = |family: &&str| {
        first == family.as_bytes().first().copied()
            && name.get(..family.len()).is_some_and(|start| same_alias(family, start))
    };
    matches!(first, Some(b'c' | b's' | b't' | b'x')) && FAMILIES_STRIPPED.iter().any(is_of)
}

/// Folded as ownership is: `Content_Length` is `Content-Length` to CGI.
fn taken(name: &str) -> bool {
    const TAKEN: &[&str] = &[
        "host",
        "cookie",
        "set-cookie",
        "authorization",
        "proxy",
        "proxy-authorization",
        "proxy-authenticate",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "max-forwards",
        "cache-control",
        "pragma",
        "range",
        "referer",
        "user-agent",
        "expect",
        "via",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-server",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-real-ip",
        "x-request-id",
        "traceparent",
        "tracestate",
        "origin",
        "date",
    ];
    const FAMILIES: &[&str] = &["accept", "access-control-", "content-", "if-", "sec-"];
    let name = alias(name);
    TAKEN.contains(&name.as_str()) || FAMILIES.iter().any(|family| name.starts_with(family))
}

#[cfg(test)]
mod tests {
    use super::{Identity, IdentityHeaders};
    use crate::policy::{Proof, RoleSet};

    #[test]
    fn what_no_header_can_carry_is_left_out() {
        let headers = IdentityHeaders::preset("x-forwarded").unwrap();
        let told = |name: &str, email: &str| {
            let identity = Identity {
                roles: RoleSet::default(),
                subject: "alice".to_owned(),
                proof: Proof::Session,
                name: Some(name.to_owned()),
                email: Some(email.to_owned()),
                role_names: Vec::new(),
                signed_in: None,
            };
            headers.caller(identity).headers.lines().map(|(_, text)| text.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(told(" Zoë ", "a@example.com"), ["alice", "a@example.com", " Zoë "]);
        for blank in ["", " ", "\u{a0}\u{3000}", "a\nb"] {
            assert_eq!(told(blank, blank), ["alice"], "{blank:?}");
        }
    }
}
