//! The canonical view of a request that policy sees. One decision: it is built once, from the request line and the
//! connection, and whatever is ambiguous about it is refused before a route is looked for (RFC 9110 §7.2, RFC 9112 §3.2,
//! RFC 9113 §8.3.1). Knows nothing of credentials.

use http::{HeaderMap, HeaderValue, Method, header, request::Parts};

use super::fields::{Field, Fields};
use super::host::{Host, HostError};
use super::load::Load;
use super::path::{CanonicalPath, PathError};

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// CONNECT, TRACE: no application behind a gateway has a use for them, attackers do.
    Method,
    /// `*` or an authority where a path has to stand.
    Target,
    /// No `Host`, more than one, or two that differ.
    Host,
    /// The authority is malformed.
    Authority(HostError),
    /// The path has more than one reading.
    Path(PathError),
    /// The query holds a byte that no URI holds.
    Query,
    /// A field of which there may be one stands twice.
    Repeated,
    /// A transfer coding other than exactly one `chunked`.
    TransferCoding,
    /// `Content-Length` that is not plain decimal digits.
    ContentLength,
    /// A value with leading or trailing blanks in HTTP/2 (RFC 9113 §8.2.1).
    Blank,
    /// The connection was opened for another host.
    Misdirected,
}

impl HeadError {
    /// A stable name for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            HeadError::Method => "method_refused",
            HeadError::Target => "target_form",
            HeadError::Host => "host_ambiguous",
            HeadError::Authority(_) => "host_malformed",
            HeadError::Path(path) => path.as_str(),
            HeadError::Query => "query_malformed",
            HeadError::Repeated => "header_repeated",
            HeadError::TransferCoding => "transfer_coding",
            HeadError::ContentLength => "content_length",
            HeadError::Blank => "header_blank",
            HeadError::Misdirected => "misdirected",
        }
    }
}

/// What policy knows of a request.
#[derive(Clone, Debug)]
pub struct RequestHead<'r> {
    /// The method.
    pub method: &'r Method,
    /// The host, lower-case, without port.
    pub host: Host<'r>,
    /// `host[:port]` as the client named it.
    pub authority: &'r str,
    /// The path.
    pub path: CanonicalPath<'r>,
    /// The query, as it came.
    pub query: Option<&'r str>,
    /// Whether a person's browser asks for a page; see [`RequestHead::parse`].
    pub navigation: bool,
    /// Whether it is a gRPC call, which reads `grpc-status` and no page.
    pub grpc: bool,
    /// The method that a CORS preflight asks about (Fetch §4.8).
    pub preflight: Option<Method>,
}

/// Fields of which a second one is refused: which of two a server believes is anybody's guess.
const SINGLE: [Field; 5] =
    [Field::Authorization, Field::ContentLength, Field::ContentType, Field::Destination, Field::TransferEncoding];

impl<'r> RequestHead<'r> {
    /// Read the head; `sni` is the server name of the TLS connection, where there was one.
    pub fn parse(parts: &'r Parts, sni: Option<&'r str>) -> Result<RequestHead<'r>, HeadError> {
        RequestHead::read(parts, &Fields::of(&parts.headers), sni)
    }

    /// The same where the head's own fields were gone through already.
    pub fn read(parts: &'r Parts, fields: &Fields<'r>, sni: Option<&'r str>) -> Result<RequestHead<'r>, HeadError> {
        if matches!(parts.method, Method::CONNECT | Method::TRACE) {
            return Err(HeadError::Method);
        }
        if SINGLE.into_iter().any(|field| fields.repeats(field)) {
            return Err(HeadError::Repeated);
        }
        if fields.get(Field::TransferEncoding).is_some_and(|coding| !is_chunked(coding)) {
            return Err(HeadError::TransferCoding);
        }
        if fields.get(Field::ContentLength).is_some_and(|length| !is_plain_length(length)) {
            return Err(HeadError::ContentLength);
        }
        if parts.version == http::Version::HTTP_2 && parts.headers.values().any(has_outer_blank) {
            return Err(HeadError::Blank);
        }
        let authority = authority(parts, fields, sni)?;
        let host = Host::parse(authority).map_err(HeadError::Authority)?;
        // A connection opened for one host does not serve another: a certificate, or a client certificate, that was
        // checked for the first must not vouch for the second (RFC 9110 §7.4).
        if sni.is_some_and(|sni| !sni.eq_ignore_ascii_case(host.as_str())) {
            return Err(HeadError::Misdirected);
        }
        let path = CanonicalPath::read(target(parts)?).map_err(HeadError::Path)?;
        let query = parts.uri.query();
        if query.is_some_and(|query| query.bytes().any(|byte| !(0x21..0x7f).contains(&byte))) {
            return Err(HeadError::Query);
        }
        let (navigation, grpc) = (is_navigation(&parts.method, fields), is_grpc(fields));
        let preflight = preflight(&parts.method, fields);
        Ok(RequestHead { method: &parts.method, host, authority, path, query, navigation, grpc, preflight })
    }
}

