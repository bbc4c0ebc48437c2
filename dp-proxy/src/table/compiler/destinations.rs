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
        let mut ids = Vec::new();
        let mut taken_over = vec![false; old.len()];
        let mut all = Vec::with_capacity(named.len());
        for (at, (plugin, destination)) in named.into_iter().enumerate() {
            let target = match destination {
                Destination::Shared(id) => {
                    ids.push(id.clone());
                    Target::Shared(self.upstreams.refer(id, &mut self.table.upstreams))
                }
                Destination::Own(model) => {
                    // The one that stood there before gives its place in turns and its nodes' connections to this one.
                    let before = old.get(at).map(|(_, target)| target);
                    taken_over.iter_mut().skip(at).take(1).for_each(|taken| *taken = true);
                    Target::Own(self.upstreams.compile_own(&format!("{owner}/plugins/{plugin}/{at}"), model, before))
                }
            };
            all.push((plugin, target));
        }
        for ((_, target), _) in old.iter().zip(taken_over).filter(|(_, taken)| !taken) {
            self.upstreams.release_own(Some(target));
        }
        if !all.is_empty() {
            self.table.destinations.insert(owner.clone(), all.into());
        }
        let old_ids = if ids.is_empty() {
            self.named_by_plugins.remove(&owner)
        } else {
            self.named_by_plugins.insert(owner, ids)
        };
        for id in old_ids.into_iter().flatten() {
            self.upstreams.release(&id);
        }
    }
}
