//! `real-ip`: a client's address is what somebody in front of this proxy says it is.

use std::net::{IpAddr, SocketAddr};

use http::HeaderName;
use http::header::HeaderMap;
use ipnet::IpNet;
use protocol::resource::scope::{Fields, Scope};
use protocol::resource::{Variable, net};
use serde_json::{Value, json};

use super::auth::shown;
use super::host::Host;
use super::plugin::{Behaviour, Plugin, Step, check_variables};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "real-ip", priority: 23_000, version: 0.1, schema, read, auth: None, secrets: &[] };

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

#[derive(Debug)]
struct RealIp {
    source: Source,
    /// Who may say it; empty: everybody.
    trusted: Vec<IpNet>,
}

#[derive(Debug)]
enum Source {
    /// The last address in `X-Forwarded-For`, or with `recursive` the last that is not trusted itself.
    Forwarded { recursive: bool },
    /// The value of a variable.
    Variable(Variable),
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let recursive = fields.optional("recursive", |s| s.boolean()).unwrap_or(false);
    let source = fields.required("source", |s| {
        let name = s.string(1, usize::MAX)?;
        let variable = Variable::parse(name);
        check_variables(&s, [&variable]);
        let is_forwarded = name == "http_x_forwarded_for";
        Some(if is_forwarded { Source::Forwarded { recursive } } else { Source::Variable(variable) })
    });
    let trusted = fields.optional("trusted_addresses", |s: Scope<'_, '_>| s.all(s.items(1)?, net));
    Some(Box::new(RealIp { source: source?, trusted: trusted.unwrap_or_default() }))
}

impl RealIp {
    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.contains(&address))
    }

    fn address(&self, request: &Request, host: &dyn Host) -> Option<SocketAddr> {
        let recursive = match &self.source {
            Source::Variable(variable) => return parse_address(shown(variable, host)?.trim()),
            Source::Forwarded { recursive } => *recursive && !self.trusted.is_empty(),
        };
        last_forwarded(&request.headers, &FORWARDED_FOR, |address| recursive && self.trusts(address))
    }
}

/// The client that a header of several addresses names: the last one that is not `passed_over`, or else the first. What is no
/// address ends the search.
#[must_use]
pub fn last_forwarded(
    headers: &HeaderMap,
    name: &HeaderName,
    passed_over: impl Fn(IpAddr) -> bool,
) -> Option<SocketAddr> {
    let mut found = None;
    let lines = headers.get_all(name).iter().rev();
    for text in lines.flat_map(|line| line.as_bytes().rsplit(|b| *b == b',')) {
        let text = str::from_utf8(text).unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        let Some(address) = parse_address(text) else { return found };
        found = Some(address);
        if !passed_over(address.ip()) {
            return found;
        }
    }
    found
}

/// An address, with or without a port (0), an IPv6 address also in brackets.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let alone = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0));
    let address = alone.or_else(|_| text.parse::<SocketAddr>()).ok()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

impl Behaviour for RealIp {
    fn rewrite(&self, request: &mut Request, host: &dyn Host) -> Step {
        if !self.trusted.is_empty() && !self.trusts(request.remote) {
            return Step::Go;
        }
        if let Some(address) = self.address(request, host) {
            request.remote = address.ip();
            if address.port() > 0 {
                request.remote_port = address.port();
            }
        }
        Step::Go
    }
}

fn schema() -> Value {
    json!({
        "properties": {
            "source": { "type": "string", "minLength": 1, "description": "a variable: http_x_real_ip, arg_name" },
            "trusted_addresses": { "type": "array", "minItems": 1, "items": { "type": "string" },
                                   "description": "who may say it: addresses and networks" },
            "recursive": { "type": "boolean", "default": false,
                           "description": "in http_x_forwarded_for trusted addresses are passed over" },
        },
        "required": ["source"],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, behaviour, request};
    use super::*;

    #[test]
    fn who_is_trusted_names_the_client() {
        let forwarded = |more: Value| {
            let mut conf = json!({"source": "http_x_forwarded_for"});
            conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            conf
        };
        let (near, far) = (json!(["127.0.0.0/24", "10.0.0.0/8"]), json!(["10.0.0.0/8"]));
        for (conf, lines, target, expected) in [
            (forwarded(json!({})), &["1.1.1.1, 2.2.2.2:80"][..], "/", "2.2.2.2:80"),
            (forwarded(json!({})), &["1.1.1.1", "2.2.2.2"], "/", "2.2.2.2:7"),
            (forwarded(json!({"recursive": true})), &["1.1.1.1, 10.1.1.1"], "/", "10.1.1.1:7"),
            (
                forwarded(json!({"trusted_addresses": near, "recursive": true})),
                &["1.1.1.1, 10.1.1.1"],
                "/",
                "1.1.1.1:7",
            ),
            (forwarded(json!({"trusted_addresses": far})), &["1.1.1.1"], "/", "127.0.0.1:7"),
            (forwarded(json!({})), &["[2001:db8::1]:99"], "/", "[2001:db8::1]:99"),
            (forwarded(json!({})), &["unknown"], "/", "127.0.0.1:7"),
            (forwarded(json!({})), &[], "/", "127.0.0.1:7"),
            (json!({"source": "arg_ip"}), &[], "/?ip=3.3.3.3", "3.3.3.3:7"),
            (json!({"source": "arg_ip"}), &[], "/?ip=3.3.3", "127.0.0.1:7"),
        ] {
            let mut it = request("GET", target);
            it.remote_port = 7;
            for line in lines {
                it.headers.append(FORWARDED_FOR, line.parse().unwrap());
            }
            let host = TestHost { path: target.to_owned(), ..TestHost::default() };
            assert_eq!(behaviour(PLUGIN.name, conf.clone()).rewrite(&mut it, &host), Step::Go);
            assert_eq!(SocketAddr::new(it.remote, it.remote_port).to_string(), expected, "{conf} {lines:?}");
        }
    }
}
