//! WebSockets, over HTTP/1.1 (RFC 6455) and HTTP/2 (RFC 8441). One decision: for everybody behind this file a WebSocket is a
//! `GET` that asks to switch, whichever way it came, so that one set of rules holds for both. Knows nothing of frames.

use aws_lc_rs::{digest, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Extensions, Method, Version};

use crate::policy::{Field, Fields};
use crate::upstream::{Line, Value};

use super::reply::Refusal;

/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What stands in the lines that ask for it, to lend.
static ASKED: HeaderValue = HeaderValue::from_static("upgrade");
static WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
static THIRTEEN: HeaderValue = HeaderValue::from_static("13");

/// A request to switch to the WebSocket protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Switch {
    /// `Upgrade: websocket`, spelled as it came.
    One(HeaderValue),
    /// An extended CONNECT; what is asked of the application carries a key of our own.
    Two {
        /// `Sec-WebSocket-Key`.
        key: HeaderValue,
    },
}

/// What this request asks for. An extended CONNECT becomes a `GET` here. Every other upgrade is ignored, as RFC 9110 §7.8
/// allows: `h2c` would carry requests past every check.
///
/// # Errors
/// [`Refusal::Protocol`]: an extended CONNECT for anything else (RFC 8441 §4).
pub fn asked(
    method: &mut Method,
    version: Version,
    extensions: &Extensions,
    fields: &Fields<'_>,
) -> Result<Option<Switch>, Refusal> {
    if version == Version::HTTP_2 {
        let Some(protocol) = extensions.get::<hyper::ext::Protocol>() else { return Ok(None) };
        if *method != Method::CONNECT || protocol.as_str() != "websocket" {
            return Err(Refusal::Protocol);
        }
        let mut nonce = [0; 16];
        rand::fill(&mut nonce).map_err(|_| Refusal::Panic)?;
        let key = HeaderValue::from_str(&STANDARD.encode(nonce)).map_err(|_| Refusal::Panic)?;
        *method = Method::GET;
        return Ok(Some(Switch::Two { key }));
    }
    if version != Version::HTTP_11 || *method != Method::GET {
        return Ok(None);
    }
    let Some(protocol) = fields.get(Field::Upgrade).filter(|_| !fields.repeats(Field::Upgrade)) else {
        return Ok(None);
    };
    let connection = fields.all(Field::Connection).filter_map(|line| line.to_str().ok());
    let mut options = connection.flat_map(|line| line.split(','));
    let asked = options.any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    let websocket = protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
    Ok((asked && websocket).then(|| Switch::One(protocol.clone())))
}

impl Switch {
    /// The lines that ask the application.
    pub fn ask<'r>(&'r self, lines: &mut Vec<Line<'r>>) {
        lines.push((&header::CONNECTION, Value::Lent(&ASKED)));
        match self {
            Switch::One(protocol) => lines.push((&header::UPGRADE, Value::Lent(protocol))),
            Switch::Two { key } => lines.extend([
                (&header::UPGRADE, Value::Lent(&WEBSOCKET)),
                (&header::SEC_WEBSOCKET_KEY, Value::Lent(key)),
                (&header::SEC_WEBSOCKET_VERSION, Value::Lent(&THIRTEEN)),
            ]),
        }
    }

    /// Whether one of those is this field, which the client then does not write.
    pub fn takes(&self, name: &HeaderName) -> bool {
        let is_one = matches!(*name, header::SEC_WEBSOCKET_KEY | header::SEC_WEBSOCKET_VERSION);
        is_one && matches!(self, Switch::Two { .. })
    }

    /// Whether the application's 101 is an answer to that (RFC 6455 §4.1). Over HTTP/1.1 the client checks it, who knows the key.
    pub fn is_answered(&self, headers: &HeaderMap) -> bool {
        let websocket =
            headers.get(header::UPGRADE).is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let accepted = match self {
            Switch::One(_) => true,
            Switch::Two { key } => headers
                .get(header::SEC_WEBSOCKET_ACCEPT)
                .is_some_and(|accept| accept.as_bytes() == accept_for(key).as_bytes()),
        };
        websocket && accepted
    }
}

fn accept_for(key: &HeaderValue) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(GUID);
    STANDARD.encode(hash.finish())
}

/// Whether the page that asks is one of this host. A browser sends the cookie along with a WebSocket asked for by any site,
/// and no other check stands in its way (RFC 6455 §10.2). Clients that are no browsers send no `Origin`.
pub fn same_origin(fields: &Fields<'_>, authority: &str) -> bool {
    let Some(origin) = fields.get(Field::Origin) else { return true };
    let host = origin.as_bytes().strip_prefix(b"https://");
    !fields.repeats(Field::Origin) && host.is_some_and(|host| host.eq_ignore_ascii_case(authority.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::accept_for;
    use http::HeaderValue;

    /// RFC 6455 §1.3.
    #[test]
    fn the_key_of_the_rfc_is_accepted_as_there() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept_for(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
