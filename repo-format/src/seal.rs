//! Authenticated encryption, behind one type: AES-256-GCM with counter nonces.
//!
//! A key seals one object (a pack, a segment, a record) and is derived from a salt drawn for that
//! object, so nonces are positions inside the object and nothing random has to be counted.

use aes_gcm::aead::{AeadInOut, KeyInit, inout::InOutBuf};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use zeroize::{Zeroize, Zeroizing};

use crate::error::FormatError;

/// Bytes that sealing adds.
pub const TAG_LEN: usize = 16;

/// The suite number of BLAKE3 ids, BLAKE3 key derivation and AES-256-GCM; the only one so far.
pub const SUITE: u16 = 1;

/// Seals and opens the messages of one object.
pub struct SealKey {
    cipher: Aes256Gcm,
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey")
    }
}

/// A derived object key and the commitment to it that is stored in the clear.
///
/// GCM does not commit to its key: a ciphertext can open under two. Comparing the commitment
/// first closes that door and tells a wrong key from damage.
#[derive(Debug)]
pub struct DerivedKey {
    /// The cipher, ready.
    pub seal: SealKey,
    /// Stored beside the salt.
    pub commitment: [u8; 32],
}

impl DerivedKey {
    /// Derives the key of one object: 64 bytes of BLAKE3 keyed with `root` over `context`, whose
    /// first half is the key and whose second half is the commitment.
    pub fn new(root: &[u8; 32], context: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(root);
        for part in context {
            hasher.update(part);
        }
        let mut key = Zeroizing::new([0u8; 32]);
        let mut commitment = [0u8; 32];
        let mut output = hasher.finalize_xof();
        output.fill(key.as_mut_slice());
        output.fill(&mut commitment);
        output.zeroize();
        hasher.zeroize();
        Self { seal: SealKey::new(&key), commitment }
    }

    /// The cipher, if `commitment` is the one stored.
    ///
    /// # Errors
    ///
    /// [`FormatError::WrongKey`].
    pub fn committed(self, commitment: &[u8; 32]) -> Result<SealKey, FormatError> {
        // BLAKE3's hash type compares in constant time.
        if blake3::Hash::from_bytes(self.commitment) != *commitment {
            return Err(FormatError::WrongKey);
        }
        Ok(self.seal)
    }
}

impl SealKey {
    /// A cipher under `key`.
    pub fn new(key: &[u8; 32]) -> Self {
        Self { cipher: Aes256Gcm::new(key.into()) }
    }

    /// Encrypts `bytes` in place and returns the tag to store behind them.
    ///
    /// `position` is the nonce: it must never be used twice under one key with different bytes.
    pub fn seal(&self, position: u64, aad: &[u8], bytes: &mut [u8]) -> [u8; TAG_LEN] {
        let sealed =
            self.cipher.encrypt_inout_detached(&nonce(position), aad, InOutBuf::from(bytes));
        match sealed {
            Ok(tag) => tag.into(),
            // Only messages over 2^36 bytes are refused; ours are bounded far below.
            Err(_) => unreachable!("a message of over 64 GiB"),
        }
    }

    /// Decrypts `sealed` (ciphertext, then tag) in place and returns the plain bytes.
    ///
    /// # Errors
    ///
    /// [`FormatError::Truncated`], [`FormatError::Unauthentic`].
    pub fn open<'a>(
        &self,
        position: u64,
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], FormatError> {
        let (bytes, tag) = sealed
            .split_last_chunk_mut::<TAG_LEN>()
            .ok_or(FormatError::Truncated { what: "sealed bytes" })?;
        let tag = Tag::from(*tag);
        self.cipher
            .decrypt_inout_detached(&nonce(position), aad, InOutBuf::from(&mut *bytes), &tag)
            .map_err(|_| FormatError::Unauthentic)?;
        Ok(bytes)
    }
}

fn nonce(position: u64) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0u8; 12];
    for (to, from) in nonce.iter_mut().skip(4).zip(position.to_le_bytes()) {
        *to = from;
    }
    nonce.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{SALT, damaged};

    fn sealed(key: &SealKey, position: u64, aad: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut bytes = plain.to_vec();
        let tag = key.seal(position, aad, &mut bytes);
        [bytes.as_slice(), &tag].concat()
    }

    #[test]
    fn what_is_sealed_opens_under_the_same_key_position_and_data_only() {
        let key = SealKey::new(&SALT);
        let bytes = sealed(&key, 7, b"aad", b"plain");
        let open = |key: &SealKey, position, aad: &[u8]| {
            key.open(position, aad, &mut bytes.clone()).map(|plain| plain.to_vec())
        };
        assert_eq!(open(&key, 7, b"aad").unwrap(), b"plain");
        assert_eq!(open(&key, 8, b"aad"), Err(FormatError::Unauthentic));
        assert_eq!(open(&key, 7, b"add"), Err(FormatError::Unauthentic));
        assert_eq!(open(&SealKey::new(&[0; 32]), 7, b"aad"), Err(FormatError::Unauthentic));
    }

    #[test]
    fn damage_anywhere_is_noticed() {
        let key = SealKey::new(&SALT);
        for (damage, mut bytes) in damaged(&sealed(&key, 7, b"aad", b"plain")) {
            assert!(key.open(7, b"aad", &mut bytes).is_err(), "{damage}");
        }
    }

    #[test]
    fn another_root_or_context_gives_another_key_and_commitment() {
        let key = |root, context: &[&[u8]]| DerivedKey::new(&[root; 32], context);
        let one = key(1, &[b"a", b"b"]);
        for other in [key(2, &[b"a", b"b"]), key(1, &[b"a", b"c"]), key(1, &[b"a"])] {
            assert_ne!(one.commitment, other.commitment);
            let refused = other.committed(&one.commitment).map(drop);
            assert_eq!(refused, Err(FormatError::WrongKey));
        }
        let same = key(1, &[b"a", b"b"]);
        assert!(same.committed(&one.commitment).is_ok());
    }
}
