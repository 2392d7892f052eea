//! The header lists that go out. One decision: every line is asked whether it may pass, and a request's list is rebuilt from
//! those, never edited in place: what nobody thought of stays behind. Hop-by-hop first, then what the gateway owns, then its own
//! lines from the permit (RFC 9110 §7.6.1; RFC 9700 §4.13). Knows nothing of bodies.

use std::sync::Arc;

use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri, Version};

use crate::authn::CookieName;
use crate::login::oidc::AccessToken;
use crate::policy::{Field, Fields, HeaderEdits, HostHeader, IdentityHeaders, Permit, Proof, Route, Told, is_alias};
use crate::upstream::{Line, Text, Value};

use super::Runtime;
use super::client::{FORWARDED_FOR, ForwardedStyle, Trace};
use super::reply::Refusal;
use super::request_id::IdLines;
use super::upgrade::Switch;

/// Whose names a message must not carry.
pub trait HeaderRules {
    /// Whether a name has to go.
    fn owns(&self, name: &str) -> bool;
}

/// What trailers must not carry on their way to the application.
pub struct RequestTrailers {
    /// Holds the names of identities.
    pub runtime: Arc<Runtime>,
    /// Whose names are set and removed.
    pub route: Arc<Route>,
    /// What `Connection` named.
    pub named: NamedFields,
}

impl HeaderRules for RequestTrailers {
    fn owns(&self, name: &str) -> bool {
        let token = self.route.sign_in.access_token.as_ref();
        self.runtime.authenticator.headers().owns(name)
            || self.route.options.removes(name)
            || token.is_some_and(|own| is_alias(own.as_str(), name))
            || self.named.owns(name)
    }
}

/// The fields that a message's `Connection` makes hop-by-hop, in its trailers too (RFC 9110 §7.6.1). Towards the client nothing
/// else is owned.
#[derive(Default)]
pub struct NamedFields(Box<[HeaderName]>);

impl NamedFields {
    /// Of this message.
    pub fn of(headers: &HeaderMap) -> NamedFields {
        let lines = headers.get_all(header::CONNECTION).iter();
        NamedFields(connection_options(lines).filter_map(|name| name.parse().ok()).collect())
    }
}

impl HeaderRules for NamedFields {
    fn owns(&self, name: &str) -> bool {
        self.0.iter().any(|named| named.as_str() == name)
    }
}

/// What a rebuilt request carries beside what the client sent.
pub struct Outgoing<'r> {
    /// The way the request came.
    pub trace: &'r Trace,
    /// What the application is told of it.
    pub style: ForwardedStyle,
    /// What the client spoke.
    pub version: Version,
    /// Its method.
    pub method: &'r Method,
    /// `host[:port]` as the client named it.
    pub authority: &'r str,
    /// The fresh id.
    pub ids: &'r IdLines,
    /// The session cookie's name.
    pub cookie: &'r CookieName,
    /// Owned names.
    pub identity: &'r IdentityHeaders,
    /// Who calls.
    pub permit: &'r Permit,
    /// The protocol to switch to.
    pub switch: Option<&'r Switch>,
    /// The access token of the session's provider.
    pub access_token: Option<&'r AccessToken>,
    /// A signed statement of who calls.
    pub signed: Option<&'r (HeaderName, HeaderValue)>,
    /// `Destination`, where the application knows that place by another address.
    pub destination: Option<&'r HeaderValue>,
}

impl<'r> Outgoing<'r> {
    /// What tells who calls.
    fn told(&self) -> Option<&'r Told> {
        self.permit.caller().map(|caller| &caller.headers)
    }

    /// Whether the gateway writes this field itself or keeps it from the application, so that neither the client nor the route's own
    /// lines come through: nothing can shadow what is told of the caller.
    fn takes(&self, name: &HeaderName) -> bool {
        let token = self.permit.route().sign_in.access_token.as_ref();
        token.is_some_and(|own| is_alias(own.as_str(), name.as_str()))
            || self.told().is_some_and(|told| told.names(name))
            || self.signed.is_some_and(|(own, _)| own == name)
            || self.switch.is_some_and(|switch| switch.takes(name))
            || (self.destination.is_some() && *name == DESTINATION)
    }

    /// A token that was used here is not the application's to use again, elsewhere, in the caller's name.
    fn withholds_token(&self) -> bool {
        let by_token = self.permit.caller().is_some_and(|caller| caller.identity.proof == Proof::Token);
        by_token && !self.permit.route().options.forward_token
    }
}

