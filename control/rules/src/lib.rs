//! What becomes of a Kubernetes object between backup and restore.
//!
//! Everything here is a pure function over objects as the API server speaks them
//! ([`serde_json::Value`]) and facts that the caller has gathered: no client, no clock, no I/O.
//! An object passes through in this order:
//!
//! * [`select`]: is it part of the backup, and why;
//! * [`versions`]: in which API version does it go to the target;
//! * [`sanitize`]: what of it belonged to the old cluster only, and is it restored at all;
//! * [`map`]: other namespaces, storage classes, images and names;
//! * [`order`]: what has to exist before it;
//! * [`gate`]: workloads that come back stopped, and how they are started;
//! * [`existing`]: what if the target has one of that name;
//! * [`status`]: whether its status comes back too.
//!
//! Each answer says why, in words for the person who asks.

pub mod existing;
pub mod gate;
pub mod graph;
pub mod kinds;
pub mod map;
pub mod object;
pub mod order;
pub mod patch;
pub mod path;
pub mod quantity;
pub mod sanitize;
pub mod select;
pub mod status;
pub mod versions;
