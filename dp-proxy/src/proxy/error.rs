//! Every answer that this proxy gives itself: the one place that turns a reason into a status, a text for the client
//! and a name for metrics. What the log says is more, and written where it happens.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use super::body::ResponseBody;
use super::downstream::body::BodyError;
use super::upstream::exchange::Failure;
use crate::path::BadPath;
use crate::table::Unavailable;

/// Why a request is not answered by an upstream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    BadPath(#[from] BadPath),
    #[error("{0}")]
    BadRequest(&'static str),
    #[error("a transfer coding that is not served")]
    UnknownCoding,
    #[error("CONNECT is not served")]
    Connect,
    #[error("an expectation that is not known")]
    Expectation,
    #[error("no route takes it")]
    NoRoute,
    #[error("a rule for all requests cannot be enforced: global_rules/{0}")]
    Barred(String),
    #[error("{0}")]
    Unavailable(#[from] Unavailable),
    #[error("the upstream has no node")]
    NoNode,
    #[error("{0}")]
    Client(#[from] BodyError),
    #[error("no connection to any node: {0}")]
    Connection(String),
    #[error("no connection to any node within {0:?}")]
    ConnectTimeout(std::time::Duration),
    #[error("no TLS with the node: {0}")]
    Tls(String),
    #[error("{0}")]
    Upstream(Failure),
    #[error("a client certificate is needed for this path")]
    NoClientCertificate,
    #[error("the connection was made for another host")]
    Misdirected,
    #[error("no head came in time")]
    LateHead,
    #[error("its head is larger than allowed")]
    HeadTooLarge,
    #[error("its target is longer than allowed")]
    TargetTooLong,
}

/// Names under which upstream errors are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum UpstreamError {
    Connect,
    ConnectTimeout,
    SendTimeout,
    ReadTimeout,
    Broken,
    BadResponse,
    /// Behind the head of a response, when the status could not be changed any more.
    CutBody,
    /// The handshake, or what the node showed in it.
    Tls,
    /// A node that speaks HTTP/2 did not take the request.
    Refused,
    /// A node that speaks HTTP/2 ended the request without an answer.
    Reset,
}

impl UpstreamError {
    /// All of them, in the order of their numbers.
    pub(crate) const NAMES: [&'static str; 10] = [
        "connect",
        "connect_timeout",
        "send_timeout",
        "read_timeout",
        "broken",
        "bad_response",
        "cut_body",
        "tls",
        "refused",
        "reset",
    ];
}

impl Refusal {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::BadPath(_) | Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Client(BodyError::Broken) => StatusCode::BAD_REQUEST,
            Self::NoClientCertificate => StatusCode::BAD_REQUEST,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::UnknownCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Client(BodyError::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Client(BodyError::Late) | Self::LateHead => StatusCode::REQUEST_TIMEOUT,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Barred(_) | Self::NoNode => StatusCode::SERVICE_UNAVAILABLE,
            Self::Client(BodyError::NoRoom) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unavailable(Unavailable::NoSuchUpstream) => StatusCode::BAD_GATEWAY,
            // As APISIX: a route whose service is gone is no route.
            Self::Unavailable(Unavailable::NoSuchService) => StatusCode::NOT_FOUND,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Connection(_) | Self::Tls(_) => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Upstream(Failure::Client(e)) => Self::Client(*e).status(),
            Self::Upstream(Failure::SendTimeout | Failure::ReadTimeout) => StatusCode::GATEWAY_TIMEOUT,
            Self::Upstream(_) => StatusCode::BAD_GATEWAY,
        }
    }

    /// Whether nothing that follows on the client's connection can be believed.
    pub(crate) fn ends_connection(&self) -> bool {
        matches!(self, Self::BadRequest(_) | Self::UnknownCoding | Self::Connect | Self::Client(_))
            || matches!(self, Self::LateHead | Self::HeadTooLarge | Self::TargetTooLong)
            || matches!(self, Self::Upstream(Failure::Client(_)))
    }

    /// What it counts as, when an upstream is to blame.
    pub(crate) fn upstream_error(&self) -> Option<UpstreamError> {
        match self {
            Self::Connection(_) => Some(UpstreamError::Connect),
            Self::ConnectTimeout(_) => Some(UpstreamError::ConnectTimeout),
            Self::Tls(_) => Some(UpstreamError::Tls),
            Self::Upstream(failure) => upstream_error(failure),
            _ => None,
        }
    }

    /// What the client is told.
    fn text(&self) -> String {
        match self {
            Self::NoRoute => "404 Route Not Found".to_owned(),
            Self::BadPath(e) => format!("400 Bad Request: {e}"),
            Self::BadRequest(reason) => format!("400 Bad Request: {reason}"),
            Self::Client(BodyError::NoRoom) => format!("{}: too many bodies are kept in memory", plain(self.status())),
            _ => plain(self.status()),
        }
    }

    /// The answer.
    pub(crate) fn response(&self) -> Response<ResponseBody> {
        let body = self.body();
        let mut response = Response::new(ResponseBody::full(body.clone()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        // APISIX's answer to a request that no route takes, to the letter.
        let content_type = match self {
            Self::NoRoute => "text/plain; charset=utf-8",
            _ => "application/json",
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if self.ends_connection() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The answer to a call of gRPC: its clients look for the outcome in `grpc-status`, and take an HTTP status only for
    /// want of one.
    pub(crate) fn grpc_response(&self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::full(Bytes::new()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(grpc_status(self.status())));
        // Percent-encoded where it must be (the protocol's `Percent-Encoded`); these sentences are printable ASCII.
        let message = self.text().replace('%', "%25");
        headers.extend(HeaderValue::from_str(&message).ok().map(|message| (GRPC_MESSAGE, message)));
        response
    }

    /// The answer as bytes, for a connection on which no parser runs any more.
    pub(crate) fn raw(&self) -> Bytes {
        let (status, body) = (self.status(), self.body());
        let reason = status.canonical_reason().unwrap_or_default();
        let head = format!(
            "HTTP/1.1 {} {reason}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            status.as_str(),
            body.len()
        );
        [head.as_bytes(), &body].concat().into()
    }

    fn body(&self) -> Bytes {
        body(&self.text())
    }

    /// What is said with a status when there is nothing else to say.
    pub(crate) fn body_for(status: StatusCode) -> Bytes {
        body(&plain(status))
    }
}

const GRPC_MESSAGE: header::HeaderName = header::HeaderName::from_static("grpc-message");

/// The code of gRPC for an HTTP status, as its clients read one ("HTTP to gRPC Status Code Mapping"), and for time that ran
/// out what a server would say.
fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 | 431 => 13,
        401 => 16,
        403 => 7,
        404 | 405 => 12,
        408 | 504 => 4,
        413 | 429 => 8,
        502 | 503 => 14,
        _ => 2,
    }
}

fn plain(status: StatusCode) -> String {
    format!("{} {}", status.as_str(), status.canonical_reason().unwrap_or_default())
}

fn body(text: &str) -> Bytes {
    format!("{{\"error_msg\":{}}}\n", serde_json::Value::from(text)).into()
}

fn upstream_error(failure: &Failure) -> Option<UpstreamError> {
    match failure {
        Failure::Client(_) => None,
        Failure::SendTimeout => Some(UpstreamError::SendTimeout),
        Failure::ReadTimeout => Some(UpstreamError::ReadTimeout),
        Failure::Closed | Failure::Io(_) => Some(UpstreamError::Broken),
        Failure::Head(_) | Failure::Interims => Some(UpstreamError::BadResponse),
        Failure::NotTaken(_) => Some(UpstreamError::Refused),
        Failure::Http2(_) => Some(UpstreamError::Reset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_short_json_with_a_newline() {
        for (refusal, status, body) in [
            (Refusal::NoRoute, 404, "{\"error_msg\":\"404 Route Not Found\"}\n"),
            (Refusal::NoNode, 503, "{\"error_msg\":\"503 Service Unavailable\"}\n"),
            (Refusal::Unavailable(Unavailable::NoSuchUpstream), 502, "{\"error_msg\":\"502 Bad Gateway\"}\n"),
            (Refusal::Upstream(Failure::ReadTimeout), 504, "{\"error_msg\":\"504 Gateway Timeout\"}\n"),
            (Refusal::Client(BodyError::TooLarge), 413, "{\"error_msg\":\"413 Payload Too Large\"}\n"),
            (
                Refusal::Client(BodyError::NoRoom),
                503,
                "{\"error_msg\":\"503 Service Unavailable: too many bodies are kept in memory\"}\n",
            ),
            (Refusal::LateHead, 408, "{\"error_msg\":\"408 Request Timeout\"}\n"),
            (
                Refusal::BadPath(BadPath::Escape),
                400,
                "{\"error_msg\":\"400 Bad Request: the path has an invalid escape\"}\n",
            ),
        ] {
            assert_eq!((refusal.status().as_u16(), &refusal.body()[..]), (status, body.as_bytes()));
        }
        let raw = Refusal::LateHead.raw();
        let text = str::from_utf8(&raw).unwrap();
        assert!(
            text.starts_with("HTTP/1.1 408 Request Timeout\r\n") && text.contains("content-length: 36\r\n\r\n"),
            "{text}"
        );
    }

    #[test]
    fn nothing_of_what_the_log_says_reaches_a_client() {
        let refusal = Refusal::Connection("10.0.0.1:80: connection refused".into());
        assert!(!String::from_utf8(refusal.raw().to_vec()).unwrap().contains("10.0.0.1"));
    }
}
