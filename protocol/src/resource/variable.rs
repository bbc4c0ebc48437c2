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
    /// Any other name: nothing in this version knows its value.
    Unknown(Text),
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

/// The values of one request's variables.
pub trait Values {
    /// The value of a variable; `None` when the request has none. Bytes, since headers may hold any.
    fn value(&self, variable: &Variable) -> Option<Cow<'_, [u8]>>;
}

impl Variable {
    /// The variable of that name; every text is one.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        if let Ok(at) = KNOWN.binary_search_by(|(known, _)| (*known).cmp(name)) {
            return Self::Known(KNOWN[at].1);
        }
        match name.split_once('_') {
            Some(("arg", argument)) => Self::Argument(argument.into()),
            Some(("http", header)) => Self::Header(header.to_ascii_lowercase().replace('_', "-").into()),
            Some(("cookie", cookie)) => Self::Cookie(cookie.into()),
            _ => Self::Unknown(name.into()),
        }
    }

    /// Its name, when nothing in this version knows its value.
    #[must_use]
    pub fn unknown(&self) -> Option<&str> {
        match self {
            Self::Unknown(name) => Some(name),
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
            ("post_arg_x", Variable::Unknown("post_arg_x".into())),
            ("", Variable::Unknown("".into())),
        ] {
            assert_eq!(Variable::parse(name), expected, "{name}");
        }
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
