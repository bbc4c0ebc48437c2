//! Headers that a configuration adds, sets and removes, on requests and on answers.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use protocol::report::Problem;
use protocol::resource::scope::Scope;
use protocol::resource::{Values, VariableText};
use serde_json::{Value, json};

use super::plugin::check_variables;

/// What is done to headers: first added, then set, then removed, as in APISIX.
#[derive(Debug, Default)]
pub(crate) struct HeaderEdits {
    add: Vec<(HeaderName, VariableText)>,
    set: Vec<(HeaderName, VariableText)>,
    remove: Vec<HeaderName>,
}

/// Headers by which the proxy itself frames and addresses messages: no configuration may change them.
const OURS: [HeaderName; 7] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Whether the proxy itself writes that header.
pub(crate) fn is_ours(name: &HeaderName) -> bool {
    OURS.contains(name)
}

/// The name of a header.
pub(crate) fn header_name(scope: &Scope<'_, '_>) -> Option<HeaderName> {
    let text = scope.string(0, usize::MAX)?;
    parse_name(scope, text)
}

fn parse_name(scope: &Scope<'_, '_>, text: &str) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(text.trim().as_bytes()).ok();
    if name.is_none() {
        scope.problem(Problem::rule(scope.path.clone(), format!("{text:?} is no name of a header")));
    }
    name
}

pub(crate) fn editable_name(scope: &Scope<'_, '_>, text: &str) -> Option<HeaderName> {
    let name = parse_name(scope, text)?;
    if is_ours(&name) {
        let sentence = format!("the header {name} is the proxy's own to write");
        scope.problem(Problem::rule(scope.path.clone(), sentence));
        return None;
    }
    Some(name)
}

/// A text with variables in it.
pub(crate) fn template(scope: &Scope<'_, '_>, text: &str) -> Option<VariableText> {
    if HeaderValue::from_str(text).is_err() {
        scope.problem(Problem::rule(scope.path.clone(), format!("{text:?} cannot stand in a header")));
        return None;
    }
    let template = VariableText::parse(text);
    check_variables(scope, template.variables());
    Some(template)
}

fn value(scope: &Scope<'_, '_>) -> Option<VariableText> {
    match scope.value {
        Value::String(text) => template(scope, text),
        Value::Number(number) => template(scope, &number.to_string()),
        _ => {
            scope.wrong("value should match only one schema, but matches none");
            None
        }
    }
}

type Edit = (HeaderName, VariableText);

/// `{name: value, …}`; where `lists` are taken, a value may be a list of values.
fn by_name(scope: &Scope<'_, '_>, lists: bool) -> Option<Vec<Edit>> {
    let mut all = Vec::new();
    for (name, value_of) in scope.members()? {
        let name = editable_name(&value_of, name);
        let values = match value_of.value {
            Value::Array(_) if lists => value_of.all(value_of.items(1)?, |item| value(&item)),
            _ => value(&value_of).map(|value| vec![value]),
        };
        let (Some(name), Some(values)) = (name, values) else { continue };
        all.extend(values.into_iter().map(|value| (name.clone(), value)));
    }
    Some(all)
}

/// `["name: value", …]`.
fn lines(scope: &Scope<'_, '_>) -> Option<Vec<Edit>> {
    scope.all(scope.items(1)?, |line| {
        let text = line.string(0, usize::MAX)?;
        let is_line = |text: &str| text.split_once(':').is_some_and(|(name, _)| !name.is_empty());
        let (name, value) = line.pattern(text, "^[^:]+:[^:]*[^/]$", is_line)?.split_once(':')?;
        Some((editable_name(&line, name)?, template(&line, value.trim())?))
    })
}

impl HeaderEdits {
    /// Reads `headers` of `proxy-rewrite`.
    pub(crate) fn of_request(scope: Scope<'_, '_>) -> Option<Self> {
        Self::read(&scope, |scope| by_name(scope, true))
    }

    /// Reads `headers` of `response-rewrite`.
    pub(crate) fn of_response(scope: Scope<'_, '_>) -> Option<Self> {
        Self::read(&scope, lines)
    }

    fn read(scope: &Scope<'_, '_>, add: impl FnOnce(&Scope<'_, '_>) -> Option<Vec<Edit>>) -> Option<Self> {
        let fields = scope.object()?;
        let is_structured =
            ["add", "set", "remove"].iter().any(|name| scope.value[*name].is_object() || scope.value[*name].is_array());
        if !is_structured {
            return Some(Self { set: by_name(scope, false)?, ..Self::default() });
        }
        let edits = Self {
            add: fields.optional("add", |s| add(&s)).unwrap_or_default(),
            set: fields.optional("set", |s| by_name(&s, true)).unwrap_or_default(),
            remove: fields
                .optional("remove", |s| {
                    s.all(s.items(1)?, |item| {
                        let text = item.string(0, usize::MAX)?;
                        editable_name(&item, text)
                    })
                })
                .unwrap_or_default(),
        };
        fields.finish();
        Some(edits)
    }

    /// Does it. What variables make of a value that cannot stand in a header is left out.
    pub(crate) fn apply(&self, headers: &mut HeaderMap, values: &dyn Values) {
        let filled = |template: &VariableText| HeaderValue::from_bytes(&template.fill_all(values)).ok();
        for (name, template) in &self.add {
            if let Some(value) = filled(template) {
                headers.append(name.clone(), value);
            }
        }
        for (at, (name, template)) in self.set.iter().enumerate() {
            // Of several values for one name, the first takes the place of what was there.
            let is_first = at == 0 || self.set[at - 1].0 != *name;
            match filled(template) {
                Some(value) if is_first => drop(headers.insert(name.clone(), value)),
                Some(value) => drop(headers.append(name.clone(), value)),
                None => {}
            }
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// The schema of `headers`; `add` is that of what is added.
pub(crate) fn schema(add: Value) -> Value {
    json!({
        "type": "object",
        "description": "either names with values, or what to add, to set and to remove",
        "properties": { "add": add, "set": { "type": ["object", "string", "number"] },
                        "remove": { "type": ["array", "string", "number"] } },
    })
}
