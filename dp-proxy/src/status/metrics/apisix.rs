//! APISIX's series, under APISIX's names, summed over workers.

use std::collections::BTreeMap;

use super::super::Sources;
use super::text::{Page, Type};
use crate::proxy::{Figure, Figures, Latency, RouteRow, StatusLabels};

pub(super) fn write(sources: &Sources, page: &mut Page) {
    let sum = |figure: fn(&Figures) -> &Figure| -> u64 { sources.figures.iter().map(|f| figure(f).get()).sum() };
    page.single("apisix_http_requests_total", Type::Gauge, "Requests.", sum(|f| &f.requests));
    let (accepted, refused) = (sum(|f| &f.accepted), sum(|f| &f.refused));
    let (open, active) = (sum(|f| &f.open), sum(|f| &f.active));
    let name = "apisix_nginx_http_current_connections";
    page.family(name, Type::Gauge, "Client connections.");
    for (state, value) in [
        ("accepted", accepted + refused),
        ("handled", accepted),
        ("active", open),
        ("reading", 0),
        ("writing", active.min(open)),
        ("waiting", open.saturating_sub(active)),
    ] {
        page.sample(name, &[("state", state)], value);
    }
    write_statuses(sources, page);
    write_routes(sources, page);
    write_upstreams(sources, page);
    let standing = sources.board.read();
    let connected = u8::from(standing.connected.is_some());
    page.single("apisix_etcd_reachable", Type::Gauge, "Whether a control plane is followed.", connected);
    let name = "apisix_etcd_modify_indexes";
    page.family(name, Type::Gauge, "The revision of the configuration.");
    page.sample(name, &[("key", "x_etcd_index")], standing.position.revision);
    page.sample(name, &[("key", "max_modify_index")], standing.changed_at.revision);
    let name = "apisix_node_info";
    page.family(name, Type::Gauge, "This node.");
    page.sample(name, &[("hostname", &sources.node.name), ("version", daemon::build::VERSION)], 1);
}

fn write_statuses(sources: &Sources, page: &mut Page) {
    let mut sums: BTreeMap<StatusLabels, u64> = BTreeMap::new();
    for row in sources.figures.iter().flat_map(|figures| figures.statuses()) {
        *sums.entry(row.labels.clone()).or_default() += row.count.get();
    }
    let name = "apisix_http_status";
    page.family(name, Type::Counter, "Answers by status.");
    for (labels, count) in sums {
        let labels = [
            ("code", labels.code.to_string()),
            ("route", labels.route.to_string()),
            ("matched_uri", labels.matched_uri.to_string()),
            ("matched_host", labels.matched_host.to_string()),
            ("service", labels.service.to_string()),
            ("consumer", labels.consumer.to_string()),
            ("node", labels.node.to_string()),
        ];
        let labels: Vec<_> = labels.iter().map(|(label, text)| (*label, text.as_str())).collect();
        page.sample(name, &labels, count);
    }
}

/// The health of checked nodes, as `/v1/healthcheck` tells it.
fn write_upstreams(sources: &Sources, page: &mut Page) {
    let name = "apisix_upstream_status";
    page.family(name, Type::Gauge, "Whether a checked node is up.");
    let table = sources.cell.load();
    for upstream in table.upstreams().filter(|upstream| upstream.is_watched) {
        let of = format!("/apisix/{}", upstream.label);
        for node in &upstream.nodes {
            let (ip, port) = (node.host.to_string(), node.port.to_string());
            page.sample(name, &[("name", &of), ("ip", &ip), ("port", &port)], u8::from(node.watch.is_up()));
        }
    }
}

/// What is summed for one route.
#[derive(Default)]
struct Route {
    service: String,
    latencies: [([u64; Latency::BOUNDS_MS.len() + 1], u64); 3],
    ingress: u64,
    egress: u64,
}

/// The kinds of latency, and where each is found.
const LATENCIES: [(&str, LatencyOf); 3] =
    [("request", |row| &row.request), ("upstream", |row| &row.upstream), ("apisix", |row| &row.own)];

type LatencyOf = fn(&RouteRow) -> &Latency;

fn write_routes(sources: &Sources, page: &mut Page) {
    let mut routes: BTreeMap<String, Route> = BTreeMap::new();
    for row in sources.figures.iter().flat_map(|figures| figures.routes()) {
        let route = routes.entry(row.route.to_string()).or_default();
        route.service = row.service.to_string();
        for ((_, latency), (counts, micros)) in LATENCIES.iter().zip(&mut route.latencies) {
            latency(&row).add_to(counts, micros);
        }
        route.ingress += row.ingress.get();
        route.egress += row.egress.get();
    }
    let bounds: Vec<String> = Latency::BOUNDS_MS.iter().map(u64::to_string).collect();
    let name = "apisix_http_latency";
    page.family(name, Type::Histogram, "Time in milliseconds: of the request, of its upstream, of this proxy.");
    for (id, route) in &routes {
        for ((kind, _), (counts, micros)) in LATENCIES.iter().zip(&route.latencies) {
            let labels = [("type", *kind), ("route", id), ("service", &route.service), ("consumer", ""), ("node", "")];
            #[expect(clippy::cast_precision_loss, reason = "a sum of microseconds is inexact after 285 years")]
            let millis = *micros as f64 / 1000.0;
            page.histogram(name, &labels, &bounds, counts, millis);
        }
    }
    let name = "apisix_bandwidth";
    page.family(name, Type::Counter, "Bytes from and to clients.");
    for (id, route) in &routes {
        for (kind, bytes) in [("ingress", route.ingress), ("egress", route.egress)] {
            let labels = [("type", kind), ("route", id), ("service", &route.service), ("consumer", ""), ("node", "")];
            page.sample(name, &labels, bytes);
        }
    }
}
