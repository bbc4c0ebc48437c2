//! Why a command was not done, and the exit code that says so.

use std::path::Path;

/// Why a command was not done.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line or a file cannot be used; nothing was sent.
    #[error("{0}")]
    Usage(String),
    /// Nothing failed: something differs, and this is what. It goes where answers go.
    #[error("{0}")]
    Differs(String),
    /// A node refused it; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// It may or may not have been carried out.
    #[error("{reason}\nthe outcome is unknown; it is safe to try again with --request-id {request}")]
    Unknown {
        /// What is known.
        reason: String,
        /// The id under which it can be sent again.
        request: String,
    },
    /// It was carried out, and the proxies do not serve it yet.
    #[error("{0}")]
    NotServed(String),
    /// No node could be asked; nothing was changed.
    #[error("{}", .0.join("\n"))]
    Unreachable(Vec<String>),
}

impl Failure {
    /// A file that cannot be read.
    pub(crate) fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::Usage(format!("{}: {error}", path.display()))
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Differs(_) | Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Unknown { .. } => 3,
            Self::Unreachable(_) => 4,
            Self::NotServed(_) => 5,
        }
    }
}
