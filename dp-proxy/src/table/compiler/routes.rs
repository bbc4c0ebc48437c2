//! Routes: where they stand in the trees of hosts and paths, and what they refer to.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use imbl::Vector;
use protocol::Text;

use super::plan::{RoutePlan, TargetPlan};
use super::{Compiler, ROUTES};
use crate::table::hosts::Standing;
use crate::table::outline::Hosts;
use crate::table::paths::PathPattern;
use crate::table::route::{Conditions, Route, Seldom, Service, Target};
use crate::table::{Handle, Table, slots};

/// The routes by id, and what else is to be known of them to take them out of the trees again.
///
/// There may be very many, and so an id stands only once, in the slab.
#[derive(Debug, Default)]
pub(super) struct Routes {
    by_id: HashTable<Handle>,
    hasher: RandomState,
    /// By handle.
    places: Vec<Option<Place>>,
    free: Vec<Handle>,
}

/// What of a route says where it stands, beside its paths and its service.
#[derive(Debug)]
struct Place {
    hosts: Hosts,
    enabled: bool,
    guessed: bool,
}

type Slab = Vector<Option<Arc<Route>>>;

impl Routes {
    /// Makes room for so many more.
    pub(super) fn reserve(&mut self, more: usize, slab: &Slab) {
        self.by_id.reserve(more, |handle| self.hasher.hash_one(id_of(slab, *handle)));
        self.places.reserve_exact(more);
    }

    /// The route of an id.
    pub(super) fn get<'s>(&self, id: &str, slab: &'s Slab) -> Option<(Handle, &'s Arc<Route>)> {
        let handle = *self.by_id.find(self.hasher.hash_one(id), |handle| id_of(slab, *handle) == id)?;
        slab[handle.index()].as_ref().map(|route| (handle, route))
    }

    /// A handle for a route that is put into the slab and [entered](Self::enter) next.
    fn vacant(&mut self, slab: &mut Slab) -> Handle {
        self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            slots::push(slab)
        })
    }

    /// Knows the route under a handle from now on.
    fn enter(&mut self, handle: Handle, slab: &Slab) {
        let hash = |handle: &Handle| self.hasher.hash_one(id_of(slab, *handle));
        self.by_id.insert_unique(hash(&handle), handle, hash);
    }

    /// Takes a route out that is there.
    fn remove(&mut self, handle: Handle, slab: &mut Slab) {
        if let Ok(entry) = self.by_id.find_entry(self.hasher.hash_one(id_of(slab, handle)), |other| *other == handle) {
            entry.remove();
        }
        slab[handle.index()] = None;
        self.places[handle.index()] = None;
        self.free.push(handle);
    }
}

fn id_of(slab: &Slab, handle: Handle) -> &str {
    &slab[handle.index()].as_ref().expect("what has an id is in the slab").id
}

impl Place {
    /// Where a route stands, given its paths, its own hosts and those of the service that it has.
    fn standing<'h>(&'h self, paths: &[PathPattern], service: Option<&'h Arc<Service>>) -> Standing<'h> {
        let (hosts, guessed) = match (&self.hosts, service) {
            (Hosts::None, Some(service)) => (&*service.hosts, self.guessed || service.hosts_unreadable),
            (hosts, _) => (hosts.readable(), self.guessed),
        };
        let takes_everything = hosts.is_empty() && paths.iter().any(PathPattern::is_any);
        if !self.enabled || (guessed && takes_everything) {
            return Standing::Nowhere;
        }
        if hosts.is_empty() { Standing::Anywhere } else { Standing::Under(hosts) }
    }
}

