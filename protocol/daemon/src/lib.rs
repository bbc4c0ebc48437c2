//! What every Holdfast program does the same way: where its settings come from, how it logs, which signals it obeys, how
//! it reads files of resources and writes a file that must survive a power cut, and the real clock and randomness behind [`protocol::seam`].

pub mod blocking;
pub mod build;
pub mod document;
pub mod durable;
pub mod failpoint;
pub mod logging;
pub mod seams;
pub mod secret_file;
pub mod settings;
pub mod signals;
pub mod supervisor;
