//! The counters in the text that Prometheus reads. One decision: nothing is kept for metrics' sake: every number lives in the
//! room that counts it and is read when it is asked for, so that a request pays for an addition and nothing else.
//! Knows nothing of how they are counted.

use std::fmt::{self, Error};
use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::proxy::{BUCKETS_US, Runtime, Total};

use super::router::{Answer, text, typed};
use super::{Admin, Reloads};

/// The content type of the text format.
const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All of them.
pub(super) fn answer(admin: &Arc<Admin>) -> Answer {
    let mut registry = Registry::with_prefix("portcullis");
    registry.register_collector(Box::new(Reading(admin.clone())));
    let mut written = String::new();
    match prometheus_text::encode(&mut written, &registry) {
        Ok(()) => typed(StatusCode::OK, KIND, written.into()),
        Err(error) => {
            tracing::error!(%error, "metrics could not be written");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n")
        }
    }
}

/// What is read when it is asked for.
struct Reading(Arc<Admin>);

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reading")
    }
}

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let admin = &*self.0;
        let runtime = admin.runtime();
        requests(&mut encoder, &runtime.traffic.totals())?;
        upstreams(&mut encoder, &runtime)?;
        sessions(&mut encoder, admin, &runtime)?;
        connections(&mut encoder, admin)?;
        reloads(&mut encoder, &admin.reloads)?;
        certificates(&mut encoder, admin, &runtime)?;
        let help =
            "Access and audit lines that were lost: standard output could not be written, or was read too slowly";
        single(&mut encoder, "records_lost", help, MetricType::Counter, runtime.records.lost())?;
        let help = "Messages that were lost: standard error could not be written, or was read too slowly";
        single(&mut encoder, "messages_lost", help, MetricType::Counter, runtime.records.messages_lost())?;
        let build = [("version", env!("CARGO_PKG_VERSION"))];
        family(&mut encoder, "build_info", "What is running", MetricType::Gauge, [(build, 1)])
    }
}

fn requests(encoder: &mut DescriptorEncoder<'_>, totals: &[Total]) -> Result<(), Error> {
    let answers = totals.iter().flat_map(|total| {
        let route = total.route.as_str();
        total.answers.iter().map(move |(outcome, class, count)| {
            const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
            ([("route", route), ("decision", outcome.as_str()), ("status", CLASSES[class - 1])], *count)
        })
    });
    let help = "Requests by route, what was done with them, and the class of their answer's status";
    family(encoder, "requests", help, MetricType::Counter, answers)?;
    let help = "From the request's head to the last byte of its answer";
    let mut times = encoder.encode_descriptor("request_seconds", help, None, MetricType::Histogram)?;
    for total in totals {
        let ends = BUCKETS_US.iter().map(|end| seconds(*end)).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = ends.zip(total.times).collect();
        let labels = [("route", total.route.as_str())];
        let count = total.times.iter().sum();
        times.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
            seconds(total.microseconds),
            count,
            &buckets,
            None,
        )?;
    }
    Ok(())
}

fn upstreams(encoder: &mut DescriptorEncoder<'_>, runtime: &Runtime) -> Result<(), Error> {
    let upstreams = &runtime.upstreams;
    let outcomes = upstreams.iter().flat_map(|upstream| {
        let named = |(outcome, count)| ([("upstream", upstream.name.as_str()), ("outcome", outcome)], count);
        upstream.outcomes.all().map(named)
    });
    let help = "Exchanges with applications, by how they went until the response head";
    family(encoder, "upstream_requests", help, MetricType::Counter, outcomes)?;
    let servers: Vec<(&str, String, u64, u64)> = upstreams
        .iter()
        .flat_map(|upstream| {
            upstream.servers.iter().map(|server| {
                let available = u64::from(server.is_available());
                (upstream.name.as_str(), server.address.to_string(), available, server.in_flight() as u64)
            })
        })
        .collect();
    let labels = |upstream, server| [("upstream", upstream), ("server", server)];
    let well = servers.iter().map(|(upstream, server, well, _)| (labels(*upstream, server.as_str()), *well));
    let help = "1 where requests are sent to this server, 0 where it is left alone";
    family(encoder, "upstream_server_available", help, MetricType::Gauge, well)?;
    let flying = servers.iter().map(|(upstream, server, _, flying)| (labels(*upstream, server.as_str()), *flying));
    family(
        encoder,
        "upstream_requests_open",
        "Requests on their way to this server, WebSockets too",
        MetricType::Gauge,
        flying,
    )
}

