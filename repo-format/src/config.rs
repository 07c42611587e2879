//! The repository's config: written once at `init`, read before anything else.
//!
//! It is in the clear, for its version and features decide whether a key is worth asking for; a
//! checksum tells damage, a MAC under the repository's keys tells forgery.

use crate::bytes::{CHECKSUM_LEN, Put, Reader, checked, checksum, len_u64};
use crate::chunker::ChunkSizes;
use crate::error::{FormatError, check_version};
use crate::id::RepositoryId;
use crate::keys::Keys;
use crate::limits::{
    CHUNK_LOG2_MAX, CHUNK_LOG2_MIN, FEATURE_BYTES_MAX, FEATURES_MAX, FORMAT_VERSION,
};

const MAGIC: &[u8; 8] = b"SALVOR\0\x01";

/// What one wants to do with a repository: an unknown feature forbids only what it concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// List, verify, restore.
    Read,
    /// Back up.
    Write,
    /// Forget, prune, keys.
    Maintain,
}

impl Operation {
    const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Maintain];

    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read it",
            Self::Write => "write to it",
            Self::Maintain => "maintain it",
        }
    }
}

/// What a repository is. Parameters that may change live in the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Drawn at `init`.
    pub repository: RepositoryId,
    /// Seconds since 1970, for people.
    pub created_s: u64,
    /// log2 of the chunk length that block volumes are cut into by default.
    pub chunk_log2: u8,
    /// Sizes of content-defined chunks of files.
    pub file_chunks: ChunkSizes,
    /// Features that must be known to read, to write, to maintain.
    pub features: [Vec<String>; 3],
}

impl Config {
    /// A config with default parameters.
    pub fn new(repository: RepositoryId, created_s: u64) -> Self {
        Self {
            repository,
            created_s,
            chunk_log2: 20,
            file_chunks: ChunkSizes::default(),
            features: [Vec::new(), Vec::new(), Vec::new()],
        }
    }

    /// Whether packs and segments are in another place than everything else.
    pub fn is_split(&self) -> bool {
        self.features.iter().flatten().any(|feature| feature == SPLIT)
    }

    /// Of a new repository: packs and segments are in another place than everything else.
    pub fn split(&mut self) {
        self.features.iter_mut().for_each(|features| features.push(SPLIT.into()));
    }

    /// The config's bytes, authenticated under `keys`.
    pub fn encode(&self, keys: &Keys) -> Vec<u8> {
        let mut out = Vec::new();
        out.raw(MAGIC);
        out.u16(FORMAT_VERSION);
        out.raw(self.repository.as_bytes());
        out.u64(self.created_s);
        out.u8(self.chunk_log2);
        for size in [self.file_chunks.min, self.file_chunks.avg, self.file_chunks.max] {
            out.u32(size);
        }
        for features in &self.features {
            out.varint(len_u64(features.len()));
            for feature in features {
                out.blob(feature.as_bytes());
            }
        }
        let mac = blake3::keyed_hash(keys.config_mac(), &out);
        out.raw(mac.as_bytes());
        let checksum = checksum(&out);
        out.raw(&checksum);
        out
    }

    /// Decodes a config whose forgery cannot be told yet; see [`Self::authenticate`].
    ///
    /// # Errors
    ///
    /// [`FormatError::BadMagic`] (no repository of ours), [`FormatError::NewerVersion`],
    /// [`FormatError::Checksum`] and the like.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes, "config");
        if reader.take(8)? != MAGIC {
            return Err(FormatError::BadMagic { expected: "Salvor repository's config" });
        }
        let covered = checked(bytes, "config")?;
        let mut reader = Reader::new(covered, "config");
        reader.take(8)?;
        check_version(reader.u16()?)?;
        let repository = RepositoryId(reader.array()?);
        let created_s = reader.u64()?;
        let chunk_log2 = reader.u8()?;
        let file_chunks = ChunkSizes { min: reader.u32()?, avg: reader.u32()?, max: reader.u32()? };
        let features =
            [read_features(&mut reader)?, read_features(&mut reader)?, read_features(&mut reader)?];
        reader.take(32)?;
        reader.finish()?;
        if !(CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX).contains(&chunk_log2) || !file_chunks.are_valid() {
            return Err(FormatError::Inconsistent { what: "chunk sizes in the config" });
        }
        Ok(Self { repository, created_s, chunk_log2, file_chunks, features })
    }

    /// Whether `bytes`, which [`Self::decode`] accepted, were written with these keys.
    ///
    /// # Errors
    ///
    /// [`FormatError::Unauthentic`].
    pub fn authenticate(bytes: &[u8], keys: &Keys) -> Result<(), FormatError> {
        let truncated = FormatError::Truncated { what: "config" };
        let (covered, _) = bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or(truncated.clone())?;
        let (covered, mac) = covered.split_last_chunk::<32>().ok_or(truncated)?;
        if blake3::keyed_hash(keys.config_mac(), covered) != *mac {
            return Err(FormatError::Unauthentic);
        }
        Ok(())
    }

    /// Whether this program may do `operation`: it must know every feature listed for it.
    ///
    /// # Errors
    ///
    /// [`FormatError::UnknownFeature`], the first one.
    pub fn permits(&self, operation: Operation) -> Result<(), FormatError> {
        let features = Operation::ALL
            .iter()
            .zip(&self.features)
            .find(|(of, _)| **of == operation)
            .map_or(&[][..], |(_, features)| features);
        match features.iter().find(|feature| !KNOWN_FEATURES.contains(&feature.as_str())) {
            None => Ok(()),
            Some(feature) => Err(FormatError::UnknownFeature {
                feature: feature.clone(),
                operation: operation.name(),
            }),
        }
    }
}

