//! What a `[[route]]` may do beside letting pass. One decision: a header that the gateway answers for – identities, hop-by-hop,
//! framing, its own – cannot be set or removed here, because the file would say one thing and the gateway do another.
//! Knows nothing of how options are carried out.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use toml::de::DeValue;

use crate::policy::{
    Cors, HeaderEdits, HostHeader, IdentityHeaders, PathPrefix, Preflight, RouteOptions, SIGNED_IDENTITY_PRESETS,
    SignedIdentity,
};

use super::problems::{did_you_mean, listed};
use super::table::{At, Table, text};

const LEAST: Duration = Duration::from_millis(10);
const MOST: Duration = Duration::from_secs(24 * 3600);
/// What browsers keep at most (Chromium: two hours).
const PREFLIGHT_AGE: Duration = Duration::from_secs(7200);

/// Read them. `None` where one of them is mistaken.
pub(super) fn options(table: &mut Table<'_, '_>) -> Option<RouteOptions> {
    let prefix = prefix(table);
    let host = host(table);
    let plain_destination = destination(table);
    let response_timeout = table.duration("response_timeout", LEAST..MOST).map(|at| at.value);
    let idle_timeout = table.duration("idle_timeout", LEAST..MOST).map(|at| at.value);
    let body_bytes = table.number("body_bytes", 1..u64::MAX);
    let request = edits(table, "set_headers", "remove_headers");
    let response = edits(table, "set_response_headers", "remove_response_headers");
    let encoded_slashes = table.flag("encoded_slashes").is_some_and(|flag| flag.value);
    let passive = table.flag("passive").is_some_and(|flag| flag.value);
    let close_code = close_code(table);
    let forward_token = table.flag("forward_token").is_some_and(|flag| flag.value);
    let signed_identity = signed_identity(table);
    let preflight = preflight(table);
    Some(RouteOptions {
        prefix: prefix?,
        host: host?,
        plain_destination: plain_destination?,
        response_timeout,
        idle_timeout,
        body_bytes,
        request: request?,
        response: response?,
        encoded_slashes,
        passive,
        close_code: close_code?,
        // Of all routes together.
        by_method: false,
        withheld: Vec::new(),
        forward_token,
        signed_identity: signed_identity?,
        preflight: preflight?,
    })
}

/// `close_code`: one that an endpoint may send, and that says nothing of a broken frame or a failed server (RFC 6455 §7.4).
fn close_code(table: &mut Table<'_, '_>) -> Option<Option<u16>> {
    let Some(At { value, span, .. }) = table.number_at("close_code", 1000..5000) else {
        return (!table.has_problem("close_code")).then_some(None);
    };
    let code = u16::try_from(value).ok().filter(|code| matches!(code, 1000 | 1001 | 1008 | 3000..=4999));
    if code.is_none() {
        let accepted = "write 1000, 1001, 1008 or a number from 3000 to 4999";
        table.problem(&span, "close_code", format!("`{value}` is not for a gateway to send; {accepted}"));
    }
    code.map(Some)
}

/// `signed_identity`: a preset, or a header; `signed_audience` where the route's name will not do.
fn signed_identity(table: &mut Table<'_, '_>) -> Option<Option<SignedIdentity>> {
    let accepted = "a preset such as \"portcullis\", or the name of a header";
    let audience = table.text("signed_audience", "what the statement carries as `aud`");
    let Some(At { value, span, .. }) = table.text("signed_identity", accepted) else {
        if let Some(audience) = audience {
            let wrong = "stands without `signed_identity`; write that, or leave this out";
            table.problem(&audience.span, "signed_audience", wrong);
            return None;
        }
        return (!table.has_problem("signed_identity")).then_some(None);
    };
    let preset = SIGNED_IDENTITY_PRESETS.iter().find(|(name, _)| *name == value).map(|(_, header)| *header);
    let header: Option<HeaderName> = preset.unwrap_or(&value).parse().ok();
    let own = |header: &HeaderName| IdentityHeaders::none().own(header).is_ok();
    let Some(header) = header.filter(|header| preset.is_some() || (value.contains('-') && own(header))) else {
        let presets = listed(SIGNED_IDENTITY_PRESETS.iter().map(|(name, _)| *name));
        let near = did_you_mean(&value, SIGNED_IDENTITY_PRESETS.iter().map(|(name, _)| *name));
        let wrong =
            format!("`{value}` is neither a preset ({presets}) nor a header of your own such as `X-Identity`{near}");
        table.problem(&span, "signed_identity", wrong);
        return None;
    };
    let audience = audience.map(|at| at.value).unwrap_or_default();
    Some(Some(SignedIdentity { header, audience }))
}

