//! Variables whose values stand in a request's body: arguments of a form, and what it asks for in GraphQL.
//!
//! ```text
//!   find: the table is asked ---- a condition wants something of the body ---> the body is read, and the table asked again
//! ```
//!
//! Most tables have no such condition, and then nothing is done here. A body that was read is sent on as it came.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use daemon::blocking;
use http::Method;
use http::header::{self, HeaderValue};
use http::request::Parts;
use protocol::resource::{GraphQl, Variable};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::downstream::body::RequestBody;
use super::error::Refusal;
use super::graphql::{self, Operation};
use super::values::{RequestValues, argument};
use super::worker::Worker;
use crate::table::{Ask, Found, Table};

const FORM: &[u8] = b"application/x-www-form-urlencoded";
const JSON: &[u8] = b"application/json";
/// What such types begin with is no document: nobody is to wait for the end of a stream or of an upload because of it.
const NO_DOCUMENT: [&str; 2] = ["application/grpc", "multipart/"];

/// The largest document that is read on the worker's own thread, in bytes: about a millisecond, in which its other requests wait.
const READ_HERE_BYTES_MAX: usize = 16 << 10;

/// What is known of what stands in a body.
#[derive(Debug, Default)]
pub(crate) struct AskedBody {
    /// What a condition asked for that is not known yet.
    wanted: Cell<Option<Wanted>>,
    form: Option<Bytes>,
    /// Within: `None` where the request has no operation.
    graphql: Option<Option<Operation>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    Form,
    GraphQl,
}

impl AskedBody {
    /// The value of a variable that may stand in the body of a request with this head.
    pub(crate) fn value(&self, parts: &Parts, variable: &Variable) -> Option<Cow<'_, [u8]>> {
        if let Some(name) = variable.post_argument() {
            return argument(self.form(parts)?, name.as_bytes());
        }
        let operation = self.operation()?;
        match variable {
            Variable::GraphQl(GraphQl::Name) => Some(operation.name.as_bytes().into()),
            Variable::GraphQl(GraphQl::Operation) => Some(operation.kind.as_bytes().into()),
            _ => None,
        }
    }

    /// Whether a variable is a list with this element.
    pub(crate) fn has(&self, variable: &Variable, element: &[u8]) -> bool {
        *variable == Variable::GraphQl(GraphQl::RootFields)
            && str::from_utf8(element)
                .is_ok_and(|field| self.operation().is_some_and(|operation| operation.root_fields.contains(field)))
    }

    fn form(&self, parts: &Parts) -> Option<&[u8]> {
        if !is_of_type(parts, FORM) {
            return None;
        }
        if self.form.is_none() {
            self.wanted.set(Some(Wanted::Form));
        }
        self.form.as_deref()
    }

    fn operation(&self) -> Option<&Operation> {
        if self.graphql.is_none() {
            self.wanted.set(Some(Wanted::GraphQl));
        }
        self.graphql.as_ref()?.as_ref()
    }
}

/// The route that takes a request. Its body is read where a condition asks for something in it.
///
/// # Errors
/// A body that must be read is larger than it may be, does not come, or finds no room.
pub(crate) async fn find<'t>(
    worker: &Rc<Worker>,
    table: &'t Table,
    ask: &Ask<'_>,
    values: &RequestValues<'_>,
    body: &mut RequestBody,
) -> Result<Option<Found<'t>>, Refusal> {
    match find_by(&AskedBody::default(), table, ask, values) {
        Ok(found) => Ok(found),
        // Not to make every request's own state larger.
        Err(wanted) => Box::pin(read_and_find(worker, table, ask, values, body, wanted)).await,
    }
}

/// The route that takes a request of whose body this much is known.
///
/// # Errors
/// What a condition asked for that is not known.
fn find_by<'t>(
    asked: &AskedBody,
    table: &'t Table,
    ask: &Ask<'_>,
    values: &RequestValues<'_>,
) -> Result<Option<Found<'t>>, Wanted> {
    let found = table.find(&Ask { values: &RequestValues { asked: Some(asked), ..*values }, ..*ask });
    asked.wanted.take().map_or(Ok(found), Err)
}

async fn read_and_find<'t>(
    worker: &Rc<Worker>,
    table: &'t Table,
    ask: &Ask<'_>,
    values: &RequestValues<'_>,
    body: &mut RequestBody,
    mut wanted: Wanted,
) -> Result<Option<Found<'t>>, Refusal> {
    let mut asked = AskedBody::default();
    // Each is wanted once at most.
    loop {
        match wanted {
            Wanted::Form => asked.form = Some(whole(worker, body).await?),
            Wanted::GraphQl => asked.graphql = Some(operation(worker, values.parts, body).await?),
        }
        match find_by(&asked, table, ask, values) {
            Ok(found) => return Ok(found),
            Err(more) => wanted = more,
        }
    }
}

