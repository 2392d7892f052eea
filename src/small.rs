//! Small answers over HTTP/1.1 without TLS: the operator's, the way to TLS, the demonstration application. One decision: all are given on
//! one type of connection, because hyper's comes once for every type that is served, some forty kilobytes each. Knows nothing of what is
//! answered.

use std::convert::Infallible;
use std::pin::Pin;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

type Answer = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send>>;

struct Answering(Box<dyn Fn(Request<Incoming>) -> Answer + Send>);

impl Service<Request<Incoming>> for Answering {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        (self.0)(request)
    }
}

/// Answer on a connection until it ends, as `builder` was told.
pub async fn serve<F>(
    builder: &http1::Builder,
    stream: TcpStream,
    answer: impl Fn(Request<Incoming>) -> F + Send + 'static,
) where
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let answering = Answering(Box::new(move |request| {
        let answer = answer(request);
        Box::pin(async move { Ok(answer.await) })
    }));
    // What its client broke is nobody's business.
    let _ = builder.serve_connection(TokioIo::new(stream), answering).await;
}
