//! The power of nodes goes, of all at the same moment or of one; what each had not synced is lost, wholly or in part, by the
//! seed.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::{Running, Whom};
use crate::arena::Arena;
use crate::history::{At, Event, Recorder, Stand};
use crate::luck::Luck;
use crate::power_cut::{Cut, copy_tree};
use crate::wires::{End, Wire};

/// One cut in so many loses all that it can.
const ALL_LOST_IN: u64 = 4;

/// How long a message takes each way while a vote is waited for. A voter has nothing to write but its vote until the new
/// leader's first entry comes: two ways later, which is long enough to be met.
const VOTING_WIRE: Wire = Wire { cut: false, delay: Duration::from_millis(30), lost_of_100: 0 };
/// How long an election may take.
const ELECTION_MAX: Duration = Duration::from_secs(10);
/// The pause between two looks for it.
const LOOK: Duration = Duration::from_millis(2);

struct Dark(Vec<u16>);

/// The leader dies, and the power of all nodes goes when one of those that are left has told a term that is new: that it
/// has voted in. Everything that it has not synced is lost.
pub(super) async fn after_vote(arena: &mut Arena) -> Result<Box<dyn Running>> {
    let leader = arena.cluster.leader().await?;
    let numbers: Vec<u16> = arena.cluster.cps.iter().map(|cp| cp.number).collect();
    let left: Vec<u16> = numbers.iter().copied().filter(|number| *number != leader).collect();
    let before = arena.cluster.cp(leader).api().status().await?.term;
    let to_others = |from: u16| numbers.iter().filter(move |to| **to != from).map(move |to| (from, *to));
    let ways: Vec<_> =
        numbers.iter().flat_map(|from| to_others(*from)).map(|(from, to)| (End::Node(from), End::Node(to))).collect();
    arena.wires.set(&ways, VOTING_WIRE).await?;
    arena.cluster.cp(leader).kill().await?;
    let mut apis: Vec<_> = left.iter().map(|number| (*number, arena.cluster.cp(*number).api())).collect();
    let began = Instant::now();
    'voting: loop {
        for (number, api) in &mut apis {
            let asked = arena.recorder.as_ref().map(Recorder::now);
            let seen = api.status().await?;
            if seen.term > before {
                if let (Some(recorder), Some(asked)) = (&arena.recorder, asked) {
                    recorder.note(Event::Stand(Stand {
                        who: format!("cp-{number}"),
                        asked,
                        at: recorder.now(),
                        position: At(seen.epoch, seen.revision),
                        digest: seen.digest,
                        term: seen.term,
                        follows: seen.leader.unwrap_or_default(),
                    }));
                }
                break 'voting;
            }
        }
        ensure!(began.elapsed() < ELECTION_MAX, "nobody stands for election");
        tokio::time::sleep(LOOK).await;
    }
    cut(arena, &numbers, || Cut::AllLost).await?;
    arena.wires.heal().await?;
    Ok(Box::new(Dark(numbers)))
}

pub(super) async fn start(arena: &mut Arena, whom: Whom, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let numbers = arena.chosen(whom, luck).await?;
    let how = |seed: u64| if seed.is_multiple_of(ALL_LOST_IN) { Cut::AllLost } else { Cut::SomeLost { seed } };
    cut(arena, &numbers, || how(luck.draw())).await?;
    Ok(Box::new(Dark(numbers)))
}

/// Cuts the power of these nodes, those that run and those that do not.
async fn cut(arena: &mut Arena, numbers: &[u16], mut how: impl FnMut() -> Cut) -> Result<()> {
    ensure!(!arena.disks.is_empty(), "this arena's disks are not watched");
    let running: Vec<u16> = numbers.iter().copied().filter(|number| arena.cluster.cp(*number).is_running()).collect();
    // All at once: stopped first, so that none runs on while another one is being killed.
    for number in &running {
        arena.cluster.cp(*number).process()?.pause()?;
    }
    for number in &running {
        arena.cluster.cp(*number).kill().await?;
    }
    for number in numbers {
        let directory = arena.cluster.cp(*number).data_dir().to_owned();
        let (disk, journal) = &mut arena.disks[usize::from(*number) - 1];
        disk.take(journal, &directory)?;
        // What was there and what is left of it stay, for whoever has to find out why a node did not come back.
        copy_tree(&directory, &directory.with_extension("before"))?;
        disk.cut_at(&directory, how())?;
        copy_tree(&directory, &directory.with_extension("left"))?;
    }
    Ok(())
}

impl Running for Dark {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move { arena.run_again(&self.0).await }.boxed_local()
    }
}
