//! A provider's description of itself (OpenID Connect Discovery 1.0). One decision: the issuer is compared to the last character,
//! and every address is checked before it is used: who writes this document chooses where secrets are sent. Knows nothing of
//! fetching.

use oauth2::url::Url;
use serde::{Deserialize, Deserializer};

use crate::fetch::Address;

use super::error::MetadataError;

/// What is used of it.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// Where browsers are sent.
    pub authorization: Url,
    /// Where codes are exchanged.
    pub token: Url,
    /// The same for clients that show a certificate (RFC 8705 §5).
    pub token_mtls: Option<Url>,
    /// Claims that are not in the ID token.
    pub userinfo: Option<Address>,
    /// Its keys.
    pub jwks: Address,
    /// Where browsers are sent to sign out.
    pub end_session: Option<Url>,
    /// Whether its answers name it (RFC 9207 §3).
    pub names_itself: bool,
    /// What it says it can do, for `check --online`.
    pub says: Says,
}

/// Lists of abilities; `None` where it says nothing.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Says {
    /// Ways for clients to prove who they are.
    pub token_endpoint_auth_methods_supported: Option<Vec<String>>,
    /// Scopes.
    pub scopes_supported: Option<Vec<String>>,
    /// Algorithms of ID tokens.
    pub id_token_signing_alg_values_supported: Option<Vec<String>>,
    /// Whether it signs people out here when they sign out there.
    #[serde(default, deserialize_with = "or_default")]
    pub backchannel_logout_supported: bool,
    /// Whether it names its session when it does so in a frame.
    #[serde(default, deserialize_with = "or_default")]
    pub frontchannel_logout_session_supported: bool,
}

#[derive(Deserialize)]
struct Document {
    issuer: Option<String>,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    userinfo_endpoint: Option<String>,
    jwks_uri: Option<String>,
    end_session_endpoint: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    authorization_response_iss_parameter_supported: bool,
    response_types_supported: Option<Vec<String>>,
    code_challenge_methods_supported: Option<Vec<String>>,
    #[serde(default, deserialize_with = "or_default")]
    mtls_endpoint_aliases: Aliases,
    #[serde(flatten)]
    says: Says,
}

#[derive(Default, Deserialize)]
struct Aliases {
    token_endpoint: Option<String>,
}

/// Many libraries write `null` for what is not there.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// Where the document of an issuer is (Discovery §4): a slash at its end is not doubled.
pub(super) fn place(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer))
}

