//! What several kinds have in common: names, labels, hosts, timeouts, references by id.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use ipnet::IpNet;

use super::scope::{Fields, Scope};
use crate::key::ResourceKey;
use crate::report::Problem;
use crate::text::Text;

/// The longest name.
pub const NAME_CHARS_MAX: usize = 256;
/// The longest description.
pub const DESC_CHARS_MAX: usize = 256;
pub(super) const SCRIPT_CHARS_MAX: usize = 102_400;
/// The longest value of a label.
pub const LABEL_CHARS_MAX: usize = 256;

pub(super) const HOST_PATTERN: &str = r"^\*$|^\*?[0-9a-zA-Z-._\[\]:]+$";

/// Which hosts a route or service answers for. Lower case; compared with the request's host without its port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HostPattern {
    /// Exactly this host.
    Exact(Text),
    /// Every host that ends in this text, as `*.example.com` (with the dot) or `*` (the empty text) say.
    Suffix(Text),
}

impl HostPattern {
    /// Whether a host, which is in lower case, is one of them.
    #[must_use]
    pub fn takes(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Suffix(suffix) => name.ends_with(suffix.as_str()),
        }
    }

    /// Reads a pattern; `None` when it is none, which is reported.
    pub fn read(scope: Scope<'_, '_>) -> Option<Self> {
        host(&scope).map(Self::of)
    }

    /// The pattern that a text is, which is one.
    pub(super) fn of(text: &str) -> Self {
        let mut text = Cow::Borrowed(text);
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            text.to_mut().make_ascii_lowercase();
        }
        match text.strip_prefix('*') {
            Some(suffix) => Self::Suffix(suffix.into()),
            None => Self::Exact((&*text).into()),
        }
    }

    /// Reads a non-empty array of patterns in which none stands twice.
    pub(super) fn read_list(scope: Scope<'_, '_>) -> Option<Vec<Self>> {
        scope.all(scope.unique_items(1)?, Self::read)
    }
}

/// As the user wrote it, in lower case.
impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// A host name, an address, or a pattern with `*` in front.
pub(super) fn host<'v>(scope: &Scope<'v, '_>) -> Option<&'v str> {
    scope.pattern(scope.string(0, usize::MAX)?, HOST_PATTERN, is_host)
}

/// Whether a text is what [`HOST_PATTERN`] says.
pub(super) fn is_host(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'[' | b']' | b':');
    let rest = text.strip_prefix('*').unwrap_or(text);
    text == "*" || (!rest.is_empty() && rest.bytes().all(plain))
}

/// An address, or a network in CIDR notation.
pub fn net(scope: Scope<'_, '_>) -> Option<IpNet> {
    let text = scope.string(0, usize::MAX)?;
    let net = parse_net(text);
    if net.is_none() {
        scope.problem(Problem::known_as(
            scope.path.clone(),
            "object matches none of the required",
            scope.path.clone(),
            format!("{text:?} is no IPv4 or IPv6 address or CIDR block"),
        ));
    }
    net
}

pub(super) fn parse_net(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

/// How long an upstream may take for each step of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// To establish a connection.
    pub connect: Duration,
    /// Between two successful writes of the request.
    pub send: Duration,
    /// Between two successful reads of the response.
    pub read: Duration,
}

impl Timeouts {
    /// What holds when neither route nor upstream says anything: 60 s each, as in APISIX.
    pub const DEFAULT: Self =
        Self { connect: Duration::from_secs(60), send: Duration::from_secs(60), read: Duration::from_secs(60) };

    pub(super) fn read(scope: Scope<'_, '_>) -> Option<Self> {
        let fields = scope.object()?;
        fields.allow_unknown();
        let connect = fields.required("connect", seconds);
        let send = fields.required("send", seconds);
        let read = fields.required("read", seconds);
        fields.finish();
        Some(Self { connect: connect?, send: send?, read: read? })
    }
}

/// A positive number of seconds, fractions allowed.
fn seconds(scope: Scope<'_, '_>) -> Option<Duration> {
    Some(duration(scope.number(true)?))
}

/// Seconds as a duration. Over a year is a year: longer than any proxy lives.
pub(super) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(YEAR).min(YEAR)
}

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The fields `name`, `desc` and `labels`, which nothing but filters and people read.
pub(super) fn read_labelling(fields: &Fields<'_, '_>) {
    fields.optional("name", |s| s.string(1, NAME_CHARS_MAX));
    fields.optional("desc", |s| s.string(0, DESC_CHARS_MAX));
    read_labels(fields);
}

/// The field `labels`.
pub(super) fn read_labels(fields: &Fields<'_, '_>) {
    fields.optional("labels", labels);
}

/// Labels by name.
pub(super) fn labels(scope: Scope<'_, '_>) -> Option<()> {
    for (_, value) in scope.members()? {
        if let Some(text) = value.string(1, LABEL_CHARS_MAX) {
            value.pattern(text, r"^\S+$", |t| !t.contains(char::is_whitespace));
        }
    }
    Some(())
}

/// A reference `<kind>/<id>`; an integer id counts as its decimal text.
pub fn reference(kind: &'static str, scope: &Scope<'_, '_>) -> Option<ResourceKey> {
    let id = match scope.value {
        serde_json::Value::String(id) => id.clone(),
        serde_json::Value::Number(n) if n.as_i64().is_some_and(|n| n >= 1) => n.to_string(),
        _ => {
            scope.wrong("object matches none of the required");
            return None;
        }
    };
    if super::IdRule::Plain.check(&id).is_err() {
        scope.wrong("object matches none of the required");
        return None;
    }
    Some(ResourceKey::new(kind, &id))
}
