//! What plain HTTP gets. One decision: only a person's page load is sent to the same address over TLS; a program that sends
//! its credential in clear text is refused, because a redirect would let it go on doing so unnoticed (ASVS 4.1.2).
//! Knows nothing of routes.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;

use crate::policy::RequestHead;
use crate::sparing::Sparing;

/// Answer a request that came without TLS; `port` is the one where TLS is spoken, `None`: the one that it came to.
pub fn redirect<B>(request: Request<B>, port: Option<u16>) -> Response<Full<Bytes>> {
    let (parts, _) = request.into_parts();
    if parts.headers.contains_key(header::AUTHORIZATION) || parts.headers.contains_key(header::COOKIE) {
        static SAID: Sparing = Sparing::new();
        if let Some(unsaid) = SAID.ask("") {
            tracing::warn!(unsaid, "a credential was sent without TLS; whoever listened has it");
        }
    }
    let location = match RequestHead::parse(&parts, None) {
        Ok(head) if head.navigation => {
            let query = head.query.map(|query| format!("?{query}")).unwrap_or_default();
            let authority = match port {
                None => head.authority.to_owned(),
                Some(443) => head.host.as_str().to_owned(),
                Some(port) => format!("{}:{port}", head.host.as_str()),
            };
            HeaderValue::from_str(&format!("https://{authority}{}{query}", head.path.raw())).ok()
        }
        _ => None,
    };
    let mut response = Response::new(Full::new(Bytes::new()));
    match location {
        Some(location) => {
            *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
            response.headers_mut().insert(header::LOCATION, location);
        }
        None => {
            *response.status_mut() = StatusCode::FORBIDDEN;
            *response.body_mut() = Full::new(Bytes::from_static(b"Ask over https.\n"));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        }
    }
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::redirect;
    use http::Request;

    #[test]
    fn page_loads_are_sent_to_tls_and_programs_are_refused() {
        let ask = |request: http::request::Builder, port| {
            let answer = redirect(request.body(()).unwrap(), port);
            let location = answer.headers().get("location").map(|location| location.to_str().unwrap().to_owned());
            (answer.status().as_u16(), location)
        };
        let page = |path: &str| Request::get(path).header("host", "App.example:80").header("accept", "text/html");
        assert_eq!(ask(page("/a?b=c"), Some(8443)), (308, Some("https://app.example:8443/a?b=c".into())));
        assert_eq!(ask(page("/"), Some(443)), (308, Some("https://app.example/".into())));
        assert_eq!(ask(page("/a?b=c"), None), (308, Some("https://App.example:80/a?b=c".into())));
        // Another host to a browser only where none stands before it; what route takes such a path is not asked here.
        assert_eq!(ask(page("//evil.example"), Some(443)), (308, Some("https://app.example//evil.example".into())));
        let refused: [http::request::Builder; 4] = [
            Request::get("/").header("host", "app.example"),
            Request::post("/").header("host", "app.example").header("accept", "text/html"),
            Request::get("/").header("host", "a@b").header("accept", "text/html"),
            page("/a/%2e%2e/b"),
        ];
        for request in refused {
            assert_eq!(ask(request, Some(443)), (403, None));
        }
    }
}
