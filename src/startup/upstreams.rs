//! From configured upstreams to live ones. One decision: certificates and names are read here, so that a request never finds
//! out that a file is missing. Knows nothing of requests.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::config::{Config, Scheme, ServerAddress, UpstreamServer};
use crate::trust::ClientTlsFiles;
use crate::upstream::tls::ClientTlsFactory;
use crate::upstream::{Address, Ejection, Health, Protocol, Server, Sockets, Upstream};
use crate::whoami::Whoami;

use super::StartError;
use super::runtime::Before;

/// The small application, where some upstream asks for it.
pub(super) fn whoami(config: &Config) -> Result<Option<Whoami>, StartError> {
    let asked = config
        .upstreams
        .iter()
        .flat_map(|upstream| &upstream.servers)
        .any(|server| server.address == ServerAddress::Whoami);
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    asked.then(|| Whoami::start(loopback)).transpose().map_err(StartError::Thread)
}

/// All of them. One that was `before` and did not change is the same, with its connections.
pub(super) fn upstreams(
    config: &Config,
    whoami: Option<&Whoami>,
    before: Option<Before<'_>>,
    sockets: &Sockets,
) -> Result<Vec<Upstream>, StartError> {
    let live = |upstream| match before.and_then(|before| unchanged(upstream, config, before)) {
        Some(kept) => Ok(kept),
        None => live_upstream(upstream, config, (whoami, before), sockets),
    };
    config.upstreams.iter().map(live).collect()
}

pub(super) fn is_secure(server: &UpstreamServer) -> bool {
    matches!(server.address, ServerAddress::Tcp { scheme: Scheme::Https, .. })
}

/// The very upstream of before. Not where certificates were read for it: the files may hold others now.
fn unchanged(upstream: &crate::config::Upstream, config: &Config, before: Before<'_>) -> Option<Upstream> {
    let kept = |config: &Config| (config.limits.idle_upstream_connections, config.limits.upstream_idle_timeout);
    if upstream.servers.iter().any(is_secure) || kept(config) != kept(before.config) {
        return None;
    }
    let index = before.config.upstreams.iter().position(|other| other == upstream)?;
    before.runtime.upstreams.get(index).cloned()
}

/// One of them, with what it learns from the one before.
pub(super) fn live_upstream(
    upstream: &crate::config::Upstream,
    config: &Config,
    (whoami, before): (Option<&Whoami>, Option<Before<'_>>),
    sockets: &Sockets,
) -> Result<Upstream, StartError> {
    let failed = |source| StartError::UpstreamTls { upstream: upstream.name.clone(), source };
    let old = before.and_then(|before| before.runtime.upstreams.iter().find(|old| old.name == upstream.name));
    let files = ClientTlsFiles { ca: upstream.tls.ca.clone(), identity: upstream.tls.identity.clone() };
    let secure = upstream.servers.iter().any(is_secure);
    let factory = secure.then(|| ClientTlsFactory::new(&files, upstream.http2)).transpose().map_err(failed)?;
    let mut servers = Vec::new();
    for server in &upstream.servers {
        let (address, protocol) = match &server.address {
            ServerAddress::Tcp { scheme, host, port } => {
                let protocol = match (scheme, &factory) {
                    (Scheme::Https, Some(factory)) => {
                        let name = upstream.tls.server_name.as_ref().unwrap_or(host);
                        Protocol::Tls(Arc::new(factory.server(name).map_err(failed)?))
                    }
                    (Scheme::H2c, _) => Protocol::H2c,
                    _ => Protocol::Http1,
                };
                (Address::Tcp(host.clone(), *port), protocol)
            }
            ServerAddress::Unix(path) => (Address::Unix(path.clone()), Protocol::Http1),
            ServerAddress::Whoami => {
                let Some(whoami) = whoami else { continue };
                let address = whoami.address();
                (Address::Tcp(address.ip().to_string(), address.port()), Protocol::Http1)
            }
        };
        let mut server = Server::new(address, protocol, server.weight);
        if let Some(old) = old.and_then(|old| old.servers.iter().find(|old| old.address == server.address)) {
            server.inherit(old, upstream.health.is_some());
        }
        servers.push(Arc::new(server));
    }
    let health = upstream.health.as_ref().map(|check| Health {
        path: check.path.clone(),
        interval: check.interval,
        timeout: check.timeout,
        healthy_after: check.healthy_after,
        unhealthy_after: check.unhealthy_after,
    });
    Ok(Upstream {
        name: upstream.name.clone(),
        servers,
        connect_timeout: upstream.connect_timeout,
        response_timeout: upstream.response_timeout,
        idle_connections: config.limits.idle_upstream_connections,
        idle_timeout: config.limits.upstream_idle_timeout,
        ejection: Ejection { after: upstream.eject_after, first: upstream.eject_for },
        health,
        outcomes: old.map(|old| old.outcomes.clone()).unwrap_or_default(),
        sockets: sockets.clone(),
    })
}
