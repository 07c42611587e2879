//! Sealed small objects: sessions, commits, catalogs and their pages.
//!
//! ```text
//! magic 4 | version u16 | suite u16 | 0 × 4 | key epoch u32 | salt 32 | commitment 32 | checksum 8 | ciphertext | tag
//! ```
//!
//! The plain text is codec, length and payload, as in a frame (see [`crate::frame`]). The additional data binds the
//! object to its repository and its name, so that none can be moved or passed off as another.

use zstd::bulk::{Compressor, Decompressor};

use crate::bytes::{Put, Reader, checked, checksum, len_u32, len_u64, to_usize};
use crate::error::{FormatError, check_suite, check_version};
use crate::id::RepositoryId;
use crate::key::ObjectKey;
use crate::keys::{Keys, Purpose};
use crate::limits::{FORMAT_VERSION, RECORD_BYTES_MAX, RECORD_PLAIN_MAX};
use crate::seal::{DerivedKey, SUITE, TAG_LEN};

const MAGIC: &[u8; 4] = b"SVRC";
const HEADER_LEN: usize = 88;
const COMPRESS_FROM: usize = 512;

/// Seals `plain` as the object `key` of `repository`. `salt` must be fresh random bytes.
///
/// # Errors
///
/// [`FormatError::Limit`] above [`RECORD_PLAIN_MAX`], or if the result is above
/// [`RECORD_BYTES_MAX`].
pub fn seal(
    keys: &Keys,
    repository: &RepositoryId,
    key: &ObjectKey,
    salt: [u8; 32],
    plain: &[u8],
) -> Result<Vec<u8>, FormatError> {
    check_len(len_u64(plain.len()), len_u64(RECORD_PLAIN_MAX))?;
    let epoch = keys.newest_epoch();
    let name = key.to_string();
    let derived = derive(keys, epoch, &name, &salt)?;
    let mut out = Vec::with_capacity(HEADER_LEN + plain.len() + TAG_LEN + 8);
    out.raw(MAGIC);
    out.u16(FORMAT_VERSION);
    out.u16(SUITE);
    out.raw(&[0; 4]);
    out.u32(epoch);
    out.raw(&salt);
    out.raw(&derived.commitment);
    let checksum = checksum(&out);
    out.raw(&checksum);
    put_compressed(&mut out, plain);
    let aad = aad(repository, &name);
    let tag = derived.seal.seal(0, &aad, out.get_mut(HEADER_LEN..).unwrap_or_default());
    out.raw(&tag);
    check_len(len_u64(out.len()), RECORD_BYTES_MAX)?;
    Ok(out)
}

/// Opens what [`seal`] made.
///
/// # Errors
///
/// Any [`FormatError`].
pub fn open(
    keys: &Keys,
    repository: &RepositoryId,
    key: &ObjectKey,
    mut sealed: Vec<u8>,
) -> Result<Vec<u8>, FormatError> {
    check_len(len_u64(sealed.len()), RECORD_BYTES_MAX)?;
    if Reader::new(&sealed, "record").take(4)? != MAGIC {
        return Err(FormatError::BadMagic { expected: "record" });
    }
    let header = sealed.get(..HEADER_LEN).ok_or(FormatError::Truncated { what: "record" })?;
    let mut reader = Reader::new(checked(header, "record")?, "record");
    reader.take(4)?;
    check_version(reader.u16()?)?;
    check_suite(reader.u16()?)?;
    reader.zeroes(4)?;
    let epoch = reader.u32()?;
    let salt = reader.array()?;
    let commitment = reader.array()?;
    let name = key.to_string();
    let cipher = derive(keys, epoch, &name, &salt)?.committed(&commitment)?;
    let body = sealed.get_mut(HEADER_LEN..).ok_or(FormatError::Truncated { what: "record" })?;
    let plain = cipher.open(0, &aad(repository, &name), body)?;
    read_compressed(plain)
}

fn derive(keys: &Keys, epoch: u32, name: &str, salt: &[u8; 32]) -> Result<DerivedKey, FormatError> {
    let root = keys.root(Purpose::Record, epoch)?;
    Ok(DerivedKey::new(root, &[b"salvor record", salt, name.as_bytes()]))
}

fn aad(repository: &RepositoryId, name: &str) -> Vec<u8> {
    [b"salvor record".as_slice(), repository.as_bytes(), name.as_bytes()].concat()
}

fn put_compressed(out: &mut Vec<u8>, plain: &[u8]) {
    let compressed = (plain.len() >= COMPRESS_FROM)
        .then(|| Compressor::new(3).and_then(|mut zstd| zstd.compress(plain)).ok())
        .flatten()
        .filter(|compressed| compressed.len() < plain.len());
    out.u8(compressed.is_some().into());
    out.u32(len_u32(plain.len()));
    out.raw(compressed.as_deref().unwrap_or(plain));
}

fn check_len(found: u64, limit: u64) -> Result<(), FormatError> {
    if found > limit {
        return Err(FormatError::Limit { what: "length of a record", found, limit });
    }
    Ok(())
}

