//! What is said between this gateway and a provider's token endpoint: the code, the refresh token, and who we are. One decision:
//! the requests and their answers are the `oauth2` crate's; they travel by our own bounded client, which follows no redirect.
//! Knows nothing of what the tokens mean.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header};
use oauth2::basic::{
    BasicErrorResponse, BasicErrorResponseType, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse,
    BasicTokenType,
};
use oauth2::{
    AccessToken, AsyncHttpClient, AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken,
    EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl,
    RefreshToken, RequestTokenError, Scope, StandardRevocableToken, TokenResponse, TokenUrl,
};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::fetch::{Address, FetchError};

use super::attempt::{Attempt, State, secret};
use super::error::{MetadataError, ProviderError, Unreadable, is_away};
use super::provider::{ClientAuth, Known, Provider};

/// What is looked for in the answer of a token endpoint (RFC 6749 §5).
const MEMBERS: [&str; 7] =
    ["access_token", "token_type", "expires_in", "refresh_token", "id_token", "error", "error_description"];

/// What a token endpoint gives. The crate's own reading of it refuses whom others take: a `scope` that is a list (Twitch), which
/// nobody here asks for, and numbers that are written as texts (older endpoints of Entra, and others).
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    access_token: AccessToken,
    #[serde(deserialize_with = "token_type")]
    token_type: BasicTokenType,
    #[serde(default, deserialize_with = "seconds")]
    expires_in: Option<u64>,
    refresh_token: Option<RefreshToken>,
    id_token: Option<String>,
}

impl TokenResponse for Answer {
    type TokenType = BasicTokenType;

    fn access_token(&self) -> &AccessToken {
        &self.access_token
    }

    fn token_type(&self) -> &BasicTokenType {
        &self.token_type
    }

    fn expires_in(&self) -> Option<Duration> {
        self.expires_in.map(Duration::from_secs)
    }

    fn refresh_token(&self) -> Option<&RefreshToken> {
        // An empty one is none: to bring it would be answered as a refresh token that was taken back.
        self.refresh_token.as_ref().filter(|token| !token.secret().is_empty())
    }

    fn scopes(&self) -> Option<&Vec<Scope>> {
        None
    }
}

/// In whatever case (RFC 6749 §5.1).
fn token_type<'de, D: Deserializer<'de>>(from: D) -> Result<BasicTokenType, D::Error> {
    let word = String::deserialize(from)?.to_ascii_lowercase();
    BasicTokenType::deserialize(Value::String(word)).map_err(D::Error::custom)
}

/// A number of seconds, or the text of one. What stands there instead is not quoted.
fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let Some(value) = Option::<Value>::deserialize(from)? else { return Ok(None) };
    let seconds = match &value {
        Value::Number(number) => number.as_u64().or_else(|| number.as_f64().filter(|n| *n >= 0.0).map(|n| n as u64)),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    seconds.map(Some).ok_or_else(|| D::Error::custom("no number of seconds"))
}

type Client = oauth2::Client<
    BasicErrorResponse,
    Answer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// What a token endpoint gave.
pub(super) struct Tokens {
    pub(super) access: Zeroizing<String>,
    pub(super) refresh: Option<Zeroizing<String>>,
    pub(super) id: Option<Zeroizing<String>>,
    /// How long the access token counts, where it is told.
    pub(super) life: Option<Duration>,
}

/// A longer ID token is no hint of whom to sign out: servers refuse addresses of that length, and the person would stay signed in there.
const HINT_BYTES: usize = 6_000;

impl Tokens {
    /// The ID token, as it stands in an address that the provider signs people out at (RP-Initiated Logout §2).
    pub(super) fn hint(&self) -> Option<String> {
        self.id.as_ref().filter(|token| token.len() <= HINT_BYTES).map(|token| token.to_string())
    }
}

/// A way to the provider, and the attempt it belongs to.
pub(super) struct Begun {
    /// Where the browser is sent.
    pub(super) location: String,
    pub(super) attempt: Attempt,
}

