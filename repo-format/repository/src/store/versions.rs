//! What a store can do that keeps old versions of its objects and can lock them.
//!
//! A deletion there only hides a name behind a *delete marker*, and what was written over is still
//! there. Objects of a repository are written once, so the **oldest version of a name is the true
//! one**, whatever was put on top of it.

use repo_format::key::ObjectKey;
use repo_format::lock::LockMode;

use super::StoreError;

/// How new objects are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// Who may go against it.
    pub mode: LockMode,
    /// For how long, in seconds.
    pub keep_s: u64,
}

/// Whether objects can be locked at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockable {
    /// They cannot.
    No,
    /// They can; `default`: what locks those that are stored without a lock of their own.
    Yes {
        /// See [`Protection`].
        default: Option<Protection>,
    },
}

/// One version of a name: an object, or a marker that hides those below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Below the repository's root.
    pub path: String,
    /// Of this version.
    pub id: String,
    /// When it was stored, by the server's clock, in seconds since 1970.
    pub at_s: u64,
    /// Length of the object.
    pub size_bytes: u64,
    /// What the server tells contents apart by; empty for a marker.
    pub tag: String,
    /// Whether it is a delete marker.
    pub is_marker: bool,
}

/// A lock that is on a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Who may go against it.
    pub mode: LockMode,
    /// Until then, in seconds since 1970, by the server's clock.
    pub until_s: u64,
}

/// A version that was not removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Of the name.
    pub path: String,
    /// What the server said.
    pub why: String,
}

/// Old versions and locks.
pub trait Versions: Send + Sync + std::fmt::Debug {
    /// Seconds since 1970 by the server's clock, which alone counts for locks.
    fn now_s(&self) -> u64;

    /// From now on whatever [`super::Store::put_new`] creates is locked, if [`is_lockable`].
    fn protect(&self, protection: Option<Protection>);

    /// Whether objects can be locked here at all.
    ///
    /// # Errors
    ///
    /// What the server answers, a missing right for one.
    fn lockable(&self) -> Result<Lockable, StoreError>;

    /// Locks a scratch object for some seconds, and sees whether the lock is kept and can be made
    /// longer.
    ///
    /// * `to_the_end`: also waits until it is over and removes the object.
    ///
    /// # Errors
    ///
    /// [`super::Refusal::LockNotKept`]; what the server answers.
    fn try_lock(&self, mode: LockMode, to_the_end: bool) -> Result<(), StoreError>;

    /// Visits all names that begin with `under`, hidden ones too, ascending, each with all its
    /// versions, the newest first.
    ///
    /// # Errors
    ///
    /// The first error of `visit`, at once; what the server answers.
    fn list_versions(
        &self,
        under: &str,
        visit: &mut dyn FnMut(&[Version]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// The lock of a version, if it has one.
    ///
    /// # Errors
    ///
    /// What the server answers. A version that is gone has none.
    fn held(&self, versions: &[Version]) -> Result<Vec<Option<Held>>, StoreError>;

    /// Locks versions until then. A lock that lasts longer stays as it is, one of another mode
    /// keeps its mode, and what is gone is left out.
    ///
    /// # Errors
    ///
    /// What the server answers; some are locked then.
    fn extend(&self, versions: &[Version], held: Held) -> Result<(), StoreError>;

    /// Removes versions for good, markers too. Returns those that the server kept.
    ///
    /// # Errors
    ///
    /// What the server answers.
    fn remove_versions(&self, versions: &[Version]) -> Result<Vec<Refused>, StoreError>;

    /// Puts a copy of an older version on top.
    ///
    /// # Errors
    ///
    /// What the server answers.
    fn bring_back(&self, version: &Version) -> Result<(), StoreError>;
}

/// Whether an object is worth a lock: all but what only tells that somebody works just now.
pub const fn is_lockable(key: &ObjectKey) -> bool {
    !matches!(key, ObjectKey::Session(_) | ObjectKey::Heartbeat(_))
}
