//! The thread that writes the log. It alone waits for the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::{LogStats, Message};

/// Bytes that are written at once, while lines come faster than they are written.
const BUFFER_BYTES: usize = 256 << 10;
/// How often it is looked whether the name still means the open file.
const LOOK: Duration = Duration::from_secs(1);

/// Opens a file to append to.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// Writes until nobody sends any more.
pub(super) fn run(path: PathBuf, file: File, messages: &Receiver<Message>, stats: &LogStats) {
    let mut writer = Writer { out: BufWriter::with_capacity(BUFFER_BYTES, file), path, unsaved: 0, complained: false };
    let mut looked = Instant::now();
    loop {
        match messages.recv_timeout(LOOK) {
            Ok(message) => writer.take(message, stats),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // What came meanwhile goes with it.
        while let Ok(message) = messages.try_recv() {
            writer.take(message, stats);
            if writer.unsaved >= LINES_MAX {
                break;
            }
        }
        writer.flush(stats);
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            if writer.was_moved() {
                writer.reopen();
            }
        }
    }
}

/// Lines between two looks at the file's name.
const LINES_MAX: u64 = 10_000;

struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
    /// Lines that may still be in the buffer.
    unsaved: u64,
    /// Whether the last attempt to write failed, and the log says so.
    complained: bool,
}

impl Writer {
    fn take(&mut self, message: Message, stats: &LogStats) {
        match message {
            Message::Line(line) => {
                self.unsaved += 1;
                if let Err(e) = self.out.write_all(&line) {
                    self.failed(&e, stats);
                }
            }
            Message::Reopen => {
                self.flush(stats);
                self.reopen();
            }
        }
    }

    fn flush(&mut self, stats: &LogStats) {
        match self.out.flush() {
            Ok(()) => {
                if self.unsaved > 0 {
                    self.complained = false;
                }
                stats.written.fetch_add(std::mem::take(&mut self.unsaved), Ordering::Relaxed);
            }
            Err(e) => self.failed(&e, stats),
        }
    }

    /// Gives up what is in the buffer: it would be in the way of what comes.
    fn failed(&mut self, error: &io::Error, stats: &LogStats) {
        stats.failed.fetch_add(std::mem::take(&mut self.unsaved), Ordering::Relaxed);
        if !std::mem::replace(&mut self.complained, true) {
            warn!(file = %self.path.display(), %error, "the access log cannot be written, its lines are lost");
        }
        let file = self.out.get_ref().try_clone();
        match file.or_else(|_| open(&self.path)) {
            Ok(file) => {
                drop(std::mem::replace(&mut self.out, BufWriter::with_capacity(BUFFER_BYTES, file)).into_parts())
            }
            // The buffer keeps what is in it, and is tried again.
            Err(error) => warn!(file = %self.path.display(), %error, "the access log cannot be opened anew"),
        }
    }

    /// Whether the name means another file by now, or none. What is no file, such as a terminal, cannot be moved.
    fn was_moved(&self) -> bool {
        let Ok(open) = self.out.get_ref().metadata() else { return true };
        if !open.is_file() {
            return false;
        }
        fs::metadata(&self.path).map_or(true, |named| (named.dev(), named.ino()) != (open.dev(), open.ino()))
    }

    fn reopen(&mut self) {
        match open(&self.path) {
            Ok(file) => {
                info!(file = %self.path.display(), "the access log is opened anew");
                self.out = BufWriter::with_capacity(BUFFER_BYTES, file);
            }
            Err(error) => warn!(file = %self.path.display(), %error, "the access log cannot be opened anew"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn lines(path: &Path) -> usize {
        fs::read_to_string(path).unwrap_or_default().lines().count()
    }

    #[test]
    fn a_file_that_was_moved_is_opened_anew_and_no_line_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
        let (queue, messages) = mpsc::sync_channel(100);
        let (file, shared) = (open(&path).unwrap(), std::sync::Arc::<LogStats>::default());
        let stats = shared.clone();
        let name = path.clone();
        let writing = thread::spawn(move || run(name, file, &messages, &stats));
        let line = || queue.send(Message::Line(b"x\n".to_vec())).unwrap();
        line();
        while lines(&path) < 1 {
            thread::yield_now();
        }
        fs::rename(&path, &old).unwrap();
        queue.send(Message::Reopen).unwrap();
        line();
        while lines(&path) < 1 {
            thread::yield_now();
        }
        // Without being told, it is noticed too.
        fs::remove_file(&path).unwrap();
        while !path.exists() {
            line();
            thread::sleep(Duration::from_millis(20));
        }
        line();
        drop(queue);
        writing.join().unwrap();
        assert_eq!((lines(&old), lines(&path) > 0), (1, true));
        assert_eq!(shared.failed.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_disk_that_takes_nothing_costs_lines_and_nothing_else() {
        let (queue, messages) = mpsc::sync_channel(100);
        let stats = LogStats::default();
        for _ in 0..3 {
            queue.send(Message::Line(b"x\n".to_vec())).unwrap();
        }
        drop(queue);
        let full = PathBuf::from("/dev/full");
        run(full.clone(), open(&full).unwrap(), &messages, &stats);
        assert_eq!((stats.written.into_inner(), stats.failed.into_inner()), (0, 3));
    }
}
