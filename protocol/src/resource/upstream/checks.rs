//! Health checks of an upstream's nodes. Every field and default is APISIX's.

use std::time::Duration;

use super::super::common::{duration, host};
use super::super::scope::{Fields, Scope};

/// Active probes, with or without passive judgement.
#[derive(Clone, PartialEq, Debug)]
pub struct Checks {
    /// Probes that the proxy sends.
    pub active: ActiveCheck,
    /// What it learns from the traffic.
    pub passive: Option<PassiveCheck>,
}

/// What a probe speaks, or what kind of traffic is judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub enum CheckType {
    #[default]
    Http,
    Https,
    Tcp,
}

/// Probes that the proxy sends.
#[derive(Clone, PartialEq, Debug)]
pub struct ActiveCheck {
    /// What is spoken.
    pub kind: CheckType,
    /// How long a probe may take.
    pub timeout: Duration,
    /// Probes under way at once, per upstream.
    pub concurrency: u32,
    /// Method of the probe.
    pub http_method: String,
    /// Path of the probe.
    pub http_path: String,
    /// Body of the probe.
    pub http_req_body: String,
    /// `Host` of the probe; `None`: the node's.
    pub host: Option<String>,
    /// Port of the probe; `None`: the node's.
    pub port: Option<u16>,
    /// Whether the node's certificate is verified.
    pub https_verify_certificate: bool,
    /// More headers, as `Name: value`.
    pub req_headers: Vec<String>,
    /// Between probes of a healthy node.
    pub healthy_interval: Duration,
    /// Statuses that count as healthy.
    pub healthy_statuses: Vec<u16>,
    /// So many in a row make a node healthy.
    pub successes: u8,
    /// Between probes of an unhealthy node.
    pub unhealthy_interval: Duration,
    /// Statuses that count as unhealthy.
    pub unhealthy_statuses: Vec<u16>,
    /// So many bad statuses in a row make a node unhealthy.
    pub http_failures: u8,
    /// So many failed connections in a row make a node unhealthy.
    pub tcp_failures: u8,
    /// So many timeouts in a row make a node unhealthy.
    pub timeouts: u8,
}

/// What is learnt from the traffic. A count of 0 switches its judgement off.
#[derive(Clone, PartialEq, Debug)]
pub struct PassiveCheck {
    /// What kind of traffic.
    pub kind: CheckType,
    /// Statuses that count as healthy.
    pub healthy_statuses: Vec<u16>,
    /// So many in a row make a node healthy.
    pub successes: u8,
    /// Statuses that count as unhealthy.
    pub unhealthy_statuses: Vec<u16>,
    /// So many bad statuses in a row make a node unhealthy.
    pub http_failures: u8,
    /// So many failed connections in a row make a node unhealthy.
    pub tcp_failures: u8,
    /// So many timeouts in a row make a node unhealthy.
    pub timeouts: u8,
}

const TYPES: [(&str, CheckType); 3] = [("http", CheckType::Http), ("https", CheckType::Https), ("tcp", CheckType::Tcp)];

const METHODS: [(&str, &str); 10] = [
    ("GET", "GET"),
    ("POST", "POST"),
    ("PUT", "PUT"),
    ("DELETE", "DELETE"),
    ("PATCH", "PATCH"),
    ("HEAD", "HEAD"),
    ("OPTIONS", "OPTIONS"),
    ("CONNECT", "CONNECT"),
    ("TRACE", "TRACE"),
    ("PURGE", "PURGE"),
];

impl Checks {
    pub(super) fn read(scope: Scope<'_, '_>) -> Option<Self> {
        let fields = scope.object()?;
        fields.allow_unknown();
        let passive = fields.optional("passive", PassiveCheck::read);
        if !fields.has("active") {
            fields.wrong("object matches none of the required: [\"active\"] or [\"active\",\"passive\"]");
            return None;
        }
        let active = fields.optional("active", ActiveCheck::read);
        fields.finish();
        Some(Self { active: active?, passive })
    }
}

