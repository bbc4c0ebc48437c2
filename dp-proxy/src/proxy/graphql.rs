//! What a document in GraphQL asks for. The `graphql-parser` crate reads it, and is named here alone.

use std::collections::BTreeSet;

use graphql_parser::query::{Definition, Document, OperationDefinition, Selection, SelectionSet, parse_query};

/// An operation, as conditions ask for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Operation {
    /// Empty where it has none.
    pub(crate) name: String,
    /// `query`, `mutation` or `subscription`.
    pub(crate) kind: &'static str,
    /// The fields that it asks for first of all, by their names and not by the aliases that the answer is to give them, also those
    /// of fragments.
    pub(crate) root_fields: BTreeSet<String>,
}

/// The operation of that name in a document, or where none is named or there is none of the name, the first. `None`: it is no
/// document, or has no operation.
pub(crate) fn read(document: &str, named: Option<&str>) -> Option<Operation> {
    let document = parse_query::<&str>(document).ok()?;
    let operations = document.definitions.iter().filter_map(|definition| match definition {
        Definition::Operation(operation) => Some(parts(operation)),
        Definition::Fragment(_) => None,
    });
    let is_named = |(_, name, _): &(&str, Option<&str>, _)| name.is_some() && *name == named;
    let (kind, name, selected) = operations.clone().find(is_named).or_else(|| operations.clone().next())?;
    let mut root_fields = BTreeSet::new();
    collect(&document, selected, &mut BTreeSet::new(), &mut root_fields);
    Some(Operation { name: name.unwrap_or_default().to_owned(), kind, root_fields })
}

type Parts<'o, 'd> = (&'static str, Option<&'d str>, &'o SelectionSet<'d, &'d str>);

fn parts<'o, 'd>(operation: &'o OperationDefinition<'d, &'d str>) -> Parts<'o, 'd> {
    match operation {
        OperationDefinition::SelectionSet(selected) => ("query", None, selected),
        OperationDefinition::Query(it) => ("query", it.name, &it.selection_set),
        OperationDefinition::Mutation(it) => ("mutation", it.name, &it.selection_set),
        OperationDefinition::Subscription(it) => ("subscription", it.name, &it.selection_set),
    }
}

/// Fragments may name each other in a circle, which no server takes: each counts once.
fn collect<'d>(
    document: &Document<'d, &'d str>,
    selected: &SelectionSet<'d, &'d str>,
    seen: &mut BTreeSet<&'d str>,
    fields: &mut BTreeSet<String>,
) {
    for selection in &selected.items {
        match selection {
            Selection::Field(field) => drop(fields.insert(field.name.to_owned())),
            Selection::InlineFragment(fragment) => collect(document, &fragment.selection_set, seen, fields),
            Selection::FragmentSpread(spread) if seen.insert(spread.fragment_name) => {
                let named = document.definitions.iter().find_map(|definition| match definition {
                    Definition::Fragment(fragment) if fragment.name == spread.fragment_name => Some(fragment),
                    _ => None,
                });
                if let Some(fragment) = named {
                    collect(document, &fragment.selection_set, seen, fields);
                }
            }
            Selection::FragmentSpread(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(document: &str, named: Option<&str>) -> Option<(String, &'static str, Vec<String>)> {
        let Operation { name, kind, root_fields } = read(document, named)?;
        Some((name, kind, root_fields.into_iter().collect()))
    }

    #[test]
    fn operations_have_a_kind_a_name_and_root_fields() {
        for (document, named, expected) in [
            ("{ owner { name } }", None, Some(("", "query", &["owner"][..]))),
            (
                "query getRepo($n: Int = 1) { owner(id: $n) { name } r: repo { id } }",
                None,
                Some(("getRepo", "query", &["owner", "repo"])),
            ),
            ("mutation m @d { add(x: {y: [1]}) { id } }", None, Some(("m", "mutation", &["add"]))),
            ("subscription { news }", None, Some(("", "subscription", &["news"]))),
            (
                "fragment F on Q { a ...G } fragment G on Q { b ...F } { ...F ... on Q { c } ... { d } ...None }",
                None,
                Some(("", "query", &["a", "b", "c", "d"])),
            ),
            ("query A { a } mutation B { b }", None, Some(("A", "query", &["a"]))),
            ("query A { a } mutation B { b }", Some("B"), Some(("B", "mutation", &["b"]))),
            ("query A { a } mutation B { b }", Some("C"), Some(("A", "query", &["a"]))),
            ("# nothing\n", None, None),
            ("fragment F on Q { a }", None, None),
            ("{ owner", None, None),
            ("", None, None),
        ] {
            let expected = expected.map(|(name, kind, fields)| {
                (name.to_owned(), kind, fields.iter().map(|&field| field.to_owned()).collect::<Vec<_>>())
            });
            assert_eq!(told(document, named), expected, "{document}");
        }
    }

    #[test]
    fn a_document_cannot_nest_so_deep_that_the_stack_is_used_up() {
        for (open, inside, close) in
            [("{a", "", "}"), ("{a(b:", "1", "){c}}"), ("{...on A", "{a}", "}"), ("[", "", "]"), ("{a:", "1", "}")]
        {
            let whole = |deep: usize| format!("{}{inside}{}", open.repeat(deep), close.repeat(deep));
            let values = |deep: usize| format!("{{a(b: {}{inside}{})}}", open.repeat(deep), close.repeat(deep));
            for deep in [1000, 100_000] {
                assert_eq!(read(&whole(deep), None), None, "{open}");
                assert_eq!(read(&values(deep), None), None, "{open}");
            }
        }
    }

    #[test]
    fn fuzz_documents_are_read_or_not() {
        let seeds: [&[u8]; 4] = [
            b"query getRepo($n: [Int!] = [1], $m: S) @a(b: \"c\") { owner(id: $n, z: {y: -1.5e3}) { name } r: repo }",
            b"fragment F on Q { a ...G } mutation X { ...F ... on Q @skip(if: true) { c } ... { d } }",
            b"subscription S { a(x: \"\"\"block \"quoted\" \"\"\", y: null, z: ENUM) } query T { t }",
            b"{a{b{c{d{e}}}}} # end",
        ];
        fuzz::hammer(10, &seeds, |bytes| {
            let Ok(text) = str::from_utf8(bytes) else { return };
            if let Some(operation) = read(text, Some("T")) {
                assert!(operation.root_fields.iter().all(|field| text.contains(field.as_str())));
            }
        });
    }
}
