//! WebSockets over HTTP/1.1. One decision: a tunnel stands only after the application's own 101, belongs to the session that
//! opened it, and is cut when that session ends. Knows nothing of WebSocket frames.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::session::View;

use super::Worker;

/// Bytes a tunnel may hold in each direction.
const TUNNEL_BUFFER: usize = 16 * 1024;

/// `websocket`, where this request asks to switch to it. Every other upgrade is ignored, as RFC 9110 §7.8 allows: `h2c` would
/// carry requests past every check.
pub fn wanted<B>(request: &Request<B>) -> Option<HeaderValue> {
    let headers = request.headers();
    if request.version() != Version::HTTP_11 || request.method() != Method::GET {
        return None;
    }
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|line| line.to_str().ok());
    let asked = connection.flat_map(|line| line.split(',')).any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    let mut protocols = headers.get_all(header::UPGRADE).iter();
    let websocket = protocols.next().filter(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))?;
    (asked && protocols.next().is_none()).then(|| websocket.clone())
}

/// Whether the page that asks is one of this host. A browser sends the cookie along with a WebSocket asked for by any site,
/// and no other check stands in its way (RFC 6455 §10.2). Clients that are no browsers send no `Origin`.
pub fn same_origin(headers: &HeaderMap, authority: &str) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => true,
        (Some(origin), None) => origin
            .as_bytes()
            .strip_prefix(b"https://")
            .is_some_and(|origin| origin.eq_ignore_ascii_case(authority.as_bytes())),
        (Some(_), Some(_)) => false,
    }
}

/// Carry bytes both ways until one side is done, the session ends or the gateway stops.
pub fn tunnel(worker: &Arc<Worker>, client: OnUpgrade, application: OnUpgrade, session: Option<Arc<View>>) {
    let stop = worker.stop.clone();
    let sessions = worker.runtime.authenticator.sessions();
    // Registered before the 101 goes out, and checked once more after: a revocation that came before the registration is seen
    // by the check, one that comes after it by the registration.
    let exchange = session.as_ref().map(|view| sessions.open_exchange(view));
    if session.as_ref().is_some_and(|view| !sessions.still_alive(view)) {
        return;
    }
    let now = worker.runtime.clock.now();
    let left = session.map(|view| view.session.ends.since(now));
    worker.tunnels.spawn(async move {
        let ended = async {
            match &exchange {
                Some(exchange) => exchange.ended().await,
                None => std::future::pending().await,
            }
        };
        let carried = async {
            let (client, application) = tokio::try_join!(client, application)?;
            let (mut client, mut application) = (TokioIo::new(client), TokioIo::new(application));
            let copied =
                tokio::io::copy_bidirectional_with_sizes(&mut client, &mut application, TUNNEL_BUFFER, TUNNEL_BUFFER);
            Ok::<_, hyper::Error>(copied.await)
        };
        let over = async {
            match left {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => tracing::debug!("a tunnel was cut at the absolute end of its session"),
            () = ended => tracing::debug!("a tunnel was cut with its session"),
            () = stop.cancelled() => tracing::debug!("a tunnel was cut at shutdown"),
            result = carried => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a tunnel did not come to stand");
                }
            }
        }
    });
}
