//! A library that is loaded into a program before all others, with `LD_PRELOAD`, and gives it a
//! wrong clock: `SALVOR_TEST_CLOCK_SHIFT` says by how many seconds. Time that only counts up, and
//! the times of files, are left as they are.

use std::ffi::CStr;
use std::sync::atomic::{AtomicI64, Ordering};

/// Seconds; `i64::MIN` until it was looked for.
static SHIFT_S: AtomicI64 = AtomicI64::new(i64::MIN);

fn shift_s() -> i64 {
    let known = SHIFT_S.load(Ordering::Relaxed);
    if known != i64::MIN {
        return known;
    }
    // SAFETY: the name ends with a zero, and the program does not change its environment.
    let text = unsafe { libc::getenv(c"SALVOR_TEST_CLOCK_SHIFT".as_ptr()) };
    let shift_s = if text.is_null() {
        0
    } else {
        // SAFETY: what getenv(3) gives ends with a zero and stays as long as the environment.
        let text = unsafe { CStr::from_ptr(text) };
        text.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    SHIFT_S.store(shift_s, Ordering::Relaxed);
    shift_s
}

/// Takes the place of `clock_gettime(3)`.
///
/// # Safety
///
/// As there: `time` is null or can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    // SAFETY: these are the arguments of this system call, and the kernel checks the pointer.
    let answer = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    let is_date = clock == libc::CLOCK_REALTIME || clock == libc::CLOCK_REALTIME_COARSE;
    if answer == 0 && is_date {
        // SAFETY: the kernel has just written there.
        unsafe { (*time).tv_sec += shift_s() };
    }
    if answer == 0 { 0 } else { -1 }
}