fn prefix(table: &mut Table<'_, '_>) -> Option<Option<PathPrefix>> {
    let strip = table.flag("strip_prefix").filter(|flag| flag.value);
    let set = table.text("set_prefix", "a path prefix such as \"/app\"");
    match (strip, set) {
        (Some(strip), Some(_)) => {
            table.problem(&strip.span, "strip_prefix", "stands beside `set_prefix`; write one of them");
            None
        }
        (Some(_), None) => PathPrefix::parse("/").ok().map(Some),
        (None, None) => (!table.has_problem("set_prefix") && !table.has_problem("strip_prefix")).then_some(None),
        (None, Some(At { value, span, .. })) => match PathPrefix::parse(&value) {
            Ok(prefix) => Some(Some(prefix)),
            Err(_) => {
                let accepted =
                    "write it with a leading and without a trailing `/`, without `%`, `;`, `?` or dot segments";
                table.problem(&span, "set_prefix", format!("`{value}` is not a canonical path; {accepted}"));
                None
            }
        },
    }
}

fn host(table: &mut Table<'_, '_>) -> Option<HostHeader> {
    let accepted = "\"keep\" or a host such as \"app.internal:8080\"";
    let Some(At { value, span, .. }) = table.text("host_header", accepted) else {
        return (!table.has_problem("host_header")).then_some(HostHeader::Keep);
    };
    if value == "keep" {
        return Some(HostHeader::Keep);
    }
    let host = crate::policy::Host::parse(&value).ok().and_then(|_| HeaderValue::from_str(&value).ok());
    if host.is_none() {
        table.problem(&span, "host_header", format!("`{value}` is not a host; write {accepted}"));
    }
    host.map(HostHeader::Fixed)
}

/// `destination`: Apache and nginx refuse one whose scheme is not what they are spoken to in (RFC 4918 §9.8.5 lets them), Radicale one
/// that is not as `X-Forwarded-Proto` has it; from outside nobody can tell which it is.
fn destination(table: &mut Table<'_, '_>) -> Option<bool> {
    const ACCEPTED: &str = "\"keep\" or \"http\"";
    let Some(At { value, span, .. }) = table.text("destination", ACCEPTED) else {
        return (!table.has_problem("destination")).then_some(false);
    };
    let is_plain = match value.as_str() {
        "keep" => Some(false),
        "http" => Some(true),
        _ => None,
    };
    if is_plain.is_none() {
        table.problem(&span, "destination", format!("`{value}` is not understood; write {ACCEPTED}"));
    }
    is_plain
}

fn edits(table: &mut Table<'_, '_>, set: &'static str, remove: &'static str) -> Option<HeaderEdits> {
    let mut edits = HeaderEdits::default();
    let mut fine = true;
    let path = table.path_of(set);
    for (name, span, value) in table.entries(set) {
        // Blanks around a value are none of it, and over HTTP/2 no client takes them (RFC 9113 §8.2.1).
        let value = text(value).and_then(|text| HeaderValue::from_str(text.trim_matches([' ', '\t'])).ok());
        match (header(&name), value) {
            (Ok(name), Some(_)) if edits.set.iter().any(|(other, _)| *other == name) => {
                table.problem(&span, set, format!("`{name}` stands twice"));
                fine = false;
            }
            (Ok(name), Some(value)) => edits.set.push((name, value)),
            (Err(wrong), _) => {
                table.problem(&span, set, format!("`{name}` {wrong}"));
                fine = false;
            }
            (_, None) => {
                table.problem(&span, set, format!("the value of `{name}` is not a text that a header can carry"));
                fine = false;
            }
        }
    }
    let names = table.texts(remove, "a list such as [\"X-Powered-By\"]");
    for At { value, span, .. } in names.map(|list| list.value).unwrap_or_default() {
        match header(&value) {
            Ok(name) => edits.remove.push(name),
            Err(wrong) => {
                table.problem(&span, remove, format!("`{value}` {wrong}"));
                fine = false;
            }
        }
    }
    let broken = table.has_problem(&path) || table.has_problem(remove);
    (fine && !broken).then_some(edits)
}

