//! The small application that shows what it received. One decision: it is an ordinary HTTP server behind an ordinary
//! connection, in this process or alone, so that what it shows is what any application would see. It knows nothing of the
//! gateway.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::small;
use crate::task::task;

/// A running one, on a thread of its own. Dropping it stops it.
pub struct Whoami {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Whoami {
    /// Listen and serve.
    ///
    /// # Errors
    /// What the system says of the address or the thread.
    pub fn start(address: SocketAddr) -> io::Result<Whoami> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serve = move || {
            runtime.block_on(async {
                match TcpListener::from_std(listener) {
                    Ok(listener) => tokio::select! { () = accept(listener) => {}, () = stopped.cancelled() => {} },
                    Err(error) => tracing::error!(%error, "whoami could not listen"),
                }
            });
        };
        let thread = std::thread::Builder::new().name("whoami".to_owned()).spawn(serve)?;
        Ok(Whoami { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Wait until it ends, which it does only with the process.
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Whoami {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        tokio::spawn(task(async move {
            let answer = |mut request: Request<Incoming>| async move {
                // Read to its end and forget: an answer before the request was read costs the connection.
                while let Some(Ok(_)) = request.body_mut().frame().await {}
                answer(&request)
            };
            let mut builder = http1::Builder::new();
            small::serve(builder.timer(TokioTimer::new()), stream, answer).await;
        }));
    }
}

fn answer(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (content_type, body) = if accept.contains("text/html") {
        ("text/html; charset=utf-8", html(request))
    } else if accept.contains("json") {
        ("application/json", json(request))
    } else {
        ("text/plain; charset=utf-8", text(request))
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn lines(headers: &HeaderMap) -> impl Iterator<Item = (&str, String)> {
    headers.iter().map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
}

fn text(request: &Request<Incoming>) -> String {
    let mut text = format!("{} {}\n", request.method(), request.uri());
    for (name, value) in lines(request.headers()) {
        let _ = writeln!(text, "{name}: {value}");
    }
    text
}

fn json(request: &Request<Incoming>) -> String {
    let headers: Vec<_> = lines(request.headers()).collect();
    let uri = request.uri();
    let (method, path, query) = (request.method().as_str(), uri.path(), uri.query());
    serde_json::json!({ "method": method, "path": path, "query": query, "headers": headers }).to_string()
}

fn html(request: &Request<Incoming>) -> String {
    let mut environment = minijinja::Environment::new();
    let template = include_str!("whoami.html");
    let rendered = environment.add_template("whoami.html", template).and_then(|()| {
        let headers: Vec<(String, String)> =
            lines(request.headers()).map(|(name, value)| (name.to_owned(), value)).collect();
        let target = request.uri().to_string();
        let method = request.method().as_str().to_owned();
        environment.get_template("whoami.html")?.render(minijinja::context! { method, target, headers })
    });
    rendered.unwrap_or_else(|_| text(request))
}
