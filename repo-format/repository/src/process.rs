//! Who a process is, so that another on the same machine can tell whether it still lives.

use std::fs;

use repo_format::session::Process;
use rustix::process::{Pid, test_kill_process};

/// What is known about a process that opened a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It runs on this machine.
    Alive,
    /// It ran on this machine, in this boot, and is gone.
    Dead,
    /// It is elsewhere, or this cannot be told.
    Unknown,
}

/// This process.
pub fn current() -> Process {
    #[cfg(test)]
    if let Some(process) = crate::sim::here::process() {
        return process;
    }
    let pid = std::process::id();
    Process {
        host: hostname(),
        boot_id: boot_id(),
        pid_namespace: pid_namespace(),
        pid,
        start_ticks: start_ticks(pid).unwrap_or(0),
    }
}

/// Host name of this machine.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether the process behind a session lives, as far as it can be told from here.
pub fn liveness(process: &Process) -> Liveness {
    #[cfg(test)]
    if let Some(liveness) = crate::sim::here::liveness(process) {
        return liveness;
    }
    let same_machine = !process.boot_id.is_empty()
        && process.boot_id == boot_id()
        && process.pid_namespace != 0
        && process.pid_namespace == pid_namespace();
    if !same_machine {
        return Liveness::Unknown;
    }
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else {
        return Liveness::Unknown;
    };
    match test_kill_process(pid) {
        Err(rustix::io::Errno::SRCH) => Liveness::Dead,
        _ => match start_ticks(process.pid) {
            Some(ticks) if ticks == process.start_ticks => Liveness::Alive,
            Some(_) => Liveness::Dead,
            None => Liveness::Unknown,
        },
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

fn pid_namespace() -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self/ns/pid").map_or(0, |meta| meta.ino())
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)). A zombie has ended for our purposes.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command, in parentheses, may hold anything: fields are counted behind it.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    if fields.first() == Some(&"Z") {
        return Some(u64::MAX);
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_alive_and_a_reaped_or_reused_one_is_dead() {
        let own = current();
        assert_eq!(liveness(&own), Liveness::Alive);
        let reused = Process { start_ticks: own.start_ticks + 1, ..own.clone() };
        assert_eq!(liveness(&reused), Liveness::Dead);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = Process { pid: child.id(), start_ticks: 1, ..own.clone() };
        child.wait().unwrap();
        assert_eq!(liveness(&gone), Liveness::Dead);
        let elsewhere = Process { boot_id: "other".into(), ..own };
        assert_eq!(liveness(&elsewhere), Liveness::Unknown);
    }
}