async fn whole(worker: &Worker, body: &mut RequestBody) -> Result<Bytes, Refusal> {
    let limits = &worker.limits;
    let max = limits.matched_body_bytes_max;
    body.bound(if limits.body_bytes_max == 0 { max } else { max.min(limits.body_bytes_max) })?;
    Ok(body.whole(&worker.buffers).await?)
}

/// What a request asks for in GraphQL, as APISIX finds it: in the argument `query` of a GET, in the member `query` of a POST's JSON,
/// else in a POST's body.
async fn operation(worker: &Worker, parts: &Parts, body: &mut RequestBody) -> Result<Option<Operation>, Refusal> {
    if parts.method == Method::GET {
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        let text = |name: &[u8]| argument(query, name).and_then(|value| String::from_utf8(value.into_owned()).ok());
        let named = text(b"operationName");
        return Ok(text(b"query").and_then(|document| graphql::read(&document, named.as_deref())));
    }
    let media_type = media_type(parts);
    let begins =
        |start: &str| media_type.get(..start.len()).is_some_and(|it| it.eq_ignore_ascii_case(start.as_bytes()));
    if parts.method != Method::POST || NO_DOCUMENT.into_iter().any(begins) {
        return Ok(None);
    }
    let is_json = is_of_type(parts, JSON);
    let body = whole(worker, body).await?;
    if body.len() <= READ_HERE_BYTES_MAX {
        return Ok(posted(&body, is_json));
    }
    let turn = worker.buffers.turn().await;
    let work = move || {
        // Also when nobody waits for it any more it lasts as long as the work does.
        let _turn = turn;
        posted(&body, is_json)
    };
    Ok(blocking::run(work).await)
}

/// A request as GraphQL's clients post it. Of a member that comes twice the last one counts, as it does for those who serve
/// GraphQL: which route takes the request must not depend on another one.
#[derive(Default)]
struct Posted {
    query: String,
    named: Option<String>,
}

impl<'de> Deserialize<'de> for Posted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Posted;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Posted, A::Error> {
                let mut posted = Posted::default();
                while let Some(member) = map.next_key::<String>()? {
                    match member.as_str() {
                        "query" => posted.query = map.next_value()?,
                        "operationName" => posted.named = map.next_value()?,
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(posted)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

fn posted(body: &[u8], is_json: bool) -> Option<Operation> {
    if !is_json {
        return graphql::read(str::from_utf8(body).ok()?, None);
    }
    let Posted { query, named } = serde_json::from_slice(body).ok()?;
    graphql::read(&query, named.as_deref())
}

/// Whether a body is of this media type, whatever its parameters.
fn is_of_type(parts: &Parts, wanted: &[u8]) -> bool {
    media_type(parts).eq_ignore_ascii_case(wanted)
}

fn media_type(parts: &Parts) -> &[u8] {
    let value = parts.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_found_in_json_and_alone() {
        let kind = |body: &str, is_json| posted(body.as_bytes(), is_json).map(|operation| operation.kind);
        assert_eq!(kind("mutation { a }", false), Some("mutation"));
        assert_eq!(kind(r#"{"query": "{ a }"}"#, false), None);
        assert_eq!(
            kind(r#"{"query": "{\n a }", "variables": {"x": [1]}, "operationName": null}"#, true),
            Some("query")
        );
        let two = r#"{"operationName": "B", "query": "query A { a } mutation B { b }"}"#;
        assert_eq!(kind(two, true), Some("mutation"));
        let twice = r#"{"query": "{ a }", "operationName": "B", "operationName": null, "query": "mutation { b }"}"#;
        assert_eq!(kind(twice, true), Some("mutation"));
        for none in ["", "{}", r#"{"query": 7}"#, r#"[{"query": "{ a }"}]"#, "{ a }"] {
            assert_eq!(kind(none, true), None, "{none}");
        }
    }

    #[test]
    fn a_type_is_known_whatever_its_parameters() {
        let is = |value: &'static str| {
            let (parts, ()) = http::Request::post("/").header("content-type", value).body(()).unwrap().into_parts();
            is_of_type(&parts, FORM)
        };
        assert!(is("application/x-www-form-urlencoded") && is("Application/X-WWW-Form-Urlencoded ; charset=utf-8"));
        assert!(!is("application/x-www-form-urlencoded2") && !is("text/plain;application/x-www-form-urlencoded"));
    }
}
