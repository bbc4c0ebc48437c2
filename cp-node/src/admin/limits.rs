//! Every bound of the Admin API, each with its unit and reason. What enforces one names it from here, and `GET /v1/limits`
//! shows them all: so what is published is what holds.

use std::time::Duration;

use axum::http::StatusCode;
use protocol::json::DEPTH_MAX;
use protocol::resource::{
    CONDITIONS_MAX, DESC_CHARS_MAX, ID_BYTES_MAX, LABEL_CHARS_MAX, NAME_CHARS_MAX, PEM_CHARS_MAX, PROTO_CHARS_MAX,
    URI_CHARS_MAX, USERNAME_CHARS_MAX,
};
use raft_store::machine::{IDEMPOTENCY_BYTES_MAX, IDEMPOTENCY_KEYS_MAX, IDEMPOTENCY_MILLIS};
use serde_json::{Map, Value, json};

use super::Desk;
use super::answer::Answer;
use crate::record;

/// Connections to the Admin API of a node: far more clients than any cluster has. Who comes then waits in the kernel's queue.
pub(super) const CONNECTIONS_MAX: usize = 4096;

/// How long a connection may take until a request's whole head has come, and lie idle: longer than pools keep one.
pub(super) const HEAD_MAX: Duration = Duration::from_secs(75);

/// How long a body may pause: meanwhile its request has a place among those under way.
pub(super) const BODY_PAUSE_MAX: Duration = Duration::from_secs(10);

/// The smallest page.
pub(super) const PAGE_SIZE_MIN: usize = 10;

/// The largest page.
pub(super) const PAGE_SIZE_MAX: usize = 500;

/// The most operations in one transaction: about what fits into its bytes.
pub(super) const OPERATIONS_MAX: usize = 500_000;

/// How often a PATCH, or a transaction with patches, starts over because what it read has changed meanwhile. With so many
/// others at work on one resource at the same moment, telling the client is the better help.
pub(super) const ATTEMPTS: usize = 16;

/// The longest `Idempotency-Key`.
pub(super) const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;

/// The longest that an answer waits for the fleet. A client that wants more asks again.
pub(super) const WAIT_MILLIS_MAX: u64 = 120_000;

/// Answers of a node that wait for the fleet at the same time: each asks every node for its proxies.
pub(crate) const WAITS_MAX: usize = 256;

/// Proxies that an answer names which do not serve a change; of the rest it has the number.
pub(super) const NAMED_MAX: usize = 100;

/// The shortest key of a node's settings, in characters: a shorter one can be guessed.
pub(super) const KEY_CHARS_MIN: usize = 16;

/// The most tokens of one user: two are enough to change one for the other.
pub(super) const TOKENS_MAX: usize = 16;

/// The longest time that a token may be good for, in seconds; one without a time is good until it is revoked.
pub(super) const TOKEN_SECONDS_MAX: u64 = 10 * 366 * 24 * 3600;

/// A resource as it is stored, in bytes; etcd's bound for a request. Everything that carries one (deltas, snapshots, rows of
/// the record) has bounds far above twice this.
pub(super) const RESOURCE_BYTES_MAX: usize = 3 << 19;

/// Entries of each list in the answer to a dry run; the rest is counted.
pub(super) const DRY_RUN_ENTRIES_MAX: usize = 1000;

/// All of them with this node's settings: `{"<name>": {"max": …, "unit": …, "of": …}}`, with `min` where there is one.
pub(super) fn answer(desk: &Desk) -> Answer {
    let settings = &desk.settings;
    let mut all = Map::new();
    let mut limit = |name: &str, max: u64, unit: &str, of: &str| {
        all.insert(name.to_owned(), json!({ "max": max, "unit": unit, "of": of }));
    };
    let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    limit("body", settings.body_max.0, "bytes", "a request on one resource; admin.body_max");
    limit(
        "transaction",
        settings.transaction_max.0,
        "bytes",
        "a transaction or whole configuration; admin.transaction_max",
    );
    limit("requests", u64::from(settings.requests_max), "requests", "under way at a node; admin.requests_max");
    limit("connections", wide(CONNECTIONS_MAX), "connections", "the Admin API of a node; more wait");
    limit("idle", millis(HEAD_MAX), "milliseconds", "a connection until a request's whole head has come");
    limit("body_pause", millis(BODY_PAUSE_MAX), "milliseconds", "a body that does not go on");
    let deadline = millis(settings.deadline.0);
    limit("deadline", deadline, "milliseconds", "deciding a write; admin.deadline");
    limit("operations", wide(OPERATIONS_MAX), "operations", "a transaction");
    limit("resource", wide(RESOURCE_BYTES_MAX), "bytes", "a resource as it is stored");
    limit("attempts", wide(ATTEMPTS), "attempts", "a patch that others are faster than");
    limit("page_size", wide(PAGE_SIZE_MAX), "resources", "a page of a list");
    limit("id", wide(ID_BYTES_MAX), "bytes", "an id");
    limit("name", wide(NAME_CHARS_MAX), "characters", "a name");
    limit("desc", wide(DESC_CHARS_MAX), "characters", "a description");
    limit("label", wide(LABEL_CHARS_MAX), "characters", "a label's value");
    limit("uri", wide(URI_CHARS_MAX), "characters", "a route's uri");
    limit("username", wide(USERNAME_CHARS_MAX), "characters", "a consumer's name");
    limit("pem", wide(PEM_CHARS_MAX), "characters", "a certificate chain, key or list of authorities");
    limit("proto", wide(PROTO_CHARS_MAX), "characters", "the content of a proto");
    limit("conditions", wide(CONDITIONS_MAX), "conditions", "the vars of a route");
    limit("depth", wide(DEPTH_MAX), "levels", "a JSON body");
    limit("idempotency_key", wide(IDEMPOTENCY_KEY_BYTES_MAX), "bytes", "an Idempotency-Key");
    limit("idempotency_keys", wide(IDEMPOTENCY_KEYS_MAX), "keys", "remembered in the cluster; the oldest go first");
    limit("idempotency_bytes", IDEMPOTENCY_BYTES_MAX, "bytes", "the keys remembered and what came of their requests");
    limit("idempotency_age", IDEMPOTENCY_MILLIS, "milliseconds", "the memory of an Idempotency-Key");
    limit("wait", WAIT_MILLIS_MAX, "milliseconds", "waiting for the fleet");
    limit(
        "wait_named",
        wide(NAMED_MAX),
        "proxies",
        "named in an answer that has waited; of the rest there is the number",
    );
    limit("history_page", u64::from(record::PAGE_MAX), "rows", "a page of the history; a larger one is cut to it");
    limit("waits", wide(WAITS_MAX), "requests", "waiting for the fleet at a node");
    limit("tokens", wide(TOKENS_MAX), "tokens", "a user");
    limit("token_age", TOKEN_SECONDS_MAX, "seconds", "a token that expires");
    limit("dry_run_entries", wide(DRY_RUN_ENTRIES_MAX), "entries", "each list of a dry run's answer");
    all["page_size"]["min"] = json!(PAGE_SIZE_MIN);
    all.insert(
        "key".to_owned(),
        json!({ "min": KEY_CHARS_MIN, "unit": "characters", "of": "a key of a node's settings" }),
    );
    Answer::json(StatusCode::OK, Value::Object(all).to_string())
}

/// A span in whole milliseconds.
fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
