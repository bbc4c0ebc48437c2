//! `/apisix/admin/<kind>[/<id>[/<sub path>]]`.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use bytes::Bytes;
use plugins::CATALOG;
use protocol::command::{Action, BasedOn, Draft, Transaction, Write};
use protocol::json::{self, Value};
use protocol::outcome::Written;
use protocol::resource::{Admitted, IdRule, KindInfo, admit};
use protocol::{Kind, Position, ResourceKey};

use super::answer::Answer;
use super::limits::ATTEMPTS;
use super::request::{Call, WriteTerms, aside, parse, read_body};
use super::secrets::View;
use super::server::of_a_resource;
use super::{Desk, history, list, render, wait, write};
use crate::feed::capability;

/// How often a POST tries another id when the one that it was to get was taken meanwhile.
const POST_ATTEMPTS: u32 = 16;

/// They are tried from so many at most, as a power of two.
const POST_SPREAD_MAX: u32 = 6;

/// Where a path leads.
struct Target {
    kind: &'static KindInfo,
    /// The id as keys have it (`<consumer>/<id>` for a credential).
    id: Option<String>,
    /// Inside the resource, for PATCH.
    sub_path: Vec<String>,
}

impl Target {
    /// Whether the path ends above where a resource of the kind can stand, and no body can say the rest.
    fn lacks_its_path(&self) -> bool {
        match self.kind.id_rule {
            IdRule::UnderConsumer => self.id.as_deref().is_none_or(|id| id.ends_with('/')),
            IdRule::Plugin => self.id.is_none(),
            IdRule::UnderManager => self.id.as_deref().is_none_or(|id| !id.contains('/')),
            IdRule::Plain | IdRule::Username => false,
        }
    }
}

/// Serves a request on resources.
pub(super) async fn serve(desk: &Desk, call: Call, body: Body) -> Result<Answer, Answer> {
    let target = target(&call.path)?;
    let kind = target.kind;
    let refuse = || of_a_resource(Answer::method_not_offered(call.method.as_str(), kind.singular));
    let offered = match call.method {
        Method::GET | Method::PUT | Method::DELETE => true,
        Method::POST => kind.post,
        Method::PATCH => kind.patch,
        _ => false,
    };
    if !offered {
        return Err(refuse());
    }
    if call.method != Method::PATCH && !target.sub_path.is_empty() {
        let sentence = format!("a path inside a {} is for PATCH: {}", kind.singular, target.sub_path.join("/"));
        return Err(of_a_resource(Answer::bad(&sentence)));
    }
    let method = call.method.clone();
    let answer = match method {
        Method::GET => get(desk, &call, target).await,
        Method::DELETE => delete(desk, &call, target).await,
        _ => {
            let body = read_body(body, desk.settings.body_max.0).await?;
            let terms = call.terms(desk, &body).await?;
            // Broken JSON is answered before the request counts as one on a resource, as APISIX does.
            let value = if body.is_empty() { None } else { Some(parse(&body)?) };
            match method {
                Method::PUT => put(desk, &call, target, value, terms).await,
                Method::POST => post(desk, &call, target, value, terms).await,
                _ => patch(desk, &call, target, value, terms).await,
            }
        }
    };
    answer.map(of_a_resource).map_err(of_a_resource)
}

fn target(path: &[String]) -> Result<Target, Answer> {
    let mut path: Vec<&str> = path.iter().map(String::as_str).collect();
    // A slash behind an id says nothing.
    if path.len() > 2 && path.last().is_some_and(|last| last.is_empty()) {
        path.pop();
    }
    let (name, id, sub_path) = match path[..] {
        [] | [""] => return Err(Answer::bad("a kind of resource is needed: /apisix/admin/<kind>")),
        ["consumers", consumer, "credentials"] => ("credentials", Some(format!("{consumer}/")), &[][..]),
        ["consumers", consumer, "credentials", id, ref rest @ ..] => {
            ("credentials", Some(format!("{consumer}/{id}")), rest)
        }
        ["secrets", manager, id, ref rest @ ..] => ("secrets", Some(format!("{manager}/{id}")), rest),
        [kind] | [kind, ""] => (kind, None, &[][..]),
        [kind, id, ref rest @ ..] => (kind, Some(id.to_owned()), rest),
    };
    let kind = KindInfo::find(name).ok_or_else(|| Answer::no_such_kind(name))?;
    Ok(Target { kind, id, sub_path: sub_path.iter().map(|s| (*s).to_owned()).collect() })
}

