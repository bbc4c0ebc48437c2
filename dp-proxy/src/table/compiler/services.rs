//! Services: their slots, and where their routes stand when their hosts change.

use std::sync::Arc;

use protocol::Text;

use super::plan::ServicePlan;
use super::{Compiler, SERVICES};
use crate::table::route::Service;

impl Compiler {
    pub(super) fn service(&self, id: &Text) -> Option<&Arc<Service>> {
        self.table.services.get(self.services.get(id)?.index())?.as_ref()
    }

    pub(super) fn put_service(&mut self, id: &Text, plan: ServicePlan) {
        let (hosts, hosts_unreadable) = plan.listed_hosts();
        let old = self.service(id).cloned();
        let old_target = old.as_ref().and_then(|service| service.target.as_ref());
        let target = self.compile_target(|| format!("{SERVICES}/{id}"), plan.target, old_target);
        let (plugins, upgrades, sealed) = (plan.plugins, plan.upgrades, plan.sealed);
        let service = Service { id: id.clone(), hosts, hosts_unreadable, target, plugins, upgrades, sealed };
        let same_hosts =
            old.as_ref().is_some_and(|old| old.hosts == service.hosts && old.hosts_unreadable == hosts_unreadable);
        let handle = self.services.put(id, &mut self.table.services, Arc::new(service));
        if !same_hosts {
            self.move_routes_of(handle, old.as_ref());
        }
    }

    pub(super) fn remove_service(&mut self, id: &Text) {
        let Some(handle) = self.services.get(id) else { return };
        let old = self.services.remove(id, &mut self.table.services);
        self.move_routes_of(handle, old.as_ref());
        self.upstreams.release(old.as_ref().and_then(|old| old.target.as_ref()));
    }
}
