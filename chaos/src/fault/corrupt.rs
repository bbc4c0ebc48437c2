//! A byte of a stopped node's files is changed. It is found out, or it was one that says nothing: never believed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::{Running, Whom};
use crate::arena::Arena;
use crate::luck::Luck;
use crate::scenario::Sometimes;
use crate::wires::{End, Wire};

/// How long a node with a spoiled disk may work before it is looked at.
const LIVE: Duration = Duration::from_secs(2);

struct Spoiled {
    number: u16,
    file: PathBuf,
    offset: usize,
    before: u8,
    kept: Vec<(PathBuf, Vec<u8>)>,
    found_out: bool,
}

pub(super) async fn start(arena: &mut Arena, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let number = *arena.chosen(Whom::Follower, luck).await?.first().context("a follower")?;
    // Until it is known whether it notices, nobody hears it: what it finds out late, it has not acknowledged before.
    let all: Vec<u16> = arena.cluster.cps.iter().map(|cp| cp.number).collect();
    let others = all.iter().filter(|other| **other != number);
    let ways: Vec<_> = others.map(|other| (End::Node(number), End::Node(*other))).collect();
    arena.wires.set(&ways, Wire { cut: true, ..Wire::default() }).await?;
    let cp = arena.cluster.cp(number);
    cp.kill().await?;
    let mut files = Vec::new();
    collect(cp.data_dir(), &mut files)?;
    files.retain(|(_, bytes)| !bytes.is_empty());
    files.sort();
    let at = usize::try_from(luck.below(files.len() as u64))?;
    let (file, bytes) = files.get(at).cloned().context("a file")?;
    let offset = usize::try_from(luck.below(bytes.len() as u64))?;
    let mut spoiled = bytes.clone();
    spoiled[offset] ^= 1 << luck.below(8);
    std::fs::write(&file, &spoiled)?;
    cp.run()?;
    tokio::time::sleep(LIVE).await;
    let found_out = !cp.process()?.runs();
    arena.wires.heal().await?;
    if found_out {
        arena.saw(Sometimes::FoundOut);
    }
    Ok(Box::new(Spoiled { number, file, offset, before: bytes[offset], kept: files, found_out }))
}

fn collect(dir: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) -> Result<()> {
    for item in std::fs::read_dir(dir)? {
        let path = item?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push((path.clone(), std::fs::read(&path)?));
        }
    }
    Ok(())
}

impl Running for Spoiled {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            let cp = arena.cluster.cp(self.number);
            if !self.found_out {
                // Then what it serves is held against the others by the checkers.
                ensure!(cp.process()?.runs(), "{} ended late: {}", cp.name(), cp.log_end());
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
            println!("found out: {} at {} (was {:#04x})", self.file.display(), self.offset, self.before);
            arena.run_again(&[self.number]).await
        }
        .boxed_local()
    }
}
