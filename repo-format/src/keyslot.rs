//! A key slot: the key bundle wrapped under a passphrase or a key file.
//!
//! Any slot opens the repository. Changing a passphrase writes a new slot and removes the old
//! one; no other object is touched.

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::{Zeroize, Zeroizing};

use crate::bytes::{Put, Reader, checked, checksum, len_u64};
use crate::error::{FormatError, check_suite, check_version};
use crate::id::{RepositoryId, SlotId};
use crate::keys::KeyBundle;
use crate::limits::{
    ARGON2_KIB_MAX, ARGON2_LANES_MAX, ARGON2_PASSES_MAX, EPOCHS_MAX, FORMAT_VERSION, TEXT_BYTES_MAX,
};
use crate::seal::{DerivedKey, SUITE};

const MAGIC: &[u8; 4] = b"SVKS";
const WRAPPED_MAX: u64 = 64 + EPOCHS_MAX * 36 + 16;

/// How a slot's secret becomes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kdf {
    /// A passphrase, through Argon2id.
    Argon2id {
        /// Memory in KiB.
        memory_kib: u32,
        /// Passes over it.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// 32 or more random bytes from a key file, taken as they are.
    KeyFile,
}

impl Default for Kdf {
    /// The second recommended choice of RFC 9106: 64 MiB, 3 passes, 4 lanes.
    fn default() -> Self {
        Self::Argon2id { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

/// One stored key slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySlot {
    /// How its secret becomes a key.
    pub kdf: Kdf,
    /// What a person calls it. Stored in the clear, authenticated.
    pub label: String,
    /// Seconds since 1970, for people. Stored in the clear, authenticated.
    pub created_s: u64,
    salt: [u8; 32],
    commitment: [u8; 32],
    wrapped: Vec<u8>,
}

impl KeySlot {
    /// Wraps `bundle` under `secret`. `salt` must be fresh random bytes.
    ///
    /// # Errors
    ///
    /// [`FormatError::Limit`], [`FormatError::Inconsistent`] for parameters or a label out of bounds.
    pub fn wrap(
        bundle: &KeyBundle,
        place: (&RepositoryId, &SlotId),
        secret: &[u8],
        kdf: Kdf,
        salt: [u8; 32],
        label: (String, u64),
    ) -> Result<Self, FormatError> {
        let (label, created_s) = label;
        if len_u64(label.len()) > TEXT_BYTES_MAX {
            let (found, limit) = (len_u64(label.len()), TEXT_BYTES_MAX);
            return Err(FormatError::Limit { what: "label of a key slot", found, limit });
        }
        let DerivedKey { seal, commitment } = derive(kdf, secret, &salt)?;
        let mut slot = Self { kdf, label, created_s, salt, commitment, wrapped: Vec::new() };
        let mut wrapped = bundle.encode();
        let tag = seal.seal(0, &slot.aad(place), &mut wrapped);
        slot.wrapped = [wrapped.as_slice(), &tag].concat();
        Ok(slot)
    }

    /// Opens the slot.
    ///
    /// # Errors
    ///
    /// [`FormatError::WrongKey`] if `secret` is not this slot's; [`FormatError::Unauthentic`] if it
    /// is and the slot is damaged.
    pub fn unwrap(
        &self,
        place: (&RepositoryId, &SlotId),
        secret: &[u8],
    ) -> Result<KeyBundle, FormatError> {
        let key = derive(self.kdf, secret, &self.salt)?.committed(&self.commitment)?;
        let mut wrapped = Zeroizing::new(self.wrapped.clone());
        let plain = key.open(0, &self.aad(place), &mut wrapped)?;
        KeyBundle::decode(plain)
    }

    /// What is stored in the clear is bound too: a slot cannot be moved or relabelled.
    fn aad(&self, (repository, slot): (&RepositoryId, &SlotId)) -> Vec<u8> {
        let mut aad = b"salvor slot".to_vec();
        aad.raw(repository.as_bytes());
        aad.raw(slot.as_bytes());
        aad.u64(self.created_s);
        aad.raw(self.label.as_bytes());
        aad
    }

    /// The slot's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.raw(MAGIC);
        out.u16(FORMAT_VERSION);
        out.u16(SUITE);
        match self.kdf {
            Kdf::Argon2id { memory_kib, passes, lanes } => {
                out.u8(1);
                for number in [memory_kib, passes, lanes] {
                    out.u32(number);
                }
            }
            Kdf::KeyFile => {
                out.u8(2);
                out.raw(&[0; 12]);
            }
        }
        out.raw(&self.salt);
        out.raw(&self.commitment);
        out.u64(self.created_s);
        out.blob(self.label.as_bytes());
        out.blob(&self.wrapped);
        let checksum = checksum(&out);
        out.raw(&checksum);
        out
    }

    /// Decodes a slot.
    ///
    /// # Errors
    ///
    /// Any [`FormatError`]; [`FormatError::Checksum`] tells damage from a wrong passphrase.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut head = Reader::new(bytes, "key slot");
        if head.take(4)? != MAGIC {
            return Err(FormatError::BadMagic { expected: "key slot" });
        }
        let mut reader = Reader::new(checked(bytes, "key slot")?, "key slot");
        reader.take(4)?;
        check_version(reader.u16()?)?;
        check_suite(reader.u16()?)?;
        let kdf = read_kdf(&mut reader)?;
        let salt = reader.array()?;
        let commitment = reader.array()?;
        let created_s = reader.u64()?;
        let label = reader.text(TEXT_BYTES_MAX, "label of a key slot")?;
        let wrapped = reader.blob(WRAPPED_MAX, "wrapped keys")?.to_vec();
        reader.finish()?;
        Ok(Self { kdf, label, created_s, salt, commitment, wrapped })
    }
}

