//! Active checks. One decision: a server is found unwell, or well again, only by several answers in a row, so that one lost
//! packet moves no traffic. Knows nothing of balancing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Limited};
use tokio_util::sync::CancellationToken;

use crate::task::task;

use super::one::{One, Usual};
use super::request::{Head, Value};
use super::server::Protocol;
use super::wire::Two;
use super::{Address, Server, Upstream, connect};

/// Of a health page nobody reads more.
const PAGE_BYTES: usize = 64 * 1024;

static NAME: HeaderValue = HeaderValue::from_static("portcullis-health");

/// How servers are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked for; an answer below 400 is a good one.
    pub path: String,
    /// How often.
    pub interval: Duration,
    /// How long an answer may take, connecting included.
    pub timeout: Duration,
    /// Good answers in a row after which an unwell server is well.
    pub healthy_after: u32,
    /// Bad ones after which a well server is unwell.
    pub unhealthy_after: u32,
}

/// Check every server of these upstreams until told to stop.
pub async fn watch(upstreams: Vec<Upstream>, stop: CancellationToken) {
    let mut watches = tokio::task::JoinSet::new();
    for upstream in upstreams {
        let Some(health) = upstream.health else { continue };
        for server in upstream.servers {
            let watch = stop.clone().run_until_cancelled_owned(watch_one(server, health.clone()));
            watches.spawn(task(watch));
        }
    }
    while watches.join_next().await.is_some() {}
}

async fn watch_one(server: Arc<Server>, health: Health) {
    let (mut good, mut bad) = (0_u32, 0_u32);
    loop {
        let well = tokio::time::timeout(health.timeout, probe(&server, &health.path)).await.unwrap_or(false);
        (good, bad) = if well { (good.saturating_add(1), 0) } else { (0, bad.saturating_add(1)) };
        if good >= health.healthy_after {
            server.set_well(true);
        } else if bad >= health.unhealthy_after {
            server.set_well(false);
        }
        tokio::time::sleep(health.interval).await;
    }
}

/// Ask on a connection of its own: a pooled one proves only that it was there before.
async fn probe(server: &Server, path: &str) -> bool {
    let host = match &server.address {
        Address::Tcp(host, port) => format!("{host}:{port}"),
        Address::Unix(_) => "localhost".to_owned(),
    };
    let Ok(host) = HeaderValue::from_str(&host) else { return false };
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let lines = vec![(&header::HOST, Value::Own(host)), (&header::USER_AGENT, Value::Lent(&NAME))];
    let (head, body) = (Head { method: &Method::GET, path, query, lines }, Empty::<Bytes>::new());
    let Ok(connected) = connect::connect(server, false, None).await else { return false };
    if connected.http2 {
        let Ok(two) = Two::new(connected).await else { return false };
        let request = head.as_two(body, matches!(server.protocol, Protocol::Tls(_)));
        judge(two.sender().send_request(request).await).await
    } else {
        let mut one = One::new(connected.io, Usual::default());
        let begun = one.begin(&head, body);
        judge(one.answer(begun).await).await
    }
}

async fn judge<B: Body, E>(answer: Result<http::Response<B>, E>) -> bool
where
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Ok(answer) = answer else { return false };
    let status = answer.status();
    let _ = Limited::new(answer.into_body(), PAGE_BYTES).collect().await;
    status < StatusCode::BAD_REQUEST
}
