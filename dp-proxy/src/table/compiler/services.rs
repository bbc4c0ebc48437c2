//! Services: their slots, and where their routes stand when their hosts change.

use std::sync::Arc;

use protocol::Text;

use super::plan::ServicePlan;
use super::{Compiler, SERVICES};
use crate::table::route::{Route, Service};

impl Compiler {
    pub(super) fn service(&self, id: &Text) -> Option<&Arc<Service>> {
        self.table.services.get(self.services.get(id)?.index())?.as_ref()
    }

    pub(super) fn put_service(&mut self, id: &Text, plan: ServicePlan) {
        let (hosts, hosts_unreadable) = plan.listed_hosts();
        let old = self.service(id).cloned();
        let old_target = old.as_ref().and_then(|service| service.target.as_ref());
        let (target, upstream) = self.compile_target(&format!("{SERVICES}/{id}"), plan.target, old_target);
        let (plugins, upgrades, sealed) = (plan.plugins, plan.upgrades, plan.sealed);
        let service = Service { id: id.clone(), hosts, hosts_unreadable, target, plugins, upgrades, sealed };
        let same_hosts =
            old.as_ref().is_some_and(|old| old.hosts == service.hosts && old.hosts_unreadable == hosts_unreadable);
        self.services.put(id, &mut self.table.services, Arc::new(service));
        let old_upstream = match upstream {
            Some(upstream) => self.named_by_service.insert(id.clone(), upstream),
            None => self.named_by_service.remove(id),
        };
        if let Some(old_upstream) = old_upstream {
            self.upstreams.release(&old_upstream);
        }
        if !same_hosts {
            self.move_routes_of(id);
        }
    }

    pub(super) fn remove_service(&mut self, id: &Text) {
        if let Some(old) = self.services.remove(id, &mut self.table.services) {
            self.upstreams.release_own(old.target.as_ref());
        }
        if let Some(upstream) = self.named_by_service.remove(id) {
            self.upstreams.release(&upstream);
        }
        self.move_routes_of(id);
    }

    /// Lets the routes of a service stand where its hosts now say.
    fn move_routes_of(&mut self, service: &Text) {
        let Some(routes) = self.of_service.get(service) else { return };
        for id in routes.clone() {
            let Some(mut placed) = self.placed.remove(&id) else { continue };
            if let Some(route) = self.table.routes[placed.handle.index()].clone() {
                let (at, hosts) = self.router.split(self.where_to_stand(&placed, &route.paths));
                if at != placed.at {
                    self.leave(&placed, &route);
                    placed.at = at;
                    self.stand(&placed, &route);
                }
                if hosts != route.hosts {
                    self.routes.put(&id, &mut self.table.routes, Arc::new(Route { hosts, ..Route::clone(&route) }));
                }
            }
            self.placed.insert(id, placed);
        }
    }
}
