//! `[upstream.NAME]`. One decision: an upstream is addresses and nothing else; a path or a user in the address is a
//! misunderstanding and is told so. Knows nothing of connections.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::table::{At, Table, text, type_name};
use super::{HealthCheck, Scheme, ServerAddress, Upstream, UpstreamServer, UpstreamTls};

const LEAST: Duration = Duration::from_millis(10);
const MOST: Duration = Duration::from_secs(24 * 3600);
/// On one's own network a connection stands in milliseconds; beyond this the server is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// What proxies commonly grant an application.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// One failure is chance, three in a row are not.
const EJECT_AFTER: u32 = 3;
/// A restart takes about as long; it doubles up to a minute.
const EJECT_FOR: Duration = Duration::from_secs(2);
/// Checks that find a dead server within some ten seconds and cost it next to nothing.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);
const HEALTHY_AFTER: u32 = 2;
const UNHEALTHY_AFTER: u32 = 2;

const SERVERS: &str = "a list such as [\"http://127.0.0.1:9000\"]";

/// All of them, in the order of their names. A mistaken one is kept, so that routes may still name it.
pub(super) fn upstreams(root: &mut Table<'_, '_>, base: &Path) -> Vec<Upstream> {
    let tables = root.named_tables("upstream");
    if tables.is_empty() && !root.found("upstream") {
        root.missing("upstream", "write [upstream.NAME] with `servers = [\"http://HOST:PORT\"]`");
    }
    tables.into_iter().map(|(name, table)| upstream(name, table, base)).collect()
}

fn upstream(name: String, mut table: Table<'_, '_>, base: &Path) -> Upstream {
    let servers = servers(&mut table, base);
    let connect_timeout = table.duration("connect_timeout", LEAST..MOST).map_or(CONNECT_TIMEOUT, |at| at.value);
    let response_timeout = table.duration("response_timeout", LEAST..MOST).map_or(RESPONSE_TIMEOUT, |at| at.value);
    let eject_after = small(&mut table, "eject_after", 0, EJECT_AFTER);
    let eject_for = table.duration("eject_for", LEAST..MOST).map_or(EJECT_FOR, |at| at.value);
    let secure =
        servers.iter().any(|server| matches!(server.address, ServerAddress::Tcp { scheme: Scheme::Https, .. }));
    let tls = table.table("tls").map(|inner| tls(inner, base, secure));
    let (tls, http2) = tls.unwrap_or((UpstreamTls::default(), true));
    let health = table.table("health").and_then(health);
    table.done();
    Upstream { name, servers, connect_timeout, response_timeout, eject_after, eject_for, tls, http2, health }
}

fn small(table: &mut Table<'_, '_>, key: &'static str, least: u64, default: u32) -> u32 {
    table.number(key, least..1_001).and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
}

fn servers(table: &mut Table<'_, '_>, base: &Path) -> Vec<UpstreamServer> {
    let list = table.values("servers", SERVERS);
    let mut servers = Vec::new();
    match &list {
        None if !table.has_problem("servers") => table.missing("servers", &format!("write {SERVERS}")),
        Some(list) if list.value.is_empty() && !table.has_problem("servers") => {
            table.problem(&list.span, "servers", format!("is empty; write {SERVERS}"));
        }
        _ => {}
    }
    let Some(list) = list else { return servers };
    for value in list.value {
        servers.extend(server(table, value, base));
    }
    servers
}

/// `"http://…"`, or `{ url = "http://…", weight = 2 }`.
fn server<'t>(table: &mut Table<'_, 't>, value: Spanned<DeValue<'t>>, base: &Path) -> Option<UpstreamServer> {
    let span = value.span();
    let (url, weight) = match value.into_inner() {
        DeValue::Table(inner) => {
            let mut inner = table.within("servers", span.clone(), inner);
            let url = inner.text("url", "an address such as \"http://127.0.0.1:9000\"");
            if url.is_none() && !inner.has_problem("url") {
                inner.missing("url", "write an address such as \"http://127.0.0.1:9000\"");
            }
            let weight = small(&mut inner, "weight", 1, 1);
            inner.done();
            (url?.value, weight)
        }
        other => {
            let found = type_name(&other);
            let Some(url) = text(other) else {
                table.problem(&span, "servers", format!("holds {found}; write {SERVERS}"));
                return None;
            };
            (url, 1)
        }
    };
    match address(&url, base) {
        Ok(address) => Some(UpstreamServer { address, weight }),
        Err(wrong) => {
            table.problem(&span, "servers", format!("`{url}` {wrong}"));
            None
        }
    }
}