impl Compiler {
    pub(super) fn put_route(&mut self, id: &Text, plan: RoutePlan) {
        let old = self.routes.get(id, &self.table.routes).map(|(handle, route)| (handle, route.clone()));
        // New references are taken before old ones are given back, so that what both name stays where it is.
        let old_target = old.as_ref().and_then(|(_, route)| route.target.as_ref());
        let target = self.compile_target(|| format!("{ROUTES}/{id}"), plan.target, old_target);
        let service = plan.service.as_ref().map(|id| self.services.refer(id, &mut self.table.services));

        let Self { router, routes, table, .. } = self;
        let Table { hosts: trees, routes: slab, services, .. } = table;
        let service_of = |handle: Option<Handle>| services[handle?.index()].as_ref();
        let place = Place { hosts: plan.hosts, enabled: plan.enabled, guessed: plan.guessed };
        let (standing, hosts) = router.split(place.standing(&plan.paths, service_of(service)));
        let route = Arc::new(Route {
            id: id.clone(),
            paths: plan.paths,
            priority: plan.priority,
            methods: plan.methods,
            conditions: Conditions { hosts: hosts.into(), remote_addrs: plan.remote_addrs, vars: plan.vars }.boxed(),
            target,
            service,
            plugins: plan.plugins,
            upgrades: plan.upgrades,
            seldom: Seldom { plugin_config: plan.plugin_config, timeouts: plan.timeouts, sealed: plan.sealed }.boxed(),
        });
        let handle = match &old {
            None => {
                let handle = routes.vacant(slab);
                slab[handle.index()] = Some(route.clone());
                routes.enter(handle, slab);
                trees.update(standing, |paths| paths.insert(handle, &route, slab));
                handle
            }
            Some((handle, old)) => {
                let old_place = routes.places[handle.index()].as_ref().expect("a route has a place");
                let (stood, _) = router.split(old_place.standing(&old.paths, service_of(old.service)));
                // Where it takes what it took, only what becomes of the requests is new.
                let moves = stood != standing || !old.has_matches_of(&route);
                if moves {
                    trees.update(stood, |paths| paths.remove(*handle, old));
                }
                slab[handle.index()] = Some(route.clone());
                if moves {
                    trees.update(standing, |paths| paths.insert(*handle, &route, slab));
                }
                *handle
            }
        };
        routes.places[handle.index()] = Some(place);
        self.join_service(handle, service, old.and_then(|(_, old)| old.service));
    }

    pub(super) fn remove_route(&mut self, id: &Text) {
        let Some((handle, route)) = self.routes.get(id, &self.table.routes) else { return };
        let route = route.clone();
        let Table { hosts: trees, routes: slab, services, .. } = &mut self.table;
        let service = route.service.and_then(|service| services[service.index()].as_ref());
        let place = self.routes.places[handle.index()].as_ref().expect("a route has a place");
        let (stood, _) = self.router.split(place.standing(&route.paths, service));
        trees.update(stood, |paths| paths.remove(handle, &route));
        self.routes.remove(handle, slab);
        self.upstreams.release(route.target.as_ref());
        self.join_service(handle, None, route.service);
    }

    /// Notes which service a route has, for which a reference was taken, and gives back the one that it had.
    fn join_service(&mut self, route: Handle, service: Option<Handle>, old: Option<Handle>) {
        if service != old {
            if let Some(service) = service {
                self.of_service.entry(service).or_default().insert(route);
            }
            if let Some(old) = old
                && let Some(routes) = self.of_service.get_mut(&old)
            {
                routes.remove(&route);
                if routes.is_empty() {
                    self.of_service.remove(&old);
                }
            }
        }
        if let Some(old) = old {
            self.services.release(old);
        }
    }

    /// Lets the routes of a service, which was `before`, stand where its hosts now say.
    pub(super) fn move_routes_of(&mut self, service: Handle, before: Option<&Arc<Service>>) {
        let Self { router, routes, table, of_service, .. } = self;
        let Table { hosts: trees, routes: slab, services, .. } = table;
        let now = services[service.index()].as_ref();
        for handle in of_service.get(&service).into_iter().flatten() {
            let route = slab[handle.index()].clone().expect("a service's routes are in the slab");
            let place = routes.places[handle.index()].as_ref().expect("a route has a place");
            let (stood, old_hosts) = router.split(place.standing(&route.paths, before));
            let (standing, hosts) = router.split(place.standing(&route.paths, now));
            if stood != standing {
                trees.update(stood, |paths| paths.remove(*handle, &route));
                trees.update(standing, |paths| paths.insert(*handle, &route, slab));
            }
            if old_hosts != hosts {
                let conditions = route.conditions.as_deref().cloned().unwrap_or_default();
                let conditions = Conditions { hosts: hosts.into(), ..conditions }.boxed();
                slab[handle.index()] = Some(Arc::new(Route { conditions, ..Route::clone(&route) }));
            }
        }
    }

    /// Compiles where requests go, in place of `old`, which is given back.
    pub(super) fn compile_target(
        &mut self,
        owner: impl FnOnce() -> String,
        plan: TargetPlan,
        old: Option<&Target>,
    ) -> Option<Target> {
        match plan {
            TargetPlan::Own(model) => Some(Target::Own(self.upstreams.compile_own(&owner(), &model, old))),
            TargetPlan::Shared(id) => {
                let handle = self.upstreams.refer(&id, &mut self.table.upstreams);
                self.upstreams.release(old);
                Some(Target::Shared(handle))
            }
            TargetPlan::None => {
                self.upstreams.release(old);
                None
            }
        }
    }
}

impl Route {
    fn has_matches_of(&self, other: &Self) -> bool {
        self.paths == other.paths && self.priority == other.priority && self.methods == other.methods
    }
}
