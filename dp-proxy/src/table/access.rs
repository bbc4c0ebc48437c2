//! What is run on requests beside what routes and services say themselves, and who is known.
//!
//! Each resource stands under its id in a persistent map, so an edit touches its own place however many routes use it.
//! Which plugins a request gets is put together when it comes: see [`super::Table::chains`].

use imbl::{HashMap, OrdMap};
use plugins::{Chain, Identity, Metadata, Proof};
use protocol::Text;

/// The plugins of a resource that others name.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Layer {
    /// They can be run.
    Ready(Chain),
    /// They cannot, for this reason: requests that need them are answered with 503.
    Sealed(Box<str>),
}

/// A consumer.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Consumer {
    pub(crate) identity: Identity,
    /// What is run on its requests.
    pub(crate) plugins: Chain,
}

/// How somebody is known to a plugin.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) consumer: Text,
    /// The credential that says so; `None`: the consumer itself.
    pub(crate) credential: Option<Text>,
    pub(crate) proof: Proof,
}

/// Everything that is asked for by id or key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    pub(crate) global_rules: OrdMap<Text, Chain>,
    pub(crate) plugin_configs: HashMap<Text, Layer>,
    pub(crate) consumer_groups: HashMap<Text, Layer>,
    pub(crate) consumers: HashMap<Text, Consumer>,
    /// What holds wherever a plugin is run, by its name.
    pub(crate) metadata: HashMap<Text, Metadata>,
    /// By plugin, then by what the plugin knows somebody by. Of several with one key, which only a control plane that
    /// was forced can have, the first by kind and id.
    known: HashMap<(&'static str, Box<str>), OrdMap<Text, Known>>,
}

impl Access {
    /// Who is known to a plugin by a key. Somebody whose consumer is not there is nobody.
    pub(crate) fn login(&self, plugin: &'static str, key: &str) -> Option<(&Known, &Consumer)> {
        let (_, known) = self.known.get(&(plugin, key.into()))?.iter().next()?;
        Some((known, self.consumers.get(&known.consumer)?))
    }

    /// Sets what holds wherever a plugin is run, or takes it away.
    pub(crate) fn set_metadata(&mut self, plugin: &Text, metadata: Option<Metadata>) {
        match metadata {
            Some(metadata) => drop(self.metadata.insert(plugin.clone(), metadata)),
            None => drop(self.metadata.remove(plugin)),
        }
    }

    /// Lets somebody be known; `by` is the resource that says so.
    pub(crate) fn learn(&mut self, plugin: &'static str, key: Box<str>, by: &Text, known: Known) {
        self.known.entry((plugin, key)).or_default().insert(by.clone(), known);
    }

    /// Takes that back.
    pub(crate) fn forget(&mut self, plugin: &'static str, key: &str, by: &Text) {
        let place = (plugin, key.into());
        let Some(all) = self.known.get_mut(&place) else { return };
        all.remove(by);
        if all.is_empty() {
            self.known.remove(&place);
        }
    }

    /// One fact a line, as [`super::Table::dump`]. Keys are secrets: who has one is told, not what it is.
    pub(crate) fn dump(&self) -> Vec<String> {
        let layer = |layer: &Layer| match layer {
            Layer::Ready(chain) => chain.to_string(),
            Layer::Sealed(reason) => format!("sealed: {reason}"),
        };
        let mut lines: Vec<String> =
            self.global_rules.iter().map(|(id, chain)| format!("global_rules/{id}: {chain}")).collect();
        lines.extend(self.plugin_configs.iter().map(|(id, l)| format!("plugin_configs/{id}: {}", layer(l))));
        lines.extend(self.consumer_groups.iter().map(|(id, l)| format!("consumer_groups/{id}: {}", layer(l))));
        lines.extend(self.consumers.iter().map(|(id, c)| format!("consumers/{id}: {:?} {}", c.identity, c.plugins)));
        lines.extend(self.metadata.iter().map(|(plugin, metadata)| format!("plugin_metadata/{plugin}: {metadata:?}")));
        let known = self.known.iter().flat_map(|((plugin, _), all)| all.iter().map(move |known| (plugin, known)));
        lines.extend(known.map(|(plugin, (by, known))| format!("{plugin} knows {} by {by}", known.consumer)));
        lines
    }
}
