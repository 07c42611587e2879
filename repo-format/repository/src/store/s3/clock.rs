//! The time that requests are signed with: this machine's, corrected by what servers say.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_smithy_async::time::TimeSource;

/// A server refuses what is signed with a time more than fifteen minutes off its own. A machine
/// whose clock is wrong backs up all the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    offset_s: Arc<AtomicI64>,
}

impl Clock {
    /// Follows a server's clock. `false` if that changes nothing, so that it is no use to try
    /// again.
    pub(super) fn follow(&self, server_s: i64) -> bool {
        let here = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let offset = server_s.saturating_sub(i64::try_from(here).unwrap_or(i64::MAX));
        let before = self.offset_s.swap(offset, Ordering::Relaxed);
        offset.abs_diff(before) > 60
    }
}

impl TimeSource for Clock {
    fn now(&self) -> SystemTime {
        let offset = self.offset_s.load(Ordering::Relaxed);
        let by = Duration::from_secs(offset.unsigned_abs());
        let now = SystemTime::now();
        let moved = if offset < 0 { now.checked_sub(by) } else { now.checked_add(by) };
        moved.unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_server_and_says_when_there_is_nothing_left_to_correct() {
        let clock = Clock::default();
        let server = SystemTime::now() - Duration::from_hours(1);
        let server_s = server.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let server_s = i64::try_from(server_s).unwrap();
        assert!(clock.follow(server_s));
        assert!(!clock.follow(server_s));
        let off = clock.now().duration_since(server).unwrap_or_else(|error| error.duration());
        assert!(off < Duration::from_secs(10), "{off:?}");
    }
}