/// What is done with an answer's header list.
pub struct Returning<'r> {
    /// The session cookie's name.
    pub cookie: &'r CookieName,
    /// Whether it was given to somebody in particular.
    pub private: bool,
    /// The protocol that is switched to.
    pub switching: Option<&'r Switch>,
    /// The route's own changes.
    pub edits: &'r HeaderEdits,
    /// What its `Connection` named.
    pub named: &'r NamedFields,
}

/// Names of lines that the gateway writes and `http` does not know, to lend.
static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static DESTINATION: HeaderName = HeaderName::from_static("destination");
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// And what stands in them.
static HTTPS: HeaderValue = HeaderValue::from_static("https");
static TE_ALONE: HeaderValue = HeaderValue::from_static("te");
static TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
static VIA_ONE: HeaderValue = HeaderValue::from_static("1.1 portcullis");
static VIA_TWO: HeaderValue = HeaderValue::from_static("2.0 portcullis");

/// Lines that may be added to most requests, and those that ask for a switch.
const OWN_LINES: usize = 12;
const SWITCH_LINES: usize = 4;

/// The header list of the forwarded request. Each line is pushed once: what a later one would replace does not get in.
pub fn request_headers<'r>(fields: &Fields<'r>, outgoing: &Outgoing<'r>) -> Vec<Line<'r>> {
    let (incoming, options) = (fields.headers(), &outgoing.permit.route().options);
    let own = outgoing.told().into_iter().flat_map(Told::lines);
    // Room at once.
    let switch = if outgoing.switch.is_some() { SWITCH_LINES } else { 0 };
    let mut lines = Vec::with_capacity(incoming.len() + OWN_LINES + options.request.set.len() + switch);
    let named: Vec<&str> = connection_options(fields.all(Field::Connection)).collect();
    let hops = hops_left(outgoing.method, incoming);
    let withholds_token = outgoing.withholds_token();
    for (name, value) in incoming {
        // Those that are told first most often stand first.
        let stays_behind = is_hop_by_hop(name)
            || is_rebuilt(name)
            || is_named(&named, name)
            || (withholds_token && *name == header::AUTHORIZATION)
            || outgoing.identity.owns(name.as_str())
            || options.removes(name.as_str())
            || outgoing.takes(name)
            || is_forwarding(name.as_str())
            || is_misread(name.as_str())
            || is_misframing(name.as_str());
        if stays_behind {
            continue;
        }
        match hops {
            Some(hops) if *name == header::MAX_FORWARDS => {
                lines.push((name, Value::Own(HeaderValue::from(hops.saturating_sub(1)))));
            }
            _ => lines.push((name, Value::Lent(value))),
        }
    }
    let set = options.request.set.iter().filter(|(name, _)| !outgoing.takes(name));
    lines.extend(set.map(|(name, value)| (name, Value::Lent(value))));
    let authority = authority(fields, outgoing);
    forwarded(&mut lines, outgoing, authority.as_ref());
    match &options.host {
        HostHeader::Fixed(host) => lines.push((&header::HOST, Value::Lent(host))),
        HostHeader::Keep => lines.extend(authority.map(|authority| (&header::HOST, authority))),
    }
    if fields.has(Field::Cookie) {
        lines.extend(outgoing.cookie.without_own(fields).map(|cookie| (&header::COOKIE, cookie.into())));
    }
    if let Some(switch) = outgoing.switch {
        switch.ask(&mut lines);
    } else if wants_trailers(fields) {
        // Said anew for this hop (RFC 9110 §10.1.4); gRPC servers ask for it.
        lines.push((&header::TE, Value::Lent(&TRAILERS)));
        lines.push((&header::CONNECTION, Value::Lent(&TE_ALONE)));
    }
    let via = if outgoing.version == Version::HTTP_2 { &VIA_TWO } else { &VIA_ONE };
    lines.push((&header::VIA, Value::Lent(via)));
    lines.extend(Text::of(outgoing.ids.id()).map(|id| (&REQUEST_ID, Value::Text(id))));
    if !lines.iter().any(|(name, _)| **name == TRACEPARENT) {
        lines.extend(Text::of(outgoing.ids.trace()).map(|trace| (&TRACEPARENT, Value::Text(trace))));
    }
    if let Some((name, token)) = outgoing.permit.route().sign_in.access_token.as_ref().zip(outgoing.access_token) {
        let value = if *name == header::AUTHORIZATION { &token.bearer } else { &token.plain };
        lines.push((name, Value::Lent(value)));
    }
    lines.extend(outgoing.destination.map(|line| (&DESTINATION, Value::Lent(line))));
    lines.extend(own.filter_map(|(name, text)| Some((name, Value::Text(Text::of(text.as_bytes())?)))));
    lines.extend(outgoing.signed.map(|(name, value)| (name, Value::Lent(value))));
    lines
}

