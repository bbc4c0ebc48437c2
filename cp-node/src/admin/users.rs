//! `/v1/users`: named users of the Admin API and their tokens, made and revoked while the cluster runs.
//!
//! ```text
//!   admin_users/<name>   {"role": "admin"}                                            in the group that no proxy is in
//!   admin_tokens/<id>    {"user": "<name>", "sha256": "…", "expires": …, "desc": …}   refers to its user
//! ```
//!
//! A token is told once, to whoever made it. What is kept is a hash of its 256 random bits, which nobody can guess or turn
//! back. The keys of the settings file stand beside users and open the door when all of these are lost.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use bytes::Bytes;
use protocol::command::{Action, BasedOn, Draft, Transaction, Write};
use protocol::entry::UnixMillis;
use protocol::json;
use protocol::outcome::WrittenHow;
use protocol::resource::{DESC_CHARS_MAX, IdRule};
use protocol::seam::Random;
use protocol::{ConfigState, Kind, ResourceKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::answer::Answer;
use super::auth::Principal;
use super::limits::{ATTEMPTS, TOKEN_SECONDS_MAX, TOKENS_MAX};
use super::request::{Call, WriteTerms, read_body};
use super::{Desk, write};
use crate::settings::Role;

const USERS: &str = "admin_users";
const TOKENS: &str = "admin_tokens";

/// What a token starts with; a key of the settings file should not.
const PREFIX: &str = "hft_";

/// A token that has expired is forgotten so long afterwards, in seconds.
const KEPT_SECONDS: u64 = 24 * 3600;

/// What is kept of a user.
#[derive(Debug, Serialize, Deserialize)]
struct User {
    role: Role,
}

/// What is kept of a token.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    user: String,
    /// Of the whole token, as hexadecimal digits.
    sha256: String,
    /// Seconds since 1970; `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    desc: Option<String>,
}

/// What a client says of a token that it wants.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    expires_seconds: Option<u64>,
    desc: Option<String>,
}

/// Why a token opens nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Denied {
    /// There is none like it.
    Unknown,
    /// Its time is over.
    Expired,
}

/// Who a token is from; `None`: it has not the form of one.
pub(super) fn principal(
    config: &ConfigState,
    given: &str,
    now: UnixMillis,
) -> Option<Result<(Principal, Role), Denied>> {
    let (id, _) = given.strip_prefix(PREFIX)?.split_once('_')?;
    Some(known(config, id, given, now).ok_or(Denied::Unknown).and_then(|known| known))
}

fn known(config: &ConfigState, id: &str, given: &str, now: UnixMillis) -> Option<Result<(Principal, Role), Denied>> {
    let token_key = ResourceKey::new(TOKENS, id);
    let token_entry = config.get(&token_key)?;
    let token: Token = serde_json::from_str(&token_entry.body).ok()?;
    if !bool::from(token.sha256.as_bytes().ct_eq(hash(given).as_bytes())) {
        return None;
    }
    if token.expires.is_some_and(|expires| now / 1000 >= expires) {
        return Some(Err(Denied::Expired));
    }
    let user_key = ResourceKey::new(USERS, &token.user);
    let user_entry = config.get(&user_key)?;
    let user: User = serde_json::from_str(&user_entry.body).ok()?;
    // Its writes are refused in the log when it has been revoked, or its user changed, by then.
    let based_on = vec![
        BasedOn { key: token_key, modified: Some(token_entry.modified.revision) },
        BasedOn { key: user_key, modified: Some(user_entry.modified.revision) },
    ];
    Some(Ok((Principal { name: token.user, sees_secrets: user.role == Role::Admin, based_on }, user.role)))
}