fn sessions(encoder: &mut DescriptorEncoder<'_>, admin: &Admin, runtime: &Runtime) -> Result<(), Error> {
    let counts = admin.sessions.counts();
    let lookups = [([("result", "hit")], counts.hits.get()), ([("result", "miss")], counts.misses.get())];
    family(encoder, "session_cache_lookups", "Cookies, answered from memory or not", MetricType::Counter, lookups)?;
    let cached = admin.sessions.cached();
    single(encoder, "session_cache_entries", "Sessions in memory, about", MetricType::Gauge, cached)?;
    let calls = counts.store_calls.get();
    single(encoder, "session_store_calls", "Questions to the session store", MetricType::Counter, calls)?;
    let errors = counts.store_errors.get();
    let help = "Questions to the session store that it did not answer";
    single(encoder, "session_store_errors", help, MetricType::Counter, errors)?;
    let missed = admin.sessions.missed();
    let help = "Parts of the store whose revocations this node does not hear of: it answers for nobody there";
    single(encoder, "session_store_parts_missed", help, MetricType::Gauge, missed as u64)?;
    let refuses = u64::from(!admin.sessions.takes_writes());
    let help = "1 where the last write to the store of this process failed: nobody can sign in or out";
    single(encoder, "session_store_writes_refused", help, MetricType::Gauge, refuses)?;
    let dropped = runtime.login.oidc().dropped_roles();
    let help = "Values of providers' role claims that led to no declared role";
    single(encoder, "oidc_roles_dropped", help, MetricType::Counter, dropped)?;
    let throttled = runtime.login.throttled().into_iter().map(|(with, count)| ([("with", with)], count));
    let help = "Attempts to sign in that were not looked at after many that failed";
    family(encoder, "sign_ins_throttled", help, MetricType::Counter, throttled)
}

fn connections(encoder: &mut DescriptorEncoder<'_>, admin: &Admin) -> Result<(), Error> {
    let events = admin.counters.all().into_iter().map(|(event, count)| ([("event", event)], count));
    let help = "What happened to client connections below requests";
    family(encoder, "connection_events", help, MetricType::Counter, events)?;
    let open = admin.open.connections() as u64;
    single(encoder, "connections_open", "Client connections", MetricType::Gauge, open)?;
    let tunnels = admin.open.tunnels() as u64;
    single(encoder, "tunnels_open", "WebSockets under way", MetricType::Gauge, tunnels)
}

fn reloads(encoder: &mut DescriptorEncoder<'_>, reloads: &Reloads) -> Result<(), Error> {
    let outcomes = reloads.all().into_iter().map(|(outcome, count)| ([("outcome", outcome)], count));
    let help = "How often the configuration was read again; where it was refused, the one before goes on";
    family(encoder, "config_reloads", help, MetricType::Counter, outcomes)?;
    let help = "When the configuration that runs was read, in seconds since 1970";
    single(encoder, "config_last_read_timestamp_seconds", help, MetricType::Gauge, reloads.last())
}

/// By the key that names the file, as a check does: one file may be named twice.
fn certificates(encoder: &mut DescriptorEncoder<'_>, admin: &Admin, runtime: &Runtime) -> Result<(), Error> {
    let own = admin.certificates.ends().into_iter().enumerate().map(|(pair, ends)| match pair {
        0 => ("tls.certificate".to_owned(), ends),
        _ => (format!("tls.also[{}].certificate", pair - 1), ends),
    });
    let upstreams = runtime.upstreams.iter();
    let upstreams =
        upstreams.map(|upstream| (format!("upstream.{}.tls.certificate", upstream.name), upstream.shown_until()));
    let store = ("session.redis.certificate".to_owned(), admin.sessions.shown_until());
    let providers = runtime.login.oidc().shown_until();
    let providers = providers.map(|(name, ends)| (format!("login.oidc.{name}.tls.certificate"), Some(ends)));
    let all = own.chain(upstreams).chain([store]).chain(providers).filter_map(|(key, ends)| {
        let ends = ends?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(([("key", key)], ends.as_secs()))
    });
    let help = "When the certificate that is shown ends, in seconds since 1970, by the key that names its file";
    family(encoder, "certificate_not_after_timestamp_seconds", help, MetricType::Gauge, all)
}

/// One number without labels.
fn single(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    value: u64,
) -> Result<(), Error> {
    family(encoder, name, help, kind, [([("", ""); 0], value)])
}

/// One family of counters or gauges.
fn family<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    samples: impl IntoIterator<Item = (L, u64)>,
) -> Result<(), Error> {
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in samples {
        let mut sample = family.encode_family(&labels)?;
        match kind {
            MetricType::Counter => sample.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
            _ => sample.encode_gauge(&value)?,
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a sum of microseconds is exact for 285 years")]
fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}
