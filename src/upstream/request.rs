//! The head of a request on its way to a server. One decision: it is a list, lent by whoever holds the texts, and becomes bytes or a
//! map only when the connection is known that it leaves by: most leave as bytes, and a map in between would cost more than all
//! else that is done with a line. Knows nothing of which lines belong there.

use std::borrow::Cow;

use bytes::Bytes;
use http::uri::{self, Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};

/// One field.
pub type Line<'r> = (&'r HeaderName, Value<'r>);

/// What stands in one.
#[derive(Clone, Debug)]
pub enum Value<'r> {
    /// Somebody else's.
    Lent(&'r HeaderValue),
    /// Made for this request.
    Own(HeaderValue),
    /// A text that need not be made one.
    Text(Text<'r>),
}

/// A text without control characters: by its type neither a line break nor anything else that ends a value (RFC 9110 §5.5).
#[derive(Clone, Copy, Debug)]
pub struct Text<'r>(&'r [u8]);

impl<'r> Text<'r> {
    /// This text, if it is that. Without a way out before the end: so the compiler looks at many bytes at once.
    pub fn of(text: &'r [u8]) -> Option<Text<'r>> {
        let carries = |byte: u8| (byte >= b' ') & (byte != 0x7f) | (byte == b'\t');
        text.iter().fold(true, |carried, byte| carried & carries(*byte)).then_some(Text(text))
    }
}

impl Value<'_> {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Value::Lent(value) => value.as_bytes(),
            Value::Own(value) => value.as_bytes(),
            Value::Text(Text(text)) => text,
        }
    }

    /// Without blanks around it, which are none of it (RFC 9110 §5.5): over HTTP/1.1 whoever reads takes them off, over HTTP/2 they make
    /// the whole request malformed (RFC 9113 §8.2.1).
    fn to_header(&self) -> HeaderValue {
        let (bytes, bare) = (self.as_bytes(), self.as_bytes().trim_ascii());
        match self {
            Value::Lent(value) if bare.len() == bytes.len() => (*value).clone(),
            Value::Own(value) if bare.len() == bytes.len() => value.clone(),
            _ => HeaderValue::from_bytes(bare).expect("what `http` takes is no less"),
        }
    }
}

impl<'r> From<Cow<'r, HeaderValue>> for Value<'r> {
    fn from(value: Cow<'r, HeaderValue>) -> Value<'r> {
        match value {
            Cow::Borrowed(value) => Value::Lent(value),
            Cow::Owned(value) => Value::Own(value),
        }
    }
}

/// A request without its body, in the form of HTTP/1.1: origin form, and the authority in `Host` (RFC 9112 §3.2.1).
#[derive(Clone, Debug)]
pub struct Head<'r> {
    /// The method.
    pub method: &'r Method,
    /// The path, canonical.
    pub path: &'r str,
    /// What stands behind the `?`.
    pub query: Option<&'r str>,
    /// Every field, in order.
    pub lines: Vec<Line<'r>>,
}

impl Head<'_> {
    /// The values of a field.
    pub(super) fn all(&self, wanted: HeaderName) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().filter(move |(name, _)| **name == wanted).map(|(_, value)| value.as_bytes())
    }

    /// The form of HTTP/2: the authority in the target, no connection-specific field (RFC 9113 §8.2.2, §8.3.1).
    pub(super) fn as_two<B>(&self, body: B, secure: bool) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.version_mut() = Version::HTTP_2;
        let target = match self.query {
            Some(query) => PathAndQuery::try_from(format!("{}?{query}", self.path)),
            None => PathAndQuery::try_from(self.path),
        };
        let target = target.expect("a canonical path and query came out of a parsed URI");
        let host = self.all(header::HOST).next().map(Bytes::copy_from_slice);
        *request.uri_mut() = match host.and_then(|host| Authority::from_maybe_shared(host).ok()) {
            Some(authority) => absolute(secure, authority, target),
            None => Uri::from(target),
        };
        let mut headers = HeaderMap::with_capacity(self.lines.len());
        for (name, value) in &self.lines {
            if !matches!(**name, header::HOST | header::CONNECTION | header::TRANSFER_ENCODING) {
                headers.append((*name).clone(), value.to_header());
            }
        }
        *request.headers_mut() = headers;
        request
    }
}

fn absolute(secure: bool, authority: Authority, target: PathAndQuery) -> Uri {
    let mut parts = uri::Parts::default();
    parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(authority);
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).expect("scheme, authority and path are a URI")
}
