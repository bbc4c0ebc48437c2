//! What of that which was not synced happens to be on the disk after a cut.

use super::{Change, Cut, put};

/// What a disk writes at once.
pub(super) const SECTOR_BYTES: usize = 512;
/// What a file system writes at once, mostly.
pub(super) const PAGE_SECTORS: usize = 8;

/// What happens to have made it to the disk.
pub(super) struct Luck {
    /// None has.
    state: Option<u64>,
}

impl Luck {
    /// That of a cut.
    pub(super) fn of(cut: Cut) -> Self {
        match cut {
            Cut::AllLost => Self { state: None },
            Cut::SomeLost { seed } => Self { state: Some(seed) },
        }
    }

    /// Whether something that happens as a whole has happened.
    pub(super) fn keeps(&mut self) -> bool {
        self.below(2) == Some(1)
    }

    /// `None` when there is no luck at all.
    fn below(&mut self, bound: u64) -> Option<u64> {
        let state = self.state.as_mut()?;
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some((*state >> 33) % bound)
    }

    /// Does to a file what has made it to the disk of a change of it.
    pub(super) fn keep_of(&mut self, change: &Change, bytes: &mut Vec<u8>) {
        match change {
            Change::Length(_) if self.keeps() => change.apply(bytes),
            Change::Length(_) => {}
            Change::Write(at, written) => {
                let mut sector_at = *at;
                let mut rest = &written[..];
                let mut page = None;
                let mut keeps = None;
                while !rest.is_empty() {
                    // Sectors and pages of the file, not of the write.
                    let sector = sector_at / SECTOR_BYTES as u64;
                    let until_next = usize::try_from((sector + 1) * SECTOR_BYTES as u64 - sector_at).unwrap_or(1);
                    let (now, later) = rest.split_at(until_next.min(rest.len()));
                    if page != Some(sector / PAGE_SECTORS as u64) {
                        page = Some(sector / PAGE_SECTORS as u64);
                        keeps = self.below(5);
                    }
                    // Of five pages two are kept, two are lost, and one is torn.
                    let kept = match keeps {
                        Some(0 | 1) => true,
                        Some(2 | 3) | None => false,
                        Some(_) => self.keeps(),
                    };
                    if kept {
                        put(bytes, sector_at, now);
                    }
                    sector_at += now.len() as u64;
                    rest = later;
                }
            }
        }
    }
}