async fn get(desk: &Desk, call: &Call, target: Target) -> Result<Answer, Answer> {
    if let (Some(revision), Some(id)) = (call.query.get("at_revision"), &target.id)
        && !id.ends_with('/')
    {
        return history::at_revision(desk, &ResourceKey::new(target.kind.name, id), revision).await;
    }
    let config = desk.config(call.wants_stale()?).await?;
    let below = match (target.id.as_deref(), target.kind.id_rule) {
        (None, _) => Some(String::new()),
        (Some(id), IdRule::UnderConsumer) if id.ends_with('/') => Some(id.to_owned()),
        (Some(manager), IdRule::UnderManager) if !manager.contains('/') => Some(format!("{manager}/")),
        _ => None,
    };
    if let Some(below) = below {
        let (secrets, opened) = (desk.secrets.clone(), call.principal.sees_secrets);
        let query = call.query.clone();
        let listing = aside(move || {
            let view = if opened { View::Open(&secrets) } else { View::Masked };
            list::list(&config, view, target.kind, &below, &query)
        });
        return listing.await;
    }
    let key = ResourceKey::new(target.kind.name, target.id.as_deref().unwrap_or_default());
    match config.get(&key) {
        Some(entry) => {
            let item = render::item(desk.view(&call.principal), &key, entry);
            Ok(Answer::json(StatusCode::OK, item).at(config.position()))
        }
        None => Err(Answer::missing().at(config.position())),
    }
}

async fn put(
    desk: &Desk,
    call: &Call,
    target: Target,
    value: Option<Value>,
    terms: WriteTerms,
) -> Result<Answer, Answer> {
    let value = value.ok_or_else(|| Answer::bad("missing configurations"))?;
    if target.lacks_its_path() {
        return Err(Answer::bad(&render::missing_id(target.kind)));
    }
    let mut admitted =
        admit(&CATALOG, target.kind, target.id.as_deref(), value).map_err(|report| Answer::report(&report))?;
    let id = target.id.or_else(|| admitted.id.as_ref().map(ToString::to_string));
    let id = id.ok_or_else(|| Answer::bad(&render::missing_id(target.kind)))?;
    let key = ResourceKey::new(target.kind.name, &id);
    let draft = draft(desk, &key, &mut admitted, terms.ttl_seconds)?;
    let action = Action::Write(Write::Put { key, draft, if_match: terms.if_match, only_new: false });
    let before = desk.feed.position();
    let done = write::propose_one(desk, call, &terms, Vec::new(), action).await?;
    Ok(written(desk, call, &terms, before, done, &admitted).await)
}

/// The answer to a write of one resource that was admitted on a configuration at `before`.
async fn written(
    desk: &Desk,
    call: &Call,
    terms: &WriteTerms,
    before: Position,
    (position, done): (Position, Written),
    admitted: &Admitted,
) -> Answer {
    // Made before, under its key: a merge with what is there now, and tokens that were sealed now, are not what it stored.
    let is_repeated = terms.idempotency.is_some() && position.revision <= before.revision;
    let answer = match is_repeated && (call.method == Method::PATCH || admitted.has_secrets) {
        true => history::answer_again(desk, position, &done).await,
        false => write::answer(&done, &admitted.body).at(position).warn(&admitted.warnings),
    };
    wait::settle(desk, terms, position, &[done], answer).await
}

async fn post(
    desk: &Desk,
    call: &Call,
    target: Target,
    value: Option<Value>,
    terms: WriteTerms,
) -> Result<Answer, Answer> {
    if target.id.is_some() {
        return Err(Answer::bad(&format!("wrong {} id, do not need it", target.kind.singular)));
    }
    let value = value.ok_or_else(|| Answer::bad("missing configurations"))?;
    let admitted = admit(&CATALOG, target.kind, None, value).map_err(|report| Answer::report(&report))?;
    if admitted.id.is_some() {
        return Err(Answer::bad(&format!("wrong {} id, do not need it", target.kind.singular)));
    }
    if terms.if_match.is_some() {
        return Err(Answer::bad("If-Match names a resource that is there, and POST makes a new one"));
    }
    if !admitted.has_secrets {
        let any = ResourceKey::new(target.kind.name, "");
        let mut admitted = admitted.clone();
        let draft = draft(desk, &any, &mut admitted, terms.ttl_seconds)?;
        let action = Action::Write(Write::Post { kind: Kind::new(target.kind.name), draft });
        let before = desk.feed.position();
        match write::propose_one(desk, call, &terms, Vec::new(), action).await {
            Ok(done) => return Ok(written(desk, call, &terms, before, done, &admitted).await),
            // Somebody has PUT something under the id that the log would have given.
            Err(refused) if refused.is_taken() => {}
            Err(refused) => return Err(refused),
        }
    }
    post_under_chosen(desk, call, target.kind, &admitted, &terms).await
}

