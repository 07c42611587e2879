//! The key hierarchy: one master key for what must stay the same for ever (ids, chunking), one
//! key per epoch for what can be rotated (sealing), and what is derived from both.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::bytes::{Put, Reader, len_u64};
use crate::chunker::GearTable;
use crate::error::{FormatError, check_record_version};
use crate::id::ChunkId;
use crate::limits::{EPOCHS_MAX, RECORD_VERSION};
use crate::pack::PackKind;
use crate::tree::PageCutter;

/// 32 secret bytes: cleared when dropped, never printed, compared in constant time.
#[derive(Clone, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        // BLAKE3's hash type compares in constant time.
        blake3::Hash::from_bytes(self.0) == other.0
    }
}

impl Secret {
    /// Takes the bytes over.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for deriving.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a key slot holds: everything needed to read and write the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyBundle {
    master: Secret,
    /// Ascending by epoch, at least one.
    epochs: Vec<(u32, Secret)>,
}

impl KeyBundle {
    /// A new repository's keys, with epoch 0. Both arguments are fresh random bytes.
    pub fn new(master: Secret, first_epoch: Secret) -> Self {
        Self { master, epochs: vec![(0, first_epoch)] }
    }

    /// The same keys with one more epoch, which becomes the one that seals.
    ///
    /// # Errors
    ///
    /// [`FormatError::Limit`] after [`EPOCHS_MAX`] epochs.
    pub fn rotated(&self, next: Secret) -> Result<Self, FormatError> {
        if len_u64(self.epochs.len()) >= EPOCHS_MAX {
            let (found, limit) = (len_u64(self.epochs.len()) + 1, EPOCHS_MAX);
            return Err(FormatError::Limit { what: "number of key epochs", found, limit });
        }
        let mut rotated = self.clone();
        let epoch = self
            .newest_epoch()
            .checked_add(1)
            .ok_or(FormatError::Inconsistent { what: "key epochs" })?;
        rotated.epochs.push((epoch, next));
        Ok(rotated)
    }

    /// The epoch that new objects are sealed under.
    pub fn newest_epoch(&self) -> u32 {
        self.epochs.last().map_or(0, |(epoch, _)| *epoch)
    }

    /// The bundle's bytes, to be wrapped by a slot.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Reserved at once: growing would leave copies of keys behind.
        let mut out = Zeroizing::new(Vec::with_capacity(64 + self.epochs.len() * 36));
        out.u8(RECORD_VERSION);
        out.raw(self.master.expose());
        out.varint(len_u64(self.epochs.len()));
        for (epoch, key) in &self.epochs {
            out.u32(*epoch);
            out.raw(key.expose());
        }
        out
    }

    /// Decodes a bundle that a slot unwrapped.
    ///
    /// # Errors
    ///
    /// Any [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes, "key bundle");
        check_record_version(reader.u8()?)?;
        let master = Secret(reader.array()?);
        let count = reader.count(EPOCHS_MAX, 36, "key epochs")?;
        let mut epochs: Vec<(u32, Secret)> = Vec::with_capacity(count);
        for _ in 0..count {
            let epoch = (reader.u32()?, Secret(reader.array()?));
            if epochs.last().is_some_and(|last| last.0 >= epoch.0) {
                return Err(FormatError::Inconsistent { what: "key epochs" });
            }
            epochs.push(epoch);
        }
        reader.finish()?;
        if epochs.is_empty() {
            return Err(FormatError::Inconsistent { what: "key epochs" });
        }
        Ok(Self { master, epochs })
    }
}

/// What the keys of one epoch seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Data,
    Meta,
    Segment,
    Record,
}

#[derive(Debug)]
struct EpochKeys {
    epoch: u32,
    data: Secret,
    meta: Secret,
    segment: Secret,
    record: Secret,
}

/// Every key derived from a [`KeyBundle`], ready for use.
#[derive(Debug)]
pub struct Keys {
    id_data: Secret,
    id_meta: Secret,
    config_mac: Secret,
    page_cut: Secret,
    gear: GearTable,
    epochs: Vec<EpochKeys>,
}

fn derive(context: &str, key: &Secret) -> Secret {
    Secret(blake3::derive_key(context, key.expose()))
}

impl Keys {
    /// Derives all keys.
    pub fn new(bundle: &KeyBundle) -> Self {
        let master = &bundle.master;
        Self {
            id_data: derive("salvor v1 id data", master),
            id_meta: derive("salvor v1 id meta", master),
            config_mac: derive("salvor v1 config mac", master),
            page_cut: derive("salvor v1 page cut", master),
            gear: GearTable::derive(master.expose()),
            epochs: bundle
                .epochs
                .iter()
                .map(|(epoch, key)| EpochKeys {
                    epoch: *epoch,
                    data: derive("salvor v1 seal data", key),
                    meta: derive("salvor v1 seal meta", key),
                    segment: derive("salvor v1 seal segment", key),
                    record: derive("salvor v1 seal record", key),
                })
                .collect(),
        }
    }