fn hash(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether somebody's rights were written here: what a request of theirs was based on.
pub(super) fn is_principal(key: &ResourceKey) -> bool {
    [USERS, TOKENS].contains(&key.kind.as_str())
}

/// Serves a request on users and tokens.
pub(super) async fn serve(desk: &Desk, call: Call, body: Body) -> Result<Answer, Answer> {
    let path: Vec<&str> = call.path[1..].iter().map(String::as_str).collect();
    match (&call.method, &path[..]) {
        (&Method::GET, []) => list(desk, &call).await,
        (&Method::PUT, [name]) => put(desk, &call, name, body).await,
        (&Method::DELETE, [name]) => delete(desk, &call, name).await,
        (&Method::POST, [name, "tokens"]) => create_token(desk, &call, name, body).await,
        (&Method::DELETE, [name, "tokens", id]) => revoke(desk, &call, name, id).await,
        (_, [] | [_] | [_, "tokens"] | [_, "tokens", _]) => {
            Err(Answer::method_not_offered(call.method.as_str(), "this path"))
        }
        _ => Err(Answer::no_such_path()),
    }
}

/// Every user with the tokens that it has. No secret can be told: none is known.
async fn list(desk: &Desk, call: &Call) -> Result<Answer, Answer> {
    let config = desk.config(call.wants_stale()?).await?;
    let (users, tokens) = (Kind::new(USERS), Kind::new(TOKENS));
    let mut list = Vec::new();
    for (key, entry) in config.of_kind(&users) {
        let body: Value = serde_json::from_str(&entry.body).unwrap_or_default();
        let own = tokens_of(&config, &tokens, &key.id).map(|(key, token, created)| {
            json!({ "id": key.id.as_str(), "created": created, "expires": token.expires, "desc": token.desc })
        });
        let own: Vec<Value> = own.collect();
        list.push(json!({
            "name": key.id.as_str(),
            "role": body["role"],
            "created": entry.created.time / 1000,
            "tokens": own,
        }));
    }
    Ok(Answer::value(StatusCode::OK, &json!({ "total": list.len(), "list": list })).at(config.position()))
}

fn tokens_of<'c>(
    config: &'c ConfigState,
    kind: &'c Kind,
    user: &'c str,
) -> impl Iterator<Item = (&'c ResourceKey, Token, u64)> {
    config.of_kind(kind).filter_map(move |(key, entry)| {
        let token: Token = serde_json::from_str(&entry.body).ok()?;
        (token.user == user).then_some((key, token, entry.created.time / 1000))
    })
}

fn deleted(name: &str) -> Answer {
    Answer::value(StatusCode::OK, &json!({ "deleted": name }))
}

/// What a body says, or what is wrong with it.
fn read<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, Answer> {
    serde_json::from_slice(body).map_err(|e| Answer::bad(&format!("invalid request body: {e}")))
}

fn system_draft(body: &impl Serialize) -> Draft {
    let body = serde_json::to_value(body).map(|body| json::canonical(&body)).unwrap_or_default();
    Draft::of_the_system(body.into())
}

async fn put(desk: &Desk, call: &Call, name: &str, body: Body) -> Result<Answer, Answer> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        role: Role,
    }
    let body = read_body(body, desk.settings.body_max.0).await?;
    let terms = call.terms(desk, &body).await?;
    let Asked { role } = read(&body)?;
    IdRule::Plain.check(name).map_err(|_| Answer::bad(&format!("{name:?} is no name of a user")))?;
    if desk.keys.names(name) {
        let sentence =
            format!("a key of this node's settings has the name {name}: the history could not tell them apart");
        return Err(Answer::error(StatusCode::CONFLICT, &sentence));
    }
    let key = ResourceKey::new(USERS, name);
    let write = Write::Put { key, draft: system_draft(&User { role }), if_match: terms.if_match, only_new: false };
    let (position, done) = write::propose_one(desk, call, &terms, Vec::new(), Action::Write(write)).await?;
    let is_new = matches!(done.how, WrittenHow::Created { .. });
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(Answer::value(status, &json!({ "name": name, "role": role })).at(position))
}

/// Takes a user away with its tokens. When one was made meanwhile, starts over.
async fn delete(desk: &Desk, call: &Call, name: &str) -> Result<Answer, Answer> {
    let terms = call.terms(desk, &Bytes::new()).await?;
    let (key, tokens) = (ResourceKey::new(USERS, name), Kind::new(TOKENS));
    for _ in 0..ATTEMPTS {
        let config = desk.config(false).await?;
        let own = tokens_of(&config, &tokens, name).map(|(key, ..)| key.clone());
        let mut writes: Vec<Write> = own.map(|key| Write::Delete { key, if_match: None, force: false }).collect();
        let read = writes.len();
        writes.push(Write::Delete { key: key.clone(), if_match: terms.if_match, force: false });
        let action = Action::Transaction(Transaction { writes, if_revision: None });
        match write::propose(desk, call, &terms, Vec::new(), action).await {
            Ok((position, _)) => return Ok(deleted(name).at(position)),
            Err(refused) if config.get(&key).is_none() || !refused.may_have_moved(read > 0) => return Err(refused),
            Err(_) => {}
        }
    }
    let sentence = format!("tokens of {name} were made or revoked by others each time it was about to be deleted");
    Err(Answer::error(StatusCode::CONFLICT, &sentence))
}

