//! `/apisix/admin/<kind>[/<id>[/<sub path>]]`.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use bytes::Bytes;
use plugins::CATALOG;
use protocol::command::{Action, BasedOn, Draft, Transaction, Write};
use protocol::json::{self, Value};
use protocol::resource::{Admitted, IdRule, KindInfo, admit};
use protocol::{Kind, ResourceKey};

use super::answer::Answer;
use super::limits::ATTEMPTS;
use super::request::{Call, WriteTerms, aside, parse, read_body};
use super::secrets::View;
use super::server::of_a_resource;
use super::{Desk, history, list, render, wait, write};
use crate::feed::capability;

/// How often a POST of something secret tries another id. Each time somebody else has taken one meanwhile.
const POST_ATTEMPTS: u64 = 16;

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
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
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
    let (position, done) = write::propose_one(desk, call, &terms, Vec::new(), action).await?;
    let answer = write::answer(&done, &admitted.body).at(position).warn(&admitted.warnings);
    Ok(wait::settle(desk, &terms, position, &[done], answer).await)
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
    let mut admitted = admit(&CATALOG, target.kind, None, value).map_err(|report| Answer::report(&report))?;
    if admitted.id.is_some() {
        return Err(Answer::bad(&format!("wrong {} id, do not need it", target.kind.singular)));
    }
    if admitted.has_secrets {
        return post_sealed(desk, call, target.kind, &admitted, &terms).await;
    }
    let any = ResourceKey::new(target.kind.name, "");
    let draft = draft(desk, &any, &mut admitted, terms.ttl_seconds)?;
    let action = Action::Write(Write::Post { kind: Kind::new(target.kind.name), draft });
    let (position, done) = write::propose_one(desk, call, &terms, Vec::new(), action).await?;
    let answer = write::answer(&done, &admitted.body).at(position).warn(&admitted.warnings);
    Ok(wait::settle(desk, &terms, position, &[done], answer).await)
}

/// A secret is sealed for the id under which it will stand, so that here the id is chosen before the proposal: the
/// revision that would be the next. When that is taken by the time it is decided, another one is tried.
async fn post_sealed(
    desk: &Desk,
    call: &Call,
    kind: &KindInfo,
    admitted: &Admitted,
    terms: &WriteTerms,
) -> Result<Answer, Answer> {
    for attempt in 0..POST_ATTEMPTS {
        let config = desk.config(false).await?;
        let mut admitted = admitted.clone();
        let key = ResourceKey::new(kind.name, &format!("{:020}", config.position().revision + 1 + attempt));
        let draft = draft(desk, &key, &mut admitted, terms.ttl_seconds)?;
        let action = Action::Write(Write::Put { key, draft, if_match: None, only_new: true });
        match write::propose_one(desk, call, terms, Vec::new(), action).await {
            Ok((position, done)) => {
                let answer = write::answer(&done, &admitted.body).at(position).warn(&admitted.warnings);
                return Ok(wait::settle(desk, terms, position, &[done], answer).await);
            }
            Err(refused) if refused.status == StatusCode::CONFLICT => {}
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
        let Some(entry) = config.get(&key) else { return Err(Answer::missing().at(config.position())) };
        let mut admitted = merged(target.kind, id, &entry.body, &target.sub_path, value.clone())?;
        let draft = draft(desk, &key, &mut admitted, terms.ttl_seconds.or(entry.ttl_seconds))?;
        let based_on = vec![BasedOn { key: key.clone(), modified: Some(entry.modified.revision) }];
        let action = Action::Write(Write::Put { key: key.clone(), draft, if_match: terms.if_match, only_new: false });
        match write::propose_one(desk, call, &terms, based_on, action).await {
            Ok((position, done)) => {
                let answer = write::answer(&done, &admitted.body).at(position).warn(&admitted.warnings);
                return Ok(wait::settle(desk, &terms, position, &[done], answer).await);
            }
            Err(refused) if refused.is_stale => {}
            Err(refused) => return Err(refused),
        }
    }
    let sentence = format!("{key} was changed by others each time this patch was about to be applied");
    Err(Answer::error(StatusCode::CONFLICT, &sentence))
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
