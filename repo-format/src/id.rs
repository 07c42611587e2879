//! The names of things: every identifier is its own type, so that one cannot stand in for another.

use std::fmt;
use std::str::FromStr;

use crate::error::FormatError;

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length of the identifier in bytes.
            pub const LEN: usize = $len;

            /// All zeroes: stands for "none" in stored records.
            pub const NONE: Self = Self([0; $len]);

            /// An identifier from its bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The identifier's bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = FormatError;

            /// Parses exactly twice as many lower-case hexadecimal digits as the id has bytes.
            fn from_str(text: &str) -> Result<Self, FormatError> {
                parse_hex(text).map(Self).ok_or(FormatError::BadName)
            }
        }
    };
}

id_type!(
    /// One repository, drawn at `init`; part of the AAD of nothing that may be copied elsewhere.
    RepositoryId, 16
);
id_type!(
    /// Keyed BLAKE3-256 of a chunk's plain bytes, under the id key of its [`crate::pack::PackKind`].
    ChunkId, 32
);
id_type!(
    /// One writer's (or reader's) stay in a repository: 16 random bytes, never used twice.
    SessionId, 16
);
id_type!(
    /// One key slot.
    SlotId, 16
);
id_type!(
    /// The cluster or machine a snapshot was made for.
    ClusterId, 16
);

impl ClusterId {
    /// The id of the cluster that people call `name`. A UUID, such as that of the namespace
    /// kube-system, is its own id.
    pub fn of_name(name: &str) -> Self {
        let digits: String = name.chars().filter(|c| *c != '-').collect();
        if let Ok(id) = digits.to_ascii_lowercase().parse() {
            return id;
        }
        let [low @ .., _] = blake3::derive_key("salvor v1 cluster", name.as_bytes())
            .first_chunk::<17>()
            .copied()
            .unwrap_or_default();
        Self(low)
    }
}

/// A snapshot is named by the session whose commit made it.
pub type SnapshotId = SessionId;

impl ChunkId {
    /// The prefix that index entries hold. 24 bytes leave 2^96 work to someone who holds the id
    /// key and looks for a collision; all 32 bytes are checked when a chunk is opened.
    pub fn prefix(&self) -> [u8; CHUNK_PREFIX_LEN] {
        let mut prefix = [0; CHUNK_PREFIX_LEN];
        prefix.copy_from_slice(&self.0[..CHUNK_PREFIX_LEN]);
        prefix
    }
}

/// Bytes of a chunk id that an index entry holds.
pub const CHUNK_PREFIX_LEN: usize = 24;

/// An object written by a session: its id and a counter that starts at 0 and never repeats.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The session that wrote the object.
    pub session: SessionId,
    /// Unique among the objects of one kind of that session.
    pub counter: u32,
}

/// The name of a pack.
pub type PackName = ObjectName;
/// The name of an index segment.
pub type SegmentName = ObjectName;

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:08x}", self.session, self.counter)
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for ObjectName {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let (session, counter) = text.split_once('-').ok_or(FormatError::BadName)?;
        let counter = parse_hex(counter).map(u32::from_be_bytes).ok_or(FormatError::BadName)?;
        Ok(Self { session: session.parse()?, counter })
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Exactly `2 * N` lower-case hexadecimal digits, or nothing.
pub(crate) fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0u8; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = hex_digit(*pair.first()?)? << 4 | hex_digit(*pair.get(1)?)?;
    }
    Some(bytes)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_as_it_was_written_and_nothing_else_is_read() {
        let name = ObjectName { session: SessionId([0xab; 16]), counter: 0x0102_0304 };
        let text = name.to_string();
        assert_eq!(text, format!("{}-01020304", "ab".repeat(16)));
        assert_eq!(text.parse::<ObjectName>().unwrap(), name);
        for wrong in ["", "-", &text.to_uppercase(), &text[1..], &format!("{text}0")] {
            assert!(wrong.parse::<ObjectName>().is_err(), "{wrong} was taken for a name");
        }
    }
}
