//! What a person sees of work that takes a while, on standard error and only where that is a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Redrawn so often while nothing else happens.
const TICK: Duration = Duration::from_millis(120);

/// A line that is there while the work goes on. It is taken away when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Work whose size is not known.
    pub(crate) fn of(what: &str) -> Self {
        Self::with(ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}", what)
    }

    /// Work of so many parts.
    pub(crate) fn of_parts(what: &str, parts: u64) -> Self {
        Self::with(ProgressBar::new(parts), "{msg} [{bar:30}] {human_pos} of {human_len}, {eta} left", what)
    }

    fn with(bar: ProgressBar, template: &str, what: &str) -> Self {
        let style = ProgressStyle::with_template(template).expect("the templates of this file can be read");
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// So many more parts are done.
    pub(crate) fn advance(&self, by: u64) {
        self.0.inc(by);
    }

    /// What is being done now.
    pub(crate) fn say(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted_and_nothing_is_left_behind() {
        let progress = Progress::of_parts("reading", 10);
        progress.advance(3);
        let bar = progress.0.clone();
        assert_eq!((bar.position(), bar.length(), bar.message().as_str()), (3, Some(10), "reading"));
        drop(progress);
        assert!(bar.is_finished());
        let spinner = Progress::of("asking");
        spinner.say("writing");
        assert_eq!(spinner.0.message(), "writing");
    }
}
