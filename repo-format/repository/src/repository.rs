//! Creating and opening a repository, and its key slots.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use repo_format::catalog::Catalog;
use repo_format::config::{Config, Operation};
use repo_format::error::FormatError;
use repo_format::id::{RepositoryId, SlotId};
use repo_format::key::{ObjectKey, Prefix};
use repo_format::keys::{KeyBundle, Keys, Secret};
use repo_format::keyslot::{Kdf, KeySlot};
use repo_format::limits::RECORD_BYTES_MAX;
use repo_format::{envelope, keys};
use zeroize::Zeroizing;

use crate::glance::Glance;
use crate::lock::{self, LockOptions};
use crate::parallel::{both, try_each};
use crate::store::{Store, StoreError};
use crate::{RepositoryError, random};

const SLOT_BYTES_MAX: u64 = 1 << 20;

/// What opens a key slot.
#[derive(Clone)]
pub enum UnlockSecret {
    /// A passphrase.
    Passphrase(Zeroizing<Vec<u8>>),
    /// The content of a key file.
    KeyFile(Zeroizing<Vec<u8>>),
}

impl std::fmt::Debug for UnlockSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase(…)",
            Self::KeyFile(_) => "KeyFile(…)",
        })
    }
}

impl UnlockSecret {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Passphrase(bytes) | Self::KeyFile(bytes) => bytes,
        }
    }

    fn kdf(&self) -> Kdf {
        match self {
            Self::Passphrase(_) => Kdf::default(),
            Self::KeyFile(_) => Kdf::KeyFile,
        }
    }

    const fn fits(&self, kdf: Kdf) -> bool {
        matches!(
            (self, kdf),
            (Self::Passphrase(_), Kdf::Argon2id { .. }) | (Self::KeyFile(_), Kdf::KeyFile)
        )
    }
}

/// Parameters of a new repository.
#[derive(Debug, Clone, Default)]
pub struct InitOptions {
    /// log2 of the chunk length of block volumes; `None` for the default.
    pub chunk_log2: Option<u8>,
    /// Name of the first key slot.
    pub label: String,
    /// How objects are locked; `None`: not at all.
    pub lock: Option<LockOptions>,
}

/// A key slot, for listing.
#[derive(Debug, Clone, serde::Serialize)]
pub struct SlotInfo {
    /// Its id in hexadecimal.
    pub id: String,
    /// Its name.
    pub label: String,
    /// `passphrase`, `key file` or `unreadable`.
    pub kind: &'static str,
    /// Seconds since 1970.
    pub created_s: u64,
    /// Whether it is the slot this repository was opened with.
    pub current: bool,
    /// Why it cannot be read, if it cannot.
    pub problem: Option<String>,
}

impl SlotInfo {
    fn new(id: SlotId, slot: Result<KeySlot, FormatError>, current: bool) -> Self {
        let id = id.to_string();
        match slot {
            Ok(KeySlot { kdf, label, created_s, .. }) => {
                let kind = match kdf {
                    Kdf::Argon2id { .. } => "passphrase",
                    Kdf::KeyFile => "key file",
                };
                Self { id, label, kind, created_s, current, problem: None }
            }
            Err(error) => Self {
                id,
                label: String::new(),
                kind: "unreadable",
                created_s: 0,
                current,
                problem: Some(error.to_string()),
            },
        }
    }

    /// The beginning of the id, for people.
    pub fn short_id(&self) -> &str {
        self.id.get(..8).unwrap_or(&self.id)
    }

    fn key(&self) -> Result<ObjectKey, RepositoryError> {
        let id = self.id.parse().map_err(|error| RepositoryError::format("key slot", error))?;
        Ok(ObjectKey::KeySlot(id))
    }
}

/// An opened repository. Opening reads the config and key slots only.
#[derive(Debug)]
pub struct Repository {
    store: Arc<dyn Store>,
    config: Config,
    keys: Keys,
    bundle: KeyBundle,
    slot: SlotId,
}