/// A secret is sealed for the id under which it will stand, so that here the id is chosen before the proposal: the first
/// that is free from the next revision on. When it is taken by the time it is decided, another one is tried, from more and
/// more of them, so that those who post at the same time part.
async fn post_under_chosen(
    desk: &Desk,
    call: &Call,
    kind: &KindInfo,
    admitted: &Admitted,
    terms: &WriteTerms,
) -> Result<Answer, Answer> {
    for attempt in 0..POST_ATTEMPTS {
        let config = desk.config(false).await?;
        let mut admitted = admitted.clone();
        let all = (config.position().revision + 1..).map(|n| ResourceKey::new(kind.name, &format!("{n:020}")));
        let passed = usize::try_from(desk.random.below(1 << attempt.min(POST_SPREAD_MAX))).unwrap_or(0);
        let mut free = all.filter(|key| config.get(key).is_none()).skip(passed);
        let key = free.next().expect("there are more numbers than resources");
        let draft = draft(desk, &key, &mut admitted, terms.ttl_seconds)?;
        let action = Action::Write(Write::Put { key, draft, if_match: None, only_new: true });
        match write::propose_one(desk, call, terms, Vec::new(), action).await {
            Ok(done) => return Ok(written(desk, call, terms, config.position(), done, &admitted).await),
            Err(refused) if refused.is_taken() => {}
            Err(refused) => return Err(refused),
        }
    }
    Err(Answer::error(StatusCode::CONFLICT, "others created resources each time an id was about to be taken"))
}

/// What the log is to hold.
fn draft(desk: &Desk, key: &ResourceKey, admitted: &mut Admitted, ttl_seconds: Option<u64>) -> Result<Draft, Answer> {
    let known = desk.feed.config();
    let current = known.get(key).map(|entry| &**entry);
    admitted.warnings.extend(desk.fleet.warnings(&capability::needed(key.kind.as_str(), &admitted.body)));
    write::draft(&desk.secrets, key, admitted, current, ttl_seconds).map_err(|report| Answer::report(&report))
}

/// Reads the resource, merges, and writes under the condition that it has not changed. When it has, starts over: so of
/// many patches at the same time each takes effect.
async fn patch(
    desk: &Desk,
    call: &Call,
    target: Target,
    value: Option<Value>,
    terms: WriteTerms,
) -> Result<Answer, Answer> {
    let value = value.ok_or_else(|| Answer::bad("missing new configuration"))?;
    if target.lacks_its_path() {
        return Err(Answer::bad(&format!("no {} id", target.kind.singular)));
    }
    let id = target.id.as_deref().ok_or_else(|| Answer::bad(&render::missing_id(target.kind)))?;
    if target.sub_path.is_empty() && !value.is_object() {
        return Err(Answer::bad("invalid configuration"));
    }
    let key = ResourceKey::new(target.kind.name, id);
    for _ in 0..ATTEMPTS {
        let config = desk.config(false).await?;
        let merged = match config.get(&key) {
            Some(entry) => {
                merged(target.kind, id, &entry.body, &target.sub_path, value.clone()).map(|new| (entry, new))
            }
            None => Err(Answer::missing().at(config.position())),
        };
        let (entry, mut admitted) = match merged {
            Ok(merged) => merged,
            Err(refused) => return refused_unless_done(desk, call, &terms, &key, refused).await,
        };
        let draft = draft(desk, &key, &mut admitted, terms.ttl_seconds.or(entry.ttl_seconds))?;
        let based_on = vec![BasedOn { key: key.clone(), modified: Some(entry.modified.revision) }];
        let action = Action::Write(Write::Put { key: key.clone(), draft, if_match: terms.if_match, only_new: false });
        match write::propose_one(desk, call, &terms, based_on, action).await {
            Ok(done) => return Ok(written(desk, call, &terms, config.position(), done, &admitted).await),
            Err(refused) if refused.is_stale() => {}
            Err(refused) => return Err(refused),
        }
    }
    let sentence = format!("{key} was changed by others each time this patch was about to be applied");
    Err(Answer::error(StatusCode::CONFLICT, &sentence))
}

