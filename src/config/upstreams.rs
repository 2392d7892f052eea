//! `[upstream.NAME]`. One decision: an upstream is addresses and nothing else; a path or a user in the address is a
//! misunderstanding and is told so. Knows nothing of connections.

use std::time::Duration;

use super::table::{At, Table};
use super::{ServerAddress, Upstream};

const LEAST: Duration = Duration::from_millis(10);
const MOST: Duration = Duration::from_secs(24 * 3600);
/// On one's own network a connection stands in milliseconds; beyond this the server is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// What proxies commonly grant an application.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// All of them, in the order of their names. A mistaken one is kept, so that routes may still name it.
pub(super) fn upstreams(root: &mut Table<'_, '_>) -> Vec<Upstream> {
    let tables = root.named_tables("upstream");
    if tables.is_empty() && !root.found("upstream") {
        root.missing("upstream", "write [upstream.NAME] with `servers = [\"http://HOST:PORT\"]`");
    }
    tables.into_iter().map(|(name, table)| upstream(name, table)).collect()
}

fn upstream(name: String, mut table: Table<'_, '_>) -> Upstream {
    let accepted = "a list such as [\"http://127.0.0.1:9000\"]";
    let list = table.texts("servers", accepted);
    let mut servers = Vec::new();
    match &list {
        None if !table.has_problem("servers") => table.missing("servers", &format!("write {accepted}")),
        Some(list) if list.value.is_empty() && !table.has_problem("servers") => {
            table.problem(&list.span, "servers", format!("is empty; write {accepted}"));
        }
        _ => {}
    }
    for At { value, span, .. } in list.map(|list| list.value).unwrap_or_default() {
        match address(&value) {
            Ok(server) => servers.push(server),
            Err(wrong) => table.problem(&span, "servers", format!("`{value}` {wrong}")),
        }
    }
    let connect_timeout = table.duration("connect_timeout", LEAST..MOST).map_or(CONNECT_TIMEOUT, |at| at.value);
    let response_timeout = table.duration("response_timeout", LEAST..MOST).map_or(RESPONSE_TIMEOUT, |at| at.value);
    table.done();
    Upstream { name, servers, connect_timeout, response_timeout }
}

fn address(text: &str) -> Result<ServerAddress, &'static str> {
    if text == "builtin:whoami" {
        return Ok(ServerAddress::Whoami);
    }
    if ["https://", "h2c://", "unix:"].iter().any(|scheme| text.starts_with(scheme)) {
        return Err("is of a kind that is not supported in this version; write `http://HOST:PORT`");
    }
    let wrong = "is not an address; write `http://HOST:PORT`, without path";
    let authority = text.strip_prefix("http://").ok_or(wrong)?;
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let host = crate::policy::Host::parse(authority).map_err(|_| wrong)?;
    let port = authority.get(host.as_str().len()..).and_then(|rest| rest.strip_prefix(':'));
    let port = port.map_or(Ok(80), |port| port.parse::<u16>().map_err(|_| wrong))?;
    if port == 0 { Err(wrong) } else { Ok(ServerAddress::Http { host: host.as_str().to_owned(), port }) }
}
