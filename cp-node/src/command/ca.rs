//! `cp-node ca`: an authority of one's own, which issues the certificates of `mtls`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use mtls::Role;
use mtls::authority::{Authority, AuthorityError, Issued};

#[derive(Subcommand)]
pub(crate) enum CaCommand {
    /// Founds an authority: a certificate, which every node and proxy gets as `mtls.ca_file`, and its key, which none
    /// gets.
    Create {
        /// The name of this deployment: lower case letters, digits, '.', '-' and '_'.
        #[arg(long)]
        domain: String,
        /// How long it holds.
        #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36500))]
        days: u32,
        /// Where `ca.crt` and `ca.key` are written.
        #[arg(long, value_name = "DIRECTORY", default_value = ".")]
        out: PathBuf,
    },
    /// Issues a certificate with a new key, to `<name>.crt` and `<name>.key`.
    Issue {
        /// What its holder does.
        #[arg(long, value_enum)]
        role: RoleName,
        /// The `node.name` of its holder. A proxy's certificate without one is good for every proxy; it is written to
        /// `dp.crt`.
        #[arg(long)]
        name: Option<String>,
        /// How long it holds.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
        days: u32,
        /// Where the authority is.
        #[arg(long, value_name = "DIRECTORY", default_value = ".")]
        ca: PathBuf,
        /// Where certificate and key are written.
        #[arg(long, value_name = "DIRECTORY", default_value = ".")]
        out: PathBuf,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    /// A node of the control plane.
    Cp,
    /// A proxy.
    Dp,
}

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaError {
    #[error("{path}: {1}", path = .0.display())]
    File(PathBuf, std::io::Error),
    #[error("a node needs a --name")]
    Nameless,
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Does it, and says what to do next.
pub(crate) fn execute(command: CaCommand) -> Result<String, CaError> {
    match command {
        CaCommand::Create { domain, days, out } => {
            let (_, issued) = Authority::found(&domain, DAY * days)?;
            let (certificate, key) = write(&out, "ca", &issued)?;
            Ok(format!(
                "{} is for mtls.ca_file on every node and proxy. {} signs for {domain}: keep it where none of them runs.",
                certificate.display(),
                key.display()
            ))
        }
        CaCommand::Issue { role: RoleName::Cp, name: None, .. } => Err(CaError::Nameless),
        CaCommand::Issue { role, name, days, ca, out } => {
            let role = match role {
                RoleName::Cp => Role::ControlPlane,
                RoleName::Dp => Role::Proxy,
            };
            let authority = Authority::open(&read(&ca.join("ca.crt"))?, &read(&ca.join("ca.key"))?)?;
            let issued = authority.issue(role, name.as_deref(), DAY * days)?;
            let (certificate, key) = write(&out, name.as_deref().unwrap_or("dp"), &issued)?;
            Ok(format!("{} is for mtls.cert_file, {} for mtls.key_file.", certificate.display(), key.display()))
        }
    }
}

fn read(path: &Path) -> Result<String, CaError> {
    fs::read_to_string(path).map_err(|e| CaError::File(path.to_owned(), e))
}

/// Both at new names: nothing is overwritten. A renewed certificate is moved to where the old one is.
fn write(directory: &Path, name: &str, issued: &Issued) -> Result<(PathBuf, PathBuf), CaError> {
    fs::create_dir_all(directory).map_err(|e| CaError::File(directory.to_owned(), e))?;
    let put = |extension: &str, text: &str, mode: u32| {
        let path = directory.join(format!("{name}.{extension}"));
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|e| CaError::File(path.clone(), e)).map(|()| path)
    };
    let key = put("key", &issued.key, 0o600)?;
    Ok((put("crt", &issued.certificate, 0o644)?, key))
}