pub(crate) fn read_compressed(bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
    let mut reader = Reader::new(bytes, "record");
    let codec = reader.u8()?;
    let len = u64::from(reader.u32()?);
    check_len(len, len_u64(RECORD_PLAIN_MAX))?;
    let len = to_usize(len);
    let payload = reader.take(reader.remaining())?;
    let plain = match codec {
        0 if payload.len() == len => payload.to_vec(),
        0 => return Err(FormatError::Inconsistent { what: "length of a record" }),
        1 => Decompressor::new()
            .and_then(|mut zstd| zstd.decompress(payload, len))
            .map_err(|_| FormatError::Compression)?,
        _ => return Err(FormatError::Inconsistent { what: "codec of a record" }),
    };
    if plain.len() != len {
        return Err(FormatError::Inconsistent { what: "length of a record" });
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SessionId;
    use crate::keys::Secret;
    use crate::testing::{REPOSITORY, SALT, bundle, damaged, keys, noise, other_keys};

    const KEY: ObjectKey = ObjectKey::Session(SessionId([3; 16]));

    fn sealed(plain: &[u8]) -> Vec<u8> {
        seal(&keys(), &REPOSITORY, &KEY, SALT, plain).unwrap()
    }

    #[test]
    fn a_record_is_opened_as_it_was() {
        for plain in [vec![], vec![0; COMPRESS_FROM - 1], vec![0; 1 << 20], noise(1, 10_000)] {
            let bytes = sealed(&plain);
            assert_eq!(open(&keys(), &REPOSITORY, &KEY, bytes).unwrap(), plain);
        }
        assert!(sealed(&vec![0; 1 << 20]).len() < 1000, "it is not compressed");
    }

    #[test]
    fn a_record_opens_under_its_name_in_its_repository_only() {
        let bytes = sealed(b"plain");
        let other = ObjectKey::Commit(SessionId([3; 16]));
        assert!(open(&keys(), &REPOSITORY, &other, bytes.clone()).is_err());
        let moved = open(&keys(), &RepositoryId([0; 16]), &KEY, bytes);
        assert_eq!(moved, Err(FormatError::Unauthentic));
    }

    #[test]
    fn damage_is_told_from_a_wrong_key_and_a_newer_version() {
        for (damage, bytes) in damaged(&sealed(b"plain")) {
            let error = open(&keys(), &REPOSITORY, &KEY, bytes).unwrap_err();
            let expected = matches!(
                error,
                FormatError::Checksum
                    | FormatError::BadMagic { .. }
                    | FormatError::Truncated { .. }
                    | FormatError::Unauthentic
            );
            assert!(expected, "{damage}: {error}");
        }
        let refused = open(&other_keys(), &REPOSITORY, &KEY, sealed(b"plain"));
        assert_eq!(refused, Err(FormatError::WrongKey));
    }

    #[test]
    fn a_newer_version_suite_or_epoch_is_named() {
        let with = |at: usize, value: u8| {
            let mut bytes = sealed(b"plain");
            bytes[at] = value;
            let checksum = checksum(&bytes[..80]);
            bytes[80..88].copy_from_slice(&checksum);
            open(&keys(), &REPOSITORY, &KEY, bytes).unwrap_err()
        };
        assert_eq!(with(4, 2), FormatError::NewerVersion { found: 2, supported: 1 });
        assert_eq!(with(6, 2), FormatError::UnknownSuite { found: 2 });
        assert_eq!(with(12, 1), FormatError::UnknownEpoch { epoch: 1 });
        assert_eq!(with(9, 1), FormatError::Inconsistent { what: "reserved bytes other than 0" });
    }

    #[test]
    fn a_record_of_an_older_epoch_still_opens() {
        let rotated = Keys::new(&bundle(1).rotated(Secret::new([9; 32])).unwrap());
        assert_eq!(open(&rotated, &REPOSITORY, &KEY, sealed(b"plain")).unwrap(), b"plain");
        let newer = seal(&rotated, &REPOSITORY, &KEY, SALT, b"plain").unwrap();
        let refused = open(&keys(), &REPOSITORY, &KEY, newer);
        assert_eq!(refused, Err(FormatError::UnknownEpoch { epoch: 1 }));
    }

    #[test]
    fn a_payload_that_is_not_as_long_as_it_says_is_refused() {
        let mut zeroes = Vec::new();
        put_compressed(&mut zeroes, &[0; 1000]);
        assert_eq!(zeroes[0], 1);
        for len in [0, 999, 1001, 5000] {
            zeroes[1..5].copy_from_slice(&u32::to_le_bytes(len));
            assert!(read_compressed(&zeroes).is_err(), "{len}");
        }
        zeroes[1..5].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(read_compressed(&zeroes), Err(FormatError::Limit { .. })));
        for bytes in [&[][..], &[0, 1, 0, 0, 0], &[0, 0, 0, 0, 0, 7], &[2, 0, 0, 0, 0]] {
            assert!(read_compressed(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_record_that_could_not_be_read_back_is_not_sealed() {
        let over = to_usize(RECORD_BYTES_MAX);
        let refused = seal(&keys(), &REPOSITORY, &KEY, SALT, &noise(1, over));
        assert!(matches!(refused, Err(FormatError::Limit { .. })));
        let refused = open(&keys(), &REPOSITORY, &KEY, vec![0; over + 1]);
        assert!(matches!(refused, Err(FormatError::Limit { .. })));
    }
}
