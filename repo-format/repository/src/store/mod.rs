//! Where the repository's objects are: one narrow, blocking trait and what implements it.
//!
//! [`FsStore`] keeps objects as files, [`s3::S3Store`] in a bucket, [`SplitStore`] in two places;
//! [`Memory`] keeps them in memory, for tests. The wrappers in
//! [`wrap`] add retries, counting and (for tests) faults. Every one of them passes
//! [`conformance`]. [`Location`] turns what a user typed into a store.
//!
//! Bytes are opaque here: no key, no compression, no cache. Parallelism is the caller's: all
//! methods may be called from many threads at once.

pub mod conformance;
mod error;
mod fs;
mod location;
mod memory;
mod refusal;
pub mod s3;
mod split;
mod traffic;
mod versions;
pub mod wrap;

use std::sync::Arc;

use repo_format::key::{ObjectKey, Prefix};

pub use error::{Op, StoreError};
pub use fs::{DIRECT_ALIGN_BYTES, DIRECT_READ_MIN_BYTES, DIRECT_WRITE_MIN_BYTES, FsStore};
pub use location::{Location, OpenError};
pub use memory::Memory;
pub use refusal::Refusal;
pub use split::SplitStore;
pub use traffic::{Action, Class, Totals, Traffic, TrafficRow};
pub use versions::{Held, Lockable, Protection, Refused, Version, Versions, is_lockable};

/// What [`Store::list`] says about one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Which object.
    pub key: ObjectKey,
    /// Its length. An object is listed only when it is whole.
    pub size_bytes: u64,
}

/// Names found among the objects that are no names of ours. They are never touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strangers {
    /// How many there were.
    pub count: u64,
    /// The path of one of them, for a message.
    pub example: Option<String>,
}

impl Strangers {
    fn add(&mut self, at: String) {
        self.count += 1;
        self.example.get_or_insert(at);
    }
}

/// What [`Store::sweep_temporary`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Unfinished writes.
    pub count: u64,
    /// The space they took.
    pub bytes: u64,
}

