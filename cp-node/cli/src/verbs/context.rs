//! `hfctl context list|set|use|remove`: the contexts file.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::contexts::{Context, Contexts};
use crate::failure::Failure;
use crate::render::{self, Format};
use crate::tls::TlsFiles;

#[derive(Debug, Args)]
pub(crate) struct ContextVerb {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Shows them.
    List,
    /// Adds one, or changes what is named.
    Set {
        /// Its name.
        name: String,
        /// A node's Admin API. Repeatable.
        #[arg(long = "at", value_name = "URL", required = true)]
        servers: Vec<String>,
        /// A file with nothing but the key in it.
        #[arg(long = "key", value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// How long a command may take.
        #[arg(long = "within", value_name = "TIME")]
        timeout: Option<String>,
        /// Authorities that `https://` servers are believed by.
        #[arg(long = "ca", value_name = "FILE")]
        ca_file: Option<PathBuf>,
    },
    /// Makes one the current.
    Use {
        /// Its name.
        name: String,
    },
    /// Takes one out.
    Remove {
        /// Its name.
        name: String,
    },
}

impl ContextVerb {
    pub(crate) fn run(&self, path: Option<&Path>, format: Format) -> Result<String, Failure> {
        // One that is named and not there yet is made.
        let is_new = path.is_some_and(|path| !path.exists());
        let mut all =
            if is_new && !matches!(self.what, What::List) { Contexts::default() } else { Contexts::read(path)? };
        match &self.what {
            What::List => {
                let is_current = |name: &String| all.current.as_ref() == Some(name);
                if format != Format::Table {
                    return Ok(render::value(&json!({ "current": all.current, "contexts": all.contexts }), format));
                }
                let row = |(name, context): (&String, &Context)| {
                    let mark = if is_current(name) { "*" } else { "" };
                    let key = context.key_file.as_ref().map_or("-".to_owned(), |path| path.display().to_string());
                    vec![mark.to_owned(), name.clone(), context.servers.join(","), key]
                };
                let rows: Vec<_> = all.contexts.iter().map(row).collect();
                return Ok(render::table(&["", "NAME", "SERVERS", "KEY FILE"], &rows));
            }
            What::Set { name, servers, key_file, timeout, ca_file } => {
                let context = Context {
                    servers: servers.clone(),
                    key_file: key_file.clone(),
                    timeout: timeout.clone(),
                    tls: TlsFiles { ca_file: ca_file.clone(), ..TlsFiles::default() },
                };
                all.contexts.insert(name.clone(), context);
                all.current.get_or_insert_with(|| name.clone());
            }
            What::Use { name } => {
                all.find(Some(name))?;
                all.current = Some(name.clone());
            }
            What::Remove { name } => {
                all.find(Some(name))?;
                all.contexts.remove(name);
                all.current.take_if(|current| current == name);
            }
        }
        all.write(path)?;
        let line = match &all.current {
            Some(current) => format!("the current context is {current}"),
            None => "there is no current context: choose one with hfctl context use <NAME>".to_owned(),
        };
        Ok(render::done(&line, &json!({ "current": all.current }), format))
    }
}
