//! Variables of a request, under the names that nginx and APISIX have for them.
//!
//! Conditions of routes, keys of consistent hashing and formats of logs name them. What a name stands for in a request
//! is known to whoever holds the request: see [`Values`].

use std::borrow::Cow;

use crate::text::Text;

/// A variable of a request.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Variable {
    /// One of the request itself.
    Known(Known),
    /// `arg_<name>`: the first argument of that name in the query, decoded. The name's case counts.
    Argument(Text),
    /// `http_<name>`: a header, its name in lower case with dashes.
    Header(Text),
    /// `cookie_<name>`: a cookie. The name's case counts.
    Cookie(Text),
    /// `post_arg_<name>`: the first argument of that name, decoded, in a body that is a form. This is the whole variable's name;
    /// [`Variable::post_argument`] is the argument's.
    PostArgument(Text),
    /// What a request asks for in GraphQL.
    GraphQl(GraphQl),
    /// Any other name: nothing in this version knows its value.
    Unknown(Text),
}

/// What a request asks for in GraphQL.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GraphQl {
    /// `graphql_name`: the operation's name; empty where it has none.
    Name,
    /// `graphql_operation`: `query`, `mutation` or `subscription`.
    Operation,
    /// `graphql_root_fields`: a list, the fields that it asks for first of all.
    RootFields,
}

/// A variable without a name of the user's in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "the names are nginx's")]
pub enum Known {
    ContentLength,
    ContentType,
    Host,
    IsArgs,
    QueryString,
    RemoteAddr,
    RemotePort,
    RequestMethod,
    RequestUri,
    Scheme,
    ServerAddr,
    ServerPort,
    ServerProtocol,
    Uri,
}

/// The consumer whose request it is. Only who runs plugins knows: to others it is an unknown one.
pub const CONSUMER_NAME: &str = "consumer_name";

/// By name, sorted.
const KNOWN: [(&str, Known); 15] = [
    ("args", Known::QueryString),
    ("content_length", Known::ContentLength),
    ("content_type", Known::ContentType),
    ("host", Known::Host),
    ("is_args", Known::IsArgs),
    ("query_string", Known::QueryString),
    ("remote_addr", Known::RemoteAddr),
    ("remote_port", Known::RemotePort),
    ("request_method", Known::RequestMethod),
    ("request_uri", Known::RequestUri),
    ("scheme", Known::Scheme),
    ("server_addr", Known::ServerAddr),
    ("server_port", Known::ServerPort),
    ("server_protocol", Known::ServerProtocol),
    ("uri", Known::Uri),
];

/// How the names of [`Variable::PostArgument`] begin.
const POST_ARGUMENT: &str = "post_arg_";

/// The values of one request's variables.
pub trait Values {
    /// The value of a variable; `None` when the request has none. Bytes, since headers may hold any.
    fn value(&self, variable: &Variable) -> Option<Cow<'_, [u8]>>;

    /// Whether a variable is a list that has this element. Only [`GraphQl::RootFields`] is a list.
    fn has(&self, _variable: &Variable, _element: &[u8]) -> bool {
        false
    }
}

impl Variable {
    /// The variable of that name; every text is one.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        if let Ok(at) = KNOWN.binary_search_by(|(known, _)| (*known).cmp(name)) {
            return Self::Known(KNOWN[at].1);
        }
        match name {
            "graphql_name" => return Self::GraphQl(GraphQl::Name),
            "graphql_operation" => return Self::GraphQl(GraphQl::Operation),
            "graphql_root_fields" => return Self::GraphQl(GraphQl::RootFields),
            _ if name.starts_with(POST_ARGUMENT) => return Self::PostArgument(name.into()),
            _ => {}
        }
        match name.split_once('_') {
            Some(("arg", argument)) => Self::Argument(argument.into()),
            Some(("http", header)) => Self::Header(header.to_ascii_lowercase().replace('_', "-").into()),
            Some(("cookie", cookie)) => Self::Cookie(cookie.into()),
            _ => Self::Unknown(name.into()),
        }
    }

    /// Its name, when its value is not known wherever a request is: nothing in this version knows it, or it
    /// [may stand in the body](Self::may_be_in_body).
    #[must_use]
    pub fn unknown(&self) -> Option<&str> {
        match self {
            Self::Unknown(name) | Self::PostArgument(name) => Some(name),
            Self::GraphQl(GraphQl::Name) => Some("graphql_name"),
            Self::GraphQl(GraphQl::Operation) => Some("graphql_operation"),
            Self::GraphQl(GraphQl::RootFields) => Some("graphql_root_fields"),
            _ => None,
        }
    }

    /// Whether its value may stand in the body of a request, which is read for the conditions of routes alone.
    #[must_use]
    pub fn may_be_in_body(&self) -> bool {
        matches!(self, Self::PostArgument(_) | Self::GraphQl(_))
    }

    /// The name of the argument that a [`Variable::PostArgument`] stands for.
    #[must_use]
    pub fn post_argument(&self) -> Option<&str> {
        match self {
            Self::PostArgument(name) => name.strip_prefix(POST_ARGUMENT),
            _ => None,
        }
    }
}