impl Repository {
    /// Creates a repository in an empty store.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::AlreadyInitialised`]; the store failed.
    pub fn init(
        store: Arc<dyn Store>,
        secret: &UnlockSecret,
        options: &InitOptions,
    ) -> Result<Self, RepositoryError> {
        match store.size(&ObjectKey::Config) {
            Ok(_) => return Err(RepositoryError::AlreadyInitialised { at: store.describe() }),
            Err(StoreError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let lock = options.lock.as_ref().map(|lock| lock::begin(&*store, lock)).transpose()?;
        let versions = store.versions().is_some();
        let bundle = KeyBundle::new(Secret::new(random::bytes()?), Secret::new(random::bytes()?));
        let keys = keys::Keys::new(&bundle);
        let mut config = Config::new(RepositoryId(random::bytes()?), now_s());
        config.chunk_log2 = options.chunk_log2.unwrap_or(config.chunk_log2);
        if store.is_split() {
            config.split();
        }
        let repository = Self { store, config, keys, bundle, slot: SlotId(random::bytes()?) };
        // The config comes last: until it is there, nobody takes this for a repository, and an
        // init that died half-way can be repeated.
        repository.put_slot(repository.slot, &repository.bundle, secret, &options.label)?;
        let first = Catalog { created_s: now_s(), lock, ..Catalog::default() };
        repository.put_first_catalog(&first, versions)?;
        let bytes = repository.config.encode(&repository.keys);
        repository.store.put_new(&ObjectKey::Config, &bytes)?;
        Ok(repository)
    }

    /// * `versions`: whether old versions may be kept. Of these the oldest one counts as the true
    ///   one, so that no name may be used twice.
    fn put_first_catalog(&self, first: &Catalog, versions: bool) -> Result<(), RepositoryError> {
        const TRIES: u64 = 16;
        for tried in 0..TRIES {
            let n = if versions { tried } else { 0 };
            let (key, first) = (ObjectKey::Catalog(n), Catalog { n, ..first.clone() });
            match self.put_sealed(&key, &first.encode()) {
                // The first version of a died init is under keys that nobody has.
                Err(RepositoryError::Store(StoreError::Exists { .. })) => {
                    self.store.delete(&key)?;
                }
                other => return other,
            }
        }
        Err(RepositoryError::AlreadyInitialised { at: self.store.describe() })
    }

    /// Opens a repository with any of its key slots.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::NoRepository`], [`RepositoryError::WrongSecret`],
    /// [`RepositoryError::Damaged`] and [`RepositoryError::Unsupported`] tell the four ways of not
    /// getting in apart.
    pub fn open(store: Arc<dyn Store>, secret: &UnlockSecret) -> Result<Self, RepositoryError> {
        let (slots, bytes) =
            both(|| read_slots(&*store), || store.get(&ObjectKey::Config, RECORD_BYTES_MAX));
        let bytes = match bytes {
            Err(StoreError::Missing { .. }) => {
                return Err(RepositoryError::NoRepository { at: store.describe() });
            }
            other => other?,
        };
        let named = |error| RepositoryError::format(ObjectKey::Config, error);
        let config = Config::decode(&bytes).map_err(named)?;
        config.permits(Operation::Read).map_err(named)?;
        if config.is_split() != store.is_split() {
            let is_split = config.is_split();
            return Err(RepositoryError::Halves { at: store.describe(), is_split });
        }
        let (slot, bundle) = find_slot(&*store, slots?, &config.repository, secret)?;
        let keys = Keys::new(&bundle);
        Config::authenticate(&bytes, &keys).map_err(named)?;
        Ok(Self { store, config, keys, bundle, slot })
    }

    /// As [`Self::open`], and looks at what is there meanwhile. A glance that cannot be taken is no
    /// error: whoever needs it finds out why.
    ///
    /// * `creates`: whether something will be created, were it a session to read.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_with_glance(
        store: Arc<dyn Store>,
        secret: &UnlockSecret,
        creates: bool,
    ) -> Result<(Self, Option<Glance>), RepositoryError> {
        let seen = Arc::clone(&store);
        let look = || both(|| creates.then(|| seen.prepare()), || Glance::take(&*seen));
        let ((_, glance), repository) = both(look, || Self::open(store, secret));
        Ok((repository?, glance.ok().flatten()))
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The config.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The keys.
    pub const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The repository's id.
    pub const fn id(&self) -> &RepositoryId {
        &self.config.repository
    }

    /// Refuses what the repository's features forbid to this program.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Unsupported`].
    pub fn permits(&self, operation: Operation) -> Result<(), RepositoryError> {
        let named = |error| RepositoryError::format(ObjectKey::Config, error);
        self.config.permits(operation).map_err(named)
    }

    /// Seals and creates a small object.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exists`] inside [`RepositoryError::Store`]; the store failed.
    pub fn put_sealed(&self, key: &ObjectKey, plain: &[u8]) -> Result<(), RepositoryError> {
        let sealed = self.seal(key, plain)?;
        Ok(self.store.put_new(key, &sealed)?)
    }

    /// Seals a small object without storing it.
    ///
    /// # Errors
    ///
    /// No random bytes, or the object is too large.
    pub fn seal(&self, key: &ObjectKey, plain: &[u8]) -> Result<Vec<u8>, RepositoryError> {
        envelope::seal(&self.keys, self.id(), key, random::bytes()?, plain)
            .map_err(|error| RepositoryError::format(key, error))
    }

    /// Reads and opens a small object.
    ///
    /// # Errors
    ///
    /// The store failed, or the object is damaged.
    pub fn get_sealed(&self, key: &ObjectKey) -> Result<Vec<u8>, RepositoryError> {
        let sealed = self.store.get(key, RECORD_BYTES_MAX)?;
        self.open_sealed(key, sealed)
    }

    /// Opens the bytes of a small object.
    ///
    /// # Errors
    ///
    /// The object is damaged.
    pub fn open_sealed(
        &self,
        key: &ObjectKey,
        sealed: Vec<u8>,
    ) -> Result<Vec<u8>, RepositoryError> {
        envelope::open(&self.keys, self.id(), key, sealed)
            .map_err(|error| RepositoryError::format(key, error))
    }

    /// Lists the key slots, those that cannot be read included.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub fn slots(&self) -> Result<Vec<SlotInfo>, RepositoryError> {
        let mut slots: Vec<SlotInfo> = read_slots(&*self.store)?
            .into_iter()
            .map(|(id, slot)| SlotInfo::new(id, slot, id == self.slot))
            .collect();
        slots.sort_by(|a, b| (a.created_s, &a.id).cmp(&(b.created_s, &b.id)));
        Ok(slots)
    }

    /// Adds a slot that opens the repository with `secret`.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub fn add_slot(&self, secret: &UnlockSecret, label: &str) -> Result<SlotId, RepositoryError> {
        let id = SlotId(random::bytes()?);
        self.learn_lock()?;
        self.put_slot(id, &self.bundle, secret, label)?;
        Ok(id)
    }

