//! The file of a proxy without a control plane.

use std::sync::atomic::Ordering;

use super::super::Sources;
use super::text::{Page, Type};

pub(super) fn write(sources: &Sources, page: &mut Page) {
    let file = &sources.board.file;
    if file.path().is_none() {
        return;
    }
    for (name, help, value) in [
        ("taken_total", "Configurations taken from the file.", &file.taken),
        ("refused_total", "Times that the file was found changed and not good.", &file.refused),
    ] {
        page.single(&format!("holdfast_dp_file_{name}"), Type::Counter, help, value.load(Ordering::Relaxed));
    }
    let help = "Whether the file as it stands is not in force.";
    page.single("holdfast_dp_file_bad", Type::Gauge, help, u64::from(!file.problems().is_empty()));
}