async fn create_token(desk: &Desk, call: &Call, user: &str, body: Body) -> Result<Answer, Answer> {
    let body = read_body(body, desk.settings.body_max.0).await?;
    let terms = call.terms(desk, &body).await?;
    let wanted = if body.is_empty() { Wanted::default() } else { read::<Wanted>(&body)? };
    if wanted.expires_seconds.is_some_and(|seconds| seconds == 0 || seconds > TOKEN_SECONDS_MAX) {
        return Err(Answer::bad(&format!("expires_seconds must be 1 to {TOKEN_SECONDS_MAX}")));
    }
    if wanted.desc.as_ref().is_some_and(|desc| desc.chars().count() > DESC_CHARS_MAX) {
        return Err(Answer::bad(&format!("desc must have at most {DESC_CHARS_MAX} characters")));
    }
    let (config, tokens) = (desk.config(false).await?, Kind::new(TOKENS));
    if config.get(&ResourceKey::new(USERS, user)).is_none() {
        return Err(Answer::missing().at(config.position()));
    }
    if tokens_of(&config, &tokens, user).count() >= TOKENS_MAX {
        let sentence = format!("{user} has {TOKENS_MAX} tokens, which is the most: revoke one first");
        return Err(Answer::error(StatusCode::CONFLICT, &sentence));
    }
    let (id, token) = make(&*desk.random);
    let expires = wanted.expires_seconds.map(|seconds| desk.clock.now() / 1000 + seconds);
    let kept = Token { user: user.to_owned(), sha256: hash(&token), expires, desc: wanted.desc };
    let mut draft = system_draft(&kept);
    draft.references = vec![ResourceKey::new(USERS, user)];
    draft.ttl_seconds = wanted.expires_seconds.map(|seconds| seconds.saturating_add(KEPT_SECONDS));
    let key = ResourceKey::new(TOKENS, &id);
    let write = Write::Put { key: key.clone(), draft, if_match: None, only_new: true };
    let (position, done) = write::propose_one(desk, call, &terms, Vec::new(), Action::Write(write)).await?;
    if done.key != key {
        // The same request was carried out before, and what it was answered is known to nobody here.
        let sentence = format!(
            "this request has made the token {} before, and a token is told once: revoke it and make another",
            done.key.id
        );
        return Err(Answer::error(StatusCode::CONFLICT, &sentence).at(position));
    }
    let told = json!({ "id": id, "user": user, "token": token, "expires": expires });
    Ok(Answer::value(StatusCode::CREATED, &told).at(position))
}

/// A new token's id, and the token: `hft_<id>_<64 hexadecimal digits>`.
fn make(random: &dyn Random) -> (String, String) {
    let id = format!("{:016x}", random.next());
    let token = format!("{PREFIX}{id}_{}{}", hex(&random.bytes16()), hex(&random.bytes16()));
    (id, token)
}

async fn revoke(desk: &Desk, call: &Call, user: &str, id: &str) -> Result<Answer, Answer> {
    let terms: WriteTerms = call.terms(desk, &Bytes::new()).await?;
    let (config, tokens) = (desk.config(false).await?, Kind::new(TOKENS));
    let key = tokens_of(&config, &tokens, user).map(|(key, ..)| key).find(|key| key.id.as_str() == id).cloned();
    let key = key.ok_or_else(|| Answer::missing().at(config.position()))?;
    let write = Write::Delete { key: key.clone(), if_match: terms.if_match, force: false };
    let (position, _) = write::propose_one(desk, call, &terms, Vec::new(), Action::Write(write)).await?;
    Ok(deleted(id).at(position))
}
