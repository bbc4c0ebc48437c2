//! What a resource is called: `(kind, id)`, and the table of kinds.

use std::fmt;

use bincode::{Decode, Encode};

use crate::text::Text;

/// The kind of a resource, as the Admin API spells it in a path: `routes`, `upstreams`, …
///
/// On the wire and on disk a kind is a string. A kind that this build does not know is carried byte for byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct Kind(pub Text);

/// The name of one resource. Ordered by kind, then by the bytes of its id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ResourceKey {
    /// Its kind.
    pub kind: Kind,
    /// Its id within the kind. A credential's is `<username>/<id>`, a secret's `<manager>/<id>`.
    pub id: Text,
}

impl Kind {
    /// A kind by its name; any name, see the type.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ResourceKey {
    /// The key `(kind, id)`.
    #[must_use]
    pub fn new(kind: &str, id: &str) -> Self {
        Self { kind: Kind::new(kind), id: id.into() }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `<kind>/<id>`.
impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.id)
    }
}

impl fmt::Debug for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
