//! OpenID providers: this gateway as their relying party (OpenID Connect Core 1.0, RFC 9700).
//!
//! One decision: people are known by issuer and subject, never by what they are called; and nothing of a provider's answer counts
//! before it was held against the attempt of this very browser. It knows nothing of routes but what a sign-in is wanted for.

mod attempt;
mod cache;
mod error;
mod exchange;
mod flow;
mod id_token;
mod logout;
mod metadata;
mod open;
mod person;
mod provider;
mod shelf;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use http::Method;

use crate::session::{SessionKeys, View};

use super::pages::{SignInPage as Page, SignInProblem as Problem};
use super::wanted::Wanted;
use super::{Answer, Ask, Login, PREFIX, other_method, plain, see_other};

pub use cache::Cache;
pub use error::{LoginError, MetadataError, ProviderError, Unreadable};
pub use metadata::{Metadata, Says};
pub use open::follow_open;
pub use person::Rules;
pub use provider::{ClientAuth, Provider, ProviderSettings};
pub use tokens::{AccessToken, Followed, Needs};

use crate::token::{Failing, Sealer};

/// All providers.
pub struct Oidc {
    providers: Vec<Arc<Provider>>,
    sealer: Arc<Sealer>,
    cache: Arc<Cache>,
    /// Values of role claims that led to no declared role.
    dropped_roles: Arc<AtomicU64>,
    /// Who brought logout tokens with bad signatures.
    failing: Arc<Failing>,
}

impl Oidc {
    /// These providers; what browsers carry and the store keeps is sealed with a key of its own.
    pub fn new(providers: Vec<Provider>, cache: Arc<Cache>, keys: &SessionKeys) -> Oidc {
        let sealer = Arc::new(Sealer::new(&keys.derive("portcullis/oidc/1")));
        let providers = providers.into_iter().map(Arc::new).collect();
        Oidc { providers, sealer, cache, dropped_roles: Arc::default(), failing: Arc::default() }
    }

    /// Other providers in the same place: who is on the way to one that is still there comes back, and what was learnt of it is not
    /// asked for again.
    pub(super) fn with(&self, mut providers: Vec<Provider>) -> Oidc {
        for provider in &mut providers {
            if let Some(old) = self.provider(provider.name()) {
                provider.inherit(old);
            }
        }
        let providers = providers.into_iter().map(Arc::new).collect();
        let (sealer, cache, dropped_roles) = (self.sealer.clone(), self.cache.clone(), self.dropped_roles.clone());
        Oidc { providers, sealer, cache, dropped_roles, failing: self.failing.clone() }
    }

    pub(super) fn provider(&self, name: &str) -> Option<&Arc<Provider>> {
        self.providers.iter().find(|provider| provider.name() == name)
    }

    /// The provider that a session began at. Another one that has its name by now is not told its tokens: a refresh token would be
    /// in the hands of somebody whom its owner never met.
    pub(super) fn provider_of(&self, view: &View) -> Option<&Arc<Provider>> {
        let provider = self.provider(view.provided()?.login)?;
        (provider.settings.issuer == view.provider()).then_some(provider)
    }

    /// The issuer of a provider that is named so, or that has this issuer.
    pub(super) fn issuer(&self, named: &str) -> Option<&str> {
        let by_issuer = || self.providers.iter().find(|provider| provider.settings.issuer == named);
        self.provider(named).or_else(by_issuer).map(|provider| provider.settings.issuer.as_str())
    }

    /// Name and title of each, in the order of the file.
    pub(super) fn titles(&self) -> impl Iterator<Item = (&str, &str)> {
        self.providers.iter().map(|provider| (provider.name(), provider.settings.title.as_str()))
    }

    /// When the certificates end that providers are shown, by the provider's name.
    pub fn shown_until(&self) -> impl Iterator<Item = (&str, SystemTime)> {
        let until = |provider: &Arc<Provider>| provider.settings.client.shown_until();
        self.providers.iter().filter_map(move |provider| Some((provider.name(), until(provider)?)))
    }

    /// How many values of role claims led to no declared role.
    pub fn dropped_roles(&self) -> u64 {
        self.dropped_roles.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Login {
    /// Where a sign-in at this place begins.
    pub(super) fn location_at(&self, provider: &str, wanted: &Wanted) -> String {
        format!("{PREFIX}oidc/{provider}/start?return={}", wanted.seal(&self.key))
    }

    /// `oidc/NAME/…`.
    ///
    /// # Errors
    /// [`LoginError`].
    pub(super) async fn oidc_page(&self, ask: &Ask<'_>, page: &str) -> Result<Answer, LoginError> {
        let Some((provider, page)) =
            page.split_once('/').and_then(|(name, page)| Some((self.oidc.provider(name)?, page)))
        else {
            return Ok(self.nothing_here());
        };
        let (get, post) = (*ask.method == Method::GET, *ask.method == Method::POST);
        match page {
            "start" if get => self.start(ask, provider).await,
            "callback" if get => self.back_from(ask, provider).await,
            "start" | "callback" => Ok(plain(other_method("GET"))),
            "backchannel-logout" if post => self.backchannel_logout(ask, provider).await,
            "backchannel-logout" => Ok(plain(other_method("POST"))),
            "frontchannel-logout" if get && provider.settings.frontchannel_logout => {
                self.frontchannel_logout(ask, provider).await
            }
            _ => Ok(self.nothing_here()),
        }
    }

    async fn start(&self, ask: &Ask<'_>, provider: &Provider) -> Result<Answer, LoginError> {
        let wanted = self.wanted(ask);
        if ask.caller.is_some() && !wanted.again {
            return Ok(plain(see_other(ask.led(&wanted.back()))));
        }
        self.leave_for(ask, provider, wanted, 0).await
    }
}
