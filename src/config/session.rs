//! `[session]`. One decision: where sessions live is written by whoever runs the gateway, and no secret stands in the text.
//! Knows nothing of stores.

use std::path::Path;
use std::time::Duration;

use toml::de::DeValue;

use super::redis::{RedisUrl, redis_store, store_address};
use super::signing::session_mode;
use super::table::{At, Table};
use super::{Secret, SessionConfig, Store};

const SECOND: Duration = Duration::from_secs(1);
/// Half an hour unused and half a day in all: an office day (OWASP's range for ordinary applications).
const IDLE_TIMEOUT: Duration = Duration::from_secs(30 * 60);
const MAX_AGE: Duration = Duration::from_secs(12 * 3600);
/// rfc6265bis §5.5: browsers cap a cookie's life at 400 days; a session has no business to be older.
const LONGEST: Duration = Duration::from_secs(400 * 86_400);
/// What a revocation waits for a silent node is as long as this: more than an hour is no promise any more.
const LONGEST_GRACE: Duration = Duration::from_secs(3_600);
/// About 40 MiB of memory; the least recently used give way.
const CACHE_ENTRIES: u64 = 100_000;

pub(super) fn session(root: &mut Table<'_, '_>, base: &Path) -> Option<SessionConfig> {
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
    if let (Some(Store::Redis(_)), Some(None)) = (&store, &secret) {
        let accepted = "gateways on one store need the same one; write { file = \"PATH\" } or { env = \"NAME\" }";
        table.missing_beside("secret", accepted);
    }
    let max_sessions = table.number("max_sessions", 1..1_000_001).and_then(|most| u32::try_from(most).ok());
    let cache_entries = table.number("cache_entries", 1..100_000_001).unwrap_or(CACHE_ENTRIES);
    let mode = session_mode(&mut table);
    let idle_timeout = idle.map_or(IDLE_TIMEOUT.min(max_age_value), |at| at.value);
    let grace = grace(&mut table, idle_timeout);
    table.done();
    Some(SessionConfig {
        idle_timeout,
        max_age: max_age_value,
        mode: mode?,
        cookie: cookie?,
        store: store?,
        secret: secret?,
        max_sessions,
        cache_entries,
        grace: grace?,
    })
}

/// `on_outage`: how long sessions in memory are served while a shared store is away, beyond the lease. Nobody can write meanwhile that they
/// are used: for longer than the rest of their idle window they would be served only to be ended when the store is back.
fn grace(table: &mut Table<'_, '_>, idle: Duration) -> Option<Duration> {
    let accepted = "\"deny\" or { stale = \"60s\" }";
    let Some(found) = table.take("on_outage", &["deny"]) else { return Some(Duration::ZERO) };
    let span = found.span.clone();
    if let DeValue::String(text) = found.value.get_ref() {
        if text == "deny" {
            return Some(Duration::ZERO);
        }
        table.problem(&span, "on_outage", format!("`{text}` is not accepted; write {accepted}"));
        return None;
    }
    let mut inner = table.reread("on_outage", Some(found))?;
    let stale = inner.duration("stale", SECOND..LONGEST_GRACE);
    if stale.is_none() && !inner.has_problem("stale") {
        inner.missing("stale", "a duration such as \"60s\"");
    }
    if let Some(stale) = stale.as_ref().filter(|stale| stale.value > idle / 10 * 9) {
        let why = "is longer than nine tenths of `idle_timeout`; who was served for so long would be signed out as unused afterwards";
        inner.problem(&stale.span, "stale", why);
    }
    inner.done();
    stale.map(|at| at.value)
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
    let accepted = "\"embedded:PATH\" (a folder), \"memory\" or \"redis://HOST:PORT/DB\"";
    let (mut url, mut wrong): (Option<RedisUrl>, bool) = (None, false);
    let mut local = None;
    match table.text("store", accepted) {
        None if table.has_problem("store") => wrong = true,
        None => table.missing("store", &format!("write {accepted}")),
        Some(At { value, span, .. }) => match value.split_once(':') {
            None if value == "memory" => local = Some(Store::Memory),
            Some(("embedded", path)) if !path.is_empty() => local = Some(Store::Embedded(base.join(path))),
            Some(("redis" | "rediss", _)) => {
                url = store_address(table, &value, span);
                wrong = url.is_none();
            }
            _ => table.problem(&span, "store", format!("`{value}` is not a store; write {accepted}")),
        },
    }
    redis_store(table, url, wrong, base).map(|redis| Store::Redis(Box::new(redis))).or(local)
}

/// `{ file = PATH }` or `{ env = NAME }`. The outer `None` is a mistake, the inner one an absent key.
pub(super) fn secret(table: &mut Table<'_, '_>, key: &'static str, base: &Path) -> Option<Option<Secret>> {
    let accepted = "{ file = \"PATH\" } or { env = \"NAME\" }";
    let Some(found) = table.take(key, &[]) else { return Some(None) };
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
