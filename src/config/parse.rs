//! From the text to a [`Config`]. One decision: each section is read by one function that knows its keys, defaults and rules;
//! a section that fails leaves a placeholder, so that the others are still checked. Each default is a constant with its
//! reason. Knows nothing of the disk.

use std::path::Path;
use std::time::Duration;

use toml::de::DeTable;

use crate::policy::RoleNames;

use super::identity::identity_headers;
use super::lines::Lines;
use super::login::login;
use super::problems::{ConfigErrors, Problem};
use super::routes::{Credentials, routes};
use super::server::{server, tls};
use super::session::session;
use super::signing::{own_signed, require_issuer, signing};
use super::table::{At, Findings, Table};
use super::token::tokens;
use super::upstreams::upstreams;
use super::{Config, Limits, Log, LogFormat, Signing};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// What is wrong with a file that is no TOML.
fn no_toml(text: &str, error: &toml::de::Error) -> String {
    let said = error.message().lines().collect::<Vec<_>>().join("; ");
    match error.span().and_then(|span| text.get(span)) {
        Some(name @ ("route" | "token")) if said == "duplicate key" => {
            format!("`{name}` stands twice; write [[{name}]] for each")
        }
        Some(name) if said == "duplicate key" => format!("`{name}` stands twice"),
        _ => said,
    }
}

impl Config {
    /// Read a configuration. `file` names it in messages; relative paths are joined to `base`.
    ///
    /// # Errors
    /// [`ConfigErrors`]: every mistake, by line.
    pub fn parse(text: &str, file: &str, base: &Path) -> Result<Config, ConfigErrors> {
        match look(text, base) {
            (Some((config, true)), problems) if problems.is_empty() => Ok(config),
            (_, problems) => Err(ConfigErrors { file: file.to_owned(), problems }),
        }
    }

    /// Every mistake, by line; and what a check of the files that it names can go by. That is no configuration where anything is
    /// mistaken: what could not be read is not in it.
    pub fn look(text: &str, base: &Path) -> (Option<Config>, Vec<Problem>) {
        let (config, problems) = look(text, base);
        (config.map(|(config, _)| config), problems)
    }
}

fn look(text: &str, base: &Path) -> (Option<(Config, bool)>, Vec<Problem>) {
    let findings = Findings::new(text);
    let parsed = match DeTable::parse(text) {
        Ok(parsed) => parsed,
        Err(error) => {
            let line = findings.line(&error.span().unwrap_or_default());
            return (None, vec![Problem { line, key: String::new(), message: no_toml(text, &error) }]);
        }
    };
    let mut root = Table::new(&findings, String::new(), 0..0, parsed.into_inner());
    let config = read(&mut root, base);
    root.done();
    let (lines, problems) = (findings.lines(), findings.clone().into_problems());
    (config.map(|(config, is_whole)| (Config { lines, ..config }, is_whole)), problems)
}

/// All sections, whatever fails, and whether none did; `None`, and not whole, only together with a finding.
pub(super) fn read(root: &mut Table<'_, '_>, base: &Path) -> Option<(Config, bool)> {
    let roles = roles(root);
    let server = required(root, "server", "write [server] with `listen`").and_then(|table| server(table, base));
    let tls = required(root, "tls", "write [tls] with `certificate` and `private_key`, or `self_signed = true`")
        .and_then(|table| tls(table, base));
    let session = session(root, base);
    let logins = login(root, &roles, base);
    let identity_headers = identity_headers(root);
    let upstreams = upstreams(root, base);
    let tokens = tokens(root, &roles, logins.oidc.as_deref().unwrap_or_default(), base);
    let signing = signing(root, session.as_ref());
    let with_tokens = tokens.as_ref().is_none_or(|issuers| !issuers.is_empty());
    let can = Credentials { logins: &logins.names, tokens: with_tokens, told: identity_headers.as_ref() };
    let routes = routes(root, &roles, &upstreams, &can);
    let identity_headers = own_signed(identity_headers, routes.table.as_ref());
    require_issuer(root, signing.as_ref(), &routes.good);
    let (limits, log) = (limits(root), log(root));
    let is_whole = logins.local.is_some()
        && signing.is_some()
        && tokens.is_some()
        && logins.oidc.is_some()
        && routes.table.is_some();
    let config = Config {
        roles,
        server: server?,
        tls: tls?,
        session: session?,
        local: logins.local.unwrap_or_default(),
        signing: signing.unwrap_or(Signing { issuer: None, eddsa: false }),
        tokens: tokens.unwrap_or_default(),
        oidc: logins.oidc.unwrap_or_default(),
        identity_headers: identity_headers?,
        upstreams,
        routes: routes.table.unwrap_or_default(),
        limits,
        log,
        lines: Lines::default(),
    };
    Some((config, is_whole))
}

fn required<'f, 't>(root: &mut Table<'f, 't>, key: &'static str, accepted: &str) -> Option<Table<'f, 't>> {
    let table = root.take(key, &[]);
    match table {
        None => {
            root.missing(key, accepted);
            None
        }
        Some(_) => root.reread(key, table),
    }
}

