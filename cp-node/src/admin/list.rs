//! Lists: filters, order, pages.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::StatusCode;
use protocol::resource::KindInfo;
use protocol::{ConfigState, Entry, Kind, ResourceKey};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Number;

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
    let mut matching: Vec<(&ResourceKey, &Arc<Entry>)> = all.filter(|(_, entry)| filters.take(&entry.body)).collect();
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
    /// From `filter=service_id=<id>`.
    service_id: Option<String>,
    /// From `filter=upstream_id=<id>`.
    upstream_id: Option<String>,
}

impl<'q> Filters<'q> {
    fn from(query: &'q Query) -> Self {
        // `filter` is a query of its own, encoded once more; only references count in it.
        let inner = Query::parse(query.get("filter").unwrap_or_default());
        let reference = |field: &str| inner.get(field).map(str::to_owned);
        let (service_id, upstream_id) = (reference("service_id"), reference("upstream_id"));
        Self { name: query.get("name"), uri: query.get("uri"), label: query.get("label"), service_id, upstream_id }
    }

    fn take(&self, body: &str) -> bool {
        let Self { name, uri, label, service_id, upstream_id } = self;
        if name.is_none() && uri.is_none() && label.is_none() && service_id.is_none() && upstream_id.is_none() {
            return true;
        }
        let Ok(facets) = serde_json::from_str::<Facets<'_>>(body) else { return false };
        let is_within = |part: &str, text: &str| text.contains(part);
        let any_uri = |part: &str| {
            let one = facets.uri.iter().any(|uri| is_within(part, uri));
            one || facets.uris.iter().flatten().any(|uri| is_within(part, uri))
        };
        self.name.is_none_or(|part| facets.name.iter().any(|name| is_within(part, name)))
            && self.uri.is_none_or(any_uri)
            && self.label.is_none_or(|label| facets.labels.iter().any(|labels| labels.contains_key(label)))
            && self.service_id.as_ref().is_none_or(|id| facets.service_id.iter().any(|found| found.is(id)))
            && self.upstream_id.as_ref().is_none_or(|id| facets.upstream_id.iter().any(|found| found.is(id)))
    }
}

/// What lists are filtered by. Everything else in a body is passed over without a copy: a list looks at all of a kind.
#[derive(Deserialize)]
struct Facets<'b> {
    #[serde(borrow)]
    name: Option<Cow<'b, str>>,
    #[serde(borrow)]
    uri: Option<Cow<'b, str>>,
    #[serde(borrow)]
    uris: Option<Vec<Cow<'b, str>>>,
    #[serde(borrow)]
    labels: Option<BTreeMap<Cow<'b, str>, IgnoredAny>>,
    #[serde(borrow)]
    service_id: Option<Id<'b>>,
    #[serde(borrow)]
    upstream_id: Option<Id<'b>>,
}

/// An id in a reference.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id<'b> {
    #[serde(borrow)]
    Text(Cow<'b, str>),
    Number(Number),
}

impl Id<'_> {
    fn is(&self, id: &str) -> bool {
        match self {
            Self::Text(text) => text == id,
            Self::Number(number) => number.to_string() == id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_looks_at_its_field_in_each_of_its_forms() {
        let body = r#"{"id":"x","name":"a\u00e4\"b","uris":["/one","/tw\u006f"],"labels":{"env":"prod"},"service_id":"s1",
            "upstream_id":7,"plugins":{"p":{"deep":[{"name":"no"}]}}}"#;
        for (query, fits) in [
            ("", true),
            ("name=%C3%A4%22", true),
            ("name=no", false),
            ("uri=two", true),
            ("uri=three", false),
            ("label=env", true),
            ("label=prod", false),
            ("filter=service_id%3Ds1", true),
            ("filter=service_id%3Ds", false),
            ("filter=upstream_id%3D7", true),
            ("filter=upstream_id%3D7%26service_id%3Dnone", false),
            ("name=a&uri=one&label=env&filter=upstream_id%3D7", true),
        ] {
            assert_eq!(Filters::from(&Query::parse(query)).take(body), fits, "{query}");
        }
        assert!(!Filters::from(&Query::parse("label=env")).take("{}"));
        assert!(Filters::from(&Query::parse("uri=/a")).take(r#"{"uri":"/ab"}"#));
    }
}
