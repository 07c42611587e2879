//! Objects in memory, for tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use repo_format::key::{ObjectKey, Prefix};

use super::{Listed, Store, StoreError, Strangers, Swept, may_rewrite};

/// A store for tests that keeps every promise of [`Store`] as long as the process lives. Share it
/// between writers, or across a simulated crash, in an `Arc`.
#[derive(Default)]
pub struct Memory {
    /// By path, because paths, not keys, sort as the store lists them.
    objects: Mutex<BTreeMap<String, (ObjectKey, Vec<u8>)>>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} objects)", self.objects().len())
    }
}

impl Memory {
    /// Changes an object's bytes behind the repository's back, as a failing disk would. `false`
    /// if there is no such object.
    pub fn damage(&self, key: &ObjectKey, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        match self.objects().get_mut(&key.to_string()) {
            Some((_, bytes)) => {
                change(bytes);
                true
            }
            None => false,
        }
    }

    /// The keys of all objects, in the order of their paths.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.objects().values().map(|(key, _)| *key).collect()
    }

    /// A copy of what is stored now.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { objects: Mutex::new(self.objects().clone()) }
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, (ObjectKey, Vec<u8>)>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        key: &ObjectKey,
        read: impl FnOnce(&[u8], String) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.objects().get(&key.to_string()) {
            Some((_, bytes)) => read(bytes, at(key)),
            None => Err(StoreError::Missing { at: at(key) }),
        }
    }
}

fn at(key: &ObjectKey) -> String {
    format!("memory:{key}")
}

impl Store for Memory {
    fn get(&self, key: &ObjectKey, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.with(key, |bytes, at| {
            let size_bytes = bytes.len() as u64;
            if size_bytes > limit_bytes {
                return Err(StoreError::TooLarge { at, size_bytes, limit_bytes });
            }
            Ok(bytes.to_vec())
        })
    }

    fn get_range(
        &self,
        key: &ObjectKey,
        offset_bytes: u64,
        buf: &mut [u8],
    ) -> Result<(), StoreError> {
        self.with(key, |bytes, at| {
            let end_bytes = offset_bytes.saturating_add(buf.len() as u64);
            let range = usize::try_from(offset_bytes).ok().zip(usize::try_from(end_bytes).ok());
            match range.and_then(|(start, end)| bytes.get(start..end)) {
                Some(wanted) => {
                    buf.copy_from_slice(wanted);
                    Ok(())
                }
                None => Err(StoreError::Short { at, end_bytes, size_bytes: bytes.len() as u64 }),
            }
        })
    }

    fn put_new(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        let body = body.to_vec();
        let mut objects = self.objects();
        let path = key.to_string();
        if objects.contains_key(&path) {
            return Err(StoreError::Exists { at: at(key) });
        }
        objects.insert(path, (*key, body));
        Ok(())
    }

    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        if !may_rewrite(key) {
            return Err(StoreError::WriteOnce { at: at(key) });
        }
        self.objects().insert(key.to_string(), (*key, body.to_vec()));
        Ok(())
    }

    fn list(
        &self,
        prefix: Prefix,
        visit: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
    ) -> Result<Strangers, StoreError> {
        // Collected first: `visit` may use the store.
        let listed: Vec<Listed> = self
            .objects()
            .values()
            .filter(|(key, _)| key.prefix() == Some(prefix))
            .map(|(key, bytes)| Listed { key: *key, size_bytes: bytes.len() as u64 })
            .collect();
        listed.into_iter().try_for_each(visit)?;
        Ok(Strangers::default())
    }

    fn list_first(&self, prefix: Prefix) -> Result<Option<ObjectKey>, StoreError> {
        Ok(self.objects().values().map(|(key, _)| *key).find(|key| key.prefix() == Some(prefix)))
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.objects().remove(&key.to_string());
        Ok(())
    }

    fn size(&self, key: &ObjectKey) -> Result<u64, StoreError> {
        self.with(key, |bytes, _| Ok(bytes.len() as u64))
    }

    fn sweep_temporary(&self) -> Result<Swept, StoreError> {
        Ok(Swept::default())
    }

    fn describe(&self) -> String {
        "memory".into()
    }
}
