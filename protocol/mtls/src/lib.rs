//! Who is at the other end of a link between Holdfast's programs.
//!
//! Both ends show a certificate. It must come from an authority in `ca_file`, and name one [`Party`] as its only URI
//! (SPIFFE ID, <https://spiffe.io>): a domain, which is one deployment's own name, a role and a name. The role in the
//! certificate decides what its holder may do; nothing in a message does. Addresses and DNS names decide nothing, so that
//! a node may move.
//!
//! Links live long. Three things follow: files are read again while a program runs, so that a certificate is renewed
//! without a restart; a link is cut when the certificate at its other end expires, as its holder has another one by then,
//! or is nobody any more; and sessions are not resumed, so that a certificate is always looked at.

#[cfg(feature = "authority")]
pub mod authority;
mod credentials;
mod files;
mod link;
mod party;
mod server;
mod verifier;

pub use credentials::{Credentials, Files};
pub use files::BadCredentials;
pub use link::Link;
pub use party::{BadParty, Party, Role};
pub use server::{ServerFiles, ServerTls};

#[cfg(test)]
mod tests;
