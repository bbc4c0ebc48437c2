//! What the library knows: the watched directory, the inodes in it that this process has opened, and the journal.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, MutexGuard, OnceLock};

use crate::record::{DIRECTORY, Header, JOURNAL, Kind};

/// The layer of this process, held; `None` when none was asked for.
pub(crate) fn held() -> Option<MutexGuard<'static, Layer>> {
    static LAYER: OnceLock<Option<Mutex<Layer>>> = OnceLock::new();
    let layer = LAYER.get_or_init(|| Layer::from_environment().map(Mutex::new)).as_ref()?;
    Some(layer.lock().unwrap_or_else(|_| give_up("the layer's lock is broken")))
}

#[derive(Debug)]
pub(crate) struct Layer {
    /// Absolute, without links.
    directory: Vec<u8>,
    device: u64,
    journal: c_int,
    /// What this process has opened below the directory.
    inodes: HashSet<u64>,
}

impl Layer {
    fn from_environment() -> Option<Self> {
        let directory = std::env::var_os(DIRECTORY)?.as_bytes().to_vec();
        let journal = std::env::var_os(JOURNAL).unwrap_or_else(|| give_up("no journal is named"));
        let as_c = |path: &OsStr| CString::new(path.as_bytes()).unwrap_or_else(|_| give_up("a path holds a zero"));
        let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
        let path = as_c(&journal);
        // SAFETY: the path is a C string that outlives the call.
        let journal = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0o600) };
        let journal = c_int::try_from(journal).ok().filter(|fd| *fd >= 0);
        let journal = journal.unwrap_or_else(|| give_up("the journal cannot be opened"));
        let status = stat_at(libc::AT_FDCWD, &as_c(OsStr::from_bytes(&directory)));
        let device = status.unwrap_or_else(|| give_up("the directory is not there")).st_dev;
        Some(Self { directory, device, journal, inodes: HashSet::new() })
    }

    /// The path below the directory that a call names; `None` when it is elsewhere.
    ///
    /// # Safety
    /// `path` is a C string.
    pub(crate) unsafe fn inside(&self, at: c_int, path: *const c_char) -> Option<Vec<u8>> {
        // SAFETY: the caller's promise.
        let path = unsafe { CStr::from_ptr(path) }.to_bytes();
        let mut absolute = match path.first() {
            Some(b'/') => Vec::new(),
            _ => base(at)?,
        };
        absolute.extend_from_slice(path);
        let rest = absolute.strip_prefix(&self.directory[..])?;
        let relative = match rest.split_first() {
            None => return Some(Vec::new()),
            Some((b'/', relative)) => relative,
            Some(_) => return None,
        };
        let is_name = |part: &&[u8]| !matches!(*part, b"" | b".");
        let parts: Vec<&[u8]> = relative.split(|byte| *byte == b'/').filter(is_name).collect();
        if parts.contains(&&b".."[..]) {
            give_up("a path below the directory goes up");
        }
        Some(parts.join(&b'/'))
    }

    /// The inode of a descriptor, when it is one that is watched.
    pub(crate) fn watched(&self, fd: c_int) -> Option<u64> {
        let status = stat(fd)?;
        (status.st_dev == self.device && self.inodes.contains(&status.st_ino)).then_some(status.st_ino)
    }

    /// Something below the directory was opened.
    pub(crate) fn opened(&mut self, fd: c_int, path: &[u8], made: bool) -> u64 {
        let Some(status) = stat(fd) else { give_up("a descriptor that was just opened is none") };
        self.inodes.insert(status.st_ino);
        self.note(if made { Kind::Create } else { Kind::Open }, status.st_ino, 0, path);
        status.st_ino
    }

    /// Something elsewhere was opened: its inode may once have been one of ours.
    pub(crate) fn opened_elsewhere(&mut self, fd: c_int) {
        if let Some(status) = stat(fd)
            && status.st_dev == self.device
        {
            self.inodes.remove(&status.st_ino);
        }
    }

    /// Appends a record.
    pub(crate) fn note(&self, kind: Kind, inode: u64, number: u64, payload: &[u8]) {
        let payload_bytes = u32::try_from(payload.len()).unwrap_or_else(|_| give_up("a write of 4 GiB"));
        let mut record = Header { kind, inode, number, payload_bytes }.encode().to_vec();
        record.extend_from_slice(payload);
        let mut rest = &record[..];
        while !rest.is_empty() {
            // SAFETY: the pointer and the length are those of a slice.
            let written = unsafe { libc::syscall(libc::SYS_write, self.journal, rest.as_ptr(), rest.len()) };
            match usize::try_from(written) {
                Ok(written) => rest = &rest[written..],
                Err(_) => give_up("the journal cannot be written"),
            }
        }
    }

    /// Notes something about two paths of which at least one is below the directory.
    pub(crate) fn note_two(&self, kind: Kind, from: Option<Vec<u8>>, to: Option<Vec<u8>>) {
        match (from, to) {
            (Some(from), Some(to)) => self.note(kind, 0, 0, &[&from[..], &to[..]].join(&0)),
            (None, None) => {}
            _ => give_up("a name goes into or out of the directory"),
        }
    }
}

/// The status of a descriptor.
pub(crate) fn stat(fd: c_int) -> Option<libc::stat> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills the struct when it succeeds.
    unsafe { (libc::fstat(fd, status.as_mut_ptr()) == 0).then(|| status.assume_init()) }
}

/// The status of a path, links not followed.
pub(crate) fn stat_at(at: c_int, path: &CStr) -> Option<libc::stat> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the path is a C string, and the kernel fills the struct when it succeeds.
    unsafe {
        let found = libc::fstatat(at, path.as_ptr(), status.as_mut_ptr(), libc::AT_SYMLINK_NOFOLLOW);
        (found == 0).then(|| status.assume_init())
    }
}

/// Ends the process, since what it proves would be worth nothing.
pub(crate) fn give_up(why: &str) -> ! {
    let text = format!("power-cut: {why}\n");
    // SAFETY: the pointer and the length are those of a string.
    unsafe {
        libc::syscall(libc::SYS_write, libc::STDERR_FILENO, text.as_ptr(), text.len());
        libc::abort()
    }
}

/// What a relative path is relative to, with a slash at its end.
fn base(at: c_int) -> Option<Vec<u8>> {
    let link = match at {
        libc::AT_FDCWD => "/proc/self/cwd\0".to_owned(),
        fd => format!("/proc/self/fd/{fd}\0"),
    };
    let mut path = vec![0; 4096];
    // SAFETY: the link ends with a zero, and the buffer is as long as is said.
    let length =
        unsafe { libc::syscall(libc::SYS_readlinkat, libc::AT_FDCWD, link.as_ptr(), path.as_mut_ptr(), path.len()) };
    path.truncate(usize::try_from(length).ok()?);
    path.push(b'/');
    Some(path)
}
