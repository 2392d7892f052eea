//! From a configuration to what requests begin with. One decision: a start and a reload make it in the same way and whole, before
//! anything of it is used; what has to outlive a configuration – sessions, what is held against whoever guesses, counters – is handed
//! in and never made here. Knows nothing of listeners.

use std::sync::Arc;

use crate::authn::{Authenticator, Carrier};
use crate::clock::Clock;
use crate::config::{Config, Forwarded};
use crate::login::Login;
use crate::proxy::headers::HeadLimits;
use crate::proxy::{ForwardedStyle, Forwarding, Records, Runtime, Traffic};
use crate::session::Sessions;
use crate::token::ring::KeyRing;
use crate::upstream::Sockets;
use crate::whoami::Whoami;

use super::StartError;
use super::tokens::{signed_identities, tokens};
use super::upstreams::upstreams;

/// What outlives every configuration.
pub(super) struct Lasting {
    pub(super) sessions: Arc<Sessions>,
    pub(super) carrier: Arc<Carrier>,
    pub(super) ring: Option<Arc<KeyRing>>,
    pub(super) records: Arc<dyn Records>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) sockets: Sockets,
    pub(super) clock: Arc<dyn Clock>,
}

/// A configuration, and what was made from it.
#[derive(Clone, Copy)]
pub(super) struct Before<'b> {
    pub(super) config: &'b Config,
    pub(super) runtime: &'b Runtime,
}

/// Make it. What those `before` have learnt counts on.
///
/// # Errors
/// [`StartError`] of the first file that is missing or wrong; nothing has changed then.
pub(super) fn runtime(
    config: &Config,
    lasting: &Lasting,
    login: Login,
    whoami: Option<&Whoami>,
    before: Option<Before<'_>>,
) -> Result<Runtime, StartError> {
    let mut tokens = tokens(config, lasting.sessions.clone())?;
    if let Some(before) = before {
        tokens.inherit(before.runtime.authenticator.tokens());
    }
    let (roles, headers) = (config.roles.clone(), config.identity_headers.clone());
    let logins = config.oidc.iter().map(|login| (login.name.clone(), login.issuer.clone())).collect();
    Ok(Runtime {
        number: before.map_or(0, |before| before.runtime.number + 1),
        routes: config.routes.clone(),
        authenticator: Authenticator::new(lasting.carrier.clone(), logins, Arc::new(tokens), roles, headers),
        login,
        identities: signed_identities(config, lasting.ring.as_ref()),
        ring: lasting.ring.clone(),
        upstreams: upstreams(config, whoami, before, &lasting.sockets)?,
        records: lasting.records.clone(),
        access_log: config.log.access,
        traffic: lasting.traffic.clone(),
        clock: lasting.clock.clone(),
        forwarding: forwarding(config),
        head_limits: HeadLimits { bytes: config.limits.header_bytes, lines: config.limits.header_count },
        body_limit: config.limits.body_bytes,
        body_timeout: config.limits.body_timeout,
    })
}

fn forwarding(config: &Config) -> Forwarding {
    let style = match config.server.forwarded {
        Forwarded::XForwarded => ForwardedStyle::XForwarded,
        Forwarded::Standard => ForwardedStyle::Standard,
        Forwarded::Both => ForwardedStyle::Both,
        Forwarded::Nothing => ForwardedStyle::Nothing,
    };
    Forwarding { trusted: config.server.trusted_proxies.clone(), style }
}
