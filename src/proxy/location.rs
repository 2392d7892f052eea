//! Where an application redirects to. One decision: its own address, as it was told it, is the one that the client asked at, over TLS;
//! any other is handed on as it is. Knows nothing of paths: what a route's rewrite took away the application has to be told of.

use http::header::{self, HeaderMap, HeaderValue};

/// Lead a redirect of an application to itself back here. It was told `told` as its host and speaks without TLS, so it may say
/// `http://`: that would send what the browser knows of it, its own cookies included, in clear text (CWE-319), and mostly to nowhere.
pub fn lead_back(headers: &mut HeaderMap, told: &[u8], asked: &str) {
    let Some(location) = headers.get(header::LOCATION).map(HeaderValue::as_bytes) else { return };
    let Some(end) = location.iter().position(|byte| *byte == b':') else { return };
    let (scheme, rest) = location.split_at(end);
    let Some(rest) = rest.strip_prefix(b"://") else { return };
    let (authority, rest) =
        rest.split_at(rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len()));
    let is_plain = scheme.eq_ignore_ascii_case(b"http");
    let is_http = is_plain || scheme.eq_ignore_ascii_case(b"https");
    let leads_back = authority.eq_ignore_ascii_case(told);
    if !is_http || !leads_back || (!is_plain && told.eq_ignore_ascii_case(asked.as_bytes())) {
        return;
    }
    if let Ok(led) = HeaderValue::from_bytes(&[b"https://", asked.as_bytes(), rest].concat()) {
        headers.insert(header::LOCATION, led);
    }
}

#[cfg(test)]
mod tests {
    use super::lead_back;
    use http::HeaderMap;

    #[test]
    fn a_redirect_to_the_application_itself_leads_back_here() {
        let led = |location: &str, told: &str| {
            let mut headers = HeaderMap::from_iter([(http::header::LOCATION, location.parse().unwrap())]);
            lead_back(&mut headers, told.as_bytes(), "app.example:8443");
            headers["location"].to_str().unwrap().to_owned()
        };
        let same = "app.example:8443";
        for (location, told, expected) in [
            ("http://app.example:8443/a?b#c", same, "https://app.example:8443/a?b#c"),
            ("HTTP://APP.example:8443", same, "https://app.example:8443"),
            ("http://app.internal/a", "app.internal", "https://app.example:8443/a"),
            ("https://app.internal?a", "app.internal", "https://app.example:8443?a"),
        ] {
            assert_eq!(led(location, told), expected, "{location}");
        }
        for (location, told) in [
            ("https://app.example:8443/a", same),
            ("/a?b=http://app.example:8443/", same),
            ("//app.internal/a", "app.internal"),
            ("a", same),
            ("http://app.example/a", same),
            ("http://app.example:8443.evil.example/a", same),
            ("http://app.internal@evil.example/a", "app.internal"),
            ("http://other.example/a", "app.internal"),
            ("http:/app.internal/a", "app.internal"),
            ("myapp://app.internal/a", "app.internal"),
        ] {
            assert_eq!(led(location, told), location);
        }
    }
}
