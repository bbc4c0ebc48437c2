//! The archive.

use std::sync::atomic::Ordering;

use super::super::Sources;
use super::text::{Page, Type};

pub(super) fn write(sources: &Sources, page: &mut Page) {
    let archive = &sources.board.archive;
    for (name, help, value) in [
        ("looks_total", "Looks at the archive.", &archive.looks),
        ("failures_total", "Looks that could not be made or led nowhere.", &archive.failures),
        ("taken_total", "Configurations taken from the archive.", &archive.taken),
    ] {
        page.single(&format!("holdfast_dp_archive_{name}"), Type::Counter, help, value.load(Ordering::Relaxed));
    }
    let name = "holdfast_dp_archive_refused_total";
    page.family(name, Type::Counter, "What was refused in the archive, by reason.");
    for (reason, count) in archive.refused() {
        page.sample(name, &[("reason", reason)], count);
    }
}
