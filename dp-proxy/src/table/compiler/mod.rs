//! Compiles changes of the configuration into the next table. The only writer.
//!
//! The state always evolves; only the table may hold a resource back. A resource whose newest entry this build cannot
//! serve keeps its last good entry; without one it is sealed: it answers 503 wherever it is used, and still takes its
//! requests ([`super::outline`] says which).

mod access;
mod ahead;
mod destinations;
mod elsewhere;
mod plan;
mod routes;
mod services;
mod streams;
mod upstreams;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use daemon::planted;
use plugins::{Chain, Metadata};
use protocol::delta::Change;
use protocol::resource::{KindInfo, Model, SslRole, Vault};
use protocol::{ConfigState, Entry, Kind, Position, ResourceKey, Text};

use super::client_tls::{ClientTls, ClientTlsSlot};
use super::router::Router;
use super::slots::Slots;
use super::ssl::{self, Keys, Ssl, SslSlot, TlsTerms};
use super::{Handle, Table};
use crate::health::Registry;
use crate::secrets::Secrets;
use access::{Logins, Opening, ReadyPlugins};
use ahead::Read;
use plan::{RoutePlan, ServicePlan, body_of, judge, model_of};
use routes::Routes;
use streams::{PlacedStream, StreamPlan};
use upstreams::Upstreams;

const ROUTES: &str = "routes";
const SECRETS: &str = "secrets";
const SERVICES: &str = "services";
const SSLS: &str = "ssls";
const STREAM_ROUTES: &str = "stream_routes";
const UPSTREAMS: &str = "upstreams";
/// Rules for every request: when one cannot be enforced, none may pass ([`Table::barred`]).
const GLOBAL_RULES: &str = "global_rules";
const CONSUMERS: &str = "consumers";
const CREDENTIALS: &str = "credentials";
const CONSUMER_GROUPS: &str = "consumer_groups";
const PLUGIN_CONFIGS: &str = "plugin_configs";
const PLUGIN_METADATA: &str = "plugin_metadata";

/// A resource whose newest entry is not served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// Why.
    pub reason: String,
    /// Whether its last good entry is served in its place; otherwise it is sealed.
    pub last_good: bool,
}

/// Keeps a table that follows the configuration. A clone of [`Self::table`] is what is published.
#[derive(Debug, Default)]
pub struct Compiler {
    table: Table,
    routes: Routes,
    services: Slots,
    upstreams: Upstreams,
    /// The routes of each service.
    of_service: HashMap<Handle, HashSet<Handle>>,
    rejected: BTreeMap<ResourceKey, Rejected>,
    last_good: BTreeMap<ResourceKey, Arc<Entry>>,
    barring: BTreeSet<Text>,
    router: Router,
    tls: Arc<TlsTerms>,
    /// The patterns under which each ssl stands.
    ssls: HashMap<Text, Vec<Text>>,
    logins: Logins,
    streams: HashMap<Text, PlacedStream>,
    /// Secrets that are kept elsewhere.
    secrets: Secrets,
}

/// An entry that is put into the table.
enum Ready {
    /// With what became of its plugins.
    Model(Model, ReadyPlugins),
    /// An ssl, and the patterns under which it stands.
    Ssl(Vec<Text>, Arc<Ssl>),
    /// An ssl that nodes are shown.
    ClientTls(Arc<ClientTls>),
    /// A secret manager from which secrets are read; `None`: one that nothing is read from.
    Manager(Option<Vault>),
    /// What holds wherever a plugin is run; `None`: the plugin reads nothing of the kind.
    Metadata(Option<Metadata>),
}

impl Compiler {
    /// Compiles a whole configuration. `last_good` are the entries that were served in place of ones that could not be.
    #[must_use]
    pub fn fresh(state: &ConfigState, last_good: &BTreeMap<ResourceKey, Arc<Entry>>) -> Self {
        Self::watching(Arc::default()).with(state, last_good)
    }

    /// One of nothing, whose nodes are to be watched there.
    #[must_use]
    pub fn watching(health: Arc<Registry>) -> Self {
        Self { upstreams: Upstreams::watching(health), ..Self::default() }
    }

