//! The typed name of every stored object, and its path in the store.

use std::fmt;
use std::str::FromStr;

use crate::error::FormatError;
use crate::id::{ObjectName, PackName, SegmentName, SessionId, SlotId, parse_hex};

/// Names one stored object. `Display` gives its path below the repository's root and `FromStr`
/// reads exactly such paths back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// What the repository is; written once at `init`.
    Config,
    /// One key slot.
    KeySlot(SlotId),
    /// Catalog version `n`. Its path counts downwards, so that the newest is listed first.
    Catalog(u64),
    /// A page of the catalog, made for the catalog version `n` and no other writer's.
    CatalogPage {
        /// The catalog version its maker tried to create.
        n: u64,
        /// Random, so that two makers never write one name.
        nonce: u64,
    },
    /// A session's opening record.
    Session(SessionId),
    /// A session's write-once register: commit or fence.
    Commit(SessionId),
    /// A session's heartbeat, the one object that is rewritten.
    Heartbeat(SessionId),
    /// A pack of chunks.
    Pack(PackName),
    /// A segment of the index.
    Segment(SegmentName),
}

/// A set of objects that can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named after the kinds of `ObjectKey`")]
pub enum Prefix {
    KeySlots,
    Catalogs,
    CatalogPages,
    Sessions,
    Commits,
    Heartbeats,
    Packs,
    Segments,
}

impl Prefix {
    /// Every prefix, in the order of [`ObjectKey`]'s kinds.
    pub const ALL: [Self; 8] = [
        Self::KeySlots,
        Self::Catalogs,
        Self::CatalogPages,
        Self::Sessions,
        Self::Commits,
        Self::Heartbeats,
        Self::Packs,
        Self::Segments,
    ];

    /// The folder that holds these objects, without a slash.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::KeySlots => "keys",
            Self::Catalogs => "cat",
            Self::CatalogPages => "cpg",
            Self::Sessions => "ses",
            Self::Commits => "com",
            Self::Heartbeats => "hb",
            Self::Packs => "p",
            Self::Segments => "x",
        }
    }
}

/// The fan-out folder of a pack: two hexadecimal digits, spread evenly whatever the session.
pub fn pack_fan_out(name: &PackName) -> u8 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(name.session.as_bytes()).update(&name.counter.to_le_bytes());
    hasher.finalize().as_bytes()[0]
}

impl ObjectKey {
    /// The prefix this object is listed under; `None` for the config.
    pub const fn prefix(&self) -> Option<Prefix> {
        Some(match self {
            Self::Config => return None,
            Self::KeySlot(_) => Prefix::KeySlots,
            Self::Catalog(_) => Prefix::Catalogs,
            Self::CatalogPage { .. } => Prefix::CatalogPages,
            Self::Session(_) => Prefix::Sessions,
            Self::Commit(_) => Prefix::Commits,
            Self::Heartbeat(_) => Prefix::Heartbeats,
            Self::Pack(_) => Prefix::Packs,
            Self::Segment(_) => Prefix::Segments,
        })
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("config"),
            Self::KeySlot(id) => write!(f, "keys/{id}"),
            Self::Catalog(n) => write!(f, "cat/{:016x}", u64::MAX - n),
            Self::CatalogPage { n, nonce } => write!(f, "cpg/{n:016x}-{nonce:016x}"),
            Self::Session(id) => write!(f, "ses/{id}"),
            Self::Commit(id) => write!(f, "com/{id}"),
            Self::Heartbeat(id) => write!(f, "hb/{id}"),
            Self::Pack(name) => write!(f, "p/{:02x}/{name}", pack_fan_out(name)),
            Self::Segment(name) => write!(f, "x/{name}"),
        }
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for ObjectKey {
    type Err = FormatError;

    fn from_str(path: &str) -> Result<Self, FormatError> {
        if path == "config" {
            return Ok(Self::Config);
        }
        let (folder, name) = path.split_once('/').ok_or(FormatError::BadName)?;
        match folder {
            "keys" => name.parse().map(Self::KeySlot),
            "cat" => hex_u64(name).map(|inverted| Self::Catalog(u64::MAX - inverted)),
            "cpg" => {
                let (n, nonce) = name.split_once('-').ok_or(FormatError::BadName)?;
                Ok(Self::CatalogPage { n: hex_u64(n)?, nonce: hex_u64(nonce)? })
            }
            "ses" => name.parse().map(Self::Session),
            "com" => name.parse().map(Self::Commit),
            "hb" => name.parse().map(Self::Heartbeat),
            "x" => name.parse().map(Self::Segment),
            "p" => {
                let (fan_out, name) = name.split_once('/').ok_or(FormatError::BadName)?;
                let name: ObjectName = name.parse()?;
                let fits = parse_hex(fan_out) == Some([pack_fan_out(&name)]);
                if fits { Ok(Self::Pack(name)) } else { Err(FormatError::BadName) }
            }
            _ => Err(FormatError::BadName),
        }
    }
}

fn hex_u64(text: &str) -> Result<u64, FormatError> {
    parse_hex(text).map(u64::from_be_bytes).ok_or(FormatError::BadName)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<ObjectKey> {
        let name = ObjectName { session: SessionId([7; 16]), counter: 9 };
        vec![
            ObjectKey::Config,
            ObjectKey::KeySlot(SlotId([1; 16])),
            ObjectKey::Catalog(5),
            ObjectKey::CatalogPage { n: 5, nonce: 6 },
            ObjectKey::Session(SessionId([2; 16])),
            ObjectKey::Commit(SessionId([3; 16])),
            ObjectKey::Heartbeat(SessionId([4; 16])),
            ObjectKey::Pack(name),
            ObjectKey::Segment(name),
        ]
    }

    #[test]
    fn every_key_is_read_back_from_its_path() {
        for key in one_of_each() {
            assert_eq!(key.to_string().parse::<ObjectKey>().unwrap(), key);
        }
    }

    #[test]
    fn every_key_lies_in_the_folder_of_its_prefix() {
        for key in one_of_each() {
            let Some(prefix) = key.prefix() else { continue };
            assert!(key.to_string().starts_with(&format!("{}/", prefix.folder())));
        }
    }

    #[test]
    fn a_newer_catalog_is_listed_before_an_older_one() {
        assert!(ObjectKey::Catalog(10).to_string() < ObjectKey::Catalog(9).to_string());
    }

    #[test]
    fn a_pack_in_the_wrong_fan_out_folder_is_no_pack() {
        let name = ObjectName { session: SessionId([7; 16]), counter: 9 };
        let wrong = format!("p/{:02x}/{name}", pack_fan_out(&name).wrapping_add(1));
        assert_eq!(wrong.parse::<ObjectKey>(), Err(FormatError::BadName));
    }
}
