//! Lists: filters, order, pages.

use std::sync::Arc;

use axum::http::StatusCode;
use protocol::json::Value;
use protocol::resource::KindInfo;
use protocol::{ConfigState, Entry, Kind, ResourceKey};

use super::answer::Answer;
use super::limits::{PAGE_SIZE_MAX, PAGE_SIZE_MIN};
use super::render;
use super::request::Query;
use super::secrets::View;

/// The resources of a kind whose ids start with `prefix`.
///
/// Without pages they are ordered by key; with `page` and `page_size`, both of them, by creation.
pub(super) fn list(
    config: &ConfigState,
    view: View<'_>,
    kind: &KindInfo,
    prefix: &str,
    query: &Query,
) -> Result<Answer, Answer> {
    let page = page(query)?;
    let filters = Filters::from(query);
    let name = Kind::new(kind.name);
    let all = config.of_kind(&name).filter(|(key, _)| key.id.starts_with(prefix));
    let mut matching: Vec<(&ResourceKey, &Arc<Entry>)> = all.filter(|(_, entry)| filters.take(entry)).collect();
    if !prefix.is_empty() && matching.is_empty() {
        return Err(Answer::missing().at(config.position()));
    }
    let total = matching.len();
    if let Some((page, size)) = page {
        // By key it is ordered already: of one revision, as a transaction leaves it, there is nothing to do.
        matching.sort_by_key(|(_, entry)| entry.created.revision);
        let from = (page - 1).saturating_mul(size).min(total);
        let to = from.saturating_add(size).min(total);
        matching = matching[from..to].to_vec();
    }
    let items: Vec<String> = matching.iter().map(|(key, entry)| render::item(view, key, entry)).collect();
    Ok(Answer::json(StatusCode::OK, render::list(&items, total)).at(config.position()))
}

/// The page that is asked for; `None` when not both arguments are good, as APISIX has it.
fn page(query: &Query) -> Result<Option<(usize, usize)>, Answer> {
    let (Some(page), Some(size)) = (query.get("page"), query.get("page_size")) else { return Ok(None) };
    let Some(page) = page.parse::<usize>().ok().filter(|page| *page > 0) else { return Ok(None) };
    match size.parse::<usize>() {
        Ok(size) if (PAGE_SIZE_MIN..=PAGE_SIZE_MAX).contains(&size) => Ok(Some((page, size))),
        _ => Err(Answer::plain(
            StatusCode::BAD_REQUEST,
            &format!("page_size must be between {PAGE_SIZE_MIN} and {PAGE_SIZE_MAX}"),
        )),
    }
}

/// What a client asks for.
struct Filters<'q> {
    name: Option<&'q str>,
    uri: Option<&'q str>,
    label: Option<&'q str>,
    /// `service_id` and `upstream_id`, from `filter=<field>=<id>`.
    references: Vec<(String, String)>,
}

impl<'q> Filters<'q> {
    fn from(query: &'q Query) -> Self {
        // `filter` is a query of its own, encoded once more; only references count in it.
        let inner = Query::parse(query.get("filter").unwrap_or_default());
        let references = ["service_id", "upstream_id"]
            .into_iter()
            .filter_map(|field| Some((field.to_owned(), inner.get(field)?.to_owned())))
            .collect();
        Self { name: query.get("name"), uri: query.get("uri"), label: query.get("label"), references }
    }

    fn take(&self, entry: &Entry) -> bool {
        if self.name.is_none() && self.uri.is_none() && self.label.is_none() && self.references.is_empty() {
            return true;
        }
        let Ok(body) = serde_json::from_str::<Value>(&entry.body) else { return false };
        let contains = |field: &str, part: &str| body[field].as_str().is_some_and(|text| text.contains(part));
        let any_uri = |part: &str| {
            let many = body["uris"].as_array().into_iter().flatten().filter_map(Value::as_str);
            contains("uri", part) || many.into_iter().any(|uri| uri.contains(part))
        };
        let refers = |(field, id): &(String, String)| match &body[field.as_str()] {
            Value::String(text) => text == id,
            Value::Number(number) => number.to_string() == *id,
            _ => false,
        };
        self.name.is_none_or(|name| contains("name", name))
            && self.uri.is_none_or(any_uri)
            && self.label.is_none_or(|label| body["labels"].get(label).is_some())
            && self.references.iter().all(refers)
    }
}
