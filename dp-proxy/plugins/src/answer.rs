//! What a plugin answers, and how it changes what others answer.

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

/// An answer that a plugin gives in place of the upstream.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// Headers beside those that any answer has.
    pub headers: HeaderMap,
    /// The body; empty: what the proxy itself says with this status.
    pub body: Bytes,
}

/// The head of an answer on its way to the client.
#[derive(Debug)]
pub struct Response<'a> {
    /// The status.
    pub status: &'a mut StatusCode,
    /// The headers.
    pub headers: &'a mut HeaderMap,
    /// What the upstream answered, or failed with; `None` when it was not asked.
    pub upstream_status: Option<u16>,
    /// How long the body is that there is, in bytes, where that is known.
    pub length: Option<u64>,
    /// Set to put another body in place of what there is.
    pub body: Option<Bytes>,
    /// Set, from 1 (fast) to 9 (small), to compress the body in the end, where its status and coding allow it.
    pub gzip_level: Option<u32>,
}

impl<'a> Response<'a> {
    /// One that nothing was done to yet.
    #[must_use]
    pub fn new(status: &'a mut StatusCode, headers: &'a mut HeaderMap) -> Self {
        Self { status, headers, upstream_status: None, length: None, body: None, gzip_level: None }
    }
}

impl Answer {
    /// A status without a body of the plugin's own.
    #[must_use]
    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// JSON, declared as APISIX declares what its plugins say.
    #[must_use]
    pub fn json(status: StatusCode, value: &Value) -> Self {
        let text_plain = HeaderValue::from_static("text/plain; charset=utf-8");
        Self { body: format!("{value}\n").into(), ..Self::empty(status) }.with(header::CONTENT_TYPE, text_plain)
    }

    /// `{"message": …}`.
    #[must_use]
    pub fn message(status: StatusCode, message: &str) -> Self {
        Self::json(status, &json!({ "message": message }))
    }

    /// `{"error_msg": …}`.
    #[must_use]
    pub fn error(status: StatusCode, message: &str) -> Self {
        Self::json(status, &json!({ "error_msg": message }))
    }

    /// With one more header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}