fn read_kdf(reader: &mut Reader<'_>) -> Result<Kdf, FormatError> {
    let code = reader.u8()?;
    let [memory_kib, passes, lanes] = [reader.u32()?, reader.u32()?, reader.u32()?];
    match code {
        1 => {
            let kdf = Kdf::Argon2id { memory_kib, passes, lanes };
            check_argon2(kdf).map(|()| kdf)
        }
        2 if [memory_kib, passes, lanes] == [0; 3] => Ok(Kdf::KeyFile),
        2 => Err(FormatError::Inconsistent { what: "parameters of a key file slot" }),
        // KMS and recipient slots are to come; an older program opens the slots it knows.
        other => Err(FormatError::UnknownFeature {
            feature: format!("key slot type {other}"),
            operation: "open this slot",
        }),
    }
}

fn check_argon2(kdf: Kdf) -> Result<(), FormatError> {
    let Kdf::Argon2id { memory_kib, passes, lanes } = kdf else { return Ok(()) };
    let limits = [
        ("Argon2id memory in KiB", memory_kib, ARGON2_KIB_MAX),
        ("Argon2id passes", passes, ARGON2_PASSES_MAX),
        ("Argon2id lanes", lanes, ARGON2_LANES_MAX),
    ];
    for (what, found, limit) in limits {
        if found > limit {
            return Err(FormatError::Limit { what, found: found.into(), limit: limit.into() });
        }
    }
    Ok(())
}

