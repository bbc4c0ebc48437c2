//! From an entry to what the table needs of it: either the model that this build serves, or what can be read of one
//! that it does not.

use std::sync::Arc;

use ipnet::IpNet;
use plugins::Chain;
use protocol::resource::{
    Expression, HostPattern, KindInfo, MethodSet, Model, Route, RouteStatus, Service, Timeouts, Upstream, UriPattern,
    unsupported,
};
use protocol::{Entry, Text};
use serde_json::Value;

use super::super::outline::{self, Hosts, RouteOutline};
use super::super::paths::PathPattern;
use super::super::route::Patterns;
use super::super::router::Router;

/// A route that is to be compiled or sealed.
#[derive(Debug)]
pub(super) struct RoutePlan {
    pub(super) paths: Patterns,
    pub(super) hosts: Hosts,
    pub(super) methods: MethodSet,
    pub(super) remote_addrs: Box<[IpNet]>,
    pub(super) vars: Option<Expression>,
    pub(super) priority: i64,
    pub(super) enabled: bool,
    pub(super) service: Option<Text>,
    pub(super) target: TargetPlan,
    pub(super) plugins: Chain,
    pub(super) plugin_config: Option<Text>,
    pub(super) timeouts: Option<Timeouts>,
    pub(super) upgrades: Option<bool>,
    /// Set when a part of its matches could not be read and counts as "all".
    pub(super) guessed: bool,
    pub(super) sealed: Option<Box<str>>,
}

/// A service that is to be compiled or sealed.
#[derive(Debug)]
pub(super) struct ServicePlan {
    pub(super) hosts: Hosts,
    pub(super) target: TargetPlan,
    pub(super) plugins: Chain,
    pub(super) upgrades: Option<bool>,
    pub(super) sealed: Option<Box<str>>,
}

/// Where requests are to go.
#[derive(Debug)]
pub(super) enum TargetPlan {
    Own(Box<Upstream>),
    Shared(Text),
    None,
}

/// The model of an entry, when this build can serve all of it; else why not.
pub(super) fn model_of(kind: &KindInfo, entry: &Entry) -> Result<Model, String> {
    match kind.read_plain(&entry.body) {
        Some(model) => served(model),
        None => judge(kind, &body_of(entry)?),
    }
}

/// The body of an entry; else why it has none.
pub(super) fn body_of(entry: &Entry) -> Result<Value, String> {
    serde_json::from_str(&entry.body).map_err(|e| format!("its body is no JSON: {e}"))
}

/// The model of a body, when this build can serve all of it; else why not.
pub(super) fn judge(kind: &KindInfo, body: &Value) -> Result<Model, String> {
    served(kind.read(body).map_err(|report| one_line(&report.to_string()))?)
}

fn served(model: Model) -> Result<Model, String> {
    let missing = unsupported(&model);
    if !missing.is_empty() {
        let reasons: Vec<_> = missing.iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect();
        return Err(one_line(&reasons.join("\n")));
    }
    Ok(model)
}

/// The longest reason that is reported, in bytes: a thousand of them fit into one message.
const REASON_BYTES_MAX: usize = 512;

pub(super) fn one_line(text: &str) -> String {
    let mut line = text.replace('\n', "; ");
    if line.len() > REASON_BYTES_MAX {
        let end = (0..=REASON_BYTES_MAX).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

impl RoutePlan {
    pub(super) fn of(route: Route, router: Router, plugins: Chain) -> Self {
        Self {
            paths: compile_paths(&route.uris, router),
            hosts: Hosts::of(route.hosts),
            methods: route.methods,
            remote_addrs: route.remote_addrs.into(),
            vars: route.vars,
            priority: route.priority,
            enabled: route.status == RouteStatus::Enabled,
            service: route.service_id.map(|key| key.id),
            target: TargetPlan::of(route.upstream, route.upstream_id.map(|key| key.id)),
            plugins,
            plugin_config: route.plugin_config_id.map(|key| key.id),
            timeouts: route.timeouts,
            upgrades: route.enable_websocket,
            guessed: false,
            sealed: None,
        }
    }

    pub(super) fn sealed(body: &str, reason: &str, router: Router) -> Self {
        let outline = RouteOutline::read(body);
        let unreadable_paths = outline.uris.is_empty();
        let any = [UriPattern::Prefix("".into())];
        Self {
            paths: compile_paths(if unreadable_paths { &any } else { &outline.uris }, router),
            guessed: unreadable_paths || outline.hosts == Hosts::Unreadable,
            hosts: outline.hosts,
            methods: outline.methods,
            remote_addrs: outline.remote_addrs.into(),
            vars: None,
            priority: outline.priority,
            enabled: !outline.disabled,
            service: outline.service,
            target: TargetPlan::None,
            plugins: Chain::default(),
            plugin_config: None,
            timeouts: None,
            upgrades: None,
            sealed: Some(reason.into()),
        }
    }
}

impl ServicePlan {
    pub(super) fn of(service: Service, plugins: Chain) -> Self {
        Self {
            hosts: Hosts::of(service.hosts),
            target: TargetPlan::of(service.upstream.map(Box::new), service.upstream_id.map(|key| key.id)),
            plugins,
            upgrades: service.enable_websocket,
            sealed: None,
        }
    }

    pub(super) fn sealed(body: &str, reason: &str) -> Self {
        let hosts = outline::service_hosts(body);
        let (plugins, upgrades) = (Chain::default(), None);
        Self { hosts, target: TargetPlan::None, plugins, upgrades, sealed: Some(reason.into()) }
    }

    /// The hosts, and whether they count as "all" because none could be read.
    pub(super) fn listed_hosts(&self) -> (Arc<[HostPattern]>, bool) {
        (self.hosts.readable().into(), self.hosts == Hosts::Unreadable)
    }
}

impl TargetPlan {
    pub(super) fn of(own: Option<Box<Upstream>>, shared: Option<Text>) -> Self {
        match (own, shared) {
            (Some(own), _) => Self::Own(own),
            (None, Some(id)) => Self::Shared(id),
            (None, None) => Self::None,
        }
    }
}

fn compile_paths(uris: &[UriPattern], router: Router) -> Patterns {
    // The number of a pattern stands in 16 bits; a body is far too small for more, and a surplus would match nothing.
    uris.iter().take(usize::from(u16::MAX)).map(|uri| PathPattern::compile(uri, router.reads_parameters())).collect()
}
