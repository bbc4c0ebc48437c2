//! Every status code and every error body of the Admin API is chosen here.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use protocol::json::JsonError;
use protocol::{Position, Rejection, Report, ResourceKey};
use serde_json::{Value, json};

use super::render::error_words;
use crate::propose::ProposeError;

/// Seconds after which a client may try again when there is no quorum: about an election.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// The header that names a position.
const POSITION: &str = "x-holdfast-position";

/// What a request is answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(super) status: StatusCode,
    body: Vec<u8>,
    headers: HeaderMap,
    /// What the log refused, and why.
    rejection: Option<Rejection>,
}

impl Answer {
    /// JSON text. A newline is put behind it.
    pub(super) fn json(status: StatusCode, mut body: String) -> Self {
        body.push('\n');
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self { status, body: body.into_bytes(), headers, rejection: None }
    }

    /// A sentence that is no JSON, where APISIX has one.
    pub(super) fn plain(status: StatusCode, sentence: &str) -> Self {
        let text_plain = HeaderValue::from_static("text/plain; charset=utf-8");
        Self::json(status, sentence.to_owned()).with(header::CONTENT_TYPE, text_plain)
    }

    /// Any serializable value.
    pub(super) fn value(status: StatusCode, value: &impl serde::Serialize) -> Self {
        match serde_json::to_string(value) {
            Ok(text) => Self::json(status, text),
            Err(e) => Self::error(StatusCode::INTERNAL_SERVER_ERROR, &format!("the answer could not be written: {e}")),
        }
    }

    /// No body.
    pub(super) fn empty(status: StatusCode) -> Self {
        Self { status, body: Vec::new(), headers: HeaderMap::new(), rejection: None }
    }

    /// A file.
    pub(super) fn file(body: Vec<u8>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        Self { status: StatusCode::OK, body, headers, rejection: None }
    }

    /// An error with its sentence.
    pub(super) fn error(status: StatusCode, sentence: &str) -> Self {
        Self::json(status, json!({ "error_msg": sentence }).to_string())
    }

    /// 400.
    pub(super) fn bad(sentence: &str) -> Self {
        Self::error(StatusCode::BAD_REQUEST, sentence)
    }

    /// The key is missing, wrong, or not enough.
    pub(super) fn unauthorised(description: &str) -> Self {
        let body = json!({ "error_msg": "failed to check token", "description": description });
        Self::json(StatusCode::UNAUTHORIZED, body.to_string())
    }

    /// There is no such resource.
    pub(super) fn missing() -> Self {
        Self::json(StatusCode::NOT_FOUND, json!({ "message": "Key not found" }).to_string())
    }

    /// The same of one operation of a transaction, which says which.
    pub(super) fn missing_in(index: usize, key: &ResourceKey) -> Self {
        let sentence = format!("operation {index}: {key} does not exist");
        Self::json(StatusCode::NOT_FOUND, json!({ "message": "Key not found", "error_msg": sentence }).to_string())
    }

    /// The same answer as one about an operation of a transaction.
    pub(super) fn in_operation(self, index: usize, key: &ResourceKey) -> Self {
        Self { headers: self.headers, ..Self::missing_in(index, key) }
    }

    /// The path leads nowhere.
    pub(super) fn no_such_path() -> Self {
        Self::error(StatusCode::NOT_FOUND, "404 Not Found")
    }

    /// There is no kind of that name.
    pub(super) fn no_such_kind(name: &str) -> Self {
        Self::error(StatusCode::NOT_FOUND, &format!("Unsupported resource type: {name}"))
    }

    /// The kind does not offer the method.
    pub(super) fn method_not_offered(method: &str, singular: &str) -> Self {
        Self::error(StatusCode::METHOD_NOT_ALLOWED, &format!("not supported `{method}` method for {singular}"))
    }