    /// One that compiles ssls on these terms.
    #[must_use]
    pub fn on_terms(mut self, tls: Arc<TlsTerms>) -> Self {
        self.table.anonymous = tls.anonymous.clone();
        self.upstreams.set_anonymous(tls.anonymous.clone());
        self.tls = tls;
        self
    }

    /// One that asks hosts and paths in this order.
    #[must_use]
    pub fn routed_by(self, router: Router) -> Self {
        Self { router, ..self }
    }

    /// Compiles a whole configuration into one that has none yet. `last_good` is as for [`Self::fresh`].
    #[must_use]
    pub fn with(self, state: &ConfigState, last_good: &BTreeMap<ResourceKey, Arc<Entry>>) -> Self {
        let mut compiler = self;
        for kind in ORDER {
            let Some(info) = KindInfo::find(kind) else { continue };
            let entries: Vec<_> = state.of_kind(&Kind::new(kind)).collect();
            if kind == ROUTES {
                compiler.routes.reserve(entries.len(), &compiler.table.routes);
            }
            ahead::each_model(info, &entries, |key, entry, model| {
                compiler.take(key, Some((entry, model)), last_good.get(key));
            });
        }
        compiler.table.position = state.position();
        compiler
    }

    /// Takes a step: `changes` led from `before` to `position`.
    pub fn apply(&mut self, before: &ConfigState, position: Position, changes: &[Change]) {
        // What is referred to comes first, so that a route finds its service's hosts.
        for kind in ORDER {
            for change in changes.iter().filter(|change| change.key.kind.as_str() == kind) {
                let good = self.last_good.get(&change.key).or_else(|| {
                    // The entry of before is what is served, unless it was rejected itself.
                    before.get(&change.key).filter(|_| !self.rejected.contains_key(&change.key))
                });
                let good = good.cloned();
                self.take(&change.key, change.entry.as_ref().map(|entry| (entry, None)), good.as_ref());
            }
        }
        self.table.position = position;
    }

    /// Learns that nothing changed up to a position.
    pub fn bookmark(&mut self, position: Position) {
        self.table.position = position;
    }

    /// The table as it stands.
    #[must_use]
    pub fn table(&self) -> Table {
        self.table.clone()
    }

    /// Every resource whose newest entry is not served, by key.
    #[must_use]
    pub fn rejected(&self) -> &BTreeMap<ResourceKey, Rejected> {
        &self.rejected
    }

    /// The entries that are served in place of newer ones, by key.
    #[must_use]
    pub fn last_good(&self) -> &BTreeMap<ResourceKey, Arc<Entry>> {
        &self.last_good
    }

    /// Takes in what a resource is now, with its model if that was read ahead.
    fn take(&mut self, key: &ResourceKey, entry: Option<(&Arc<Entry>, Option<Read>)>, good: Option<&Arc<Entry>>) {
        self.rejected.remove(key);
        self.last_good.remove(key);
        self.forget_elsewhere(key);
        let Some(kind) = KindInfo::find(key.kind.as_str()) else { return };
        let Some((entry, model)) = entry else { return self.remove(key) };
        self.note_elsewhere(key, &entry.body);
        let reason = match self.ready(kind, key, entry, model) {
            Ok(ready) => return self.put(key, ready),
            Err(reason) => reason,
        };
        let good = good.filter(|_| !planted!("last-good-is-forgotten")).and_then(|good| {
            self.note_elsewhere(key, &good.body);
            self.ready(kind, key, good, None).ok().map(|ready| (good, ready))
        });
        self.rejected.insert(key.clone(), Rejected { reason: reason.clone(), last_good: good.is_some() });
        match good {
            Some((good, ready)) => {
                self.last_good.insert(key.clone(), good.clone());
                self.put(key, ready);
            }
            None if planted!("rejected-is-left-out") => self.remove(key),
            None => self.seal(key, &entry.body, &reason),
        }
    }