fn address(text: &str, base: &Path) -> Result<ServerAddress, &'static str> {
    if text == "builtin:whoami" {
        return Ok(ServerAddress::Whoami);
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() {
            Err("names no socket; write `unix:PATH`")
        } else {
            Ok(ServerAddress::Unix(base.join(path)))
        };
    }
    let wrong = "is not an address; write `http://HOST:PORT`, `https://…` or `h2c://…` without path, or `unix:PATH`";
    let (scheme, authority, default) =
        [("http://", Scheme::Http, 80), ("https://", Scheme::Https, 443), ("h2c://", Scheme::H2c, 80)]
            .into_iter()
            .find_map(|(prefix, scheme, port)| Some((scheme, text.strip_prefix(prefix)?, port)))
            .ok_or(wrong)?;
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let host = crate::policy::Host::parse(authority).map_err(|_| wrong)?;
    let port = authority.get(host.as_str().len()..).and_then(|rest| rest.strip_prefix(':'));
    let port = port.map_or(Ok(default), |port| port.parse::<u16>().map_err(|_| wrong))?;
    if port == 0 { Err(wrong) } else { Ok(ServerAddress::Tcp { scheme, host: host.as_str().to_owned(), port }) }
}

/// And whether HTTP/2 is offered.
fn tls(mut table: Table<'_, '_>, base: &Path, secure: bool) -> (UpstreamTls, bool) {
    let span = table.span().clone();
    if !secure {
        table.problem(
            &span,
            "ca",
            "no server of this upstream is reached over TLS; write `https://` or leave [tls] out",
        );
    }
    let file = |found: Option<At<String>>| -> Option<PathBuf> { found.map(|at| base.join(at.value)) };
    let ca = file(table.text("ca", "the path of a PEM file"));
    let certificate = file(table.text("certificate", "the path of a PEM file"));
    let key = file(table.text("private_key", "the path of a PEM file"));
    if certificate.is_some() != key.is_some() {
        let lacking = if key.is_none() { "private_key" } else { "certificate" };
        table.missing_beside(lacking, "`certificate` and `private_key` go together");
    }
    let server_name = table.text("server_name", "a name such as \"app.internal\"").map(|at| at.value);
    let http2 = table.flag("http2").is_none_or(|at| at.value);
    table.done();
    (UpstreamTls { ca, identity: certificate.zip(key), server_name }, http2)
}

fn health(mut table: Table<'_, '_>) -> Option<HealthCheck> {
    let accepted = "a path such as \"/health\"";
    let path = table.text("path", accepted);
    if path.is_none() && !table.has_problem("path") {
        table.missing("path", &format!("write {accepted}"));
    }
    let path = path.and_then(|At { value, span, .. }| {
        let fine = value.starts_with('/') && !value.contains('#') && value.parse::<http::uri::PathAndQuery>().is_ok();
        if !fine {
            table.problem(&span, "path", format!("`{value}` is not a path; write {accepted}"));
        }
        fine.then_some(value)
    });
    let interval = table.duration("interval", LEAST..MOST).map_or(HEALTH_INTERVAL, |at| at.value);
    let timeout = table.duration("timeout", LEAST..MOST).map_or(HEALTH_TIMEOUT, |at| at.value);
    let healthy_after = small(&mut table, "healthy_after", 1, HEALTHY_AFTER);
    let unhealthy_after = small(&mut table, "unhealthy_after", 1, UNHEALTHY_AFTER);
    table.done();
    Some(HealthCheck { path: path?, interval, timeout, healthy_after, unhealthy_after })
}
