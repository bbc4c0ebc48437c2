//! The traffic, as far as APISIX has no name for it.

use std::sync::atomic::Ordering;

use super::super::Sources;
use super::text::{Page, Type};
use crate::proxy::{Figure, Figures, StreamFigures};

pub(super) fn write(sources: &Sources, page: &mut Page) {
    let sum = |figure: fn(&Figures) -> &Figure| -> u64 { sources.figures.iter().map(|f| figure(f).get()).sum() };
    page.single("holdfast_dp_workers", Type::Gauge, "Workers.", sources.figures.len());
    page.family("holdfast_dp_connections", Type::Gauge, "Client connections that are open, by worker.");
    for (index, figures) in sources.figures.iter().enumerate() {
        page.sample("holdfast_dp_connections", &[("worker", &index.to_string())], figures.open.get());
    }
    for (name, kind, help, value) in [
        ("requests_active", Type::Gauge, "Requests under way.", sum(|f| &f.active)),
        ("upstream_idle_connections", Type::Gauge, "Connections to nodes that wait.", sum(|f| &f.upstream_idle)),
        ("connections_refused_total", Type::Counter, "Client connections over the bound.", sum(|f| &f.refused)),
        (
            "proxy_protocol_refused_total",
            Type::Counter,
            "Client connections without a PROXY header.",
            sum(|f| &f.untold),
        ),
        ("upstream_connects_total", Type::Counter, "Connections opened to nodes.", sum(|f| &f.upstream_connects)),
        (
            "upstream_reuses_total",
            Type::Counter,
            "Requests over a connection that waited.",
            sum(|f| &f.upstream_reuses),
        ),
        ("retries_total", Type::Counter, "Requests sent once more.", sum(|f| &f.retries)),
        (
            "all_nodes_down_total",
            Type::Counter,
            "Requests to nodes that are down, since all are.",
            sum(|f| &f.all_down),
        ),
        ("tls_handshakes_pending", Type::Gauge, "TLS handshakes under way.", sum(|f| &f.tls_pending)),
        ("tls_handshakes_total", Type::Counter, "TLS handshakes that succeeded.", sum(|f| &f.tls_handshakes)),
        ("tls_resumed_total", Type::Counter, "TLS handshakes that resumed a session.", sum(|f| &f.tls_resumed)),
        ("tls_refused_total", Type::Counter, "TLS connections over the bound on handshakes.", sum(|f| &f.tls_refused)),
        ("http2_connections_total", Type::Counter, "Client connections by HTTP/2.", sum(|f| &f.http2_connections)),
        ("http2_floods_total", Type::Counter, "HTTP/2 connections ended for a flood.", sum(|f| &f.http2_floods)),
        ("stream_connections_total", Type::Counter, "Connections of stream listeners.", sum(|f| &f.stream.connections)),
        (
            "stream_connections",
            Type::Gauge,
            "Connections of stream listeners that are open.",
            sum(|f| &f.stream.active),
        ),
        ("buffered_bytes", Type::Gauge, "Bytes of request bodies that are kept whole.", sources.buffers.taken()),
        (
            "buffered_refused_total",
            Type::Counter,
            "Request bodies that found no room to be kept.",
            sources.buffers.refused(),
        ),
        ("panics_total", Type::Counter, "Connections ended by a bug in this program.", sum(|f| &f.panics)),
    ] {
        page.single(&format!("holdfast_dp_{name}"), kind, help, value);
    }
    let log = &sources.access_log;
    let lines = log.written.load(Ordering::Relaxed);
    page.single("holdfast_dp_access_log_lines_total", Type::Counter, "Lines of the access log.", lines);
    let name = "holdfast_dp_access_log_lost_total";
    page.family(name, Type::Counter, "Lines of the access log that were not written, by reason.");
    for (reason, count) in [("queue_full", &log.dropped), ("write_failed", &log.failed)] {
        page.sample(name, &[("reason", reason)], count.load(Ordering::Relaxed));
    }
    let name = "holdfast_dp_tls_failures_total";
    page.family(name, Type::Counter, "TLS handshakes that failed, by reason.");
    for (index, reason) in Figures::TLS_FAILURES.iter().enumerate() {
        let count: u64 = sources.figures.iter().map(|figures| figures.tls_failures[index].get()).sum();
        page.sample(name, &[("reason", reason)], count);
    }
    let name = "holdfast_dp_stream_bytes_total";
    page.family(name, Type::Counter, "Bytes of streams, by who was given them.");
    page.sample(name, &[("to", "node")], sum(|f| &f.stream.bytes_up));
    page.sample(name, &[("to", "client")], sum(|f| &f.stream.bytes_down));
    let name = "holdfast_dp_stream_failures_total";
    page.family(name, Type::Counter, "Streams that did not end by themselves, by reason.");
    for (index, reason) in StreamFigures::FAILURES.iter().enumerate() {
        let count: u64 = sources.figures.iter().map(|figures| figures.stream.failures[index].get()).sum();
        page.sample(name, &[("reason", reason)], count);
    }
    let name = "holdfast_dp_upstream_errors_total";
    page.family(name, Type::Counter, "Failures of nodes, by what failed.");
    for (index, class) in Figures::UPSTREAM_ERRORS.iter().enumerate() {
        let count: u64 = sources.figures.iter().map(|figures| figures.upstream_errors[index].get()).sum();
        page.sample(name, &[("class", class)], count);
    }
}
