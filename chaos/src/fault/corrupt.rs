//! Bytes of a stopped program's files are not what they were: a bit is flipped, a file is cut, a part of it was never written.
//! It is found out, or it is of a kind that says nothing: never believed.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};

use super::{Running, Whom, proxies};
use crate::arena::Arena;
use crate::luck::Luck;
use crate::scenario::Sometimes;
use crate::wires::{End, Wire};

/// How long a node with a spoiled disk may work before it is looked at.
const LIVE: Duration = Duration::from_secs(2);
/// How long a program works on from when its files were copied, so that what is in them is old.
const AGES: Duration = Duration::from_millis(700);
/// What a disk writes as one, and a file system.
const BLOCK_BYTES: usize = 512;
const PAGE_BYTES: usize = 4096;
/// What a proxy says of bytes that it does not believe.
const NOT_BELIEVED: &str = "found on the disk and not believed";

/// What becomes of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tear {
    /// A bit is flipped.
    Flip,
    /// It ends at any byte.
    Cut,
    /// Its last block is missing.
    LastBlock,
    /// A page of it is zeros.
    Zeros,
    /// A page of it is what it was a while ago, or zeros where there was nothing then.
    Old,
}

/// A file as it was, or is to be.
type Contents = (PathBuf, Vec<u8>);

struct Spoiled {
    number: u16,
    what: String,
    kept: Vec<Contents>,
    found_out: bool,
}

/// A follower's file.
pub(super) async fn of_node(arena: &mut Arena, tear: Tear, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let number = *arena.chosen(Whom::Follower, luck).await?.first().context("a follower")?;
    let old = age(arena.cluster.cp(number).data_dir(), tear).await?;
    // Until it is known whether it notices, nobody hears it: what it finds out late, it has not acknowledged before.
    let all: Vec<u16> = arena.cluster.cps.iter().map(|cp| cp.number).collect();
    let others = all.iter().filter(|other| **other != number);
    let ways: Vec<_> = others.map(|other| (End::Node(number), End::Node(*other))).collect();
    arena.wires.set(&ways, Wire { cut: true, ..Wire::default() }).await?;
    let cp = arena.cluster.cp(number);
    cp.kill().await?;
    let (kept, what) = spoil(cp.data_dir(), tear, &old, luck)?;
    cp.run()?;
    tokio::time::sleep(LIVE).await;
    let found_out = !cp.process()?.runs();
    arena.wires.heal().await?;
    if found_out {
        arena.saw(Sometimes::FoundOut);
    }
    Ok(Box::new(Spoiled { number, what, kept, found_out }))
}

/// The last proxy's file. It serves what is left of its configuration, or asks for all of it: it neither ends, nor serves
/// anything that never was.
pub(super) async fn of_proxy(arena: &mut Arena, tear: Tear, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let number = arena.cluster.dps.last().context("no proxy")?.number;
    let old = age(arena.cluster.dp(number).data_dir(), tear).await?;
    // Its disk may have less than it has served: until it is where the others are, it may be behind itself.
    arena.down(number, true, true);
    let dp = arena.cluster.dp(number);
    dp.kill().await?;
    let told = dp.printed().matches(NOT_BELIEVED).count();
    let (_, what) = spoil(dp.data_dir(), tear, &old, luck)?;
    dp.run()?;
    proxies::at_head(arena, number).await.with_context(|| format!("a proxy with {what}"))?;
    if arena.cluster.dp(number).printed().matches(NOT_BELIEVED).count() > told {
        println!("not believed: {what}");
        arena.saw(Sometimes::NotBelieved);
    }
    arena.down(number, false, true);
    Ok(Box::new(Mended))
}

/// A proxy that has what the others have again.
struct Mended;

impl Running for Mended {
    fn heal<'a>(&'a mut self, _arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async { Ok(()) }.boxed_local()
    }
}

impl Running for Spoiled {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            let cp = arena.cluster.cp(self.number);
            if !self.found_out {
                // Then what it serves is held against the others by the checkers.
                ensure!(cp.process()?.runs(), "{} ended late, with {}: {}", cp.name(), self.what, cp.log_end());
                return Ok(());
            }
            // A process that has ended by itself is only taken note of.
            let _ = cp.kill().await;
            // An operator's copy of before brings it back: nothing was acknowledged by it since.
            cp.wipe()?;
            for (path, bytes) in &self.kept {
                std::fs::create_dir_all(path.parent().context("a file is in a folder")?)?;
                std::fs::write(path, bytes)?;
            }
            println!("found out: {}", self.what);
            arena.run_again(&[self.number]).await
        }
        .boxed_local()
    }
}

