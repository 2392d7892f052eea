//! From the text to a [`Config`]. One decision: each section is read by one function that knows its keys, defaults and rules;
//! a section that fails leaves a placeholder, so that the others are still checked. Each default is a constant with its
//! reason. Knows nothing of the disk.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::{DeTable, DeValue};

use crate::policy::{HeaderNameError, IdentityHeaders, RoleNames};

use super::problems::{ConfigErrors, Problem, did_you_mean, listed};
use super::routes::routes;
use super::table::{At, Findings, Table};
use super::upstreams::upstreams;
use super::{Config, Forwarded, Limits, LocalLogin, Log, LogFormat, Secret, Server, SessionConfig, Store, Tls};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Half an hour unused and half a day in all: an office day (OWASP's range for ordinary applications).
const IDLE_TIMEOUT: Duration = Duration::from_secs(30 * 60);
const MAX_AGE: Duration = Duration::from_secs(12 * 3600);
/// rfc6265bis §5.5: browsers cap a cookie's life at 400 days; a session has no business to be older.
const LONGEST: Duration = Duration::from_secs(400 * 86_400);
/// About 40 MiB of memory; the least recently used give way.
const CACHE_ENTRIES: u64 = 100_000;
/// OWASP's first recommendation for argon2id; stronger ones are the user's to choose.
const ARGON2: (u32, u32, u32) = (19 * 1024, 2, 1);

impl Config {
    /// Read a configuration. `file` names it in messages; relative paths are joined to `base`.
    ///
    /// # Errors
    /// [`ConfigErrors`]: every mistake, by line.
    pub fn parse(text: &str, file: &str, base: &Path) -> Result<Config, ConfigErrors> {
        let findings = Findings::new(text);
        let parsed = match DeTable::parse(text) {
            Ok(parsed) => parsed,
            Err(error) => {
                let line = findings.line(&error.span().unwrap_or_default());
                let message = error.message().lines().collect::<Vec<_>>().join("; ");
                let problems = vec![Problem { line, key: String::new(), message }];
                return Err(ConfigErrors { file: file.to_owned(), problems });
            }
        };
        let mut root = Table::new(&findings, String::new(), 0..0, parsed.into_inner());
        let config = read(&mut root, base);
        root.done();
        let problems = findings.clone().into_problems();
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigErrors { file: file.to_owned(), problems }),
        }
    }
}

/// All sections, whatever fails; `None` only together with a finding.
fn read(root: &mut Table<'_, '_>, base: &Path) -> Option<Config> {
    let roles = roles(root);
    let server = required(root, "server", "write [server] with `listen`").and_then(server);
    let tls = required(root, "tls", "write [tls] with `certificate` and `private_key`, or `self_signed = true`")
        .and_then(|table| tls(table, base));
    let session = session(root, base);
    let local = login(root, base);
    let identity_headers = identity_headers(root);
    let upstreams = upstreams(root, base);
    let routes = routes(root, &roles, &upstreams, local.is_some());
    let (limits, log) = (limits(root), log(root));
    root.not_yet(&["token"]);
    Some(Config {
        roles,
        server: server?,
        tls: tls?,
        session: session?,
        local: local.flatten(),
        identity_headers: identity_headers?,
        upstreams,
        routes: routes?,
        limits,
        log,
    })
}

