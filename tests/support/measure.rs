//! How much memory the program takes.

use std::ffi::OsStr;
use std::fs;

use super::{Ended, Lab, MIB};

/// Options that set the memory, and what a process may then have at most.
pub type Setting = (&'static [&'static str], u64);

/// What is promised: the default, and a small one.
pub const SETTINGS: [Setting; 2] = [(&[], 300 * MIB), (&["--memory", "128M"], 128 * MIB)];

/// What of this process itself would be counted, in KiB; see [`Ended::peak_bytes`].
const OWN_KIB_MAX: u64 = 64 << 10;

/// Runs a command, which must end with 0, and checks its peak.
#[track_caller]
pub fn measured<S: AsRef<OsStr>>(lab: &Lab, (options, limit_bytes): Setting, line: &[S]) -> Ended {
    let own_kib = own_peak_kib();
    assert!(own_kib < OWN_KIB_MAX, "the test is too large to measure with: {own_kib} KiB");
    let all: Vec<&OsStr> =
        options.iter().map(OsStr::new).chain(line.iter().map(AsRef::as_ref)).collect();
    let ended = lab.ok(&all);
    let words: Vec<_> = all.iter().map(|word| word.to_string_lossy()).collect();
    let (words, peak) = (words.join(" "), ended.peak_bytes);
    println!("{:>4} MiB, {:>6.1?}: {words}", peak / MIB, ended.took);
    assert!(peak <= limit_bytes, "{} of {} MiB: {words}", peak / MIB, limit_bytes / MIB);
    ended
}

fn own_peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}