impl ActiveCheck {
    fn read(scope: Scope<'_, '_>) -> Option<Self> {
        let fields = scope.object()?;
        fields.allow_unknown();
        let healthy = section(&fields, "healthy");
        let unhealthy = section(&fields, "unhealthy");
        let text = |name, default: &str| {
            fields
                .optional(name, |s: Scope<'_, '_>| Some(s.string(0, usize::MAX)?.to_owned()))
                .unwrap_or_else(|| default.to_owned())
        };
        let check = Self {
            kind: fields.optional("type", |s| s.one_of(&TYPES)).unwrap_or_default(),
            timeout: fields.optional("timeout", |s| s.number(false)).map_or(Duration::from_secs(1), duration),
            concurrency: fields
                .optional("concurrency", |s| u32::try_from(s.integer(0, i64::from(u32::MAX))?).ok())
                .unwrap_or(10),
            http_method: fields.optional("http_method", |s| s.one_of(&METHODS)).unwrap_or("GET").to_owned(),
            http_path: text("http_path", "/"),
            http_req_body: text("http_req_body", ""),
            host: fields.optional("host", |s| Some(host(&s)?.to_owned())),
            port: fields.optional("port", |s| u16::try_from(s.integer(1, 65_535)?).ok()),
            https_verify_certificate: fields.optional("https_verify_certificate", |s| s.boolean()).unwrap_or(true),
            req_headers: fields.optional("req_headers", read_headers).unwrap_or_default(),
            healthy_interval: interval(healthy.as_ref()),
            healthy_statuses: statuses(healthy.as_ref(), &[200, 302]),
            successes: count(healthy.as_ref(), "successes", 1, 2),
            unhealthy_interval: interval(unhealthy.as_ref()),
            unhealthy_statuses: statuses(unhealthy.as_ref(), &[429, 404, 500, 501, 502, 503, 504, 505]),
            http_failures: count(unhealthy.as_ref(), "http_failures", 1, 5),
            tcp_failures: count(unhealthy.as_ref(), "tcp_failures", 1, 2),
            timeouts: count(unhealthy.as_ref(), "timeouts", 1, 3),
        };
        fields.finish();
        Some(check)
    }
}

impl PassiveCheck {
    fn read(scope: Scope<'_, '_>) -> Option<Self> {
        const HEALTHY: [u16; 19] =
            [200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 306, 307, 308];
        let fields = scope.object()?;
        fields.allow_unknown();
        let healthy = section(&fields, "healthy");
        let unhealthy = section(&fields, "unhealthy");
        let check = Self {
            kind: fields.optional("type", |s| s.one_of(&TYPES)).unwrap_or_default(),
            healthy_statuses: statuses(healthy.as_ref(), &HEALTHY),
            successes: count(healthy.as_ref(), "successes", 0, 5),
            unhealthy_statuses: statuses(unhealthy.as_ref(), &[429, 500, 503]),
            http_failures: count(unhealthy.as_ref(), "http_failures", 0, 5),
            tcp_failures: count(unhealthy.as_ref(), "tcp_failures", 0, 2),
            timeouts: count(unhealthy.as_ref(), "timeouts", 0, 7),
        };
        fields.finish();
        Some(check)
    }
}

/// The object `healthy` or `unhealthy`, of which unknown fields are allowed.
fn section<'v, 'r>(fields: &Fields<'v, 'r>, name: &'static str) -> Option<Fields<'v, 'r>> {
    let section = fields.optional(name, |s| s.object())?;
    section.allow_unknown();
    Some(section)
}

fn interval(section: Option<&Fields<'_, '_>>) -> Duration {
    let seconds = section.and_then(|fields| fields.optional("interval", |s| s.integer(1, i64::from(u32::MAX))));
    Duration::from_secs(seconds.map_or(1, i64::unsigned_abs))
}

fn statuses(section: Option<&Fields<'_, '_>>, default: &[u16]) -> Vec<u16> {
    let read = |s: Scope<'_, '_>| s.all(s.unique_items(1)?, |item| u16::try_from(item.integer(200, 599)?).ok());
    section.and_then(|fields| fields.optional("http_statuses", read)).unwrap_or_else(|| default.to_vec())
}

fn count(section: Option<&Fields<'_, '_>>, name: &'static str, min: i64, default: u8) -> u8 {
    let read = |s: Scope<'_, '_>| u8::try_from(s.integer(min, 254)?).ok();
    section.and_then(|fields| fields.optional(name, read)).unwrap_or(default)
}

fn read_headers(scope: Scope<'_, '_>) -> Option<Vec<String>> {
    scope.all(scope.items(1)?, |item| Some(item.string(0, usize::MAX)?.to_owned()))
}
