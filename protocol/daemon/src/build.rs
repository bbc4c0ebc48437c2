//! Which build this is.

/// The version of Holdfast.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, or `unknown` outside of a checkout.
pub const COMMIT: &str = env!("HOLDFAST_COMMIT");

/// What `--version` prints behind the program's name.
pub const LONG: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("HOLDFAST_COMMIT"), " ", env!("HOLDFAST_TARGET"), ")");
