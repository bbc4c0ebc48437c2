//! Names of programs, as certificates carry them.

use std::fmt;
use std::str::FromStr;

use protocol::resource::Certificate;

/// What a program does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A node of the control plane: may call other nodes, and serves proxies.
    ControlPlane,
    /// A proxy: may follow the configuration.
    Proxy,
}

impl Role {
    /// As it stands in a certificate.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "cp",
            Self::Proxy => "dp",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who somebody is: `spiffe://<domain>/<cp|dp>/<name>`. A proxy's name may be missing: a certificate that a fleet shares.
///
/// Domains are lower case letters, digits, `.`, `-` and `_`, names the same with upper case, each up to 128 bytes
/// (SPIFFE ID §2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Party {
    /// The deployment that it belongs to.
    pub domain: Box<str>,
    /// What it may do.
    pub role: Role,
    /// What it is called; `None` holds for every proxy.
    pub name: Option<Box<str>>,
}

/// A text or a certificate that names nobody.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadParty {
    /// It is of another form.
    #[error("{0:?} is not spiffe://<domain>/cp/<name>, spiffe://<domain>/dp/<name> or spiffe://<domain>/dp")]
    Form(String),
    /// A certificate has none, or several.
    #[error("the certificate has {0} URIs as alternative names, and must have one: who its holder is")]
    Count(usize),
    /// It is no certificate.
    #[error("the certificate cannot be read")]
    Unreadable,
}

const PART_BYTES_MAX: usize = 128;

impl Party {
    /// Whom a certificate, as DER, is for.
    ///
    /// # Errors
    /// [`BadParty`].
    pub fn of_certificate(der: &[u8]) -> Result<Self, BadParty> {
        let certificate = Certificate::from_der(der).map_err(|_| BadParty::Unreadable)?;
        match &certificate.uris[..] {
            [uri] => uri.parse(),
            uris => Err(BadParty::Count(uris.len())),
        }
    }

    /// Whether it may call itself so.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.name.as_deref().is_none_or(|own| own == name)
    }
}

impl FromStr for Party {
    type Err = BadParty;

    fn from_str(uri: &str) -> Result<Self, BadParty> {
        let bad = || BadParty::Form(uri.to_owned());
        let mut parts = uri.strip_prefix("spiffe://").ok_or_else(bad)?.split('/');
        let (domain, role, name) = (parts.next(), parts.next(), parts.next());
        let domain = domain.filter(|domain| is_part(domain) && !domain.bytes().any(|b| b.is_ascii_uppercase()));
        let (Some(domain), None) = (domain, parts.next()) else { return Err(bad()) };
        let (role, name) = match (role, name) {
            (Some("cp"), Some(name)) if is_part(name) => (Role::ControlPlane, Some(name)),
            (Some("dp"), Some(name)) if is_part(name) => (Role::Proxy, Some(name)),
            (Some("dp"), None) => (Role::Proxy, None),
            _ => return Err(bad()),
        };
        Ok(Self { domain: domain.into(), role, name: name.map(Into::into) })
    }
}

fn is_part(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    (1..=PART_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}", self.domain, self.role)?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, "/{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_they_print() {
        for uri in ["spiffe://prod.eu/cp/cp-1", "spiffe://prod/dp/Edge_7", "spiffe://prod/dp"] {
            assert_eq!(uri.parse::<Party>().unwrap().to_string(), uri);
        }
        for uri in [
            "",
            "prod/cp/a",
            "http://prod/cp/a",
            "spiffe:///cp/a",
            "spiffe://Prod/cp/a",
            "spiffe://prod",
            "spiffe://prod/cp",
            "spiffe://prod/cp/",
            "spiffe://prod/dp/",
            "spiffe://prod/ap/a",
            "spiffe://prod/cp/a/b",
            "spiffe://prod/cp/ä",
            "spiffe://prod:80/cp/a",
            "spiffe://prod/cp/a?b",
        ] {
            assert_eq!(uri.parse::<Party>(), Err(BadParty::Form(uri.to_owned())), "{uri}");
        }
    }

    #[test]
    fn a_name_is_ones_own_and_none_is_everybodys() {
        let named: Party = "spiffe://prod/dp/a".parse().unwrap();
        assert!(named.is_called("a") && !named.is_called("b"));
        assert!("spiffe://prod/dp".parse::<Party>().unwrap().is_called("b"));
    }
}