/// The header list of the application's answer on its way to the client. Nobody is owned anything there, so what nobody thought of
/// passes: what may not is taken out, which is little, and the rest stays where it is.
pub fn response_headers(headers: &mut HeaderMap, returning: Returning<'_>) {
    let Returning { cookie, private, switching, edits, named } = returning;
    let switched = match switching {
        Some(Switch::One(_)) => [header::CONNECTION, header::UPGRADE].map(|name| (headers.get(&name).cloned(), name)),
        _ => [(None, header::CONNECTION), (None, header::UPGRADE)],
    };
    let (mut leaving, mut owned) = (Vec::new(), false);
    for (name, value) in &*headers {
        if is_hop_by_hop(name) || named.owns(name.as_str()) {
            leaving.push(name.clone());
        } else if *name == header::SET_COOKIE {
            owned |= cookie.owns(set_cookie_name(value));
        }
    }
    for name in leaving {
        headers.remove(name);
    }
    if owned {
        take_own_cookies(headers, cookie);
    }
    edit(headers, edits);
    if let Some(Switch::Two { .. }) = switching {
        headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    }
    for (value, name) in switched {
        if let Some(value) = value {
            headers.append(name, value);
        }
    }
    if private {
        keep_from_shared_caches(headers);
    }
}

/// What was answered to one person must not be kept by a cache for the next. Of a request with `Authorization` a cache knows that (RFC
/// 9111 §3.5), of one in a session it does not, and no more does the application, which may say for how long an answer is good without a
/// thought of others. Unless it says that it is for all.
fn keep_from_shared_caches(headers: &mut HeaderMap) {
    let is_settled = |directive: &[u8]| {
        // `private` with names is of those fields alone.
        let words = [&b"private"[..], b"public", b"no-store"];
        words.iter().any(|known| directive.eq_ignore_ascii_case(known))
            || directive.get(..8).is_some_and(|name| name.eq_ignore_ascii_case(b"s-maxage"))
    };
    let mut said = match headers.entry(header::CACHE_CONTROL) {
        Entry::Vacant(nothing) => {
            nothing.insert(HeaderValue::from_static("private"));
            return;
        }
        Entry::Occupied(said) => said,
    };
    let mut directives = said.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    if directives.any(|directive| is_settled(directive.trim_ascii())) {
        return;
    }
    // The first of several lines; the others stay.
    let first = Some(said.get()).filter(|first| !first.is_empty());
    let more = first.and_then(|first| HeaderValue::from_bytes(&[b"private, ", first.as_bytes()].concat()).ok());
    *said.get_mut() = more.unwrap_or(HeaderValue::from_static("private"));
}

