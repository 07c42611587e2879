//! The server's clock, as its answers tell it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};

/// How far the server's clock is ahead of this machine's, in seconds. Locks are judged by it.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock(Arc<AtomicI64>);

impl Clock {
    /// The server's time, in seconds since 1970; this machine's before the first answer.
    pub(super) fn now_s(&self) -> u64 {
        u64::try_from(local_s() + self.0.load(Ordering::Relaxed)).unwrap_or(0)
    }

    fn is(&self, date: &str) {
        if let Ok(there) = DateTime::from_str(date, DateTimeFormat::HttpDate) {
            self.0.store(there.secs() - local_s(), Ordering::Relaxed);
        }
    }
}

fn local_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

impl Intercept for Clock {
    fn name(&self) -> &'static str {
        "Clock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(date) = context.response().headers().get("date") {
            self.is(date);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_believed_and_nonsense_is_not() {
        let clock = Clock::default();
        clock.is("no date");
        assert!(clock.now_s().abs_diff(u64::try_from(local_s()).unwrap()) <= 1);
        clock.is("Fri, 01 Jan 2100 00:00:00 GMT");
        assert!(clock.now_s().abs_diff(4_102_444_800) <= 1);
    }
}