/// A set of write-once objects, as S3 and a file system can both offer it.
///
/// Reads follow writes, across processes: what `put_new` created before a `get`, `size` or `list`
/// began is seen by it. Only `Retry` and the S3 store try a request more than once.
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The whole object.
    ///
    /// A catalog or a commit that is returned is durable, even if its creator has not been told
    /// so yet: others take steps that cannot be undone on the strength of these two.
    ///
    /// # Errors
    ///
    /// [`StoreError::Missing`]; [`StoreError::TooLarge`] above `limit_bytes`, before any of it is
    /// read; what the system answers.
    fn get(&self, key: &ObjectKey, limit_bytes: u64) -> Result<Vec<u8>, StoreError>;

    /// Fills `buf` with the object's bytes from `offset_bytes` on.
    ///
    /// # Errors
    ///
    /// [`StoreError::Short`] if the object ends before `buf` is full; [`StoreError::Missing`];
    /// what the system answers. `buf` then holds anything.
    fn get_range(
        &self,
        key: &ObjectKey,
        offset_bytes: u64,
        buf: &mut [u8],
    ) -> Result<(), StoreError>;

    /// Creates an object. Of any number of creators, in any processes, exactly one succeeds, and
    /// nobody sees the object before it is whole. When this returns `Ok` the object, its name and
    /// the folders above are durable, as is everything whose `put_new` returned before.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exists`] if there is such an object; that object is durable then.
    /// [`StoreError::Full`] and [`StoreError::Denied`] leave no object. After an error with
    /// [`StoreError::is_outcome_unknown`] the object may be there, but only whole.
    fn put_new(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError>;

    /// Creates or replaces a heartbeat. Readers see the old bytes or the new ones, never a
    /// mixture; a power cut may undo it.
    ///
    /// # Errors
    ///
    /// [`StoreError::WriteOnce`] for any other kind of key; what the system answers.
    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError>;

    /// Visits the objects under `prefix`, in any order and one by one, so that memory does not
    /// grow with their number. What exists during the whole call is visited exactly once; what
    /// comes or goes meanwhile may be visited.
    ///
    /// # Errors
    ///
    /// The first error of `visit`, at once; what the system answers.
    fn list(
        &self,
        prefix: Prefix,
        visit: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
    ) -> Result<Strangers, StoreError>;

    /// The object whose path is the smallest under `prefix`: among catalogs the newest.
    ///
    /// # Errors
    ///
    /// What the system answers. An empty prefix is no error.
    fn list_first(&self, prefix: Prefix) -> Result<Option<ObjectKey>, StoreError>;

    /// Removes an object; one that is not there is fine.
    ///
    /// The removal of a config, key slot, catalog, session or commit is durable when this
    /// returns. Packs, segments, catalog pages and heartbeats come in great numbers and do no
    /// harm if a power cut brings them back, so their removal may be undone by one.
    ///
    /// # Errors
    ///
    /// What the system answers.
    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError>;

    /// Removes objects, as [`Self::delete`] does. After an error some of them are gone.
    ///
    /// # Errors
    ///
    /// What the system answers.
    fn delete_many(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| self.delete(key))
    }

    /// The length of an object in bytes.
    ///
    /// # Errors
    ///
    /// [`StoreError::Missing`]; what the system answers.
    fn size(&self, key: &ObjectKey) -> Result<u64, StoreError>;

    /// Removes what is left of writes that can no longer finish. Never touches an object, and may
    /// run beside any writer.
    ///
    /// # Errors
    ///
    /// What the system answers.
    fn sweep_temporary(&self) -> Result<Swept, StoreError>;

    /// Asks ahead of the first creation what a server has to promise before. Failing is harmless: that
    /// creation asks again, and says what is wrong.
    fn prepare(&self) {}

    /// Counters of the requests that were sent to a server; `None` where there is no server.
    fn traffic(&self) -> Option<Arc<Traffic>> {
        None
    }

    /// Whether packs and segments are in another place than everything else; see [`SplitStore`].
    fn is_split(&self) -> bool {
        false
    }

    /// Old versions and locks of objects; `None` where there is nothing of the kind.
    fn versions(&self) -> Option<&dyn Versions> {
        None
    }

    /// The repository's place as a user would write it, for messages.
    fn describe(&self) -> String;
}

/// Whether [`Store::put`] accepts this key: a register or a pack that could be replaced would be
/// neither.
fn may_rewrite(key: &ObjectKey) -> bool {
    matches!(key, ObjectKey::Heartbeat(_))
}

macro_rules! forward_store {
    ($pointer:ident) => {
        impl<S: Store + ?Sized> Store for $pointer<S> {
            fn get(&self, key: &ObjectKey, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
                (**self).get(key, limit_bytes)
            }

            fn get_range(
                &self,
                key: &ObjectKey,
                offset_bytes: u64,
                buf: &mut [u8],
            ) -> Result<(), StoreError> {
                (**self).get_range(key, offset_bytes, buf)
            }

            fn put_new(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
                (**self).put_new(key, body)
            }

            fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
                (**self).put(key, body)
            }

            fn list(
                &self,
                prefix: Prefix,
                visit: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
            ) -> Result<Strangers, StoreError> {
                (**self).list(prefix, visit)
            }

            fn list_first(&self, prefix: Prefix) -> Result<Option<ObjectKey>, StoreError> {
                (**self).list_first(prefix)
            }

            fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
                (**self).delete(key)
            }

            fn delete_many(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
                (**self).delete_many(keys)
            }

            fn size(&self, key: &ObjectKey) -> Result<u64, StoreError> {
                (**self).size(key)
            }

            fn prepare(&self) {
                (**self).prepare();
            }

            fn traffic(&self) -> Option<Arc<Traffic>> {
                (**self).traffic()
            }

            fn is_split(&self) -> bool {
                (**self).is_split()
            }

            fn versions(&self) -> Option<&dyn Versions> {
                (**self).versions()
            }

            fn sweep_temporary(&self) -> Result<Swept, StoreError> {
                (**self).sweep_temporary()
            }

            fn describe(&self) -> String {
                (**self).describe()
            }
        }
    };
}

forward_store!(Arc);
forward_store!(Box);
