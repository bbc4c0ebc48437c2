//! What a document in GraphQL asks for (GraphQL, October 2021, §2).
//!
//! Read is what conditions ask for: operations, fragments, and the fields that both begin with. Variables, arguments,
//! directives and what is asked of fields are passed over, as long as their brackets match. So a document costs time and
//! memory in its length, however it nests, and one that servers take is not lost for a value that is none here.

use std::collections::{BTreeMap, BTreeSet};

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
    let Document { operations, fragments } = Reader::new(document)?.document()?;
    let is_named = |found: &&(_, Option<&str>, _)| found.1.is_some() && found.1 == named;
    let (kind, name, selected) = operations.iter().find(is_named).or_else(|| operations.first())?;
    Some(Operation { name: name.unwrap_or_default().to_owned(), kind, root_fields: root_fields(selected, &fragments) })
}

/// Fragments may name each other in a circle, which no server takes: each counts once.
fn root_fields(selected: &Selected<'_>, fragments: &BTreeMap<&str, Selected<'_>>) -> BTreeSet<String> {
    let (mut fields, mut seen, mut left) = (BTreeSet::new(), BTreeSet::new(), vec![selected]);
    while let Some(Selected { fields: own, spreads }) = left.pop() {
        fields.extend(own.iter().map(|field| (*field).to_owned()));
        left.extend(spreads.iter().filter(|name| seen.insert(**name)).filter_map(|name| fragments.get(*name)));
    }
    fields
}

#[derive(Default)]
struct Document<'d> {
    /// Kinds, names, and what is selected.
    operations: Vec<(&'static str, Option<&'d str>, Selected<'d>)>,
    fragments: BTreeMap<&'d str, Selected<'d>>,
}

/// What an operation or a fragment selects first of all. What inline fragments select stands in their place.
#[derive(Default)]
struct Selected<'d> {
    fields: Vec<&'d str>,
    /// Fragments that are named.
    spreads: Vec<&'d str>,
}

/// Reads a document, token by token. `None` of each of its functions: it is no document.
struct Reader<'d> {
    tokens: Tokens<'d>,
    /// The token that comes next.
    next: Token<'d>,
}

impl<'d> Reader<'d> {
    fn new(document: &'d str) -> Option<Self> {
        let mut tokens = Tokens { left: document };
        let next = tokens.next()?;
        Some(Self { tokens, next })
    }

