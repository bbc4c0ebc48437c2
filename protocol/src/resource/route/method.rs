//! The methods that a route can name.

/// A method that a route can name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
    Patch,
    Head,
    Options,
    Connect,
    Trace,
    Purge,
}

pub(in crate::resource) const METHODS: [(&str, Method); 10] = [
    ("GET", Method::Get),
    ("POST", Method::Post),
    ("PUT", Method::Put),
    ("DELETE", Method::Delete),
    ("PATCH", Method::Patch),
    ("HEAD", Method::Head),
    ("OPTIONS", Method::Options),
    ("CONNECT", Method::Connect),
    ("TRACE", Method::Trace),
    ("PURGE", Method::Purge),
];

impl Method {
    /// The method of that (upper-case) name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        METHODS.iter().find(|(word, _)| *word == name).map(|(_, method)| *method)
    }
}

/// A set of methods; the empty set stands for all, also for methods without a [`Method`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MethodSet(u16);

impl MethodSet {
    /// Adds a method.
    #[must_use]
    pub fn with(self, method: Method) -> Self {
        Self(self.0 | 1 << method as u16)
    }

    /// Whether it takes everything that another one takes.
    #[must_use]
    pub fn includes(self, other: Self) -> bool {
        self.0 == 0 || (other.0 != 0 && other.0 & !self.0 == 0)
    }

    /// Whether a request with this method is taken; `None` is a method that no route can name.
    #[must_use]
    pub fn takes(self, method: Option<Method>) -> bool {
        self.0 == 0 || method.is_some_and(|method| self.0 & (1 << method as u16) != 0)
    }
}
