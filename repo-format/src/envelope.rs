//! Sealed small objects: sessions, commits, catalogs and their pages.
//!
//! ```text
//! magic 4 | version u16 | suite u16 | kind u8 | 0 × 3 | key epoch u32 | salt 32 | commitment 32 | ciphertext | tag
//! ```
//!
//! The plain text is a frame (see [`crate::frame`]'s layout). The additional data binds the
//! object to its repository and its name, so that none can be moved or passed off as another.

use zstd::bulk::{Compressor, Decompressor};

use crate::bytes::{Put, Reader, len_u64};
use crate::error::{FormatError, check_suite, check_version};
use crate::id::RepositoryId;
use crate::key::ObjectKey;
use crate::keys::{Keys, Purpose};
use crate::limits::{FORMAT_VERSION, RECORD_PLAIN_MAX};
use crate::seal::{DerivedKey, SUITE, TAG_LEN};

const MAGIC: &[u8; 4] = b"SVRC";
const HEADER_LEN: usize = 80;
const COMPRESS_FROM: usize = 512;

/// Seals `plain` as the object `key` of `repository`. `salt` must be fresh random bytes.
///
/// # Errors
///
/// [`FormatError::Limit`] above [`RECORD_PLAIN_MAX`].
pub fn seal(
    keys: &Keys,
    repository: &RepositoryId,
    key: &ObjectKey,
    salt: [u8; 32],
    plain: &[u8],
) -> Result<Vec<u8>, FormatError> {
    if plain.len() > RECORD_PLAIN_MAX {
        let (found, limit) = (len_u64(plain.len()), len_u64(RECORD_PLAIN_MAX));
        return Err(FormatError::Limit { what: "length of a record", found, limit });
    }
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
    put_compressed(&mut out, plain);
    let aad = aad(repository, &name);
    let tag = derived.seal.seal(0, &aad, out.get_mut(HEADER_LEN..).unwrap_or_default());
    out.raw(&tag);
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
    let mut reader = Reader::new(&sealed, "record");
    if reader.take(4)? != MAGIC {
        return Err(FormatError::BadMagic { expected: "record" });
    }
    check_version(reader.u16()?)?;
    let suite = reader.u16()?;
    check_suite(suite)?;
    if reader.take(4)? != [0; 4] {
        return Err(FormatError::Inconsistent { what: "head of a record" });
    }
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
    out.u32(u32::try_from(plain.len()).unwrap_or(u32::MAX));
    out.raw(compressed.as_deref().unwrap_or(plain));
}

fn read_compressed(bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
    let mut reader = Reader::new(bytes, "record");
    let codec = reader.u8()?;
    let len = reader.u32()? as usize;
    if len > RECORD_PLAIN_MAX {
        let (found, limit) = (len_u64(len), len_u64(RECORD_PLAIN_MAX));
        return Err(FormatError::Limit { what: "length of a record", found, limit });
    }
    let payload = reader.take(reader.remaining())?;
    let plain = match codec {
        0 => payload.to_vec(),
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