fn derive(kdf: Kdf, secret: &[u8], salt: &[u8; 32]) -> Result<DerivedKey, FormatError> {
    let mut root = Zeroizing::new([0u8; 32]);
    match kdf {
        Kdf::Argon2id { memory_kib, passes, lanes } => {
            check_argon2(kdf)?;
            let broken = FormatError::Inconsistent { what: "Argon2id parameters" };
            let params =
                Params::new(memory_kib, passes, lanes, Some(32)).map_err(|_| broken.clone())?;
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into(secret, salt, root.as_mut_slice())
                .map_err(|_| broken)?;
        }
        Kdf::KeyFile => {
            let mut hasher = blake3::Hasher::new_derive_key("salvor v1 key file");
            hasher.update(secret).finalize_xof().fill(root.as_mut_slice());
            hasher.zeroize();
        }
    }
    Ok(DerivedKey::new(&root, &[b"salvor slot", salt]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::CHECKSUM_LEN;
    use crate::testing::{self, REPOSITORY, SALT, bundle};

    const SLOT: SlotId = SlotId([6; 16]);
    const PLACE: (&RepositoryId, &SlotId) = (&REPOSITORY, &SLOT);
    const CHEAP: Kdf = Kdf::Argon2id { memory_kib: 32, passes: 1, lanes: 4 };

    fn slot(kdf: Kdf) -> KeySlot {
        KeySlot::wrap(&bundle(1), PLACE, b"secret", kdf, SALT, ("laptop".into(), 5)).unwrap()
    }

    fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.truncate(bytes.len() - CHECKSUM_LEN);
        let checksum = checksum(&bytes);
        [bytes.as_slice(), &checksum].concat()
    }

    #[test]
    fn a_slot_opens_with_its_secret_and_no_other() {
        for kdf in [CHEAP, Kdf::KeyFile] {
            let read = KeySlot::decode(&slot(kdf).encode()).unwrap();
            assert_eq!(read, slot(kdf));
            assert_eq!(read.unwrap(PLACE, b"secret").unwrap(), bundle(1));
            assert_eq!(read.unwrap(PLACE, b"Secret"), Err(FormatError::WrongKey));
            assert_eq!(read.unwrap(PLACE, b""), Err(FormatError::WrongKey));
        }
    }

    #[test]
    fn damage_to_a_slot_is_told_from_a_wrong_secret_and_from_a_newer_version() {
        for kdf in [CHEAP, Kdf::KeyFile] {
            for (damage, bytes) in testing::damaged(&slot(kdf).encode()) {
                let error = KeySlot::decode(&bytes).unwrap_err();
                let expected = matches!(
                    error,
                    FormatError::Checksum
                        | FormatError::BadMagic { .. }
                        | FormatError::Truncated { .. }
                );
                assert!(expected, "{damage}: {error}");
            }
        }
    }

    #[test]
    fn a_newer_slot_is_not_taken_for_damage() {
        let mut bytes = slot(Kdf::KeyFile).encode();
        bytes[4] = 2;
        let expected = FormatError::NewerVersion { found: 2, supported: 1 };
        assert_eq!(KeySlot::decode(&with_checksum(bytes)), Err(expected));
        let mut bytes = slot(Kdf::KeyFile).encode();
        bytes[6] = 2;
        let expected = FormatError::UnknownSuite { found: 2 };
        assert_eq!(KeySlot::decode(&with_checksum(bytes)), Err(expected));
        let mut bytes = slot(Kdf::KeyFile).encode();
        bytes[8] = 3;
        let error = KeySlot::decode(&with_checksum(bytes)).unwrap_err();
        assert!(matches!(error, FormatError::UnknownFeature { .. }));
    }

    #[test]
    fn a_slot_opens_in_its_place_only_and_under_its_label_only() {
        let slot = slot(Kdf::KeyFile);
        let elsewhere = slot.unwrap((&RepositoryId([9; 16]), &SLOT), b"secret");
        assert_eq!(elsewhere, Err(FormatError::Unauthentic));
        let moved = slot.unwrap((&REPOSITORY, &SlotId([9; 16])), b"secret");
        assert_eq!(moved, Err(FormatError::Unauthentic));
        let relabelled = KeySlot { label: "desktop".into(), ..slot.clone() };
        assert_eq!(relabelled.unwrap(PLACE, b"secret"), Err(FormatError::Unauthentic));
        let dated = KeySlot { created_s: 6, ..slot };
        assert_eq!(dated.unwrap(PLACE, b"secret"), Err(FormatError::Unauthentic));
    }

    #[test]
    fn a_forged_slot_cannot_take_all_memory_or_time() {
        for kdf in [
            Kdf::Argon2id { memory_kib: ARGON2_KIB_MAX + 1, passes: 1, lanes: 1 },
            Kdf::Argon2id { memory_kib: 64, passes: ARGON2_PASSES_MAX + 1, lanes: 1 },
            Kdf::Argon2id { memory_kib: 1024, passes: 1, lanes: ARGON2_LANES_MAX + 1 },
        ] {
            let forged = KeySlot { kdf, ..slot(CHEAP) };
            let refused = KeySlot::decode(&forged.encode());
            assert!(matches!(refused, Err(FormatError::Limit { .. })), "{kdf:?}");
            assert!(matches!(forged.unwrap(PLACE, b"secret"), Err(FormatError::Limit { .. })));
        }
    }

    #[test]
    fn senseless_argon2_parameters_are_an_error() {
        for (memory_kib, passes, lanes) in [(0, 1, 1), (64, 0, 1), (64, 1, 0), (8, 1, 64)] {
            let kdf = Kdf::Argon2id { memory_kib, passes, lanes };
            assert!(KeySlot { kdf, ..slot(CHEAP) }.unwrap(PLACE, b"secret").is_err(), "{kdf:?}");
        }
    }

    #[test]
    fn a_label_that_could_not_be_read_back_is_not_written() {
        let label = ("x".repeat(4097), 0);
        let refused = KeySlot::wrap(&bundle(1), PLACE, b"s", Kdf::KeyFile, SALT, label);
        assert!(matches!(refused, Err(FormatError::Limit { .. })));
    }

    #[test]
    fn the_most_epochs_fit_a_slot() {
        let mut full = bundle(1);
        for epoch in 1..EPOCHS_MAX {
            full = full.rotated(crate::keys::Secret::new([epoch.to_le_bytes()[0]; 32])).unwrap();
        }
        assert!(full.rotated(crate::keys::Secret::new([0; 32])).is_err());
        let label = ("x".repeat(4096), 0);
        let slot = KeySlot::wrap(&full, PLACE, b"s", Kdf::KeyFile, SALT, label).unwrap();
        let read = KeySlot::decode(&slot.encode()).unwrap();
        assert_eq!(read.unwrap(PLACE, b"s").unwrap(), full);
    }
}
