//! The upstreams to which plugins may send requests: see [`plugins::Behaviour::destinations`].

use plugins::{Chain, Destination};
use protocol::{ResourceKey, Text};

use super::Compiler;
use crate::table::route::Target;

impl Compiler {
    /// Puts the destinations of a resource's plugins in the place of those that it had.
    pub(super) fn put_destinations(&mut self, key: &ResourceKey, chain: &Chain) {
        let mut named: Vec<(&'static str, &Destination)> = Vec::new();
        for instance in chain.iter() {
            let destinations = instance.behaviour().destinations().iter();
            named.extend(destinations.map(|destination| (instance.plugin.name, destination)));
        }
        if named.is_empty() && self.table.destinations.is_empty() {
            return;
        }
        let owner = Text::from(key.to_string());
        let old = self.table.destinations.remove(&owner);
        let old = old.as_deref().unwrap_or_default();
        // New references are taken before old ones are given back, so that what both name stays where it is.
        let mut old = old.iter().map(|(_, target)| target);
        let mut given_back = Vec::new();
        let mut all = Vec::with_capacity(named.len());
        for (at, (plugin, destination)) in named.into_iter().enumerate() {
            let before = old.next();
            let target = match destination {
                Destination::Shared(id) => {
                    given_back.extend(before);
                    Target::Shared(self.upstreams.refer(id, &mut self.table.upstreams))
                }
                // The one that stood there before gives its place in turns and its nodes' connections to this one.
                Destination::Own(model) => {
                    Target::Own(self.upstreams.compile_own(&format!("{owner}/plugins/{plugin}/{at}"), model, before))
                }
            };
            all.push((plugin, target));
        }
        for target in given_back.into_iter().chain(old) {
            self.upstreams.release(Some(target));
        }
        if !all.is_empty() {
            self.table.destinations.insert(owner, all.into());
        }
    }
}
