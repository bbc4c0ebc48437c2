//! The power of all nodes goes at the same moment; what each had not synced is lost, wholly or in part, by the seed.

use anyhow::{Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::Running;
use crate::arena::Arena;
use crate::luck::Luck;
use crate::power_cut::{Cut, copy_tree};

/// One cut in so many loses all that it can.
const ALL_LOST_IN: u64 = 4;

struct Dark(Vec<u16>);

pub(super) async fn start(arena: &mut Arena, luck: &mut Luck) -> Result<Box<dyn Running>> {
    ensure!(!arena.disks.is_empty(), "this arena's disks are not watched");
    let numbers: Vec<u16> = arena.cluster.cps.iter().map(|cp| cp.number).collect();
    // All at once: stopped first, so that none runs on while another one is being killed.
    for number in &numbers {
        arena.cluster.cp(*number).process()?.pause()?;
    }
    for number in &numbers {
        arena.cluster.cp(*number).kill().await?;
    }
    for number in &numbers {
        let directory = arena.cluster.cp(*number).data_dir().to_owned();
        let (disk, journal) = &mut arena.disks[usize::from(*number) - 1];
        disk.take(journal, &directory)?;
        let seed = luck.draw();
        let cut = if seed.is_multiple_of(ALL_LOST_IN) { Cut::AllLost } else { Cut::SomeLost { seed } };
        // What was there and what is left of it stay, for whoever has to find out why a node did not come back.
        copy_tree(&directory, &directory.with_extension("before"))?;
        disk.cut_at(&directory, cut)?;
        copy_tree(&directory, &directory.with_extension("left"))?;
    }
    Ok(Box::new(Dark(numbers)))
}

impl Running for Dark {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move { arena.run_again(&self.0).await }.boxed_local()
    }
}