/// An application must not set or clear the gateway's cookies: a session it chose would be a fixated one.
fn take_own_cookies(headers: &mut HeaderMap, cookie: &CookieName) {
    let lines: Vec<HeaderValue> = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
    headers.remove(header::SET_COOKIE);
    for line in lines.into_iter().filter(|line| !cookie.owns(set_cookie_name(line))) {
        headers.append(header::SET_COOKIE, line);
    }
}

/// What the client asked for, as a header: its own `Host` line where it sent one (HTTP/2 names it elsewhere).
fn authority<'r>(fields: &Fields<'r>, outgoing: &Outgoing<'_>) -> Option<Value<'r>> {
    match fields.get(Field::Host).filter(|host| host.as_bytes() == outgoing.authority.as_bytes()) {
        Some(named) => Some(Value::Lent(named)),
        None => HeaderValue::from_str(outgoing.authority).ok().map(Value::Own),
    }
}

/// The way the request came. The client's own lines did not pass.
fn forwarded<'r>(lines: &mut Vec<Line<'r>>, outgoing: &Outgoing<'r>, authority: Option<&Value<'r>>) {
    let (style, trace) = (outgoing.style, outgoing.trace);
    if matches!(style, ForwardedStyle::XForwarded | ForwardedStyle::Both) {
        lines.extend(trace.for_line().map(|line| (&FORWARDED_FOR, line.into())));
        lines.extend(authority.map(|host| (&FORWARDED_HOST, host.clone())));
        lines.push((&FORWARDED_PROTO, Value::Lent(&HTTPS)));
    }
    if matches!(style, ForwardedStyle::Standard | ForwardedStyle::Both) {
        lines.extend(trace.standard_line(outgoing.authority).map(|line| (&header::FORWARDED, Value::Own(line))));
    }
}

fn edit(headers: &mut HeaderMap, edits: &HeaderEdits) {
    for name in &edits.remove {
        headers.remove(name);
    }
    for (name, value) in &edits.set {
        headers.insert(name.clone(), value.clone());
    }
}

/// What a request head may have.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes.
    pub bytes: usize,
    /// Lines.
    pub lines: usize,
}

/// Whether a head is no longer than it may be. hyper's own limit is one of its buffer, which holds half as much again when bytes
/// come fast, and over HTTP/2 it counts no lines. There browsers send a line for each cookie, which are one here.
///
/// # Errors
/// [`Refusal::HeadTooLarge`].
pub fn fits(uri: &Uri, fields: &Fields<'_>, limits: HeadLimits) -> Result<(), Refusal> {
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    let lines = fields.headers().len();
    let is_within = target + fields.bytes() <= limits.bytes
        && (lines <= limits.lines || lines - fields.all(Field::Cookie).skip(1).count() <= limits.lines);
    if is_within { Ok(()) } else { Err(Refusal::HeadTooLarge) }
}

