//! What Salvor decides about Kubernetes objects: what becomes of one between backup and restore, and
//! when there is something to do.
//!
//! Everything here is a pure function over objects as the API server speaks them
//! ([`serde_json::Value`]) and facts and times that the caller has gathered: no client, no clock, no
//! I/O. An object passes through in this order:
//!
//! * [`select`]: is it part of the backup, and why; [`hooks`]: what runs in its pods around it;
//! * [`versions`]: in which API version does it go to the target;
//! * [`sanitize`]: what of it belonged to the old cluster only, and is it restored at all;
//! * [`modifiers`]: what the user wants changed, in Velero's format;
//! * [`map`]: other namespaces, storage classes, images and names;
//! * [`order`]: what has to exist before it;
//! * [`gate`]: workloads that come back stopped, and how they are started;
//! * [`existing`]: what if the target has one of that name;
//! * [`status`]: whether its status comes back too.
//!
//! [`preflight`] finds all problems before the first write. [`schedule`], [`webhook`] and
//! [`retention`] are about plans, and [`velero`] reads what Velero's users have.
//!
//! Each answer says why, in words for the person who asks.

pub mod existing;
pub mod gate;
mod glob;
pub mod graph;
pub mod hooks;
pub mod kinds;
pub mod map;
pub mod modifiers;
pub mod object;
pub mod order;
pub mod patch;
pub mod path;
pub mod preflight;
pub mod quantity;
pub mod retention;
pub mod sanitize;
pub mod schedule;
pub mod select;
mod selector;
pub mod status;
pub mod velero;
pub mod versions;
pub mod webhook;
pub mod yaml;
