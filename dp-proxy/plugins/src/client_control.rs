//! `client-control`: how much a client may send.

use http::StatusCode;
use http::header::CONTENT_LENGTH;
use protocol::resource::scope::Fields;
use serde_json::{Value, json};

use super::answer::Answer;
use super::host::Host;
use super::plugin::{Behaviour, Plugin, Step};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "client-control", priority: 22_000, version: 0.1, schema, read, auth: None, secrets: &[] };

#[derive(Debug)]
struct ClientControl {
    /// The largest body, in bytes; 0: any. `None`: as the proxy's settings say.
    body_bytes_max: Option<u64>,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let max = fields.optional("max_body_size", |s| u64::try_from(s.integer(0, i64::MAX)?).ok());
    Some(Box::new(ClientControl { body_bytes_max: max }))
}

impl Behaviour for ClientControl {
    fn rewrite(&self, request: &mut Request, _: &dyn Host) -> Step {
        let Some(max) = self.body_bytes_max else { return Step::Go };
        let announced = request.header(CONTENT_LENGTH.as_str()).and_then(|text| text.parse::<u64>().ok());
        if max > 0 && announced.is_some_and(|length| length > max) {
            return Step::Answer(Answer::empty(StatusCode::PAYLOAD_TOO_LARGE));
        }
        // One that does not say how long it is gets cut off when it is over the bound.
        request.body_bytes_max = Some(max);
        Step::Go
    }
}

fn schema() -> Value {
    json!({ "properties": {
        "max_body_size": { "type": "integer", "minimum": 0, "description": "in bytes; 0: without a bound" },
    } })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, answer, behaviour, request};
    use super::*;

    #[test]
    fn a_body_that_is_announced_as_too_large_is_refused() {
        for (conf, length, status, bound) in [
            (json!({"max_body_size": 5}), "5", None, Some(5)),
            (json!({"max_body_size": 5}), "6", Some(413), None),
            (json!({"max_body_size": 0}), "6", None, Some(0)),
            (json!({}), "6", None, None),
        ] {
            let mut it = request("POST", "/a");
            it.headers.insert(CONTENT_LENGTH, length.parse().unwrap());
            let step = behaviour(PLUGIN.name, conf.clone()).rewrite(&mut it, &TestHost::default());
            assert_eq!(answer(&step).map(|a| a.status.as_u16()), status, "{conf}");
            assert_eq!(it.body_bytes_max, bound, "{conf}");
        }
    }
}
