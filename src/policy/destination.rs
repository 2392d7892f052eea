//! Where a request copies or moves to (RFC 4918 §10.3). One decision: `Destination` is a second address, which the application changes,
//! so it is judged like one that is asked for, of the same caller and at the same application. Knows nothing of what is there.

use std::time::Duration;

use super::decide::{Decision, decide};
use super::head::RequestHead;
use super::host::Host;
use super::identity::Authentication;
use super::options::HostHeader;
use super::path::{CanonicalPath, is_reserved};
use super::route::{Found, Route, RouteTable};

/// It could not be read, or leads to another application, or the caller may not go there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotThere;

/// An address as it stands in the line.
struct Address<'h> {
    /// Scheme and authority; `None`: a path alone.
    origin: Option<(&'h str, &'h str)>,
    path: &'h str,
    /// With its `?`.
    query: &'h str,
}

impl<'h> Address<'h> {
    /// Read an absolute address or an absolute path; `None`: it is neither.
    fn read(line: &'h str) -> Option<Address<'h>> {
        let (origin, rest) = match line.split_once("://") {
            Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                (Some((scheme, &rest[..end])), &rest[end..])
            }
            _ => (None, line),
        };
        let (path, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
        let path = if path.is_empty() && origin.is_some() { "/" } else { path };
        path.starts_with('/').then_some(Address { origin, path, query })
    }

    /// Whether it is of this host, and one of HTTP.
    fn is_of(&self, host: &Host<'_>) -> bool {
        self.origin.is_none_or(|(scheme, authority)| {
            let is_http = ["http", "https"].iter().any(|http| scheme.eq_ignore_ascii_case(http));
            is_http && Host::parse(authority).is_ok_and(|named| named == *host)
        })
    }
}

/// Judge a `Destination`: whether this caller, who may make the request itself under `route`, may write there. Returns the line that
/// the application gets where it knows the place by another address.
///
/// # Errors
/// [`NotThere`].
pub fn destination(
    line: &[u8],
    head: &RequestHead<'_>,
    (routes, route): (&RouteTable, &Route),
    authentication: Authentication,
    now: Duration,
) -> Result<Option<String>, NotThere> {
    let Some(address) = str::from_utf8(line).ok().and_then(Address::read) else {
        // With any other method it is not this field but a word of an application's own.
        return if matches!(head.method.as_str(), "COPY" | "MOVE") { Err(NotThere) } else { Ok(None) };
    };
    // `//host/path` is another host to who reads references (RFC 3986 §4.2).
    if !address.is_of(&head.host) || address.path.starts_with("//") || address.query.contains('#') {
        return Err(NotThere);
    }
    let path = CanonicalPath::read(address.path).map_err(|_| NotThere)?;
    if is_reserved(path.decoded()) || path.lenient().is_some_and(is_reserved) {
        return Err(NotThere);
    }
    let there = RequestHead { path, query: None, ..head.clone() };
    let Found::Route(matched) = routes.find(&there) else { return Err(NotThere) };
    if matched.route.upstream != route.upstream {
        return Err(NotThere);
    }
    let Decision::Forward(permit, _) = decide(&there, &matched, authentication, now) else { return Err(NotThere) };
    let host = match &route.options.host {
        HostHeader::Fixed(host) if address.origin.is_some() => Some(host.to_str().map_err(|_| NotThere)?),
        _ => None,
    };
    let is_plain = route.options.plain_destination && address.origin.is_some();
    if permit.rewritten().is_none() && host.is_none() && !is_plain {
        return Ok(None);
    }
    let origin = address.origin.map(|(scheme, authority)| {
        let scheme = if is_plain { "http" } else { scheme };
        format!("{scheme}://{}", host.unwrap_or(authority))
    });
    let path = permit.rewritten().unwrap_or(address.path);
    Ok(Some(format!("{}{path}{}", origin.unwrap_or_default(), address.query)))
}
