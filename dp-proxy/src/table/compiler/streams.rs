//! Stream routes: where they stand, and what they refer to.

use std::sync::Arc;

use ipnet::IpNet;
use protocol::Text;
use protocol::resource::{self, Model, plugin_place};

use super::super::outline::StreamOutline;
use super::super::streams::{Place, StreamRoute};
use super::plan::TargetPlan;
use super::{Compiler, STREAM_ROUTES};

/// A stream route that is to be compiled or sealed.
#[derive(Debug)]
pub(super) struct StreamPlan {
    /// `None`: it takes nothing.
    place: Option<Place>,
    remote_addr: Option<IpNet>,
    server_addr: Option<IpNet>,
    service: Option<Text>,
    target: TargetPlan,
    sealed: Option<Box<str>>,
}

/// A stream route, and where it stands.
#[derive(Debug)]
pub(super) struct PlacedStream {
    place: Option<Place>,
    route: Arc<StreamRoute>,
}

/// Plugins are not run on streams: what they would stop must not pass.
pub(super) fn check_plugins(model: &Model) -> Result<(), String> {
    match model {
        Model::StreamRoute(route) => route
            .plugins
            .keys()
            .next()
            .map_or(Ok(()), |name| Err(format!("{}: the plugin is not run on streams", plugin_place(name)))),
        _ => Ok(()),
    }
}

impl StreamPlan {
    pub(super) fn of(route: resource::StreamRoute) -> Self {
        Self {
            place: Some((route.sni.map(|sni| sni.to_string().into()), route.server_port)),
            remote_addr: route.remote_addr,
            server_addr: route.server_addr,
            service: route.service_id.map(|key| key.id),
            target: TargetPlan::of(route.upstream.map(Box::new), route.upstream_id.map(|key| key.id)),
            sealed: None,
        }
    }

    pub(super) fn sealed(body: &str, reason: &str) -> Self {
        let StreamOutline { place, remote_addr, server_addr } = StreamOutline::read(body);
        let sealed = Some(reason.into());
        Self { place, remote_addr, server_addr, service: None, target: TargetPlan::None, sealed }
    }
}

impl Compiler {
    pub(super) fn put_stream(&mut self, id: &Text, plan: StreamPlan) {
        let old = self.streams.remove(id);
        let old_target = old.as_ref().and_then(|old| old.route.target.as_ref());
        let target = self.compile_target(|| format!("{STREAM_ROUTES}/{id}"), plan.target, old_target);
        let service = plan.service.as_ref().map(|id| self.services.refer(id, &mut self.table.services));
        if let Some(old) = old {
            self.leave_stream(id, &old);
        }
        let StreamPlan { place, remote_addr, server_addr, sealed, .. } = plan;
        let route = Arc::new(StreamRoute { id: id.clone(), remote_addr, server_addr, target, service, sealed });
        if let Some(place) = &place {
            self.table.streams.place(place, route.clone());
        }
        self.streams.insert(id.clone(), PlacedStream { place, route });
    }

    pub(super) fn remove_stream(&mut self, id: &Text) {
        let Some(old) = self.streams.remove(id) else { return };
        self.upstreams.release(old.route.target.as_ref());
        self.leave_stream(id, &old);
    }

    /// Takes a stream route out of its place and gives back its service; where it sent its connections was seen to before.
    fn leave_stream(&mut self, id: &Text, old: &PlacedStream) {
        if let Some(place) = &old.place {
            self.table.streams.remove(place, id);
        }
        if let Some(service) = old.route.service {
            self.services.release(service);
        }
    }
}