    /// Removes the slot whose id starts with `wanted` or whose label is `wanted`.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::NoSlot`], [`RepositoryError::Ambiguous`], [`RepositoryError::LastSlot`].
    pub fn remove_slot(&self, wanted: &str) -> Result<SlotInfo, RepositoryError> {
        let slots = self.slots()?;
        let matching: Vec<&SlotInfo> = slots
            .iter()
            .filter(|slot| slot.label == wanted || slot.id.starts_with(wanted))
            .collect();
        let slot = match matching.as_slice() {
            [] => return Err(RepositoryError::NoSlot { wanted: wanted.to_owned() }),
            [slot] => (*slot).clone(),
            several => {
                let ids: Vec<&str> = several.iter().map(|slot| slot.short_id()).collect();
                return Err(RepositoryError::Ambiguous {
                    wanted: wanted.to_owned(),
                    count: ids.len(),
                    examples: ids.join(", "),
                });
            }
        };
        let readable = slots.iter().filter(|slot| slot.problem.is_none()).count();
        if slot.problem.is_none() && readable == 1 {
            return Err(RepositoryError::LastSlot { label: slot.label });
        }
        self.store.delete(&slot.key()?)?;
        Ok(slot)
    }

    /// Starts a new key epoch: a new slot holds it, every other slot is removed. What is written
    /// from then on cannot be read by who has an old slot only. Returns the removed slots.
    ///
    /// # Errors
    ///
    /// The store failed; some old slots may be left then, and `rotate` can be repeated.
    pub fn rotate(
        &self,
        secret: &UnlockSecret,
        label: &str,
    ) -> Result<Vec<SlotInfo>, RepositoryError> {
        self.permits(Operation::Maintain)?;
        let next = self
            .bundle
            .rotated(Secret::new(random::bytes()?))
            .map_err(|error| RepositoryError::format("key bundle", error))?;
        let old = self.slots()?;
        self.learn_lock()?;
        self.put_slot(SlotId(random::bytes()?), &next, secret, label)?;
        for slot in &old {
            self.store.delete(&slot.key()?)?;
        }
        Ok(old)
    }