    /// The id of a chunk. Data and metadata have id keys of their own, so a chunk of one kind
    /// cannot be passed off as one of the other.
    pub fn chunk_id(&self, kind: PackKind, plain: &[u8]) -> ChunkId {
        let key = match kind {
            PackKind::Data => &self.id_data,
            PackKind::Meta => &self.id_meta,
        };
        ChunkId(*blake3::keyed_hash(key.expose(), plain).as_bytes())
    }

    /// The secret table that content-defined chunking of this repository uses.
    pub const fn gear(&self) -> &GearTable {
        &self.gear
    }

    /// Where tree pages of this repository end.
    pub const fn page_cutter(&self) -> PageCutter {
        PageCutter::new(*self.page_cut.expose())
    }

    /// The epoch that new objects are sealed under.
    pub fn newest_epoch(&self) -> u32 {
        self.epochs.last().map_or(0, |keys| keys.epoch)
    }

    pub(crate) const fn config_mac(&self) -> &[u8; 32] {
        self.config_mac.expose()
    }

    /// The root that object keys of `purpose` derive from.
    pub(crate) fn root(&self, purpose: Purpose, epoch: u32) -> Result<&[u8; 32], FormatError> {
        let keys = self
            .epochs
            .iter()
            .find(|keys| keys.epoch == epoch)
            .ok_or(FormatError::UnknownEpoch { epoch })?;
        Ok(match purpose {
            Purpose::Data => keys.data.expose(),
            Purpose::Meta => keys.meta.expose(),
            Purpose::Segment => keys.segment.expose(),
            Purpose::Record => keys.record.expose(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::testing;

    #[test]
    fn a_bundle_is_read_back_as_it_was() {
        let bundle = testing::bundle(1).rotated(Secret::new([8; 32])).unwrap();
        assert_eq!(KeyBundle::decode(&bundle.encode()).unwrap(), bundle);
        let decode = |bytes: &[u8]| KeyBundle::decode(bytes);
        testing::refuses_damage_or_is_canonical(&bundle.encode(), decode, |bundle| {
            bundle.encode().to_vec()
        });
    }

    #[test]
    fn every_key_is_another() {
        let keys = Keys::new(&testing::bundle(1).rotated(Secret::new([8; 32])).unwrap());
        let mut seen = HashSet::new();
        let stable = [&keys.id_data, &keys.id_meta, &keys.config_mac, &keys.page_cut];
        let epochs = keys
            .epochs
            .iter()
            .flat_map(|epoch| [&epoch.data, &epoch.meta, &epoch.segment, &epoch.record]);
        for key in stable.into_iter().chain(epochs) {
            assert!(seen.insert(*key.expose()), "a key is used for two things");
        }
    }

    #[test]
    fn ids_survive_a_rotation_and_sealing_keys_do_not() {
        let old = testing::bundle(1);
        let new = old.rotated(Secret::new([8; 32])).unwrap();
        let (old, new) = (Keys::new(&old), Keys::new(&new));
        assert_eq!(old.chunk_id(PackKind::Data, b"x"), new.chunk_id(PackKind::Data, b"x"));
        assert_eq!((old.newest_epoch(), new.newest_epoch()), (0, 1));
        assert_eq!(old.root(Purpose::Data, 0), new.root(Purpose::Data, 0));
        assert_eq!(old.root(Purpose::Data, 1), Err(FormatError::UnknownEpoch { epoch: 1 }));
        assert_ne!(new.root(Purpose::Data, 0), new.root(Purpose::Data, 1));
    }

    #[test]
    fn data_and_metadata_have_different_ids() {
        let keys = testing::keys();
        assert_ne!(keys.chunk_id(PackKind::Data, b""), keys.chunk_id(PackKind::Meta, b""));
    }

    #[test]
    fn epochs_out_of_order_or_beyond_counting_are_refused() {
        let last = Secret::new([0; 32]);
        let bundle = |epochs: &[u32]| KeyBundle {
            master: last.clone(),
            epochs: epochs.iter().map(|epoch| (*epoch, last.clone())).collect(),
        };
        for epochs in [&[][..], &[1, 1], &[2, 1]] {
            assert!(KeyBundle::decode(&bundle(epochs).encode()).is_err(), "{epochs:?}");
        }
        assert!(bundle(&[u32::MAX]).rotated(last.clone()).is_err());
    }

    #[test]
    fn no_secret_is_printed() {
        let bundle = KeyBundle::new(Secret::new([0xab; 32]), Secret::new([0xab; 32]));
        let keys = Keys::new(&bundle);
        let printed = format!("{bundle:?} {keys:?} {:?} {:?}", keys.gear(), keys.page_cutter());
        assert!(printed.chars().all(|letter| !('1'..='9').contains(&letter)), "{printed}");
        assert!(!printed.to_lowercase().contains("abab"), "{printed}");
    }
}