    /// What an entry becomes; what can fail of that has been done. Its model may have been read ahead.
    fn ready(&self, kind: &KindInfo, key: &ResourceKey, entry: &Entry, model: Option<Read>) -> Result<Ready, String> {
        if !is_read_alone(kind.name) {
            return self.ready_with_body(kind, key, entry);
        }
        let model = model.unwrap_or_else(|| model_of(kind, entry))?;
        streams::check_plugins(&model)?;
        let none = serde_json::Map::new();
        let stored = model.plugins().unwrap_or(&none);
        let opening = Opening { keyring: self.tls.keyring.as_ref(), secrets: &self.secrets };
        let before = if stored.is_empty() { Chain::default() } else { self.plugins_before(key) };
        let ready = access::compile(key, stored, opening, &before)?;
        Ok(Ready::Model(model, ready))
    }

    /// The same for the kinds of which more is read than their model.
    fn ready_with_body(&self, kind: &KindInfo, key: &ResourceKey, entry: &Entry) -> Result<Ready, String> {
        let mut body = body_of(entry)?;
        let may_be_clear = kind.name == SSLS && self.resolve_ssl(entry, &mut body)?;
        let keys = Keys { terms: &self.tls, may_be_clear };
        Ok(match judge(kind, &body)? {
            Model::Ssl(ssl) if ssl.role == SslRole::Client => {
                Ready::ClientTls(Arc::new(ssl::compile_client(&key.id, &ssl, keys)?))
            }
            Model::Ssl(ssl) => {
                let patterns = ssl::patterns(&ssl);
                let compiled = ssl::compile(&key.id, &ssl, keys)?;
                Ready::Ssl(patterns, Arc::new(compiled))
            }
            Model::SecretManager(_) => Ready::Manager(self.vault(key, body)?),
            _ => {
                let read = Metadata::read(&key.id, &body);
                Ready::Metadata(read.map_err(|report| plan::one_line(&report.to_string()))?)
            }
        })
    }

    /// The plugins that a resource has in the table as it stands.
    fn plugins_before(&self, key: &ResourceKey) -> Chain {
        match key.kind.as_str() {
            ROUTES => {
                let route = self.routes.get(&key.id, &self.table.routes);
                route.map(|(_, route)| route.plugins.clone()).unwrap_or_default()
            }
            SERVICES => self.service(&key.id).map(|service| service.plugins.clone()).unwrap_or_default(),
            _ => self.table.access.before(key),
        }
    }

    fn put(&mut self, key: &ResourceKey, ready: Ready) {
        if let Ready::Model(_, ready) = &ready {
            self.put_destinations(key, &ready.chain);
        }
        let (model, ready) = match ready {
            Ready::Model(model, ready) => (model, ready),
            Ready::Ssl(patterns, ssl) => return self.put_ssl(&key.id, patterns, &SslSlot::Ready(ssl)),
            Ready::ClientTls(tls) => {
                self.remove_ssl(&key.id);
                return self.set_client_tls(&key.id, Some(ClientTlsSlot::Ready(tls)));
            }
            Ready::Metadata(metadata) => return self.table.access.set_metadata(&key.id, metadata),
            Ready::Manager(vault) => return self.secrets.set_manager(&key.id, vault.map(Ok)),
        };
        match model {
            Model::Route(route) => self.put_route(&key.id, RoutePlan::of(*route, self.router, ready.chain)),
            Model::Service(service) => self.put_service(&key.id, ServicePlan::of(*service, ready.chain)),
            Model::StreamRoute(route) => self.put_stream(&key.id, StreamPlan::of(*route)),
            // They became ready above.
            Model::Ssl(_) | Model::SecretManager(_) | Model::PluginMetadata(_) => {}
            Model::Upstream(upstream) => self.upstreams.put(&key.id, Ok(&upstream), &mut self.table.upstreams),
            Model::GlobalRule(_) => {
                self.bar(&key.id, false);
                self.table.access.put(key, &model, ready, &mut self.logins);
            }
            Model::Consumer(_) | Model::ConsumerGroup(_) | Model::Credential(_) | Model::PluginConfig(_) => {
                self.table.access.put(key, &model, ready, &mut self.logins);
            }
            // Nothing reads them yet.
            Model::Proto(_) => {}
        }
    }

