//! What holds of every answer and every line, whatever a test is about: the harness asks, no test has to. An answer that the
//! gateway wrote says so in `Server`.

use http::HeaderMap;

/// Fields that the gateway's own answers may carry. Anything else is something that slipped out.
const OWN_FIELDS: &[&str] = &[
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
    "access-control-expose-headers",
    "access-control-max-age",
    "allow",
    "cache-control",
    "clear-site-data",
    "connection",
    "content-length",
    "content-security-policy",
    "content-type",
    "date",
    "etag",
    "grpc-message",
    "grpc-status",
    "location",
    "referrer-policy",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "vary",
    "www-authenticate",
    "x-content-type-options",
    "x-frame-options",
];

/// The head of an answer.
pub fn head(status: u16, headers: &HeaderMap, http2: bool) {
    let value = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let shown = || format!("{status} {headers:?}");
    for name in ["keep-alive", "proxy-connection", "upgrade", "transfer-encoding", "connection"] {
        assert!(!http2 || !headers.contains_key(name), "RFC 9113 §8.2.2: {}", shown());
    }
    let named =
        |line: &http::HeaderValue| String::from_utf8_lossy(line.as_bytes()).split('=').next().unwrap().to_owned();
    let mut cookies: Vec<String> = headers.get_all("set-cookie").iter().map(named).collect();
    cookies.sort();
    assert!(cookies.windows(2).all(|two| two[0] != two[1]), "rfc6265bis §4.1.1: {}", shown());
    if value("server").as_deref() != Some("portcullis") {
        return;
    }
    for name in headers.keys() {
        assert!(OWN_FIELDS.contains(&name.as_str()), "{name} in {}", shown());
    }
    assert!(value("strict-transport-security").is_some(), "ASVS 3.4.1: {}", shown());
    assert_eq!(value("x-content-type-options").as_deref(), Some("nosniff"), "ASVS 3.4.4: {}", shown());
    let kept = value("cache-control").unwrap_or_default();
    let is_public = matches!(status, 200 | 304) && cookies.is_empty();
    assert!(is_public || kept.contains("no-store"), "kept by a cache: {}", shown());
    assert!(status != 401 || headers.contains_key("www-authenticate"), "RFC 9110 §11.6.1: {}", shown());
    if value("content-type").is_some_and(|kind| kind.starts_with("text/html")) {
        let policy = value("content-security-policy").unwrap_or_default();
        let framed =
            status >= 400 && policy.contains("frame-ancestors 'self'") && policy.contains("form-action 'none'");
        assert!(framed || policy.contains("frame-ancestors 'none'"), "ASVS 3.4.6: {}", shown());
    }
    for cookie in headers.get_all("set-cookie") {
        let cookie = String::from_utf8_lossy(cookie.as_bytes()).to_lowercase();
        let flags = ["; secure", "; httponly", "; path=/", "; samesite="];
        assert!(cookie.starts_with("__host-") && !cookie.contains("domain="), "ASVS 3.3.1: {cookie}");
        assert!(flags.iter().all(|flag| cookie.contains(flag)), "ASVS 3.3: {cookie}");
        assert!(cookie.len() < 4096, "ASVS 3.3.5: {cookie}");
    }
}

/// The body of an answer, and whatever else is shown or written down: no secret is in it.
pub fn text(what: &str, secrets: &[String]) {
    for secret in secrets.iter().filter(|secret| secret.len() >= 12) {
        assert!(!what.contains(secret.as_str()), "{secret} in {what}");
    }
}

/// A line of the records.
pub fn line(line: &str, secrets: &[String]) {
    let parsed: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text(line, secrets);
    let path = parsed["path"].as_str().unwrap_or_default();
    assert!(!path.contains('?'), "a query: {line}");
    for word in ["__Host-", "__host-", "argon2", "Bearer "] {
        assert!(!line.contains(word), "{word} in {line}");
    }
    assert!(!line.contains(['\n', '\r']), "two lines of one: {line}");
}