/// What is demanded of a sign-in.
pub(super) struct Demand<'d> {
    pub(super) max_age: Option<u64>,
    pub(super) acr: &'d [String],
}

fn malformed(name: &'static str) -> impl FnOnce(oauth2::url::ParseError) -> ProviderError {
    move |_| MetadataError::Address(name, crate::fetch::AddressError::Malformed).into()
}

impl Provider {
    fn client(&self, known: &Known, redirect: &str) -> Result<Client, ProviderError> {
        let settings = &self.settings;
        let metadata = &known.metadata;
        let mut token = metadata.token.clone();
        let client = oauth2::Client::new(ClientId::new(settings.client_id.clone()));
        let client = match &settings.client_auth {
            ClientAuth::Basic(secret) => client.set_client_secret(ClientSecret::new(secret.to_string())),
            ClientAuth::Post(secret) => {
                client.set_client_secret(ClientSecret::new(secret.to_string())).set_auth_type(AuthType::RequestBody)
            }
            ClientAuth::Key(_) => client.set_auth_type(AuthType::RequestBody),
            ClientAuth::Certificate => {
                token = metadata.token_mtls.clone().unwrap_or(token);
                client.set_auth_type(AuthType::RequestBody)
            }
        };
        Ok(client
            .set_auth_uri(AuthUrl::from_url(metadata.authorization.clone()))
            .set_token_uri(TokenUrl::from_url(token))
            .set_redirect_uri(RedirectUrl::new(redirect.to_owned()).map_err(malformed("redirect_uri"))?))
    }

    /// Begin an attempt: PKCE with S256 (RFC 7636), state and nonce, always.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub(super) fn begin(
        &self,
        known: &Known,
        state: &State,
        demand: &Demand<'_>,
        authority: &str,
        now: Timestamp,
    ) -> Result<Begun, ProviderError> {
        // The generator is asked once more here, where its failure is an error and no panic.
        let verifier = PkceCodeVerifier::new(secret().ok_or(ProviderError::Random)?);
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&verifier);
        let whose = (self.settings.issuer.as_str(), authority);
        let attempt = Attempt::new(state, verifier.into_secret(), whose, now).ok_or(ProviderError::Random)?;
        let client = self.client(known, &self.redirect(authority))?;
        let text = state.text.clone();
        let mut request = client
            .authorize_url(move || CsrfToken::new(text))
            .add_scopes(self.settings.scopes.iter().cloned().map(Scope::new))
            .add_extra_param("nonce", attempt.nonce.clone())
            .set_pkce_challenge(challenge);
        if let Some(age) = demand.max_age {
            request = request.add_extra_param("max_age", age.to_string());
        }
        if !demand.acr.is_empty() {
            request = request.add_extra_param("acr_values", demand.acr.join(" "));
        }
        let (location, _) = request.url();
        Ok(Begun { location: location.into(), attempt })
    }

    /// Where the provider sends browsers back to: one address a host and provider (RFC 9700 §4.4.2.2).
    pub(super) fn redirect(&self, authority: &str) -> String {
        format!("https://{authority}/.portcullis/oidc/{}/callback", self.name())
    }

    /// Exchange a code.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub(super) async fn exchange(
        &self,
        known: &Known,
        code: String,
        attempt: &Attempt,
        now: Timestamp,
    ) -> Result<Tokens, ProviderError> {
        let client = self.client(known, &self.redirect(&attempt.authority))?;
        let verifier = PkceCodeVerifier::new(attempt.verifier.clone());
        let mut request = client.exchange_code(AuthorizationCode::new(code)).set_pkce_verifier(verifier);
        for (name, value) in self.assertion(known, now)? {
            request = request.add_extra_param(name, value);
        }
        read(request.request_async(&self.wire()).await)
    }

    /// Exchange a refresh token.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub(super) async fn refresh(&self, known: &Known, token: &str, now: Timestamp) -> Result<Tokens, ProviderError> {
        let client = self.client(known, &self.redirect("localhost"))?;
        let token = RefreshToken::new(token.to_owned());
        let mut request = client.exchange_refresh_token(&token);
        for (name, value) in self.assertion(known, now)? {
            request = request.add_extra_param(name, value);
        }
        read(request.request_async(&self.wire()).await)
    }

    fn wire(&self) -> Wire {
        Wire { client: self.settings.client.clone(), plain_http: self.settings.plain_http }
    }

    /// `private_key_jwt` (RFC 7523 §2.2): the `oauth2` crate has no word for it.
    fn assertion(&self, known: &Known, now: Timestamp) -> Result<Vec<(&'static str, String)>, ProviderError> {
        let ClientAuth::Key(assertion) = &self.settings.client_auth else { return Ok(Vec::new()) };
        let id = secret().ok_or(ProviderError::Random)?;
        let signed = assertion.sign(&self.settings.client_id, known.metadata.token.as_str(), &id, now);
        let signed = signed.ok_or(ProviderError::Assertion)?;
        let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned();
        Ok(vec![("client_assertion_type", kind), ("client_assertion", signed)])
    }
}