    fn seal(&mut self, key: &ResourceKey, body: &str, reason: &str) {
        self.put_destinations(key, &Chain::default());
        match key.kind.as_str() {
            ROUTES => self.put_route(&key.id, RoutePlan::sealed(body, reason, self.router)),
            SERVICES => self.put_service(&key.id, ServicePlan::sealed(body, reason)),
            STREAM_ROUTES => self.put_stream(&key.id, StreamPlan::sealed(body, reason)),
            SSLS => {
                self.put_ssl(&key.id, ssl::outline(body), &SslSlot::Sealed(key.id.clone()));
                self.set_client_tls(&key.id, Some(ClientTlsSlot::Sealed(reason.into())));
            }
            UPSTREAMS => self.upstreams.put(&key.id, Err(reason), &mut self.table.upstreams),
            SECRETS => self.secrets.set_manager(&key.id, Some(Err(reason.to_owned()))),
            // It is run as without any.
            PLUGIN_METADATA => self.table.access.set_metadata(&key.id, None),
            GLOBAL_RULES => {
                self.bar(&key.id, true);
                self.table.access.seal(key, reason, &mut self.logins);
            }
            _ => self.table.access.seal(key, reason, &mut self.logins),
        }
    }

    /// Lets a global rule bar every request, or no longer.
    fn bar(&mut self, id: &Text, bars: bool) {
        if bars {
            self.barring.insert(id.clone());
        } else {
            self.barring.remove(id);
        }
        self.table.barred = self.barring.first().cloned();
    }

    fn remove(&mut self, key: &ResourceKey) {
        self.put_destinations(key, &Chain::default());
        match key.kind.as_str() {
            ROUTES => self.remove_route(&key.id),
            SERVICES => self.remove_service(&key.id),
            SSLS => self.remove_ssl(&key.id),
            STREAM_ROUTES => self.remove_stream(&key.id),
            UPSTREAMS => self.upstreams.remove(&key.id, &mut self.table.upstreams),
            SECRETS => self.secrets.set_manager(&key.id, None),
            PLUGIN_METADATA => self.table.access.set_metadata(&key.id, None),
            GLOBAL_RULES => {
                self.bar(&key.id, false);
                self.table.access.remove(key, &mut self.logins);
            }
            _ => self.table.access.remove(key, &mut self.logins),
        }
    }

    // === ssls ===

    fn put_ssl(&mut self, id: &Text, patterns: Vec<Text>, slot: &SslSlot) {
        self.remove_ssl(id);
        self.table.ssls.place(&patterns, slot);
        self.ssls.insert(id.clone(), patterns);
    }

    /// What nodes are shown where an upstream names this ssl: requests by the table, probes by what stands now.
    fn set_client_tls(&mut self, id: &Text, slot: Option<ClientTlsSlot>) {
        let ready = match &slot {
            Some(ClientTlsSlot::Ready(tls)) => Some(tls.clone()),
            _ => None,
        };
        self.upstreams.set_identity(id, ready);
        match slot {
            Some(slot) => self.table.client_tls.insert(id.clone(), slot),
            None => self.table.client_tls.remove(id),
        };
    }

    fn remove_ssl(&mut self, id: &Text) {
        self.set_client_tls(id, None);
        if let Some(patterns) = self.ssls.remove(id) {
            self.table.ssls.remove(&patterns, id);
        }
    }
}

/// Whether all that the table needs of a resource of this kind is its model, and that needs nothing but the body.
fn is_read_alone(kind: &str) -> bool {
    ![SSLS, SECRETS, PLUGIN_METADATA].contains(&kind)
}

/// The kinds that a table is made of, in the order in which they are compiled.
const ORDER: [&str; 12] = [
    SECRETS,
    PLUGIN_METADATA,
    UPSTREAMS,
    SERVICES,
    PLUGIN_CONFIGS,
    CONSUMER_GROUPS,
    CONSUMERS,
    CREDENTIALS,
    ROUTES,
    STREAM_ROUTES,
    SSLS,
    GLOBAL_RULES,
];