/// A text with variables in it: `$remote_addr$request_uri`, `${host}:x`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct VariableText {
    pieces: Vec<Piece>,
}

/// A piece of a text with variables.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Piece {
    /// Stands as it is.
    Text(Text),
    /// Stands for its value.
    Variable(Variable),
}

impl VariableText {
    /// Reads a text; every text is one. A `$` that no name follows stands for itself.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            let (before, after) = (&rest[..at], &rest[at + 1..]);
            plain.push_str(before);
            let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let (name, next) = match braced {
                Some((name, next)) if name.chars().all(is_name) => (name, next),
                _ => after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len())),
            };
            rest = next;
            if name.is_empty() {
                plain.push('$');
                continue;
            }
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain).into()));
            }
            pieces.push(Piece::Variable(Variable::parse(name)));
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain.into()));
        }
        Self { pieces }
    }

    /// Its pieces, in their order.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The variables in it, in their order.
    pub fn variables(&self) -> impl Iterator<Item = &Variable> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Variable(variable) => Some(variable),
            Piece::Text(_) => None,
        })
    }

    /// The text with the values filled in, nothing for those that have none; `None` when none of its variables has one.
    #[must_use]
    pub fn fill(&self, values: &dyn Values) -> Option<Vec<u8>> {
        let (out, filled) = self.filled(values);
        filled.then_some(out)
    }

    /// The text with the values filled in, nothing for those that have none.
    #[must_use]
    pub fn fill_all(&self, values: &dyn Values) -> Vec<u8> {
        self.filled(values).0
    }

    /// The text, and whether any variable had a value.
    fn filled(&self, values: &dyn Values) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        let mut filled = false;
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Variable(variable) => {
                    if let Some(value) = values.value(variable) {
                        out.extend_from_slice(&value);
                        filled = true;
                    }
                }
            }
        }
        (out, filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(KNOWN.is_sorted_by(|a, b| a.0 < b.0));
        for (name, expected) in [
            ("uri", Variable::Known(Known::Uri)),
            ("args", Variable::Known(Known::QueryString)),
            ("arg_User_id", Variable::Argument("User_id".into())),
            ("http_X_Real-ip", Variable::Header("x-real-ip".into())),
            ("cookie_Sid", Variable::Cookie("Sid".into())),
            ("post_arg_x", Variable::PostArgument("post_arg_x".into())),
            ("post_x", Variable::Unknown("post_x".into())),
            ("graphql_name", Variable::GraphQl(GraphQl::Name)),
            ("graphql_operation", Variable::GraphQl(GraphQl::Operation)),
            ("graphql_root_fields", Variable::GraphQl(GraphQl::RootFields)),
            ("graphql_x", Variable::Unknown("graphql_x".into())),
            ("", Variable::Unknown("".into())),
        ] {
            let variable = Variable::parse(name);
            assert_eq!(variable, expected, "{name}");
            assert!(variable.unknown().is_none_or(|known| known == name), "{name}");
        }
        assert_eq!(Variable::parse("post_arg_a_b").post_argument(), Some("a_b"));
    }

    #[test]
    fn texts_are_filled() {
        struct Some7;
        impl Values for Some7 {
            fn value(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
                matches!(variable, Variable::Argument(_)).then_some(Cow::Borrowed(b"7"))
            }
        }
        for (text, expected) in [
            ("$arg_a", Some("7")),
            ("x${arg_a}y$uri$$arg_b", Some("x7y$7")),
            ("$uri", None),
            ("plain", None),
            ("a$-$arg_a", Some("a$-7")),
            ("${arg-a}$arg_a", Some("${arg-a}7")),
        ] {
            let filled = VariableText::parse(text).fill(&Some7).map(|bytes| String::from_utf8(bytes).unwrap());
            assert_eq!(filled.as_deref(), expected, "{text}");
        }
    }
}
