//! Routes: where they stand in the trees of hosts and paths, and what they refer to.

use std::sync::Arc;

use protocol::Text;
use protocol::resource::HostPattern;

use super::plan::{RoutePlan, TargetPlan};
use super::{Compiler, Placed, ROUTES};
use crate::table::outline::Hosts;
use crate::table::paths::PathPattern;
use crate::table::route::{Route, Target};
use crate::table::{Handle, Table};

impl Compiler {
    pub(super) fn put_route(&mut self, id: &Text, plan: RoutePlan) {
        let old = self.placed.remove(id);
        let old_route = old.as_ref().and_then(|placed| self.table.routes[placed.handle.index()].clone());
        // New references are taken before old ones are given back, so that what both name stays where it is.
        let (target, upstream) = self.compile_target(
            &format!("{ROUTES}/{id}"),
            plan.target,
            old_route.as_ref().and_then(|r| r.target.as_ref()),
        );
        let service = plan.service.as_ref().map(|id| self.services.refer(id, &mut self.table.services));
        let mut placed = Placed {
            handle: Handle(0),
            at: Vec::new(),
            hosts: plan.hosts,
            enabled: plan.enabled,
            guessed: plan.guessed,
            service: plan.service,
            upstream,
        };
        let (at, hosts) = self.router.split(self.where_to_stand(&placed, &plan.paths));
        placed.at = at;
        let route = Arc::new(Route {
            id: id.clone(),
            paths: plan.paths,
            hosts,
            priority: plan.priority,
            methods: plan.methods,
            remote_addrs: plan.remote_addrs,
            vars: plan.vars,
            target,
            service,
            plugins: plan.plugins,
            plugin_config: plan.plugin_config,
            upgrades: plan.upgrades,
            timeouts: plan.timeouts,
            sealed: plan.sealed,
        });
        if let (Some(old), Some(old_route)) = (&old, &old_route)
            && old.at == placed.at
            && old_route.has_matches_of(&route)
        {
            // It takes what it took: only what becomes of the requests is new.
            self.routes.put(id, &mut self.table.routes, route);
            placed.handle = old.handle;
        } else {
            if let (Some(old), Some(old_route)) = (&old, &old_route) {
                self.leave(old, old_route);
            }
            self.routes.put(id, &mut self.table.routes, route.clone());
            placed.handle = self.routes.get(id).expect("it was put just now");
            self.stand(&placed, &route);
        }
        if let Some(service) = &placed.service {
            self.of_service.entry(service.clone()).or_default().insert(id.clone());
        }
        let keeps_service = old.as_ref().is_some_and(|old| old.service == placed.service);
        self.placed.insert(id.clone(), placed);
        if let Some(old) = old {
            self.release(id, old, keeps_service);
        }
    }

    pub(super) fn remove_route(&mut self, id: &Text) {
        let Some(placed) = self.placed.remove(id) else { return };
        if let Some(route) = self.table.routes[placed.handle.index()].clone() {
            self.leave(&placed, &route);
            self.upstreams.release_own(route.target.as_ref());
        }
        self.routes.remove(id, &mut self.table.routes);
        self.release(id, placed, false);
    }

    /// Gives back what a route that was replaced or removed referred to. Its own upstream was seen to before.
    fn release(&mut self, id: &Text, old: Placed, keeps_service: bool) {
        if let Some(service) = &old.service {
            self.services.release(service);
            if !keeps_service && let Some(routes) = self.of_service.get_mut(service) {
                routes.remove(id);
                if routes.is_empty() {
                    self.of_service.remove(service);
                }
            }
        }
        if let Some(upstream) = &old.upstream {
            self.upstreams.release(upstream);
        }
    }

    /// The patterns of hosts under which a route stands, given its own hosts and its service's.
    pub(super) fn where_to_stand(&self, placed: &Placed, paths: &[PathPattern]) -> Vec<Option<HostPattern>> {
        let mut guessed = placed.guessed;
        let hosts: Vec<HostPattern> = match &placed.hosts {
            Hosts::Some(own) => own.clone(),
            Hosts::Unreadable => Vec::new(),
            Hosts::None => match placed.service.as_ref().and_then(|id| self.service(id)) {
                Some(service) => {
                    guessed |= service.hosts_unreadable;
                    service.hosts.to_vec()
                }
                None => Vec::new(),
            },
        };
        let takes_everything = hosts.is_empty() && paths.iter().any(PathPattern::is_any);
        if !placed.enabled || (guessed && takes_everything) {
            return Vec::new();
        }
        if hosts.is_empty() { vec![None] } else { hosts.into_iter().map(Some).collect() }
    }

    pub(super) fn stand(&mut self, placed: &Placed, route: &Route) {
        let Table { hosts, routes, .. } = &mut self.table;
        for host in &placed.at {
            hosts.update(host.as_ref(), |paths| paths.insert(placed.handle, route, routes));
        }
    }

    pub(super) fn leave(&mut self, placed: &Placed, route: &Route) {
        for host in &placed.at {
            self.table.hosts.update(host.as_ref(), |paths| paths.remove(placed.handle, route));
        }
    }

    /// Compiles where requests go, in place of `old`; with the id of a shared upstream.
    pub(super) fn compile_target(
        &mut self,
        owner: &str,
        plan: TargetPlan,
        old: Option<&Target>,
    ) -> (Option<Target>, Option<Text>) {
        match plan {
            TargetPlan::Own(model) => {
                let own = self.upstreams.compile_own(owner, &model, old);
                (Some(Target::Own(own)), None)
            }
            TargetPlan::Shared(id) => {
                self.upstreams.release_own(old);
                let handle = self.upstreams.refer(&id, &mut self.table.upstreams);
                (Some(Target::Shared(handle)), Some(id))
            }
            TargetPlan::None => {
                self.upstreams.release_own(old);
                (None, None)
            }
        }
    }
}

impl Route {
    fn has_matches_of(&self, other: &Self) -> bool {
        self.paths == other.paths && self.priority == other.priority && self.methods == other.methods
    }
}