/// Our own client, as the crate knows one.
struct Wire {
    client: crate::fetch::Client,
    plain_http: bool,
}

impl<'c> AsyncHttpClient<'c> for Wire {
    type Error = FetchOrAddress;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, FetchOrAddress>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.send(request))
    }
}

impl Wire {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, FetchOrAddress> {
        let address = Address::parse(&request.uri().to_string(), self.plain_http)
            .map_err(|error| FetchOrAddress::Address(MetadataError::Address("token_endpoint", error)))?;
        let document = self.client.send(&address, request.map(Bytes::from)).await?;
        if is_away(document.status) {
            // Not its word on the code or the token: by an `invalid_grant` in it sessions would end.
            return Err(FetchOrAddress::Away(document.status));
        }
        let mut response = http::Response::new(document.body.to_vec());
        *response.status_mut() = document.status;
        *response.headers_mut() = document.headers;
        // What it claims to be is not believed either way: it is read as JSON, or it is nothing.
        response.headers_mut().remove(header::CONTENT_TYPE);
        Ok(response)
    }
}

#[derive(Debug, thiserror::Error)]
enum FetchOrAddress {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Address(MetadataError),
    #[error("the token endpoint answers {0}")]
    Away(StatusCode),
}

fn read(
    answer: Result<Answer, RequestTokenError<FetchOrAddress, BasicErrorResponse>>,
) -> Result<Tokens, ProviderError> {
    let answer = answer.map_err(|error| match error {
        RequestTokenError::Request(FetchOrAddress::Fetch(error)) => ProviderError::Fetch(error),
        RequestTokenError::Request(FetchOrAddress::Address(error)) => ProviderError::Metadata(error),
        RequestTokenError::Request(FetchOrAddress::Away(status)) => ProviderError::Status(status),
        RequestTokenError::ServerResponse(refused) => ProviderError::Refused(code(refused.error())),
        // The body is not kept, nor the library's words on it: they may hold tokens, and errors are logged.
        RequestTokenError::Parse(error, _) => {
            let path = error.path().to_string();
            let member = MEMBERS.into_iter().find(|name| *name == path);
            ProviderError::Answer(Unreadable::within(error.inner(), member))
        }
        RequestTokenError::Other(_) => ProviderError::Answer(Unreadable::Empty),
    })?;
    // OpenID Connect Core §3.1.3.3: `Bearer`. Another one is worth nothing alone, or is used otherwise.
    if *answer.token_type() != BasicTokenType::Bearer {
        return Err(ProviderError::TokenType);
    }
    Ok(Tokens {
        access: Zeroizing::new(answer.access_token().secret().clone()),
        refresh: answer.refresh_token().map(|token| Zeroizing::new(token.secret().clone())),
        id: answer.id_token.clone().map(Zeroizing::new),
        life: answer.expires_in(),
    })
}

fn code(error: &BasicErrorResponseType) -> String {
    let code: &str = error.as_ref();
    // A code has a small alphabet (RFC 6749 §5.2); anything else is not for logs.
    code.chars().filter(|c| c.is_ascii_graphic()).take(64).collect()
}