/// A header that may be changed.
pub(super) fn header(name: &str) -> Result<HeaderName, &'static str> {
    const OURS: &[&str] = &[
        "connection",
        "content-length",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-request-id",
    ];
    let header: HeaderName = name.parse().map_err(|_| "is not a header name; use letters, digits and -")?;
    let alias = crate::policy::alias(header.as_str());
    let identity = IdentityHeaders::reserves(header.as_str());
    if OURS.contains(&alias.as_str()) || identity {
        return Err("is the gateway's to write; choose another header");
    }
    Ok(header)
}

fn preflight(table: &mut Table<'_, '_>) -> Option<Preflight> {
    const ACCEPTED: &str = "write \"pass\" or { origins = [\"https://app.example.com\"] }";
    let Some(found) = table.take("preflight", &["pass"]) else { return Some(Preflight::Ask) };
    let span = found.span.clone();
    match found.value.get_ref() {
        DeValue::String(word) if word == "pass" => Some(Preflight::Pass),
        DeValue::Table(_) => cors(table.reread("preflight", Some(found))?),
        _ => {
            table.problem(&span, "preflight", format!("is not understood; {ACCEPTED}"));
            None
        }
    }
}

fn cors(mut table: Table<'_, '_>) -> Option<Preflight> {
    let accepted = "a list such as [\"https://app.example.com\"]";
    let origins = table.texts("origins", accepted);
    if origins.is_none() && !table.has_problem("origins") {
        table.missing("origins", &format!("write {accepted}"));
    }
    let mut cors = Cors { origins: Vec::new(), methods: Vec::new(), headers: Vec::new(), max_age: PREFLIGHT_AGE };
    let mut fine = true;
    for At { value, span, .. } in origins.map(|list| list.value).unwrap_or_default() {
        // `*` and `null` would hand every site the answers of whoever is signed in.
        let origin = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
        if origin.is_some_and(|host| crate::policy::Host::parse(host).is_ok()) && value == value.to_ascii_lowercase() {
            cors.origins.push(value);
        } else {
            table.problem(&span, "origins", format!("`{value}` is not an origin; write {accepted}, each in full"));
            fine = false;
        }
    }
    for At { value, span, .. } in
        table.texts("methods", "a list such as [\"PUT\"]").map(|list| list.value).unwrap_or_default()
    {
        match value.parse::<Method>() {
            Ok(method) => cors.methods.push(method),
            Err(_) => {
                table.problem(&span, "methods", format!("`{value}` is not a method"));
                fine = false;
            }
        }
    }
    for At { value, span, .. } in
        table.texts("headers", "a list such as [\"X-Csrf\"]").map(|list| list.value).unwrap_or_default()
    {
        match value.parse::<HeaderName>() {
            Ok(name) => cors.headers.push(name),
            Err(_) => {
                table.problem(&span, "headers", format!("`{value}` is not a header name"));
                fine = false;
            }
        }
    }
    if let Some(age) = table.duration("max_age", LEAST..MOST) {
        cors.max_age = age.value;
    }
    let empty = cors.origins.is_empty();
    if empty && fine && table.found("origins") && !table.has_problem("origins") {
        let span = table.span().clone();
        table.problem(&span, "origins", format!("is empty; write {accepted}"));
    }
    table.done();
    (fine && !empty).then_some(Preflight::Answer(cors))
}