/// Packs and segments are in another place than everything else. Whoever took either place for the
/// whole would take what is in the other for lost, or for left-overs.
const SPLIT: &str = "split";

/// Features beyond version 1 that this program has.
const KNOWN_FEATURES: &[&str] = &[SPLIT];

fn read_features(reader: &mut Reader<'_>) -> Result<Vec<String>, FormatError> {
    let count = reader.count(FEATURES_MAX, 1, "features")?;
    (0..count).map(|_| reader.text(FEATURE_BYTES_MAX, "name of a feature")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, REPOSITORY, keys, other_keys};

    fn config() -> Config {
        Config {
            features: [vec!["a".into()], vec![], vec!["b".into(), "c".into()]],
            ..Config::new(REPOSITORY, 1_700_000_000)
        }
    }

    /// As a program of another version would write it: with a checksum that fits.
    fn with_version(version: u16) -> Vec<u8> {
        let mut bytes = config().encode(&keys());
        bytes[8..10].copy_from_slice(&version.to_le_bytes());
        bytes.truncate(bytes.len() - CHECKSUM_LEN);
        let checksum = checksum(&bytes);
        [bytes.as_slice(), &checksum].concat()
    }

    #[test]
    fn a_config_is_read_back_as_it_was() {
        let bytes = config().encode(&keys());
        assert_eq!(Config::decode(&bytes).unwrap(), config());
        Config::authenticate(&bytes, &keys()).unwrap();
    }

    #[test]
    fn a_split_repository_is_known_by_its_config() {
        let mut config = Config::new(REPOSITORY, 0);
        assert!(!config.is_split());
        config.split();
        let config = Config::decode(&config.encode(&keys())).unwrap();
        assert!(config.is_split());
        for operation in Operation::ALL {
            config.permits(operation).unwrap();
        }
    }

    #[test]
    fn damage_to_a_config_is_never_taken_for_a_newer_version() {
        let bytes = config().encode(&keys());
        testing::refuses_damage(&bytes, Config::decode);
        for (damage, bytes) in testing::damaged(&bytes) {
            let error = Config::decode(&bytes).unwrap_err();
            assert!(!matches!(error, FormatError::NewerVersion { .. }), "{damage}: {error}");
        }
    }

    #[test]
    fn a_newer_config_is_not_taken_for_damage() {
        let expected = FormatError::NewerVersion { found: 2, supported: 1 };
        assert_eq!(Config::decode(&with_version(2)), Err(expected));
        assert!(Config::decode(&with_version(0)).is_err());
        assert!(Config::decode(&with_version(1)).is_ok());
    }

    #[test]
    fn a_forged_config_is_not_taken_for_ours() {
        let forged = config().encode(&other_keys());
        assert_eq!(Config::decode(&forged).unwrap(), config());
        assert_eq!(Config::authenticate(&forged, &keys()), Err(FormatError::Unauthentic));
        for len in 0..CHECKSUM_LEN + 32 {
            assert!(Config::authenticate(&forged[..len], &keys()).is_err());
        }
    }

    #[test]
    fn something_else_is_not_taken_for_a_damaged_config() {
        let expected = FormatError::BadMagic { expected: "Salvor repository's config" };
        assert_eq!(Config::decode(&[0; 100]), Err(expected));
    }

    #[test]
    fn an_unknown_feature_forbids_only_what_it_concerns() {
        let forbidden = |operation| config().permits(operation).is_err();
        assert!(forbidden(Operation::Read));
        assert!(!forbidden(Operation::Write));
        assert!(forbidden(Operation::Maintain));
        assert_eq!(
            config().permits(Operation::Maintain).unwrap_err().to_string(),
            "it needs the feature `b` to maintain it, which this program does not have. \
             Use a newer salvor"
        );
    }

    #[test]
    fn sizes_that_the_chunker_cannot_work_with_are_refused() {
        let sizes = |min, avg, max| ChunkSizes { min, avg, max };
        for file_chunks in [
            sizes(0, 0, 0),
            sizes(65, 256, 1024),
            sizes(64, 300, 1024),
            sizes(64, 256, 257),
            sizes(256, 256, 1024),
            sizes(64, 8 << 20, 16 << 20),
            sizes(64, 256, (16 << 20) + 2),
        ] {
            let config = Config { file_chunks, ..config() };
            assert!(Config::decode(&config.encode(&keys())).is_err(), "{file_chunks:?}");
        }
    }
}