    /// The body is larger than its bound.
    pub(super) fn too_large(max: u64) -> Self {
        let sentence = format!("invalid request body: it is larger than the maximum of {max} bytes");
        Self::error(StatusCode::PAYLOAD_TOO_LARGE, &sentence)
    }

    /// The body is no JSON that is taken.
    pub(super) fn bad_json(error: &JsonError) -> Self {
        Self::bad(&format!("invalid request body: {error}"))
    }

    /// The body breaks its schema: APISIX's sentence for the first problem, and every problem with its place.
    pub(super) fn report(report: &Report) -> Self {
        Self::report_under(report, "$", None)
    }

    /// The same for one operation of a transaction.
    pub(super) fn report_in(report: &Report, index: usize) -> Self {
        Self::report_under(report, &format!("$.operations[{index}].value"), Some(&format!("operation {index}")))
    }

    /// The same for a body that the client did not send: one that stood here once.
    pub(super) fn report_of(report: &Report, key: &ResourceKey) -> Self {
        Self::report_under(report, &format!("{key}: $"), Some(&key.to_string()))
    }

    fn report_under(report: &Report, root: &str, whose: Option<&str>) -> Self {
        let place = |path: String| path.replacen('$', root, 1);
        let errors: Vec<Value> = report
            .problems
            .iter()
            .map(|problem| json!({ "path": place(problem.path.to_string()), "message": problem.message }))
            .collect();
        let sentence = match whose {
            Some(whose) => format!("{whose}: {}", report.summary()),
            None => report.summary().to_owned(),
        };
        Self::json(StatusCode::BAD_REQUEST, json!({ "error_msg": sentence, "errors": errors }).to_string())
    }