/// The one authority: `Host` in HTTP/1.1, `:authority` in HTTP/2; an absolute-form target or a second name must agree. HTTP/1.0 need
/// not name any (RFC 9112 §3.2): then it is the one that the connection was opened for, and no other would be served there.
fn authority<'r>(parts: &'r Parts, fields: &Fields<'r>, sni: Option<&'r str>) -> Result<&'r str, HeadError> {
    if fields.repeats(Field::Host) {
        return Err(HeadError::Host);
    }
    let text = |value: &'r HeaderValue| value.to_str().map_err(|_| HeadError::Authority(HostError::Malformed));
    let named = fields.get(Field::Host).map(text).transpose()?;
    match (parts.uri.authority().map(http::uri::Authority::as_str), named) {
        (Some(target), Some(host)) if !target.eq_ignore_ascii_case(host) => Err(HeadError::Host),
        // RFC 9112 §3.2: an HTTP/1.1 request names its host in `Host`, whatever its target says.
        (Some(_), None) if parts.version < http::Version::HTTP_2 => Err(HeadError::Host),
        (Some(authority), _) | (None, Some(authority)) => Ok(authority),
        (None, None) => sni.filter(|_| parts.version == http::Version::HTTP_10).ok_or(HeadError::Host),
    }
}

/// The path of an origin-form or absolute-form target. hyper gives `GET admin` and `GET host:80` an empty path, and an
/// absolute form whose scheme is not ours names another server.
fn target(parts: &Parts) -> Result<&str, HeadError> {
    let scheme = parts.uri.scheme_str();
    let path = parts.uri.path();
    if path.is_empty() || !path.starts_with('/') {
        return Err(HeadError::Target);
    }
    // RFC 9110 §7.4: every connection here is TLS; a request for the same name without it is one for somebody else.
    if scheme.is_some_and(|scheme| scheme != "https") {
        return Err(HeadError::Target);
    }
    if parts.uri.authority().is_some() && scheme.is_none() && parts.version < http::Version::HTTP_2 {
        return Err(HeadError::Target);
    }
    Ok(path)
}

/// Whether an answer's head says in one way only where its body ends (RFC 9112 §6.3). Read by a length and
/// handed on with a coding, or the other way round, the client would get another end than the application meant.
pub fn is_plainly_framed(headers: &HeaderMap) -> bool {
    let mut lines = 0;
    headers.iter().all(|(name, value)| {
        let plain = match *name {
            header::CONTENT_LENGTH => is_plain_length(value),
            header::TRANSFER_ENCODING => is_chunked(value),
            _ => return true,
        };
        lines += 1;
        plain && lines == 1
    })
}

/// hyper accepts `gzip, chunked` and two codings; a server behind us may not read them alike.
fn is_chunked(coding: &HeaderValue) -> bool {
    coding.as_bytes().eq_ignore_ascii_case(b"chunked")
}

/// hyper accepts `Content-Length: 01` and `+1`, which others do not.
fn is_plain_length(length: &HeaderValue) -> bool {
    match length.as_bytes() {
        b"0" => true,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

fn has_outer_blank(value: &HeaderValue) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    blank(value.as_bytes().first()) || blank(value.as_bytes().last())
}

/// A page load by a person: GET or HEAD of what its browser calls one, or, where it does not say, an `Accept` that names `text/html`
/// and no `X-Requested-With`. Never by User-Agent, which anybody writes. Neither a frame, which nobody signs in in, nor a file that is
/// saved (`<a download>`, which wants no HTML): a sign-in page would be saved under its name.
fn is_navigation(method: &Method, fields: &Fields<'_>) -> bool {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return false;
    }
    let wants_html = || {
        let mut accepts = fields.all(Field::Accept).filter_map(|value| value.to_str().ok());
        accepts.any(|accept| accept.contains("text/html"))
    };
    match Load::said(fields.get(Field::FetchMode), fields.headers()) {
        Load::Page => true,
        Load::Relayed => wants_html(),
        Load::Part => false,
        Load::Unsaid => wants_html() && !fields.has(Field::RequestedWith),
    }
}

fn is_grpc(fields: &Fields<'_>) -> bool {
    fields.get(Field::ContentType).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn preflight(method: &Method, fields: &Fields<'_>) -> Option<Method> {
    let asked = fields.get(Field::AskedMethod)?;
    let is_one = *method == Method::OPTIONS && fields.has(Field::Origin);
    Method::from_bytes(asked.as_bytes()).ok().filter(|_| is_one)
}

#[cfg(test)]
mod tests {
    use super::is_plainly_framed;
    use http::{HeaderMap, HeaderValue, header};

    #[test]
    fn an_answer_says_in_one_line_at_most_where_it_ends() {
        let framed = |lines: &[&'static str]| {
            let mut headers = HeaderMap::from_iter([(header::DATE, HeaderValue::from_static("now"))]);
            for line in lines {
                let name = if line.starts_with(|first: char| first.is_ascii_digit() || first == '+') {
                    header::CONTENT_LENGTH
                } else {
                    header::TRANSFER_ENCODING
                };
                headers.append(name, HeaderValue::from_static(line));
            }
            is_plainly_framed(&headers)
        };
        for lines in [&[][..], &["0"], &["10"], &["chunked"], &["CHUNKED"]] {
            assert!(framed(lines), "{lines:?}");
        }
        for lines in [
            &["01"][..],
            &["+1"],
            &["1 "],
            &["1, 1"],
            &["1", "1"],
            &["gzip, chunked"],
            &["gzip"],
            &["chunked", "chunked"],
            &["chunked", "5"],
            &["5", "chunked"],
        ] {
            assert!(!framed(lines), "{lines:?}");
        }
    }
}