fn required<'f, 't>(root: &mut Table<'f, 't>, key: &'static str, accepted: &str) -> Option<Table<'f, 't>> {
    let table = root.take(key);
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

fn server(mut table: Table<'_, '_>) -> Option<Server> {
    let accepted = "an address and port such as \"0.0.0.0:8443\"";
    let listen = address(&mut table, "listen", accepted);
    if listen.is_none() && !table.has_problem("listen") {
        table.missing("listen", &format!("write {accepted}"));
    }
    let redirect_http = address(&mut table, "redirect_http", "an address and port such as \"0.0.0.0:80\"");
    let workers = table.number("workers", 1..1025).and_then(|count| NonZeroUsize::new(usize::try_from(count).ok()?));
    let mut trusted_proxies = Vec::new();
    let networks = table.texts("trusted_proxies", "a list such as [\"10.0.0.0/8\"]");
    for At { value, span, .. } in networks.map(|list| list.value).unwrap_or_default() {
        match value.parse::<IpNet>().or_else(|_| value.parse::<IpAddr>().map(IpNet::from)) {
            // Everybody's word is nobody's.
            Ok(net) if net.prefix_len() == 0 => {
                table.problem(&span, "trusted_proxies", format!("`{value}` trusts everybody; name your proxies"));
            }
            Ok(net) => trusted_proxies.push(net),
            Err(_) => {
                let accepted = "write an address or a network such as \"10.0.0.0/8\"";
                table.problem(&span, "trusted_proxies", format!("`{value}` is not an address; {accepted}"));
            }
        }
    }
    let proxy_protocol = table.flag("proxy_protocol");
    if let Some(flag) = proxy_protocol.as_ref().filter(|flag| flag.value && trusted_proxies.is_empty()) {
        let accepted = "write the proxies that send it in `trusted_proxies`";
        table.problem(&flag.span, "proxy_protocol", format!("is read from listed proxies alone; {accepted}"));
    }
    let forwarded = forwarded(&mut table);
    table.not_yet(&["admin"]);
    table.done();
    let proxy_protocol = proxy_protocol.is_some_and(|flag| flag.value);
    Some(Server { listen: listen?, workers, redirect_http, trusted_proxies, proxy_protocol, forwarded })
}

fn address(table: &mut Table<'_, '_>, key: &'static str, accepted: &str) -> Option<SocketAddr> {
    let At { value, span, .. } = table.text(key, accepted)?;
    let address = value.parse().ok();
    if address.is_none() {
        table.problem(&span, key, format!("`{value}` is not an address and port; write {accepted}"));
    }
    address
}

fn forwarded(table: &mut Table<'_, '_>) -> Forwarded {
    let accepted = "\"x-forwarded\", \"forwarded\", \"both\" or \"none\"";
    let Some(At { value, span, .. }) = table.text("forwarded", accepted) else { return Forwarded::XForwarded };
    match value.as_str() {
        "x-forwarded" => Forwarded::XForwarded,
        "forwarded" => Forwarded::Standard,
        "both" => Forwarded::Both,
        "none" => Forwarded::Nothing,
        _ => {
            table.problem(&span, "forwarded", format!("`{value}` is not understood; write {accepted}"));
            Forwarded::XForwarded
        }
    }
}

fn tls(mut table: Table<'_, '_>, base: &Path) -> Option<Tls> {
    let self_signed = table.flag("self_signed").is_some_and(|flag| flag.value);
    let file = "the path of a PEM file";
    let (certificate, private_key) = (table.text("certificate", file), table.text("private_key", file));
    let path = |given: Option<At<String>>, key: &str, default: &str| match given {
        Some(At { value, .. }) if !value.is_empty() => Some(base.join(value)),
        Some(At { span, .. }) => {
            table.problem(&span, key, format!("is empty; write {file}"));
            None
        }
        None if self_signed => Some(base.join(default)),
        None => {
            table.missing(key, &format!("write {file}, or `self_signed = true` for development"));
            None
        }
    };
    let certificate = path(certificate, "certificate", "certs/gateway.pem");
    let private_key = path(private_key, "private_key", "certs/gateway.key");
    let mut also = Vec::new();
    for mut other in table.array_of_tables("also") {
        let mut file = |key| {
            let found = other.text(key, file).filter(|at| !at.value.is_empty()).map(|at| base.join(at.value));
            if found.is_none() && !other.has_problem(key) {
                other.missing(key, &format!("write {file}"));
            }
            found
        };
        let pair = (file("certificate"), file("private_key"));
        also.extend(pair.0.zip(pair.1));
        other.done();
    }
    table.done();
    Some(Tls { certificate: certificate?, private_key: private_key?, self_signed, also })
}

fn session(root: &mut Table<'_, '_>, base: &Path) -> Option<SessionConfig> {
    let Some(mut table) = root.table("session") else {
        if root.found("session") {
            return None;
        }
        root.missing("session", "write [session] with `store = \"embedded:PATH\"` or \"memory\"");
        return None;
    };
    let idle = table.duration("idle_timeout", SECOND..LONGEST);
    let max_age = table.duration("max_age", SECOND..LONGEST);
    let max_age_value = max_age.map_or(MAX_AGE, |at| at.value);
    if let Some(idle) = &idle
        && idle.value > max_age_value
    {
        table.problem(&idle.span, "idle_timeout", "is longer than `max_age`; a session ends at `max_age` anyway");
    }
    let cookie = cookie(&mut table);
    let store = store(&mut table, base);
    let secret = secret(&mut table, "secret", base);
    let max_sessions = table.number("max_sessions", 1..1_000_001).and_then(|most| u32::try_from(most).ok());
    let cache_entries = table.number("cache_entries", 1..100_000_001).unwrap_or(CACHE_ENTRIES);
    table.not_yet(&["mode", "on_outage"]);
    table.done();
    let idle_timeout = idle.map_or(IDLE_TIMEOUT.min(max_age_value), |at| at.value);
    Some(SessionConfig {
        idle_timeout,
        max_age: max_age_value,
        cookie: cookie?,
        store: store?,
        secret: secret?,
        max_sessions,
        cache_entries,
    })
}

fn cookie(table: &mut Table<'_, '_>) -> Option<String> {
    const NAME: &str = "__Host-portcullis";
    let Some(At { value, span, .. }) = table.text("cookie", "a cookie name such as \"__Host-portcullis\"") else {
        return (!table.has_problem("cookie")).then(|| NAME.to_owned());
    };
    let token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    // The prefix makes browsers refuse the cookie from another host or over plain HTTP (rfc6265bis §4.1.3).
    let named = value.strip_prefix("__Host-").is_some_and(|rest| !rest.is_empty());
    if !named || !value.bytes().all(token) || value.len() > 64 {
        let accepted = "write `__Host-` followed by letters, digits, - or _ (64 characters at most)";
        table.problem(&span, "cookie", format!("`{value}` is not accepted; {accepted}"));
        return None;
    }
    Some(value)
}

fn store(table: &mut Table<'_, '_>, base: &Path) -> Option<Store> {
    let accepted = "\"embedded:PATH\" (a folder) or \"memory\"";
    let Some(At { value, span, .. }) = table.text("store", accepted) else {
        if !table.has_problem("store") {
            table.missing("store", &format!("write {accepted}"));
        }
        return None;
    };
    match value.split_once(':') {
        None if value == "memory" => Some(Store::Memory),
        Some(("embedded", path)) if !path.is_empty() => Some(Store::Embedded(base.join(path))),
        Some(("redis" | "rediss", _)) => {
            table.problem(&span, "store", format!("a shared store is not supported in this version; write {accepted}"));
            None
        }
        _ => {
            table.problem(&span, "store", format!("`{value}` is not a store; write {accepted}"));
            None
        }
    }
}

/// `{ file = PATH }` or `{ env = NAME }`. The outer `None` is a mistake, the inner one an absent key.
fn secret(table: &mut Table<'_, '_>, key: &'static str, base: &Path) -> Option<Option<Secret>> {
    let accepted = "{ file = \"PATH\" } or { env = \"NAME\" }";
    let Some(found) = table.take(key) else { return Some(None) };
    let span = found.span.clone();
    if matches!(found.value.get_ref(), DeValue::String(_)) {
        table.problem(&span, key, format!("a secret does not stand in this file; write {accepted}"));
        return None;
    }
    let mut inner = table.reread(key, Some(found))?;
    let (file, env) = (inner.text("file", "a path"), inner.text("env", "a variable's name"));
    inner.done();
    match (file, env) {
        (Some(file), None) => Some(Some(Secret::File(base.join(file.value)))),
        (None, Some(env)) => Some(Some(Secret::Env(env.value))),
        _ => {
            table.problem(&span, key, format!("has to name one source; write {accepted}"));
            None
        }
    }
}

/// The outer `None`: nobody can sign in. The inner: a mistake was found.
fn login(root: &mut Table<'_, '_>, base: &Path) -> Option<Option<LocalLogin>> {
    let mut login = root.table("login")?;
    let local = login.table("local").map(|table| local_login(table, base));
    login.not_yet(&["oidc"]);
    login.done();
    local
}

fn local_login(mut table: Table<'_, '_>, base: &Path) -> Option<LocalLogin> {
    let users = table.text("users", "the path of the user file");
    if users.is_none() && !table.has_problem("users") {
        table.missing("users", "write the path of the user file, such as \"users.toml\"");
    }
    let demo_user = table.text("demo_user", "a user name").map(|at| at.value);
    let (memory, passes, lanes) = ARGON2;
    let number = |found: Option<u64>, default| found.and_then(|number| u32::try_from(number).ok()).unwrap_or(default);
    // Below OWASP's list of equal choices a stolen file is guessed too fast: 7 MiB with five passes is its least.
    let argon2_memory_kib = number(table.number("argon2_memory_kib", 7 * 1024..4 * 1024 * 1024), memory);
    let argon2_passes = number(table.number("argon2_passes", 1..101), passes);
    let argon2_lanes = number(table.number("argon2_lanes", 1..17), lanes);
    if u64::from(argon2_memory_kib) * u64::from(argon2_passes) < 5 * 7 * 1024 {
        let span = table.span().clone();
        let accepted = "argon2_memory_kib times argon2_passes at least 35840, as in 19456 and 2, or 7168 and 5";
        table.problem(&span, "argon2_memory_kib", format!("too weak for passwords; {accepted}"));
    }
    table.done();
    let users = base.join(users?.value);
    Some(LocalLogin { users, demo_user, argon2_memory_kib, argon2_passes, argon2_lanes })
}

fn identity_headers(root: &mut Table<'_, '_>) -> Option<IdentityHeaders> {
    let Some(mut table) = root.table("identity_headers") else {
        if !root.found("identity_headers") {
            root.missing("identity_headers", "write `preset = \"x-forwarded\"`, or single names");
        }
        return None;
    };
    let mut headers = IdentityHeaders::none();
    if let Some(At { value, span, .. }) = table.text("preset", "the name of a preset") {
        match IdentityHeaders::preset(&value) {
            Some(preset) => headers = preset,
            None => {
                let presets = IdentityHeaders::PRESETS.iter().copied();
                let near = did_you_mean(&value, presets.clone());
                table.problem(&span, "preset", format!("`{value}` is no preset; known: {}{near}", listed(presets)));
            }
        }
    }
    let mut seen: Vec<String> = Vec::new();
    for field in ["user", "email", "name", "roles"] {
        let Some(At { value, span, .. }) = table.text(field, "a header name") else { continue };
        match headers.set(field, &value) {
            Ok(()) if seen.contains(&crate::policy::alias(&value)) => {
                table.problem(&span, field, format!("`{value}` is named twice; each field needs a header of its own"));
            }
            Ok(()) => seen.push(crate::policy::alias(&value)),
            Err(HeaderNameError::Malformed) => {
                table.problem(&span, field, format!("`{value}` is not a header name; use letters, digits and -"));
            }
            Err(HeaderNameError::Taken) => {
                table.problem(&span, field, format!("`{value}` has a meaning of its own; choose another name"));
            }
        }
    }
    if let Some(At { value, span, .. }) = table.text("separator", "what stands between two roles, such as \",\"") {
        match value.as_str() {
            "," | ";" | "|" | " " | ", " => headers.set_separator(&value),
            _ => table.problem(
                &span,
                "separator",
                format!("`{value}` is not accepted; write one of \",\" \";\" \"|\" \" \""),
            ),
        }
    }
    if !headers.names_user() && !table.has_problem("user") && !table.has_problem("preset") {
        table.missing(
            "user",
            "write `preset`, or `user = \"X-User\"`: an application that is told nobody's name cannot know who calls",
        );
    }
    table.done();
    Some(headers)
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
