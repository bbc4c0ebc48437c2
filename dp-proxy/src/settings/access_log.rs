//! The access log: where it is, and what a line says.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::access_log::{BadFormat, Format};

/// The access log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessLogSettings {
    /// The file that is appended to, `/dev/stdout` for instance. Left out: there is no access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// A line of text, with variables of nginx and APISIX in it; their values are escaped as nginx does. Empty: a line is
    /// a JSON object with `fields`.
    pub format: String,
    /// The members of a line that is a JSON object: a name, and a text with variables. Empty: the usual ones.
    pub fields: Vec<LogField>,
    /// Lines that may wait for the disk; what comes beyond is dropped, and counted.
    pub queue_lines: usize,
}

/// A member of a line that is a JSON object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogField {
    /// Its name.
    pub name: String,
    /// Its value: a text with variables.
    pub value: String,
}

/// The members of a line unless the settings say otherwise.
const FIELDS: [(&str, &str); 18] = [
    ("time", "$time_iso8601"),
    ("remote_addr", "$remote_addr"),
    ("host", "$host"),
    ("method", "$request_method"),
    ("uri", "$request_uri"),
    ("protocol", "$server_protocol"),
    ("status", "$status"),
    ("body_bytes_sent", "$body_bytes_sent"),
    ("request_time", "$request_time"),
    ("upstream_addr", "$upstream_addr"),
    ("upstream_status", "$upstream_status"),
    ("upstream_response_time", "$upstream_response_time"),
    ("route_id", "$route_id"),
    ("service_id", "$service_id"),
    ("referer", "$http_referer"),
    ("user_agent", "$http_user_agent"),
    ("forwarded_for", "$http_x_forwarded_for"),
    ("traceparent", "$http_traceparent"),
];

const QUEUE_LINES: usize = 8192;
/// A bound on what a mistyped figure can set aside.
const QUEUE_LINES_MOST: usize = 1 << 20;

impl Default for AccessLogSettings {
    fn default() -> Self {
        Self { file: None, format: String::new(), fields: Vec::new(), queue_lines: QUEUE_LINES }
    }
}

impl AccessLogSettings {
    /// How lines look.
    ///
    /// # Errors
    /// [`BadFormat`] when a text names a variable that is not known.
    pub fn lines(&self) -> Result<Arc<Format>, BadFormat> {
        let own = self.fields.iter().map(|field| (field.name.as_str(), field.value.as_str()));
        let usual = FIELDS.into_iter().filter(|_| self.fields.is_empty());
        let format = if self.format.is_empty() { Format::json(own.chain(usual)) } else { Format::text(&self.format) };
        format.map(Arc::new)
    }

    pub(super) fn check(&self, bad: &mut Vec<(&'static str, String)>) {
        if let Err(e) = self.lines() {
            let key = if self.format.is_empty() { "proxy.access_log.fields" } else { "proxy.access_log.format" };
            bad.push((key, e.to_string()));
        }
        if !(1..=QUEUE_LINES_MOST).contains(&self.queue_lines) {
            bad.push(("proxy.access_log.queue_lines", format!("must be 1 to {QUEUE_LINES_MOST}")));
        }
    }
}
