//! `hfctl completion <shell>`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::Cli;
use crate::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// Whose.
    shell: Shell,
}

impl Completion {
    pub(crate) fn run(&self) -> Result<String, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "hfctl", &mut script);
        String::from_utf8(script).map_err(|e| Failure::Usage(e.to_string()))
    }
}