fn roles(root: &mut Table<'_, '_>) -> RoleNames {
    let declared = root.texts("roles", "a list of names such as [\"admin\", \"staff\"]");
    let (mut names, span) = (Vec::<String>::new(), declared.as_ref().map(|list| list.span.clone()).unwrap_or_default());
    for At { value, span, .. } in declared.map(|list| list.value).unwrap_or_default() {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/');
        if value.is_empty() || !value.bytes().all(plain) {
            root.problem(&span, "roles", format!("`{value}` is no role name; use letters, digits and - _ . : /"));
        } else if names.contains(&value) {
            root.problem(&span, "roles", format!("`{value}` is declared twice"));
        } else {
            names.push(value);
        }
    }
    RoleNames::new(names).unwrap_or_else(|| {
        root.problem(&span, "roles", format!("more than {} roles; declare at most that many", RoleNames::MAX));
        RoleNames::default()
    })
}

fn limits(root: &mut Table<'_, '_>) -> Limits {
    let mut limits = Limits::default();
    let Some(mut table) = root.table("limits") else { return limits };
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    if let Some(number) = table.number("connections", 1..10_000_001) {
        limits.connections = size(number);
    }
    if let Some(number) = table.number("connections_per_address", 1..10_000_001) {
        limits.connections_per_address = size(number);
    }
    if let Some(number) = table.number("header_bytes", 8192..1_048_577) {
        limits.header_bytes = size(number);
    }
    if let Some(number) = table.number("header_count", 16..1025) {
        limits.header_count = size(number);
    }
    if let Some(number) = table.number("streams", 1..1001) {
        limits.streams = u32::try_from(number).unwrap_or(limits.streams);
    }
    limits.tokens = table.number("tokens", 1..100_000_001).unwrap_or(limits.tokens);
    limits.body_bytes = table.number("body_bytes", 1..u64::MAX).or(limits.body_bytes);
    if let Some(number) = table.number("idle_upstream_connections", 0..100_001) {
        limits.idle_upstream_connections = size(number);
    }
    let durations: [(&'static str, &mut Duration, Duration); 7] = [
        ("handshake_timeout", &mut limits.handshake_timeout, 300 * SECOND),
        ("header_timeout", &mut limits.header_timeout, 3600 * SECOND),
        ("stall_timeout", &mut limits.stall_timeout, 3600 * SECOND),
        ("body_timeout", &mut limits.body_timeout, 3600 * SECOND),
        ("store_timeout", &mut limits.store_timeout, 300 * SECOND),
        ("drain_timeout", &mut limits.drain_timeout, DAY),
        ("upstream_idle_timeout", &mut limits.upstream_idle_timeout, DAY),
    ];
    for (key, limit, most) in durations {
        if let Some(found) = table.duration(key, Duration::from_millis(10)..most) {
            *limit = found.value;
        }
    }
    table.done();
    limits
}

fn log(root: &mut Table<'_, '_>) -> Log {
    let mut log = Log { format: None, access: true };
    let Some(mut table) = root.table("log") else { return log };
    if let Some(At { value, span, .. }) = table.text("format", "\"json\" or \"text\"") {
        match value.as_str() {
            "json" => log.format = Some(LogFormat::Json),
            "text" => log.format = Some(LogFormat::Text),
            _ => table.problem(&span, "format", format!("`{value}` is no format; write \"json\" or \"text\"")),
        }
    }
    log.access = table.flag("access").is_none_or(|flag| flag.value);
    table.done();
    log
}

/// Bounds that fit a gateway on a small machine in front of ordinary applications.
impl Default for Limits {
    fn default() -> Limits {
        Limits {
            // Some 30 KiB each: 300 MiB when a flood fills them all.
            connections: 10_000,
            // A company behind one address; a twentieth of all, so that one machine cannot take the gateway.
            connections_per_address: 500,
            // A phone on a bad line needs two or three seconds.
            handshake_timeout: 10 * SECOND,
            // Also how long an HTTP/1.1 connection may idle; browsers reuse them within a minute.
            header_timeout: 60 * SECOND,
            // A phone in a tunnel comes back within it; whoever reads slowly on purpose holds a connection, not more.
            stall_timeout: 60 * SECOND,
            body_timeout: 60 * SECOND,
            // What common servers take; larger heads fail behind us anyway.
            header_bytes: 32 * 1024,
            header_count: 100,
            // RFC 9113 §6.5.2 recommends no fewer than 100.
            streams: 100,
            // Bodies are streamed: their size is the application's business.
            body_bytes: None,
            // Some 60 MiB; a token that gave way is verified once more.
            tokens: 100_000,
            // A person waits that long without wondering; a store that needs longer is away.
            store_timeout: 2 * SECOND,
            // What process managers wait before they kill.
            drain_timeout: 30 * SECOND,
            idle_upstream_connections: 128,
            // Below Node's five seconds, so that we close first.
            upstream_idle_timeout: 4 * SECOND,
        }
    }
}
