//! The configuration on the disk.

use std::sync::atomic::{AtomicU64, Ordering};

use super::super::Sources;
use super::text::{Page, Type};

pub(super) fn write(sources: &Sources, page: &mut Page) {
    let (disk, board) = (&sources.disk, &sources.board);
    for (name, kind, help, value) in [
        ("journal_bytes", Type::Gauge, "Bytes of the journals since the newest base.", &disk.journal_bytes),
        ("base_bytes", Type::Gauge, "Bytes of the newest base.", &disk.base_bytes),
        ("bases_total", Type::Counter, "Bases written.", &disk.bases),
        ("errors_total", Type::Counter, "Failures of the disk.", &disk.errors),
        ("findings_total", Type::Counter, "Files found damaged, foreign or forged at the start.", &disk.findings),
        ("misses_total", Type::Counter, "Changes served without being on the disk.", &board.disk_misses),
    ] {
        let value: &AtomicU64 = value;
        page.single(&format!("holdfast_dp_disk_{name}"), kind, help, value.load(Ordering::Relaxed));
    }
    let volatile = u8::from(board.read().volatile);
    let help = "Whether a restart would take the position back.";
    page.single("holdfast_dp_volatile", Type::Gauge, help, volatile);
}
