//! Which build this is.

/// The version of Holdfast.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that a release was built from, `unknown` when that was no checkout, or `debug`: a debug build is not made anew
/// with each commit.
pub const COMMIT: &str = env!("HOLDFAST_COMMIT");

/// What `--version` prints behind the program's name.
pub const LONG: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (", env!("HOLDFAST_COMMIT"), " ", env!("HOLDFAST_TARGET"), ")");