    /// So that new slots are locked as everything else is. A catalog that is damaged must not keep
    /// anybody from changing keys.
    fn learn_lock(&self) -> Result<(), RepositoryError> {
        if self.store.versions().is_none() {
            return Ok(());
        }
        match lock::current(self) {
            Ok(current) => lock::learn(&*self.store, current.as_ref()),
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn put_slot(
        &self,
        id: SlotId,
        bundle: &KeyBundle,
        secret: &UnlockSecret,
        label: &str,
    ) -> Result<(), RepositoryError> {
        let key = ObjectKey::KeySlot(id);
        let slot = KeySlot::wrap(
            bundle,
            (self.id(), &id),
            secret.bytes(),
            secret.kdf(),
            random::bytes()?,
            (label.to_owned(), now_s()),
        )
        .map_err(|error| RepositoryError::format(key, error))?;
        Ok(self.store.put_new(&key, &slot.encode())?)
    }
}

type SlotRead = (SlotId, Result<KeySlot, FormatError>);

fn read_slots(store: &dyn Store) -> Result<Vec<SlotRead>, RepositoryError> {
    let mut ids = Vec::new();
    store.list(Prefix::KeySlots, &mut |listed| {
        if let ObjectKey::KeySlot(id) = listed.key {
            ids.push(id);
        }
        Ok(())
    })?;
    let slots = try_each(&ids, |id| match store.get(&ObjectKey::KeySlot(*id), SLOT_BYTES_MAX) {
        Ok(bytes) => Ok(Some((*id, KeySlot::decode(&bytes)))),
        Err(StoreError::Missing { .. }) => Ok(None),
        // One slot that cannot be one of ours must not close the repository.
        Err(StoreError::TooLarge { size_bytes: found, limit_bytes: limit, .. }) => {
            let what = "length of a key slot";
            Ok(Some((*id, Err(FormatError::Limit { what, found, limit }))))
        }
        Err(error) => Err(error),
    })?;
    Ok(slots.into_iter().flatten().collect())
}

fn find_slot(
    store: &dyn Store,
    slots: Vec<SlotRead>,
    repository: &RepositoryId,
    secret: &UnlockSecret,
) -> Result<(SlotId, KeyBundle), RepositoryError> {
    let mut damaged = None;
    let mut readable = 0;
    let mut best: Option<(SlotId, KeyBundle)> = None;
    for (id, slot) in slots {
        let opened = slot.and_then(|slot| {
            readable += 1;
            if !secret.fits(slot.kdf) {
                return Err(FormatError::WrongKey);
            }
            slot.unwrap((repository, &id), secret.bytes())
        });
        match opened {
            // A rotation that died half-way leaves old slots: the one with most epochs counts.
            Ok(bundle) => {
                let newest = bundle.newest_epoch();
                if best.as_ref().is_none_or(|(_, best)| best.newest_epoch() < newest) {
                    best = Some((id, bundle));
                }
            }
            Err(FormatError::WrongKey) => {}
            Err(error) => damaged = Some(RepositoryError::format(ObjectKey::KeySlot(id), error)),
        }
    }
    match (best, damaged) {
        (Some(found), _) => Ok(found),
        (None, Some(damaged)) => Err(damaged),
        (None, None) if readable == 0 => Err(RepositoryError::NoSlots { at: store.describe() }),
        (None, None) => Err(RepositoryError::WrongSecret { at: store.describe(), slots: readable }),
    }
}

/// Seconds since 1970 by this machine's clock: for people. What is safe depends on it in one place
/// only, the day that the row of a folded session stays (M10).
pub(crate) fn now_s() -> u64 {
    #[cfg(test)]
    if let Some(now_s) = crate::sim::here::now_s() {
        return now_s;
    }
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
