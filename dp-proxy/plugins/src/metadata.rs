//! What holds wherever a plugin is run: its `plugin_metadata`. Two plugins read any.

use std::collections::BTreeMap;

use http::HeaderName;
use protocol::Report;
use protocol::resource::scope::{Fields, check};
use serde_json::Value;

use super::{cors, limit_count};

/// The metadata of one plugin.
#[derive(Clone, PartialEq, Debug)]
pub enum Metadata {
    /// Of `limit-count`: the headers that tell the limit, what remains of it, and when it starts over.
    LimitHeaders([HeaderName; 3]),
    /// Of `cors`: lists of origins, by the names under which configurations refer to them.
    Origins(BTreeMap<Box<str>, Box<str>>),
}

type Read = fn(&Fields<'_, '_>) -> Option<Metadata>;

/// How the metadata of a plugin is read, and its JSON Schema.
fn of(plugin: &str) -> Option<(Read, fn() -> Value)> {
    match plugin {
        "cors" => Some((cors::read_metadata, cors::metadata_schema)),
        "limit-count" => Some((limit_count::read_metadata, limit_count::metadata_schema)),
        _ => None,
    }
}

impl Metadata {
    /// Reads a plugin's; `None`: the plugin reads none.
    ///
    /// # Errors
    /// A [`Report`] of everything that is wrong with it.
    pub fn read(plugin: &str, body: &Value) -> Result<Option<Self>, Report> {
        let Some((read, _)) = of(plugin) else { return Ok(None) };
        check(body, |scope| read(&scope.object()?)).map(Some)
    }

    /// The JSON Schema of a plugin's; `None`: the plugin reads none.
    pub(crate) fn schema(plugin: &str) -> Option<Value> {
        let mut schema = of(plugin)?.1();
        schema["type"] = "object".into();
        Some(schema)
    }
}