/// The answer to a patch that cannot be made now: what it came to when it was made before under its `Idempotency-Key`.
/// The log alone knows, so it is asked by a proposal that does nothing otherwise: to delete the resource if there is none.
///
/// # Errors
/// `refused`, when it was not made before.
async fn refused_unless_done(
    desk: &Desk,
    call: &Call,
    terms: &WriteTerms,
    key: &ResourceKey,
    refused: Answer,
) -> Result<Answer, Answer> {
    if terms.idempotency.is_none() {
        return Err(refused);
    }
    let if_missing = vec![BasedOn { key: key.clone(), modified: None }];
    let action = Action::Write(Write::Delete { key: key.clone(), if_match: None, force: false });
    match write::propose_one(desk, call, terms, if_missing, action).await {
        Ok((position, done)) => {
            let answer = history::answer_again(desk, position, &done).await;
            Ok(wait::settle(desk, terms, position, &[done], answer).await)
        }
        Err(asked) if asked.is_stale() || asked.not_found().is_some() => Err(refused),
        Err(asked) => Err(asked),
    }
}

fn merged(kind: &KindInfo, id: &str, body: &str, sub_path: &[String], value: Value) -> Result<Admitted, Answer> {
    let mut base = parse(body.as_bytes())?;
    if sub_path.is_empty() {
        json::merge(&mut base, value);
    } else {
        let path: Vec<&str> = sub_path.iter().map(String::as_str).collect();
        json::replace_at(&mut base, &path, value).map_err(|name| {
            Answer::bad(&format!("invalid sub path: {name} stands inside something that is no object"))
        })?;
    }
    admit(&CATALOG, kind, Some(id), base).map_err(|report| Answer::report(&report))
}

async fn delete(desk: &Desk, call: &Call, target: Target) -> Result<Answer, Answer> {
    if target.lacks_its_path() {
        return Err(Answer::bad(&render::missing_id(target.kind)));
    }
    let id = target.id.ok_or_else(|| Answer::bad(&render::missing_id(target.kind)))?;
    let terms = call.terms(desk, &Bytes::new()).await?;
    let key = ResourceKey::new(target.kind.name, &id);
    if target.kind.id_rule == IdRule::Username {
        return delete_consumer(desk, call, key, terms).await;
    }
    let action = Action::Write(Write::Delete { key: key.clone(), if_match: terms.if_match, force: terms.force });
    let (position, done) = write::propose_one(desk, call, &terms, Vec::new(), action).await?;
    let answer = Answer::json(StatusCode::OK, render::deleted(&key)).at(position);
    Ok(wait::settle(desk, &terms, position, &[done], answer).await)
}

/// Deletes a consumer with its credentials. When one was added or removed meanwhile, starts over.
async fn delete_consumer(desk: &Desk, call: &Call, key: ResourceKey, terms: WriteTerms) -> Result<Answer, Answer> {
    let below = format!("{}/", key.id);
    for _ in 0..ATTEMPTS {
        let config = desk.config(false).await?;
        let credentials = Kind::new("credentials");
        let own = config.of_kind(&credentials).map(|(key, _)| key).filter(|key| key.id.starts_with(&below));
        let mut writes: Vec<Write> =
            own.map(|key| Write::Delete { key: key.clone(), if_match: None, force: false }).collect();
        let read = writes.len();
        writes.push(Write::Delete { key: key.clone(), if_match: terms.if_match, force: terms.force });
        let action = Action::Transaction(Transaction { writes, if_revision: None });
        match write::propose(desk, call, &terms, Vec::new(), action).await {
            Ok((position, done)) => {
                let answer = Answer::json(StatusCode::OK, render::deleted(&key)).at(position);
                return Ok(wait::settle(desk, &terms, position, &done, answer).await);
            }
            // Either the consumer itself is missing, or what stood below it has changed.
            Err(refused) if config.get(&key).is_none() || !refused.may_have_moved(read > 0) => return Err(refused),
            Err(_) => {}
        }
    }
    let sentence = format!("credentials of {key} were changed by others each time it was about to be deleted");
    Err(Answer::error(StatusCode::CONFLICT, &sentence))
}
