//! A request's parts, read once.

use axum::body::Body;
use axum::http::{HeaderMap, Method};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use protocol::Revision;
use protocol::command::Idempotency;
use protocol::json::{self, Value};
use sha2::{Digest, Sha256};

use super::Desk;
use super::answer::Answer;
use super::auth::Principal;
use super::limits::IDEMPOTENCY_KEY_BYTES_MAX;
use super::wait::Wait;

/// A request whose key has been checked.
pub(super) struct Call {
    pub(super) method: Method,
    /// The path, percent-decoded, without the leading slash.
    pub(super) path: Vec<String>,
    pub(super) query: Query,
    pub(super) headers: HeaderMap,
    pub(super) principal: Principal,
}

/// The query's arguments, percent-decoded, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let decode =
            |part: &str| percent_encoding::percent_decode_str(&part.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        };
        Self(text.split('&').filter(|pair| !pair.is_empty()).map(pair).collect())
    }

    /// The first argument of that name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What holds for a write as a whole.
pub(super) struct WriteTerms {
    /// The id of the request: the client's key, or one made here.
    pub(super) request: String,
    pub(super) idempotency: Option<Idempotency>,
    pub(super) if_match: Option<Revision>,
    pub(super) ttl_seconds: Option<u64>,
    pub(super) force: bool,
    /// Whether the answer waits until the record holds the change.
    pub(super) waits_for_record: bool,
    /// Whether it waits for proxies too, and for which.
    pub(super) wait: Option<Wait>,
}

impl WriteTerms {
    /// For a write of the whole configuration: what speaks of one resource has no meaning there.
    pub(super) fn check_for_all(&self) -> Result<(), Answer> {
        if self.if_match.is_some() {
            return Err(Answer::bad("If-Match names one resource, and this is all of them"));
        }
        if self.ttl_seconds.is_some() {
            return Err(Answer::bad("ttl is for one resource, and this is all of them"));
        }
        Ok(())
    }
}

impl Call {
    /// Whether the client takes what this node has, without asking anybody.
    pub(super) fn wants_stale(&self) -> Result<bool, Answer> {
        if self.query.get("at_revision").is_some() {
            return Err(Answer::bad("at_revision is for one resource, not for lists"));
        }
        match self.query.get("consistency") {
            None | Some("linearizable") => Ok(false),
            Some("stale") => Ok(true),
            Some(other) => Err(Answer::bad(&format!("consistency {other:?} is neither linearizable nor stale"))),
        }
    }

    /// What holds for a write, given its body.
    pub(super) fn terms(&self, desk: &Desk, body: &[u8]) -> Result<WriteTerms, Answer> {
        let waits_for_record = match self.query.get("durability") {
            None => desk.record.waits_by_default(),
            Some("raft") => false,
            Some("record") if desk.record.is_kept() => true,
            Some("record") => return Err(Answer::bad("durability=record needs a record, and this cluster has none")),
            Some(other) => return Err(Answer::bad(&format!("durability {other:?} is neither raft nor record"))),
        };
        let wait = Wait::read(desk, &self.query)?;
        let ttl_seconds = match self.query.get("ttl").map(str::parse::<u64>) {
            None => None,
            Some(Ok(seconds)) if seconds > 0 => Some(seconds),
            Some(_) => return Err(Answer::bad("invalid argument ttl: should be a number")),
        };
        let given = self.idempotency_key()?;
        let idempotency = given.as_ref().map(|key| {
            let mut hash = Sha256::new();
            for part in [self.method.as_str().as_bytes(), self.path.join("/").as_bytes(), body] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
            Idempotency { key: key.as_str().into(), fingerprint: hash.finalize().into() }
        });
        Ok(WriteTerms {
            request: given.unwrap_or_else(|| format!("{:016x}{:016x}", desk.random.next(), desk.random.next())),
            idempotency,
            if_match: self.if_match()?,
            ttl_seconds,
            force: self.query.get("force") == Some("true"),
            waits_for_record,
            wait,
        })
    }

    fn idempotency_key(&self) -> Result<Option<String>, Answer> {
        let Some(value) = self.headers.get("idempotency-key") else { return Ok(None) };
        let good = |key: &&str| {
            (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic())
        };
        match value.to_str().ok().filter(good) {
            Some(key) => Ok(Some(key.to_owned())),
            None => Err(Answer::bad(&format!(
                "Idempotency-Key must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} visible ASCII characters"
            ))),
        }
    }

    fn if_match(&self) -> Result<Option<Revision>, Answer> {
        let Some(value) = self.headers.get("if-match") else { return Ok(None) };
        let revision = value.to_str().ok().and_then(|text| text.trim().trim_matches('"').parse().ok());
        revision.map(Some).ok_or_else(|| Answer::bad("If-Match must be a modifiedIndex"))
    }
}

/// Reads a body, up to `max` bytes.
pub(super) async fn read_body(body: Body, max: u64) -> Result<Bytes, Answer> {
    let limit = usize::try_from(max).unwrap_or(usize::MAX);
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(Answer::too_large(max)),
        Err(e) => Err(Answer::bad(&format!("the request body could not be read: {e}"))),
    }
}

/// A body as JSON.
pub(super) fn parse(body: &[u8]) -> Result<Value, Answer> {
    json::parse(body).map_err(|e| Answer::bad_json(&e))
}
