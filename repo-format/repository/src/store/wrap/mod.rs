//! Stores around stores: each adds one thing and passes the rest on.

mod faulty;
mod metered;
mod retry;

pub use faulty::{Fault, Faulty};
pub use metered::{Meter, Metered, Usage, UsageRow};
pub(crate) use retry::Backoff;
pub use retry::{Retry, RetryPolicy};