    fn document(mut self) -> Option<Document<'d>> {
        let mut document = Document::default();
        loop {
            let kind = match self.next {
                Token::End => return Some(document),
                Token::Punctuator('{') => {
                    document.operations.push(("query", None, self.selected()?));
                    continue;
                }
                Token::Name("query") => "query",
                Token::Name("mutation") => "mutation",
                Token::Name("subscription") => "subscription",
                Token::Name("fragment") => {
                    self.take()?;
                    let name = self.name()?;
                    self.expect(Token::Name("on"))?;
                    self.name()?;
                    self.skip_directives()?;
                    let selected = self.selected()?;
                    document.fragments.entry(name).or_insert(selected);
                    continue;
                }
                _ => return None,
            };
            self.take()?;
            let name = if matches!(self.next, Token::Name(_)) { Some(self.name()?) } else { None };
            self.skip_if('(')?;
            self.skip_directives()?;
            document.operations.push((kind, name, self.selected()?));
        }
    }

    /// What stands in braces, of which there is something in each pair.
    fn selected(&mut self) -> Option<Selected<'d>> {
        let mut selected = Selected::default();
        self.expect(Token::Punctuator('{'))?;
        // Braces that are open: its own, and those of inline fragments.
        let (mut open, mut is_empty) = (1_usize, true);
        while open > 0 {
            match self.take()? {
                Token::Punctuator('}') if !is_empty => open -= 1,
                Token::Name(first) => {
                    let is_alias = self.next == Token::Punctuator(':');
                    selected.fields.push(if is_alias { self.take().and_then(|_| self.name())? } else { first });
                    self.skip_if('(')?;
                    self.skip_directives()?;
                    self.skip_if('{')?;
                }
                Token::Spread => {
                    if let Token::Name(name) = self.next
                        && name != "on"
                    {
                        selected.spreads.push(self.name()?);
                        self.skip_directives()?;
                    } else {
                        if self.next == Token::Name("on") {
                            self.take()?;
                            self.name()?;
                        }
                        self.skip_directives()?;
                        self.expect(Token::Punctuator('{'))?;
                        open += 1;
                        is_empty = true;
                        continue;
                    }
                }
                _ => return None,
            }
            is_empty = false;
        }
        Some(selected)
    }

    fn skip_directives(&mut self) -> Option<()> {
        while self.next == Token::Punctuator('@') {
            self.take()?;
            self.name()?;
            self.skip_if('(')?;
        }
        Some(())
    }

    /// Passes over what stands in brackets, where this opens one.
    fn skip_if(&mut self, opens: char) -> Option<()> {
        if self.next != Token::Punctuator(opens) {
            return Some(());
        }
        let mut open = Vec::new();
        loop {
            match self.take()? {
                Token::Punctuator('(') => open.push(')'),
                Token::Punctuator('[') => open.push(']'),
                Token::Punctuator('{') => open.push('}'),
                Token::Punctuator(closes @ (')' | ']' | '}')) if open.pop() != Some(closes) => return None,
                Token::End => return None,
                _ => {}
            }
            if open.is_empty() {
                return Some(());
            }
        }
    }

    fn name(&mut self) -> Option<&'d str> {
        match self.take()? {
            Token::Name(name) => Some(name),
            _ => None,
        }
    }

    fn expect(&mut self, token: Token<'_>) -> Option<()> {
        (self.take()? == token).then_some(())
    }

    fn take(&mut self) -> Option<Token<'d>> {
        let next = self.tokens.next()?;
        Some(std::mem::replace(&mut self.next, next))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token<'d> {
    Name(&'d str),
    /// Any but `...`.
    Punctuator(char),
    /// `...`
    Spread,
    /// A number or a text.
    Value,
    /// There is nothing more.
    End,
}

struct Tokens<'d> {
    left: &'d str,
}

impl<'d> Tokens<'d> {
    /// The next token; `None` where there is what is none.
    fn next(&mut self) -> Option<Token<'d>> {
        self.skip_ignored();
        let Some(first) = self.left.chars().next() else { return Some(Token::End) };
        let is_name = |c: char| c == '_' || c.is_ascii_alphanumeric();
        match first {
            '!' | '$' | '&' | '(' | ')' | ':' | '=' | '@' | '[' | ']' | '{' | '|' | '}' => {
                self.take(1);
                Some(Token::Punctuator(first))
            }
            '.' => {
                self.left = self.left.strip_prefix("...")?;
                Some(Token::Spread)
            }
            '"' => {
                let bytes = text_bytes(self.left)?;
                self.take(bytes);
                Some(Token::Value)
            }
            '-' | '0'..='9' => {
                let is_number = |c: char| is_name(c) || matches!(c, '.' | '+' | '-');
                self.take_while(is_number);
                Some(Token::Value)
            }
            first if is_name(first) => Some(Token::Name(self.take_while(is_name))),
            _ => None,
        }
    }

    /// White space, commas and comments.
    fn skip_ignored(&mut self) {
        loop {
            self.left = self.left.trim_start_matches(['\u{feff}', '\t', '\n', '\r', ' ', ',']);
            if !self.left.starts_with('#') {
                return;
            }
            self.take_while(|c| !matches!(c, '\n' | '\r'));
        }
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> &'d str {
        self.take(self.left.find(|c| !is_part(c)).unwrap_or(self.left.len()))
    }

    fn take(&mut self, bytes: usize) -> &'d str {
        let (taken, left) = self.left.split_at(bytes);
        self.left = left;
        taken
    }
}