impl Metadata {
    /// Read it; `plain` allows plain HTTP to this machine.
    ///
    /// # Errors
    /// [`MetadataError`].
    pub fn read(text: &[u8], issuer: &str, plain: bool) -> Result<Metadata, MetadataError> {
        let document: Document =
            serde_json::from_slice(text).map_err(|error| MetadataError::Malformed(error.into()))?;
        let told = document.issuer.ok_or(MetadataError::Missing("issuer"))?;
        if told != issuer {
            return Err(MetadataError::Issuer(told, issuer.to_owned()));
        }
        let code = |types: &Vec<String>| types.iter().any(|kind| kind == "code");
        if !document.response_types_supported.as_ref().is_none_or(code) {
            return Err(MetadataError::Lacks("the code flow"));
        }
        // RFC 9700 §2.1.1: one that lists methods and leaves S256 out would ignore the challenge. Many list nothing.
        let s256 = |methods: &Vec<String>| methods.iter().any(|method| method == "S256");
        if !document.code_challenge_methods_supported.as_ref().is_none_or(s256) {
            return Err(MetadataError::Lacks("PKCE with S256"));
        }
        let address = |name, text: Option<String>| match text {
            None => Ok(None),
            Some(text) => Address::parse(&text, plain).map(Some).map_err(|error| MetadataError::Address(name, error)),
        };
        let url = |name, text: Option<String>| match text {
            None => Ok(None),
            Some(text) => {
                address(name, Some(text.clone()))?;
                let read = Url::parse(&text);
                read.map(Some).map_err(|_| MetadataError::Address(name, crate::fetch::AddressError::Malformed))
            }
        };
        let needed = |name, found: Option<Url>| found.ok_or(MetadataError::Missing(name));
        Ok(Metadata {
            authorization: needed(
                "authorization_endpoint",
                url("authorization_endpoint", document.authorization_endpoint)?,
            )?,
            token: needed("token_endpoint", url("token_endpoint", document.token_endpoint)?)?,
            token_mtls: url("mtls_endpoint_aliases", document.mtls_endpoint_aliases.token_endpoint)?,
            userinfo: address("userinfo_endpoint", document.userinfo_endpoint)?,
            jwks: address("jwks_uri", document.jwks_uri)?.ok_or(MetadataError::Missing("jwks_uri"))?,
            end_session: url("end_session_endpoint", document.end_session_endpoint)?,
            names_itself: document.authorization_response_iss_parameter_supported,
            says: document.says,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Metadata, place};
    use serde_json::{Value, json};

    fn document() -> Value {
        json!({
            "issuer": "https://id.example/a/",
            "authorization_endpoint": "https://id.example/authorize",
            "token_endpoint": "https://id.example/token",
            "jwks_uri": "https://id.example/jwks",
        })
    }

    fn told(document: &Value) -> String {
        match Metadata::read(document.to_string().as_bytes(), "https://id.example/a/", false) {
            Ok(_) => "fine".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_document_is_where_the_issuer_says() {
        assert_eq!(place("https://id.example"), "https://id.example/.well-known/openid-configuration");
        assert_eq!(place("https://id.example/a/"), "https://id.example/a/.well-known/openid-configuration");
    }

    /// ASVS 10.5.3: metadata whose issuer is not the configured one is refused, to the trailing slash.
    #[test]
    fn another_issuers_document_is_refused() {
        assert_eq!(told(&document()), "fine");
        for other in
            ["https://id.example/a", "https://ID.example/a/", "https://id.example/a/ ", "https://evil.example/"]
        {
            let mut document = document();
            document["issuer"] = other.into();
            assert!(told(&document).starts_with(&format!("it is of the issuer `{other}`")), "{}", told(&document));
        }
    }

    #[test]
    fn what_is_missing_or_insecure_is_named() {
        let with = |key: &str, value: Value| {
            let mut document = document();
            document[key] = value;
            told(&document)
        };
        assert_eq!(with("issuer", Value::Null), "it has no `issuer`");
        for key in ["authorization_endpoint", "token_endpoint", "jwks_uri"] {
            assert_eq!(with(key, Value::Null), format!("it has no `{key}`"));
            for evil in ["http://id.example/x", "http://127.0.0.1/x", "javascript:alert(1)", "/relative"] {
                assert!(
                    with(key, evil.into()).starts_with(&format!("its `{key}` is not")),
                    "{}",
                    with(key, evil.into())
                );
            }
        }
        assert!(with("end_session_endpoint", "http://id.example/x".into()).contains("is not https"));
        assert!(with("userinfo_endpoint", "http://id.example/x".into()).contains("is not https"));
        assert_eq!(with("response_types_supported", json!(["id_token"])), "it does not offer the code flow");
        let plain = with("code_challenge_methods_supported", json!(["plain"]));
        assert_eq!(plain, "it does not offer PKCE with S256", "RFC 9700 §2.1.1, §4.8");
        assert_eq!(with("code_challenge_methods_supported", json!(["plain", "S256"])), "fine");
        assert_eq!(with("issuer", json!(["https://id.example/a/"])), "it cannot be read");
    }

    #[test]
    fn a_member_that_is_null_is_not_there() {
        let mut document = document();
        for name in [
            "userinfo_endpoint",
            "end_session_endpoint",
            "authorization_response_iss_parameter_supported",
            "response_types_supported",
            "code_challenge_methods_supported",
            "mtls_endpoint_aliases",
            "token_endpoint_auth_methods_supported",
            "scopes_supported",
            "id_token_signing_alg_values_supported",
            "backchannel_logout_supported",
            "frontchannel_logout_session_supported",
        ] {
            document[name] = Value::Null;
            assert_eq!(told(&document), "fine", "{name}");
        }
        document["authorization_response_iss_parameter_supported"] = "true".into();
        assert_eq!(told(&document), "it cannot be read");
    }
}