    /// The log refused it.
    pub(super) fn rejection(rejection: &Rejection, position: Position) -> Self {
        let status = match rejection {
            Rejection::NotFound { .. } => {
                return Self { rejection: Some(rejection.clone()), ..Self::missing().at(position) };
            }
            Rejection::MissingReference { from, to } if is_owner(from, to) => {
                return Self::error(StatusCode::NOT_FOUND, "consumer not found").at(position);
            }
            Rejection::MissingReference { .. }
            | Rejection::StillReferenced { .. }
            | Rejection::ForeignGroup { .. }
            | Rejection::Claimed { .. }
            | Rejection::Twice { .. }
            | Rejection::Malformed { .. } => StatusCode::BAD_REQUEST,
            Rejection::Stale { .. } | Rejection::Exists { .. } | Rejection::Level { .. } => StatusCode::CONFLICT,
            Rejection::Mismatch { .. } | Rejection::RevisionMoved { .. } => StatusCode::PRECONDITION_FAILED,
            Rejection::KeyReused { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Rejection::Restore { .. } | Rejection::Record { .. } => StatusCode::CONFLICT,
            Rejection::RecordBehind { .. } => return Self::not_applied(&error_words(rejection)).at(position),
            Rejection::Stage { .. } | Rejection::Forgotten => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { rejection: Some(rejection.clone()), ..Self::error(status, &error_words(rejection)).at(position) }
    }

    /// It was not proposed, and will not be: trying again is safe.
    pub(super) fn not_applied(reason: &str) -> Self {
        let body = json!({ "error_msg": format!("not applied: {reason}"), "outcome": "not_applied" });
        Self::json(StatusCode::SERVICE_UNAVAILABLE, body.to_string()).with(header::RETRY_AFTER, RETRY_AFTER)
    }

    /// It was proposed and may still be applied; under the same id it may be sent again.
    pub(super) fn unknown(reason: &str, request: &str) -> Self {
        let body = json!({
            "error_msg": format!("unknown: {reason}; the request may still be applied, and may be sent again with Idempotency-Key: {request}"),
            "outcome": "unknown",
            "request_id": request,
        });
        Self::json(StatusCode::GATEWAY_TIMEOUT, body.to_string())
    }

    /// It was applied; that the record holds it is not known yet.
    pub(super) fn not_recorded(request: &str) -> Self {
        let body = json!({
            "error_msg": "applied, but the record did not confirm it in time; it will be recorded when the record answers",
            "outcome": "not_recorded",
            "request_id": request,
        });
        Self::json(StatusCode::GATEWAY_TIMEOUT, body.to_string())
    }

    /// A proposal without an outcome.
    pub(super) fn undecided(error: &ProposeError, request: &str) -> Self {
        match error {
            ProposeError::NotProposed(reason) => Self::not_applied(reason),
            ProposeError::Unknown(reason) => Self::unknown(reason, request),
        }
    }

    /// Names the position that the answer speaks of.
    pub(super) fn at(self, position: Position) -> Self {
        self.with_text(POSITION, &position.to_string())
    }

    /// Says how far the fleet is: in a header, and where it is not there yet, with a 202 and in the body.
    pub(super) fn with_fleet(mut self, summary: &str, breakdown: Option<&Value>) -> Self {
        if let Some(breakdown) = breakdown {
            self.status = StatusCode::ACCEPTED;
            let text = String::from_utf8_lossy(&self.body).trim_end().to_owned();
            let body = match text.strip_suffix('}') {
                Some("{") => format!("{{\"fleet\":{breakdown}}}"),
                Some(rest) => format!("{rest},\"fleet\":{breakdown}}}"),
                None => format!("{{\"fleet\":{breakdown}}}"),
            };
            let Self { body, headers, .. } = Self::json(self.status, body);
            self.body = body;
            self.headers.extend(headers);
        }
        self.with_text("x-holdfast-fleet", summary)
    }

    /// Names the position that the node which answers stands at, where the answer names none of its own.
    pub(super) fn at_unless_named(self, position: impl FnOnce() -> Position) -> Self {
        if self.headers.contains_key(POSITION) { self } else { self.at(position()) }
    }

    /// Something that was accepted and is worth a word.
    pub(super) fn warn(self, warnings: &[String]) -> Self {
        if warnings.is_empty() { self } else { self.with_text("x-holdfast-warning", &warnings.join("; ")) }
    }

    pub(super) fn with_text(self, name: &'static str, text: &str) -> Self {
        match HeaderValue::from_str(text) {
            Ok(value) => self.with(header::HeaderName::from_static(name), value),
            // Only visible characters can stand in a header; what cannot is left out rather than bent.
            Err(_) => self,
        }
    }

    fn with(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Whether what was read for it has changed meanwhile: it may be admitted again.
    pub(super) fn is_stale(&self) -> bool {
        matches!(self.rejection, Some(Rejection::Stale { .. }))
    }

    /// Whether the id that was chosen for it is somebody's already.
    pub(super) fn is_taken(&self) -> bool {
        matches!(self.rejection, Some(Rejection::Exists { .. }))
    }

    /// What the log did not find.
    pub(super) fn not_found(&self) -> Option<&ResourceKey> {
        match &self.rejection {
            Some(Rejection::NotFound { key }) => Some(key),
            _ => None,
        }
    }

    /// Whether a write of several may have been refused since one of them (with `any`) is gone, or another has come.
    pub(super) fn may_have_moved(&self, any: bool) -> bool {
        (any && self.status == StatusCode::NOT_FOUND) || self.status == StatusCode::BAD_REQUEST
    }

    /// The body as text.
    #[cfg(test)]
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// Whether a resource belongs to another: it stands below its path.
fn is_owner(from: &ResourceKey, to: &ResourceKey) -> bool {
    from.kind.as_str() == "credentials" && to.kind.as_str() == "consumers"
}

/// A reference's two ends, in APISIX's words.
pub(super) fn singular(key: &ResourceKey) -> &str {
    protocol::resource::KindInfo::find(key.kind.as_str()).map_or(key.kind.as_str(), |kind| kind.singular)
}