/// The length of the text that begins here, quotes included; `None`: it does not end.
fn text_bytes(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    if let Some(block) = bytes.strip_prefix(b"\"\"\"") {
        let mut at = 0;
        loop {
            at += memchr::memchr2(b'"', b'\\', &block[at..])?;
            match &block[at..] {
                [b'"', b'"', b'"', ..] => return Some(3 + at + 3),
                [b'\\', b'"', b'"', b'"', ..] => at += 4,
                _ => at += 1,
            }
        }
    }
    let mut at = 1;
    loop {
        at += memchr::memchr3(b'"', b'\\', b'\n', &bytes[at..])?;
        match bytes[at] {
            b'"' => return Some(at + 1),
            // What it stands before is not looked at, whatever it is.
            b'\\' => at += 2,
            _ => return None,
        }
        if at > bytes.len() {
            return None;
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
            ("\u{feff}{a,b#c}\n on:query fragment{true}}", None, Some(("", "query", &["a", "b", "fragment", "query"]))),
            (
                r#"query A($a: [S!]! = ["}"] @d(e: 1E9), $b: I = -9e9999) @c { a(x: """\"""}""", y: "\"}", z: 1e9) @d { "b" } }"#,
                None,
                Some(("A", "query", &["a"])),
            ),
            ("{ a(x: \"\"\"x\n\u{3000}\n y\"\"\") }", None, Some(("", "query", &["a"]))),
            ("# nothing\n", None, None),
            ("fragment F on Q { a }", None, None),
            ("", None, None),
        ] {
            let expected = expected.map(|(name, kind, fields)| {
                (name.to_owned(), kind, fields.iter().map(|&field| field.to_owned()).collect::<Vec<_>>())
            });
            assert_eq!(told(document, named), expected, "{document}");
        }
    }

    #[test]
    fn what_is_no_document_asks_for_nothing() {
        for none in [
            "{ owner",
            "{}",
            "{ a } }",
            "{ a(b: [) }",
            "{ a(b: ] }",
            "{ ... { } }",
            "{ ... on { a } }",
            "{ a: }",
            "{ 1 }",
            "{ a } b",
            "query A B { a }",
            "query ($a: I { a }",
            "{ a @ }",
            "{ a(b: \"c) }",
            "{ a(b: \"c\n\") }",
            "{ a(b: \"\\",
            "{ a(b: \"\"\"c) }",
            "{ .. F }",
            "{ é }",
            "type T { a: I }",
            "fragment F { a } { a }",
            "fragment on Q { a } { a }",
        ] {
            assert_eq!(read(none, None), None, "{none}");
        }
    }

    #[test]
    fn a_document_may_nest_as_deep_as_it_is_long() {
        let deep = 100_000;
        for (before, open, inside, close, after, expected) in [
            ("", "{a", "", "}", "", "a"),
            ("", "{a(b:", "{}", "){c}}", "", "a"),
            ("", "{...on A", "{b}", "}", "", "b"),
            ("{a(b:", "[", "", "]", ")}", "a"),
            ("{a(b:", "{c:", "1", "}", ")}", "a"),
        ] {
            let document = [before, &open.repeat(deep), inside, &close.repeat(deep), after].concat();
            let operation = read(&document, None).expect(open);
            assert_eq!(operation.root_fields.into_iter().collect::<Vec<_>>(), [expected], "{open}");
        }
        // Each fragment names the next one.
        let mut chain = "{...f0}".to_owned();
        (0..deep).for_each(|at| chain += &format!("fragment f{at} on Q{{...f{}}}", at + 1));
        chain += &format!("fragment f{deep} on Q{{a}}");
        assert_eq!(read(&chain, None).expect("it is one").root_fields.len(), 1);
    }

    #[test]
    fn fuzz_documents_are_read_or_not() {
        let seeds: [&[u8]; 5] = [
            b"query getRepo($n: [Int!] = [1], $m: S) @a(b: \"c\") { owner(id: $n, z: {y: -1.5e3}) { name } r: repo }",
            b"fragment F on Q { a ...G } mutation X { ...F ... on Q @skip(if: true) { c } ... { d } }",
            b"subscription S { a(x: \"\"\"block \"quoted\" \"\"\", y: null, z: ENUM) } query T { t }",
            b"{a{b{c{d{e}}}}} # end",
            "{a(x: \"\"\"\u{3000}\n\u{3000}y\n z\"\"\")}".as_bytes(),
        ];
        fuzz::hammer(10, &seeds, |bytes| {
            let Ok(text) = str::from_utf8(bytes) else { return };
            if let Some(operation) = read(text, Some("T")) {
                assert!(operation.root_fields.iter().all(|field| text.contains(field.as_str())));
            }
        });
    }
}