/// What is left of `Max-Forwards` of an OPTIONS request, the only one with it that is not refused (RFC 9110 §7.6.2).
pub fn hops_left(method: &Method, headers: &HeaderMap) -> Option<u64> {
    if *method != Method::OPTIONS {
        return None;
    }
    let line = headers.get(header::MAX_FORWARDS)?;
    line.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

/// Whether a request came through here twice already (RFC 9110 §7.6.3): an upstream that leads back to the gateway.
pub fn is_looping(fields: &Fields<'_>) -> bool {
    // Bytes: a client's word in a line that others add to must not hide theirs.
    let lines = fields.all(Field::Via).map(HeaderValue::as_bytes);
    let hops = lines.flat_map(|line| line.split(|byte| *byte == b','));
    hops.filter(|hop| hop.trim_ascii().ends_with(b" portcullis")).count() >= 2
}

/// Trailers that may pass.
pub fn clean_trailers(trailers: HeaderMap, rules: &dyn HeaderRules) -> HeaderMap {
    let passes = |name: &HeaderName| {
        !is_hop_by_hop(name)
            && !is_rebuilt(name)
            && !is_forwarding(name.as_str())
            && !is_misread(name.as_str())
            && !is_misframing(name.as_str())
            && !rules.owns(name.as_str())
            && !matches!(*name, header::AUTHORIZATION | header::CONTENT_LENGTH | header::SET_COOKIE)
    };
    let passing = trailers.iter().filter(|(name, _)| passes(name));
    let mut passing = passing.map(|(name, value)| (name.clone(), value.clone())).collect();
    take_blanks_off(&mut passing);
    passing
}

/// Blanks around a value are none of it (RFC 9110 §5.5), and make a message of HTTP/2 malformed (RFC 9113 §8.2.1): what came over one
/// connection with them would break another.
pub fn take_blanks_off(headers: &mut HeaderMap) {
    for value in headers.values_mut() {
        let bare = value.as_bytes().trim_ascii();
        if bare.len() < value.len()
            && let Ok(bare) = HeaderValue::from_bytes(bare)
        {
            *value = bare;
        }
    }
}

/// The field names that `Connection` makes hop-by-hop. What it says of the connection itself is no field.
fn connection_options<'r>(lines: impl Iterator<Item = &'r HeaderValue>) -> impl Iterator<Item = &'r str> {
    let is_known = |option: &[u8]| {
        [&b"keep-alive"[..], b"close", b"upgrade"].iter().any(|known| option.eq_ignore_ascii_case(known))
    };
    // Most lines are one of these, whole.
    let lines = lines.filter(move |line| !is_known(line.as_bytes())).filter_map(|line| line.to_str().ok());
    let options = lines.flat_map(|line| line.split(',')).map(str::trim);
    options.filter(move |option| !is_known(option.as_bytes()))
}

fn is_named(options: &[&str], name: &HeaderName) -> bool {
    options.iter().any(|option| option.eq_ignore_ascii_case(name.as_str()))
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::TE
            | header::TRANSFER_ENCODING
            | header::UPGRADE
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
    ) || matches!(name.as_str(), "close" | "keep-alive" | "proxy-connection" | "http2-settings")
}

/// Set anew on every request: the client's own lines never pass. `Expect` was answered by the gateway.
fn is_rebuilt(name: &HeaderName) -> bool {
    // `X_Request_Id` is `X-Request-Id` to CGI.
    matches!(*name, header::HOST | header::COOKIE | header::EXPECT) || is_alias(name.as_str(), REQUEST_ID.as_str())
}

/// Who forwarded a request is ours to say. Folded like identity names: `X_Forwarded_For` is `X-Forwarded-For` to CGI.
fn is_forwarding(name: &str) -> bool {
    let bytes = name.as_bytes();
    if !matches!(bytes.first(), Some(b'x' | b'f')) {
        return false;
    }
    let starts = |prefix: &[u8]| {
        bytes.len() >= prefix.len()
            && prefix
                .iter()
                .zip(bytes)
                .all(|(wanted, byte)| wanted == byte || (*wanted == b'-' && !byte.is_ascii_alphanumeric()))
    };
    starts(b"x-forwarded-")
        || name == "forwarded"
        || starts(b"x-real-ip")
        || starts(b"x-original-")
        || starts(b"x-rewrite-")
}

/// What applications take for somebody's word who would know, and anybody may have written. httpoxy (CVE-2016-5385): `Proxy` is
/// `HTTP_PROXY` to CGI, and with it everything that the application asks for goes where the client likes. The others tell the client's
/// address to whoever looks there; a proxy before us that writes one passes the rest on, so that no proxy's word counts for them. Or
/// they tell where in the path the application begins: gunicorn takes `SCRIPT_NAME` from a proxy of its own machine and cuts it off,
/// so that `/x/admin`, which is under no rule of `/admin`, is answered with `/admin` (CWE-436).
fn is_misread(name: &str) -> bool {
    // Most names begin otherwise, or have another length.
    if !matches!(name.as_bytes().first(), Some(b'c' | b'f' | b'p' | b's' | b't' | b'x')) {
        return false;
    }
    let known: &[&str] = match name.len() {
        5 => &["proxy"],
        9 => &["client-ip", "path-info"],
        11 => &["x-client-ip", "x-forwarded", "x-remote-ip", "script-name", "x-path-info"],
        13 => &["forwarded-for", "x-remote-addr", "x-script-name"],
        14 => &["true-client-ip", "cf-pseudo-ipv4", "x-ingress-path"],
        15 => &["x-replaced-path"],
        16 => &["cf-connecting-ip", "fastly-client-ip", "x-originating-ip"],
        18 => &["cf-connecting-ipv6"],
        19 => &["x-cluster-client-ip", "x-appengine-user-ip"],
        21 => &["x-envoy-original-path"],
        _ => return false,
    };
    known.iter().any(|known| is_alias(known, name))
}

