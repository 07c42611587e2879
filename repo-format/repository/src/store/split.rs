//! A repository whose bulk is in a bucket that cannot refuse a second creation, and whose registers
//! are where that is refused.
//!
//! Packs and index segments have names that only their own session writes, so it does not matter
//! whether their place creates once. Everything that several processes contend for (catalogs,
//! commits, sessions, key slots, the config) is small, and is in the other place. No rule of the
//! protocol changes: each object is in one place, and what is durable there is durable.

use std::sync::Arc;

use repo_format::key::{ObjectKey, Prefix};
use repo_format::limits::RECORD_BYTES_MAX;

use super::s3::{Creation, S3Config, S3Store};
use super::{Listed, Location, OpenError, Store, StoreError, Strangers, Swept, Traffic};

/// Two stores as one.
#[derive(Debug)]
pub struct SplitStore {
    registers: Box<dyn Store>,
    bulk: S3Store,
}

impl SplitStore {
    /// The store of an existing repository.
    ///
    /// * `bulk`: bucket and prefix of its packs and segments.
    ///
    /// # Errors
    ///
    /// Those of both places; [`OpenError::Apart`] if they are not two halves of one repository:
    /// a prune would take the packs of another for left-overs.
    pub fn open(
        registers: &Location,
        bulk: (&str, &str),
        s3: &S3Config,
    ) -> Result<Self, OpenError> {
        let registers = registers.open(s3)?;
        let bulk = open_bulk(bulk, s3)?;
        let apart = || OpenError::Apart { registers: registers.describe(), bulk: bulk.describe() };
        let ours = registers.get(&ObjectKey::Config, RECORD_BYTES_MAX)?;
        match bulk.get(&ObjectKey::Config, RECORD_BYTES_MAX) {
            Ok(theirs) if theirs == ours => Ok(Self { registers, bulk }),
            Ok(_) | Err(StoreError::Missing { .. } | StoreError::TooLarge { .. }) => Err(apart()),
            Err(error) => Err(error.into()),
        }
    }

    /// Places for a new repository.
    ///
    /// # Errors
    ///
    /// Those of creating a repository at either place.
    pub fn create(
        registers: &Location,
        bulk: (&str, &str),
        s3: &S3Config,
    ) -> Result<Self, OpenError> {
        let registers = registers.create(s3)?;
        let bulk = open_bulk(bulk, s3)?;
        match bulk.require_empty() {
            // An init that died before the other half was whole.
            Err(OpenError::AlreadyARepository { .. }) if is_without_bulk(&bulk)? => {}
            other => other?,
        }
        Ok(Self { registers, bulk })
    }

    fn at(&self, prefix: Prefix) -> &dyn Store {
        if is_bulk(prefix) { &self.bulk } else { &*self.registers }
    }

    fn of(&self, key: &ObjectKey) -> &dyn Store {
        key.prefix().map_or(&*self.registers, |prefix| self.at(prefix))
    }
}

fn open_bulk((bucket, prefix): (&str, &str), s3: &S3Config) -> Result<S3Store, StoreError> {
    S3Store::open(bucket, prefix, &S3Config { creation: Creation::Plain, ..s3.clone() })
}

const fn is_bulk(prefix: Prefix) -> bool {
    matches!(prefix, Prefix::Packs | Prefix::Segments)
}

fn is_without_bulk(store: &dyn Store) -> Result<bool, StoreError> {
    let packs = store.list_first(Prefix::Packs)?;
    Ok(packs.is_none() && store.list_first(Prefix::Segments)?.is_none())
}

impl Store for SplitStore {
    fn get(&self, key: &ObjectKey, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.of(key).get(key, limit_bytes)
    }

    fn get_range(
        &self,
        key: &ObjectKey,
        offset_bytes: u64,
        buf: &mut [u8],
    ) -> Result<(), StoreError> {
        self.of(key).get_range(key, offset_bytes, buf)
    }

    /// The config is in both places, so that two halves of different repositories are told apart.
    fn put_new(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        if matches!(key, ObjectKey::Config) {
            self.bulk.put_new(key, body)?;
        }
        self.of(key).put_new(key, body)
    }

    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        self.of(key).put(key, body)
    }

    fn list(
        &self,
        prefix: Prefix,
        visit: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
    ) -> Result<Strangers, StoreError> {
        self.at(prefix).list(prefix, visit)
    }

    fn list_first(&self, prefix: Prefix) -> Result<Option<ObjectKey>, StoreError> {
        self.at(prefix).list_first(prefix)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.of(key).delete(key)
    }

    fn delete_many(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
        let (bulk, registers): (Vec<ObjectKey>, Vec<ObjectKey>) =
            keys.iter().partition(|key| key.prefix().is_some_and(is_bulk));
        self.bulk.delete_many(&bulk)?;
        self.registers.delete_many(&registers)
    }

    fn size(&self, key: &ObjectKey) -> Result<u64, StoreError> {
        self.of(key).size(key)
    }

    fn sweep_temporary(&self) -> Result<Swept, StoreError> {
        let [bulk, registers] = [self.bulk.sweep_temporary()?, self.registers.sweep_temporary()?];
        Ok(Swept { count: bulk.count + registers.count, bytes: bulk.bytes + registers.bytes })
    }

    fn prepare(&self) {
        self.registers.prepare();
    }

    fn traffic(&self) -> Option<Arc<Traffic>> {
        self.bulk.traffic()
    }

    fn is_split(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        format!("{} with its registers in {}", self.bulk.describe(), self.registers.describe())
    }
}