/// What files hold that are to have something old in them; time passes from then on.
async fn age(directory: &Path, tear: Tear) -> Result<Vec<Contents>> {
    if tear != Tear::Old {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    // A program at work: what vanishes meanwhile is of no matter.
    collect(directory, &mut files)?;
    tokio::time::sleep(AGES).await;
    Ok(files)
}

/// Spoils one of the files below a directory. Gives all of them as they were, and what was done.
///
/// # Errors
/// When there is no file to which this can be done.
fn spoil(directory: &Path, tear: Tear, old: &[Contents], luck: &mut Luck) -> Result<(Vec<Contents>, String)> {
    let mut files = Vec::new();
    collect(directory, &mut files)?;
    files.sort();
    let can_be = |(path, bytes): &&Contents| {
        let before = old.iter().find(|(old, _)| old == path);
        torn(tear, bytes, before.map(|(_, bytes)| &bytes[..]), &mut Luck::of(&[0])).is_some()
    };
    let candidates: Vec<&Contents> = files.iter().filter(can_be).collect();
    ensure!(!candidates.is_empty(), "no file in {} can be torn by {tear:?}", directory.display());
    let (path, bytes) = candidates[usize::try_from(luck.below(candidates.len() as u64))?];
    let before = old.iter().find(|(old, _)| old == path).map(|(_, bytes)| &bytes[..]);
    let (offset, spoiled) = torn(tear, bytes, before, luck).context("it was just seen that it can be")?;
    std::fs::write(path, &spoiled)?;
    let name = path.strip_prefix(directory).unwrap_or(path).display();
    let what = format!("{tear:?} in {name} at byte {offset} of {}", bytes.len());
    Ok((files.clone(), what))
}

/// A file's bytes with something done to them, and from where on they differ; nothing where they would be the same. `old` is
/// what the file held a while ago.
fn torn(tear: Tear, bytes: &[u8], old: Option<&[u8]>, luck: &mut Luck) -> Option<(usize, Vec<u8>)> {
    let place = |luck: &mut Luck, places: usize| usize::try_from(luck.below(places as u64)).expect("a place in a file");
    let mut torn = bytes.to_vec();
    if bytes.is_empty() {
        return None;
    }
    let pages = || (0..bytes.len()).step_by(PAGE_BYTES).map(|at| at..bytes.len().min(at + PAGE_BYTES));
    match tear {
        Tear::Flip => torn[place(luck, bytes.len())] ^= 1 << luck.below(8),
        Tear::Cut => torn.truncate(place(luck, bytes.len())),
        Tear::LastBlock => torn.truncate((bytes.len() - 1) / BLOCK_BYTES * BLOCK_BYTES),
        Tear::Zeros => {
            let full: Vec<_> = pages().filter(|page| bytes[page.clone()].iter().any(|byte| *byte != 0)).collect();
            let page = full.get(place(luck, full.len().max(1)))?;
            torn[page.clone()].fill(0);
        }
        Tear::Old => {
            let old = old?;
            let was =
                |page: &Range<usize>| -> Vec<u8> { page.clone().map(|at| old.get(at).copied().unwrap_or(0)).collect() };
            let differs = |page: &Range<usize>| was(page) != bytes[page.clone()];
            let changed: Vec<_> = pages().filter(differs).collect();
            let page = changed.get(place(luck, changed.len().max(1)))?;
            torn[page.clone()].copy_from_slice(&was(page));
        }
    }
    let offset = torn.iter().zip(bytes).position(|(a, b)| a != b).unwrap_or(torn.len());
    Some((offset, torn))
}

fn collect(dir: &Path, files: &mut Vec<Contents>) -> Result<()> {
    for item in std::fs::read_dir(dir)? {
        let path = item?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Ok(bytes) = std::fs::read(&path) {
            files.push((path, bytes));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tear_changes_what_it_says() {
        let bytes: Vec<u8> = (0..10_000u32).map(|n| (n % 251) as u8 + 1).collect();
        let mut old = bytes.clone();
        old[5000..5010].fill(7);
        for seed in 0..50 {
            let torn = |tear, old| torn(tear, &bytes, old, &mut Luck::of(&[seed]));
            let (at, flipped) = torn(Tear::Flip, None).unwrap();
            let differing: Vec<usize> = (0..bytes.len()).filter(|at| flipped[*at] != bytes[*at]).collect();
            assert_eq!(differing, [at]);
            let (at, cut) = torn(Tear::Cut, None).unwrap();
            assert!(cut.len() == at && at < bytes.len() && bytes.starts_with(&cut));
            let (at, cut) = torn(Tear::LastBlock, None).unwrap();
            assert!(cut.len() == at && at == 9728 && bytes.starts_with(&cut));
            let (at, zeros) = torn(Tear::Zeros, None).unwrap();
            let page = at..bytes.len().min(at + PAGE_BYTES);
            assert!(at.is_multiple_of(PAGE_BYTES) && zeros[page.clone()].iter().all(|byte| *byte == 0));
            assert_eq!((&zeros[..at], &zeros[page.end..]), (&bytes[..at], &bytes[page.end..]));
            assert_eq!(torn(Tear::Old, Some(&old)).unwrap(), (5000, old.clone()));
            let (at, lost) = torn(Tear::Old, Some(&bytes[..9000])).unwrap();
            assert!(at == 9000 && lost[..9000] == bytes[..9000] && lost[9000..].iter().all(|byte| *byte == 0));
            assert_eq!(torn(Tear::Old, None), None);
            assert_eq!(torn(Tear::Old, Some(&bytes)), None, "nothing has changed since");
        }
        for tear in [Tear::Flip, Tear::Cut, Tear::LastBlock, Tear::Zeros, Tear::Old] {
            assert_eq!(torn(tear, &[], Some(&[]), &mut Luck::of(&[1])), None, "{tear:?} of an empty file");
        }
        assert_eq!(torn(Tear::Zeros, &[0; 100], None, &mut Luck::of(&[1])), None, "it is zeros already");
    }
}
