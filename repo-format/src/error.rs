//! Why bytes were not what they claim to be.

use crate::limits::{CATALOG_VERSION, FORMAT_VERSION, RECORD_VERSION};
use crate::seal::SUITE;

/// A stored object could not be decoded. A variant exists where a caller acts differently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes end before the object does.
    #[error("it ends early ({what})")]
    Truncated {
        /// The field that was being read.
        what: &'static str,
    },
    /// The magic number is not the expected one: another kind of object, or not ours at all.
    #[error("it does not start as a {expected} does")]
    BadMagic {
        /// The kind of object that was expected.
        expected: &'static str,
    },
    /// Written by a newer version of the format.
    #[error(
        "it is of format version {found}; this program reads up to version {supported}. Use a newer salvor"
    )]
    NewerVersion {
        /// The version that the object names.
        found: u32,
        /// The newest version this program reads.
        supported: u32,
    },
    /// Sealed with algorithms this program does not have.
    #[error(
        "it is sealed with cipher suite {found}, which this program does not have. Use a newer salvor"
    )]
    UnknownSuite {
        /// The suite that the object names.
        found: u16,
    },
    /// The repository needs a feature this program does not know.
    #[error(
        "it needs the feature `{feature}` to {operation}, which this program does not have. Use a newer salvor"
    )]
    UnknownFeature {
        /// The feature's name.
        feature: String,
        /// `read`, `write` or `maintain`.
        operation: &'static str,
    },
    /// A count or length is beyond what the format allows.
    #[error("{what} is {found}, over the limit of {limit}")]
    Limit {
        /// The field.
        what: &'static str,
        /// Its value.
        found: u64,
        /// The greatest value allowed.
        limit: u64,
    },
    /// Fields contradict each other.
    #[error("it contradicts itself ({what})")]
    Inconsistent {
        /// What does not fit.
        what: &'static str,
    },
    /// A checksum does not match: damaged in storage or on the way.
    #[error("its checksum does not match: it is damaged")]
    Checksum,
    /// The key was derived and is not the one this object was sealed with.
    #[error("the key does not fit")]
    WrongKey,
    /// The authentication tag does not match: damaged or forged.
    #[error("its authentication failed: it is damaged or forged")]
    Unauthentic,
    /// The compressed payload does not decompress to the length it names.
    #[error("its payload does not decompress")]
    Compression,
    /// The bytes do not hash to the chunk id they are stored under.
    #[error("its content does not match its id")]
    WrongContent,
    /// An object's name is not of the form the format defines.
    #[error("its name is not one this format knows")]
    BadName,
    /// Sealed under a key epoch that the opened key slot does not hold.
    #[error(
        "it is sealed under key epoch {epoch}, which this key slot does not hold: keys were rotated since. Use a slot added after the rotation"
    )]
    UnknownEpoch {
        /// The epoch the object names.
        epoch: u32,
    },
}

/// Refuses an object of a newer format.
pub(crate) fn check_version(found: u16) -> Result<(), FormatError> {
    check_version_up_to(FORMAT_VERSION.into(), found.into())
}

/// Refuses a record whose layout is newer than this crate's. Every record has a version of its
/// own, so that one can change without the others.
pub(crate) fn check_record_version(found: u8) -> Result<(), FormatError> {
    check_version_up_to(RECORD_VERSION.into(), found.into())
}

/// The same for catalogs, of which there are two layouts.
pub(crate) fn check_catalog_version(found: u8) -> Result<(), FormatError> {
    check_version_up_to(CATALOG_VERSION.into(), found.into())
}

fn check_version_up_to(supported: u32, found: u32) -> Result<(), FormatError> {
    match found {
        0 => Err(FormatError::Inconsistent { what: "version 0" }),
        found if found > supported => Err(FormatError::NewerVersion { found, supported }),
        _ => Ok(()),
    }
}

/// Refuses an object sealed with algorithms this crate does not have.
pub(crate) fn check_suite(found: u16) -> Result<(), FormatError> {
    if found != SUITE {
        return Err(FormatError::UnknownSuite { found });
    }
    Ok(())
}
