//! What admission needs to know of plugins, without knowing any: a build's catalog is handed in.
//!
//! ```text
//!   admit(body, catalog) -> catalog.check(name, role, configuration) for every plugin in the body
//!   seal(body, catalog)  -> catalog.marks(name, role): which fields are secret, which nobody else may hold
//! ```

use serde_json::{Map, Value};

use super::Model;
use crate::key::ResourceKey;
use crate::report::{Path, Problem, Report};

/// The plugins that a build has.
pub trait PluginCatalog: Sync {
    /// Whether there is a plugin of that name, and what is fixed about its configuration in that role.
    fn marks(&self, name: &str, role: PluginRole) -> Option<PluginMarks>;

    /// Checks a configuration of a plugin that there is.
    ///
    /// # Errors
    /// A [`Report`] of everything that is wrong, with places inside the configuration.
    fn check(&self, name: &str, role: PluginRole, configuration: &Value) -> Result<Checked, Report>;
}

/// What is told of plugins' configurations that are good.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// What is accepted and worth a word.
    pub warnings: Vec<String>,
    /// The resources that they refer to, in no order, perhaps twice.
    pub references: Vec<ResourceKey>,
}

/// What a plugin's configuration is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PluginRole {
    /// It is run on requests.
    Traffic,
    /// It says how a consumer proves who it is.
    Consumer,
    /// It is run on TCP connections.
    Stream,
    /// It holds wherever the plugin is run (`plugin_metadata`).
    Metadata,
}

/// What is fixed about a plugin's configurations in one role.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PluginMarks {
    /// Whether the plugin finds out which consumer a request is from.
    pub authenticates: bool,
    /// Fields that are secret: stored sealed.
    pub secrets: &'static [&'static str],
    /// A field whose value no other consumer may have.
    pub unique: Option<&'static str>,
}

/// A build without plugins.
#[derive(Clone, Copy, Debug)]
pub struct NoPlugins;

impl PluginCatalog for NoPlugins {
    fn marks(&self, _: &str, _: PluginRole) -> Option<PluginMarks> {
        None
    }

    fn check(&self, name: &str, _: PluginRole, _: &Value) -> Result<Checked, Report> {
        Err(Report::of(unknown(name)))
    }
}

/// The problem of a plugin that nobody knows, at the root.
fn unknown(name: &str) -> Problem {
    Problem::rule(Path::default(), format!("unknown plugin [{name}]"))
}

/// The place of a plugin's configuration in a body.
#[must_use]
pub fn plugin_place(name: &str) -> Path {
    Path::default().property("plugins").property(name)
}

/// The role in which a plugin stands in a body of this kind.
#[must_use]
pub fn plugin_role(catalog: &dyn PluginCatalog, kind: &str, name: &str) -> PluginRole {
    let authenticates = || catalog.marks(name, PluginRole::Consumer).is_some_and(|marks| marks.authenticates);
    match kind {
        "consumers" | "credentials" if authenticates() => PluginRole::Consumer,
        "stream_routes" => PluginRole::Stream,
        _ => PluginRole::Traffic,
    }
}

/// Checks every plugin of a resource.
pub(super) fn check(catalog: &dyn PluginCatalog, kind: &str, id: &str, model: &Model) -> Result<Checked, Report> {
    if let Model::PluginMetadata(metadata) = model {
        return check_metadata(catalog, id, metadata);
    }
    let (mut problems, mut all) = (Vec::new(), Checked::default());
    // APISIX says more of the plugins of consumers.
    let of_consumer = matches!(model, Model::Consumer(_) | Model::Credential(_));
    let context = if of_consumer { "invalid plugins configuration: " } else { "" };
    for (name, configuration) in model.plugins().into_iter().flatten() {
        let place = plugin_place(name);
        let role = plugin_role(catalog, kind, name);
        let checked = match catalog.marks(name, role) {
            None => Err(Report::of(unknown(name)).within(&place, context)),
            Some(marks) if kind == "credentials" && !marks.authenticates => {
                Err(Report::of(Problem::rule(place, "only supports auth type plugins in consumer credential")))
            }
            Some(_) => catalog.check(name, role, configuration).map_err(|report| {
                let context = format!("{context}failed to check the configuration of plugin {name} err: ");
                report.within(&place, &context)
            }),
        };
        match checked {
            Ok(said) => {
                all.warnings.extend(said.warnings.into_iter().map(|warning| format!("plugin {name}: {warning}")));
                all.references.extend(said.references);
            }
            Err(report) => problems.extend(report.problems),
        }
    }
    if problems.is_empty() { Ok(all) } else { Err(Report { problems }) }
}

fn check_metadata(catalog: &dyn PluginCatalog, name: &str, metadata: &Map<String, Value>) -> Result<Checked, Report> {
    if catalog.marks(name, PluginRole::Traffic).is_none() {
        return Err(Report::of(Problem::rule(Path::default().property("id"), "invalid plugin name")));
    }
    catalog.check(name, PluginRole::Metadata, &Value::Object(metadata.clone()))
}
