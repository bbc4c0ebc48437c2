//! A request's parts, read once.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use bytes::{Bytes, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use protocol::Revision;
use protocol::command::Idempotency;
use protocol::json::{self, Value};
use sha2::Sha256;

use super::Desk;
use super::answer::Answer;
use super::auth::{Principal, given_key};
use super::limits::{BODY_PAUSE_MAX, IDEMPOTENCY_KEY_BYTES_MAX};
use super::wait::Wait;

/// A body up to this size takes less time than to give it to another thread.
const SMALL_BYTES: usize = 64 << 10;

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

    /// Whether the request is to be tried only.
    ///
    /// # Errors
    /// A 400 when it says neither `true` nor `false`: a trial must not become the real thing by a slip.
    pub(super) fn is_dry_run(&self) -> Result<bool, Answer> {
        match self.get("dry_run") {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Answer::bad(&format!("invalid argument dry_run: {other:?} is neither true nor false"))),
        }
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
    /// For a write of several resources: what speaks of one has no meaning there, and is not passed over in silence.
    pub(super) fn check_for_several(&self) -> Result<(), Answer> {
        let given = [
            ("the header If-Match", self.if_match.is_some()),
            ("the argument ttl", self.ttl_seconds.is_some()),
            ("the argument force", self.force),
        ];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => Err(Answer::bad(&format!("{name} is for one resource, and this may be several"))),
            None => Ok(()),
        }
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
    pub(super) async fn terms(&self, desk: &Desk, body: &Bytes) -> Result<WriteTerms, Answer> {
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
        let idempotency = match &given {
            Some(key) => Some(Idempotency { key: key.as_str().into(), fingerprint: self.fingerprint(body).await? }),
            None => None,
        };
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

    /// Tells a request from another one under the same `Idempotency-Key`, by everything that decides what is written. It is
    /// kept in the log, and the body may hold what is sealed there: so it is keyed, with what the client alone knows.
    async fn fingerprint(&self, body: &Bytes) -> Result<[u8; 32], Answer> {
        let key = given_key(&self.headers, &self.query).unwrap_or_default();
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes a key of any length");
        let header = |name: &str| self.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
        let argument = |name| self.query.get(name).unwrap_or_default().as_bytes();
        let (method, path) = (self.method.as_str().as_bytes(), self.path.join("/"));
        let headers = ["if-match", "x-digest", "content-type"].map(header);
        for part in [method, path.as_bytes(), argument("ttl"), argument("force")].into_iter().chain(headers) {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        let (is_small, body) = (body.len() <= SMALL_BYTES, body.clone());
        let finish = move || Ok(mac.chain_update(&body).finalize().into_bytes().into());
        if is_small { finish() } else { aside(finish).await }
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

/// Runs work that may take its time where it holds up nobody else.
///
/// # Errors
/// Those of the work; a 500 when it panicked.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Answer> + Send + 'static,
) -> Result<T, Answer> {
    let done = daemon::blocking::spawn(work).await;
    done.map_err(|e| Answer::error(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()))?
}

/// Reads a body, up to `max` bytes, as long as it keeps coming.
pub(super) async fn read_body(body: Body, max: u64) -> Result<Bytes, Answer> {
    let limit = usize::try_from(max).unwrap_or(usize::MAX);
    let mut body = Limited::new(body, limit);
    let mut read = BytesMut::new();
    loop {
        match tokio::time::timeout(BODY_PAUSE_MAX, body.frame()).await {
            Ok(Some(Ok(frame))) => read.extend(frame.into_data()),
            Ok(Some(Err(e))) if e.is::<LengthLimitError>() => return Err(Answer::too_large(max)),
            Ok(Some(Err(e))) => return Err(Answer::bad(&format!("the request body could not be read: {e}"))),
            Ok(None) => return Ok(read.freeze()),
            Err(_) => {
                let sentence = format!("nothing came of the request body for {BODY_PAUSE_MAX:?}");
                return Err(Answer::error(StatusCode::REQUEST_TIMEOUT, &sentence));
            }
        }
    }
}

/// A body as JSON.
pub(super) fn parse(body: &[u8]) -> Result<Value, Answer> {
    json::parse(body).map_err(|e| Answer::bad_json(&e))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::StreamExt;

    use super::*;

    async fn read(parts: &[&'static [u8]], ends: bool, max: u64) -> Result<Bytes, u16> {
        let parts =
            futures_util::stream::iter(parts.to_vec()).map(|part| Ok::<_, Infallible>(Bytes::from_static(part)));
        let body = match ends {
            true => Body::from_stream(parts),
            false => Body::from_stream(parts.chain(futures_util::stream::pending())),
        };
        read_body(body, max).await.map_err(|answer| answer.status.as_u16())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_read_whole_up_to_its_bound_and_while_it_comes() {
        assert_eq!(read(&[b"ab", b"", b"c"], true, 3).await, Ok(Bytes::from_static(b"abc")));
        assert_eq!(read(&[b"ab", b"cd"], true, 3).await, Err(413));
        assert_eq!(read(&[b"ab"], false, 3).await, Err(408), "it pauses for ever");
    }
}
