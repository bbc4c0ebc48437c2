//! The wall clock of a process, as somebody outside wants it: a file that is mapped says how far it is off.
//!
//! Only what asks for the time of day is changed. Monotonic time is the kernel's, as it is when an operator, or NTP, sets
//! a machine's clock.

use std::ffi::{CString, c_int, c_long};
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use libc::{clockid_t, time_t, timespec, timeval};

use crate::layer::give_up;
use crate::record::{CLOCK, CLOCK_BYTES};

const NANOS: i64 = 1_000_000_000;
/// As wide as the kernel takes it.
const BEGINNING: libc::off_t = 0;

/// Three numbers, as [`CLOCK`] names them. Each is read by itself: whoever reads between two stores of one change sees a
/// time that is neither, for that moment.
type Shift = [AtomicI64; 3];

fn shift() -> Option<&'static Shift> {
    static SHIFT: OnceLock<Option<&'static Shift>> = OnceLock::new();
    *SHIFT.get_or_init(|| {
        let path = std::env::var_os(CLOCK)?;
        let path = CString::new(path.as_bytes()).unwrap_or_else(|_| give_up("a path holds a zero"));
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        // SAFETY: the path is a C string that outlives the call.
        let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0) };
        if fd < 0 {
            give_up("the file of the clock cannot be opened");
        }
        let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED);
        // SAFETY: a new mapping, of a file that its maker never cuts.
        let at = unsafe { libc::syscall(libc::SYS_mmap, ptr::null::<u8>(), CLOCK_BYTES, read, shared, fd, BEGINNING) };
        if at < 0 {
            give_up("the file of the clock cannot be mapped");
        }
        // SAFETY: the mapping is a page's beginning, as long as this, and is never taken away.
        Some(unsafe { &*(at as *const Shift) })
    })
}

/// Nanoseconds to add to what the kernel says.
fn off_by(shift: &Shift, now: i64) -> i64 {
    let [step, rate, since] = shift.each_ref().map(|number| number.load(Ordering::Relaxed));
    let drift = i128::from(now - since) * i128::from(rate) / 1_000_000;
    step + i64::try_from(drift).unwrap_or_else(|_| give_up("a clock is off by more than there is"))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    // SAFETY: the contract of the function that this stands in for.
    let result: c_long = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    let of_day = matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE);
    if result == 0
        && of_day
        && let Some(shift) = shift()
    {
        // SAFETY: the kernel has just written there.
        let time = unsafe { &mut *time };
        let now = time.tv_sec * NANOS + time.tv_nsec;
        let shown = now + off_by(shift, now);
        (time.tv_sec, time.tv_nsec) = (shown.div_euclid(NANOS), shown.rem_euclid(NANOS));
    }
    if result == 0 { 0 } else { -1 }
}

fn time_of_day() -> timespec {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it is written to a place of ours.
    unsafe { clock_gettime(libc::CLOCK_REALTIME, &raw mut now) };
    now
}

#[unsafe(no_mangle)]
unsafe extern "C" fn gettimeofday(time: *mut timeval, _zone: *mut libc::c_void) -> c_int {
    let now = time_of_day();
    if !time.is_null() {
        // SAFETY: the contract of the function that this stands in for.
        unsafe { *time = timeval { tv_sec: now.tv_sec, tv_usec: now.tv_nsec / 1000 } };
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn time(time: *mut time_t) -> time_t {
    let now = time_of_day().tv_sec;
    if !time.is_null() {
        // SAFETY: the contract of the function that this stands in for.
        unsafe { *time = now };
    }
    now
}
