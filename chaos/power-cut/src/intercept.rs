//! The calls that change files, under the names that programs call them by.
//!
//! Each does the same by system call. All are `unsafe` for one reason, which no comment below repeats: they have the
//! contracts of the functions that they stand in for, and their callers keep them.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};

use libc::{iovec, mode_t, off_t, size_t, ssize_t};

use crate::layer::{Layer, give_up, held, stat_at};
use crate::record::Kind;

/// What the kernel answered, as the type that the caller expects; it fits by the contract of the call.
fn answer<T: TryFrom<c_long>>(result: c_long) -> T {
    T::try_from(result).unwrap_or_else(|_| give_up("the kernel's answer does not fit"))
}

// === opening ===

unsafe fn open_at(at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    let open = || unsafe { answer(libc::syscall(libc::SYS_openat, at, path, flags, mode)) };
    let Some(mut layer) = held() else { return open() };
    let inside = unsafe { layer.inside(at, path) };
    let Some(inside) = inside else {
        let fd: c_int = open();
        layer.opened_elsewhere(fd);
        return fd;
    };
    if flags & libc::O_TMPFILE == libc::O_TMPFILE {
        give_up("a file without a name is opened");
    }
    let made = flags & libc::O_CREAT != 0 && stat_at(at, unsafe { CStr::from_ptr(path) }).is_none();
    let fd: c_int = open();
    if fd >= 0 {
        let inode = layer.opened(fd, &inside, made);
        if !made && flags & libc::O_TRUNC != 0 {
            layer.note(Kind::SetLength, inode, 0, &[]);
        }
    }
    fd
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { open_at(libc::AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { open_at(libc::AT_FDCWD, path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn openat(at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { open_at(at, path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn openat64(at: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    unsafe { open_at(at, path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn creat(path: *const c_char, mode: mode_t) -> c_int {
    unsafe { open_at(libc::AT_FDCWD, path, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn creat64(path: *const c_char, mode: mode_t) -> c_int {
    unsafe { creat(path, mode) }
}

// === writing ===

/// Notes what a write has written; `at` is where, when the caller said it.
unsafe fn note_write(layer: &Layer, fd: c_int, inode: u64, at: Option<off_t>, vector: &[iovec], written: ssize_t) {
    let Ok(written) = usize::try_from(written) else { return };
    let mut bytes = Vec::with_capacity(written);
    for part in vector {
        let length = part.iov_len.min(written - bytes.len());
        if length > 0 {
            // SAFETY: the kernel has just read these bytes from there.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(part.iov_base.cast(), length) });
        }
    }
    let offset = at.and_then(|at| u64::try_from(at).ok()).unwrap_or_else(|| {
        // The descriptor stands behind what it has written, wherever that was.
        let end = unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) };
        u64::try_from(end).ok().and_then(|end| end.checked_sub(written as u64)).unwrap_or_else(|| give_up("no offset"))
    });
    layer.note(Kind::Write, inode, offset, &bytes);
}

unsafe fn write_vector(fd: c_int, vector: &[iovec], at: Option<off_t>, write: impl FnOnce() -> ssize_t) -> ssize_t {
    let Some(layer) = held() else { return write() };
    let Some(inode) = layer.watched(fd) else {
        // It may be a pipe that nobody reads.
        drop(layer);
        return write();
    };
    let written = write();
    unsafe { note_write(&layer, fd, inode, at, vector, written) };
    written
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, count: size_t) -> ssize_t {
    let vector = [iovec { iov_base: bytes.cast_mut(), iov_len: count }];
    let write = || unsafe { answer(libc::syscall(libc::SYS_write, fd, bytes, count)) };
    unsafe { write_vector(fd, &vector, None, write) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite(fd: c_int, bytes: *const c_void, count: size_t, at: off_t) -> ssize_t {
    let vector = [iovec { iov_base: bytes.cast_mut(), iov_len: count }];
    let write = || unsafe { answer(libc::syscall(libc::SYS_pwrite64, fd, bytes, count, at)) };
    unsafe { write_vector(fd, &vector, Some(at), write) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(fd: c_int, bytes: *const c_void, count: size_t, at: off_t) -> ssize_t {
    unsafe { pwrite(fd, bytes, count, at) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn writev(fd: c_int, vector: *const iovec, count: c_int) -> ssize_t {
    let parts = unsafe { std::slice::from_raw_parts(vector, usize::try_from(count).unwrap_or(0)) };
    let write = || unsafe { answer(libc::syscall(libc::SYS_writev, fd, vector, count)) };
    unsafe { write_vector(fd, parts, None, write) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwritev(fd: c_int, vector: *const iovec, count: c_int, at: off_t) -> ssize_t {
    let parts = unsafe { std::slice::from_raw_parts(vector, usize::try_from(count).unwrap_or(0)) };
    // The kernel takes the offset in two halves; on a machine of 64 bits the second is not looked at.
    let write = || unsafe { answer(libc::syscall(libc::SYS_pwritev, fd, vector, count, at, 0)) };
    unsafe { write_vector(fd, parts, Some(at), write) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwritev64(fd: c_int, vector: *const iovec, count: c_int, at: off_t) -> ssize_t {
    unsafe { pwritev(fd, vector, count, at) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate(fd: c_int, length: off_t) -> c_int {
    let layer = held();
    let inode = layer.as_ref().and_then(|layer| layer.watched(fd));
    let result = unsafe { answer(libc::syscall(libc::SYS_ftruncate, fd, length)) };
    if let (0, Some(layer), Some(inode)) = (result, layer, inode) {
        layer.note(Kind::SetLength, inode, length.unsigned_abs(), &[]);
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate64(fd: c_int, length: off_t) -> c_int {
    unsafe { ftruncate(fd, length) }
}

// === names ===

unsafe fn rename_at(from_at: c_int, from: *const c_char, to_at: c_int, to: *const c_char, flags: c_uint) -> c_int {
    let layer = held();
    let result = unsafe { answer(libc::syscall(libc::SYS_renameat2, from_at, from, to_at, to, flags)) };
    if let (0, Some(layer)) = (result, layer) {
        if flags & libc::RENAME_EXCHANGE != 0 {
            give_up("two names are exchanged");
        }
        let paths = unsafe { (layer.inside(from_at, from), layer.inside(to_at, to)) };
        layer.note_two(Kind::Rename, paths.0, paths.1);
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    unsafe { rename_at(libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn renameat(from_at: c_int, from: *const c_char, to_at: c_int, to: *const c_char) -> c_int {
    unsafe { rename_at(from_at, from, to_at, to, 0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn renameat2(
    from_at: c_int,
    from: *const c_char,
    to_at: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    unsafe { rename_at(from_at, from, to_at, to, flags) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn linkat(
    from_at: c_int,
    from: *const c_char,
    to_at: c_int,
    to: *const c_char,
    flags: c_int,
) -> c_int {
    let layer = held();
    let result = unsafe { answer(libc::syscall(libc::SYS_linkat, from_at, from, to_at, to, flags)) };
    if let (0, Some(layer)) = (result, layer) {
        let paths = unsafe { (layer.inside(from_at, from), layer.inside(to_at, to)) };
        layer.note_two(Kind::Link, paths.0, paths.1);
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn link(from: *const c_char, to: *const c_char) -> c_int {
    unsafe { linkat(libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlinkat(at: c_int, path: *const c_char, flags: c_int) -> c_int {
    let layer = held();
    let result = unsafe { answer(libc::syscall(libc::SYS_unlinkat, at, path, flags)) };
    if let (0, Some(layer)) = (result, layer)
        && let Some(path) = unsafe { layer.inside(at, path) }
    {
        layer.note(Kind::Remove, 0, 0, &path);
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    unsafe { unlinkat(libc::AT_FDCWD, path, 0) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    unsafe { unlinkat(libc::AT_FDCWD, path, libc::AT_REMOVEDIR) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mkdirat(at: c_int, path: *const c_char, mode: mode_t) -> c_int {
    let layer = held();
    let result = unsafe { answer(libc::syscall(libc::SYS_mkdirat, at, path, mode)) };
    if let (0, Some(layer)) = (result, layer)
        && let Some(inside) = unsafe { layer.inside(at, path) }
    {
        let status = stat_at(at, unsafe { CStr::from_ptr(path) });
        let status = status.unwrap_or_else(|| give_up("a directory that was just made is none"));
        layer.note(Kind::MakeDirectory, status.st_ino, 0, &inside);
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    unsafe { mkdirat(libc::AT_FDCWD, path, mode) }
}

// === what makes it durable ===

unsafe fn sync(fd: c_int, call: c_long, kind: Kind) -> c_int {
    // What is written while the kernel syncs may or may not be covered; it counts as not covered only if it is noted
    // after the sync. So nobody writes meanwhile.
    let layer = held();
    let inode = layer.as_ref().and_then(|layer| layer.watched(fd));
    let result = unsafe { answer(libc::syscall(call, fd)) };
    if let (0, Some(layer), Some(inode)) = (result, layer, inode) {
        layer.note(kind, inode, 0, &[]);
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    unsafe { sync(fd, libc::SYS_fsync, Kind::SyncAll) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    unsafe { sync(fd, libc::SYS_fdatasync, Kind::SyncData) }
}

// === what it cannot follow ===

unsafe fn refuse_watched(fd: c_int, what: &str) {
    if held().is_some_and(|layer| layer.watched(fd).is_some()) {
        give_up(what);
    }
}

/// Refused on a watched file in a way that makes callers copy with `read` and `write` instead.
unsafe fn no_short_cut(to: c_int) -> Option<ssize_t> {
    held()?.watched(to)?;
    // SAFETY: it is this thread's own.
    unsafe { *libc::__errno_location() = libc::EINVAL };
    Some(-1)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn copy_file_range(
    from: c_int,
    from_at: *mut off_t,
    to: c_int,
    to_at: *mut off_t,
    count: size_t,
    flags: c_uint,
) -> ssize_t {
    unsafe { no_short_cut(to) }.unwrap_or_else(|| unsafe {
        answer(libc::syscall(libc::SYS_copy_file_range, from, from_at, to, to_at, count, flags))
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sendfile(to: c_int, from: c_int, from_at: *mut off_t, count: size_t) -> ssize_t {
    unsafe { no_short_cut(to) }
        .unwrap_or_else(|| unsafe { answer(libc::syscall(libc::SYS_sendfile, to, from, from_at, count)) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sendfile64(to: c_int, from: c_int, from_at: *mut off_t, count: size_t) -> ssize_t {
    unsafe { sendfile(to, from, from_at, count) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fallocate(fd: c_int, mode: c_int, at: off_t, length: off_t) -> c_int {
    unsafe {
        refuse_watched(fd, "a file is given blocks ahead");
        answer(libc::syscall(libc::SYS_fallocate, fd, mode, at, length))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fallocate64(fd: c_int, mode: c_int, at: off_t, length: off_t) -> c_int {
    unsafe { fallocate(fd, mode, at, length) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn posix_fallocate(fd: c_int, at: off_t, length: off_t) -> c_int {
    // It gives its error back instead of setting `errno`.
    match unsafe { fallocate(fd, 0, at, length) } {
        0 => 0,
        _ => unsafe { *libc::__errno_location() },
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn truncate(path: *const c_char, length: off_t) -> c_int {
    if held().is_some_and(|layer| unsafe { layer.inside(libc::AT_FDCWD, path) }.is_some()) {
        give_up("a file is cut by its name");
    }
    unsafe { answer(libc::syscall(libc::SYS_truncate, path, length)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn truncate64(path: *const c_char, length: off_t) -> c_int {
    unsafe { truncate(path, length) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn symlinkat(target: *const c_char, at: c_int, path: *const c_char) -> c_int {
    if held().is_some_and(|layer| unsafe { layer.inside(at, path) }.is_some()) {
        give_up("a symbolic link is made");
    }
    unsafe { answer(libc::syscall(libc::SYS_symlinkat, target, at, path)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn symlink(target: *const c_char, path: *const c_char) -> c_int {
    unsafe { symlinkat(target, libc::AT_FDCWD, path) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mmap(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    at: off_t,
) -> *mut c_void {
    let shared = flags & libc::MAP_PRIVATE == 0 && protection & libc::PROT_WRITE != 0;
    unsafe {
        if fd >= 0 && shared {
            refuse_watched(fd, "a file is mapped to be written");
        }
        libc::syscall(libc::SYS_mmap, address, length, protection, flags, fd, at) as *mut c_void
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mmap64(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    at: off_t,
) -> *mut c_void {
    unsafe { mmap(address, length, protection, flags, fd, at) }
}