/// Where a message ends is said by the two very names alone. `Content_Length` is `Content-Length` to servers that fold names before they
/// read them (uWSGI): one would wait for a body that does not come, and take the next request on its connection for it.
fn is_misframing(name: &str) -> bool {
    match name.len() {
        14 => is_alias("content-length", name) && name != "content-length",
        17 => is_alias("transfer-encoding", name) && name != "transfer-encoding",
        _ => false,
    }
}

fn wants_trailers(fields: &Fields<'_>) -> bool {
    let lines = fields.all(Field::Te).filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// The name under which a browser would send a cookie back. One without a name comes back as its value alone, which may look like a
/// pair: `=__Host-portcullis=evil`. Browsers of today refuse such a value (RFC 6265bis §5.7), those of yesterday do not.
fn set_cookie_name(value: &HeaderValue) -> &[u8] {
    let bytes = value.as_bytes();
    let start = bytes.iter().position(|byte| !matches!(byte, b'=' | b' ' | b'\t')).unwrap_or(bytes.len());
    let pair = &bytes[start..];
    let end = pair.iter().position(|byte| matches!(byte, b'=' | b';')).unwrap_or(pair.len());
    pair[..end].trim_ascii_end()
}

#[cfg(test)]
mod tests {
    use super::{CookieName, NamedFields, Returning, is_hop_by_hop, response_headers, set_cookie_name};
    use crate::policy::HeaderEdits;
    use crate::proxy::headers::HeaderRules;
    use http::header::{self, HeaderMap, HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn lines() -> impl Strategy<Value = HeaderMap> {
        let standard =
            [header::CONNECTION, header::SET_COOKIE, header::SET_COOKIE, header::TRANSFER_ENCODING, header::TE];
        let other = ["keep-alive", "proxy-connection", "x-a", "x-b", "cache-control"].map(HeaderName::from_static);
        let names: Vec<HeaderName> = standard.into_iter().chain(other).collect();
        let values = vec![
            "x-a, close",
            "Keep-Alive",
            "set-cookie",
            "a=1",
            "__Host-portcullis=1",
            "__host-PORTCULLIS-x",
            "b; c=d",
        ];
        let line = (prop::sample::select(names), prop::sample::select(values));
        prop::collection::vec(line, 0..12).prop_map(|lines| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(name, HeaderValue::from_static(value));
            }
            headers
        })
    }

    proptest! {
        /// attacks: a cookie of the gateway's set by an application, and fields meant for the hop alone
        #[test]
        fn of_an_answer_every_line_passes_that_may_and_no_other(answer in lines()) {
            let (cookie, named) = (CookieName::new("__Host-portcullis"), NamedFields::of(&answer));
            let mut expected = HeaderMap::new();
            for (name, value) in &answer {
                let own = *name == header::SET_COOKIE && cookie.owns(set_cookie_name(value));
                if !is_hop_by_hop(name) && !named.owns(name.as_str()) && !own {
                    expected.append(name.clone(), value.clone());
                }
            }
            let edits = HeaderEdits::default();
            let returning = Returning { cookie: &cookie, private: false, switching: None, edits: &edits, named: &named };
            let mut headers = answer;
            response_headers(&mut headers, returning);
            prop_assert_eq!(headers, expected);
        }
    }
}
