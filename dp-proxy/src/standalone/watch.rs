//! Watches the file: replaced by another, or written in place.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use daemon::blocking;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::{Configuration, FileBoard, Standalone};

/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// A file that was written so lately is read again even if it looks as before: what was read may have been half of it, and
/// clocks of file systems are coarse.
const YOUNG_MILLIS: u64 = 3000;
/// What the feed has not taken yet. One: while it takes that, the next look can wait.
const FOUND_MAX: usize = 1;

/// What tells that a file was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Look {
    inode: u64,
    bytes: u64,
    modified_nanos: i128,
}

impl Look {
    fn at(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let modified_nanos = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Ok(Self { inode: metadata.ino(), bytes: metadata.len(), modified_nanos })
    }

    fn is_young(&self, now_millis: u64) -> bool {
        (i128::from(now_millis) - self.modified_nanos / 1_000_000).unsigned_abs() < u128::from(YOUNG_MILLIS)
    }
}

/// Starts to watch, on the current runtime. Every configuration that is found good is sent.
pub(crate) fn start(standalone: Standalone, board: Arc<FileBoard>) -> mpsc::Receiver<Box<Configuration>> {
    let (sender, found) = mpsc::channel(FOUND_MAX);
    board.told().0 = Some(standalone.file.clone());
    tokio::spawn(async move { watch(standalone, board, sender).await });
    found
}

async fn watch(standalone: Standalone, board: Arc<FileBoard>, sender: mpsc::Sender<Box<Configuration>>) {
    let Standalone { file, poll, clock, .. } = standalone;
    let (mut seen, mut known) = (None, None);
    loop {
        let (path, before, now) = (file.clone(), seen, clock.now());
        let looked = blocking::spawn(move || look(&path, before, now)).await;
        // A look that panicked has said so, and the next may not.
        match looked.unwrap_or_else(|e| Err(io::Error::other(e))) {
            Ok(None) => {}
            Ok(Some((look, text))) => {
                seen = Some(look);
                let hash: [u8; 32] = Sha256::digest(&text).into();
                if known.replace(Ok(hash)) != Some(Ok(hash)) {
                    let is_json = file.extension().is_some_and(|extension| extension == "json");
                    let read = blocking::spawn(move || read(&text, is_json)).await;
                    match read.unwrap_or_else(|e| Err(vec![e.to_string()])) {
                        Ok(configuration) => {
                            board.told().1.clear();
                            if sender.send(Box::new(configuration)).await.is_err() {
                                return;
                            }
                        }
                        Err(problems) => board.refuse(&file, problems),
                    }
                }
            }
            Err(e) => {
                seen = None;
                let why = e.to_string();
                if known.replace(Err(why.clone())) != Some(Err(why.clone())) {
                    board.refuse(&file, vec![why]);
                }
            }
        }
        sleep(poll).await;
    }
}

/// The file's text, if it may be another than when it looked like `before`.
fn look(path: &Path, before: Option<Look>, now_millis: u64) -> io::Result<Option<(Look, Vec<u8>)>> {
    let look = Look::at(path)?;
    if before == Some(look) && !look.is_young(now_millis) {
        return Ok(None);
    }
    if look.bytes > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has {} bytes, at most {FILE_BYTES_MAX} are read", look.bytes)));
    }
    Ok(Some((look, fs::read(path)?)))
}

fn read(text: &[u8], is_json: bool) -> Result<Configuration, Vec<String>> {
    let text = std::str::from_utf8(text).map_err(|e| vec![format!("it is not UTF-8: {e}")])?;
    Configuration::read(text, is_json, |name| std::env::var(name).ok())
}
