//! What the tests of several modules share.

use proptest::prelude::*;

use crate::error::FormatError;
use crate::id::{ChunkId, ClusterId, ObjectName, RepositoryId, SessionId};
use crate::keys::{KeyBundle, Keys, Secret};
use crate::session::SegmentRef;
use crate::snapshot::{Completeness, Issue, Sizes, Snapshot, VolumeKind};

pub(crate) const REPOSITORY: RepositoryId = RepositoryId([0xa1; 16]);
pub(crate) const SALT: [u8; 32] = [0x5a; 32];

pub(crate) fn bundle(first: u8) -> KeyBundle {
    KeyBundle::new(Secret::new([first; 32]), Secret::new([first ^ 0xff; 32]))
}

pub(crate) fn keys() -> Keys {
    Keys::new(&bundle(1))
}

/// Keys that fit nothing of [`keys`].
pub(crate) fn other_keys() -> Keys {
    Keys::new(&bundle(2))
}

pub(crate) fn name(counter: u32) -> ObjectName {
    ObjectName { session: SessionId([0x77; 16]), counter }
}

/// Pseudo-random bytes, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// `bytes` with every single bit flipped, cut at every length, and with a byte too many.
pub(crate) fn damaged(bytes: &[u8]) -> impl Iterator<Item = (String, Vec<u8>)> {
    let flips = (0..bytes.len() * 8).map(|bit| {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        (format!("bit {} of byte {}", bit % 8, bit / 8), flipped)
    });
    let cuts = (0..bytes.len()).map(|len| (format!("cut to {len}"), bytes[..len].to_vec()));
    let longer = [0u8, 1, 0xff].map(|last| (format!("{last} behind"), [bytes, &[last]].concat()));
    flips.chain(cuts).chain(longer)
}

/// Every damage to `bytes` is an error.
pub(crate) fn refuses_damage<T: std::fmt::Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, FormatError>,
) {
    for (damage, bytes) in damaged(bytes) {
        if let Ok(decoded) = decode(&bytes) {
            panic!("{damage} was not noticed: {decoded:?}");
        }
    }
}

/// Every damage to `bytes` is an error or gives something else that has these very bytes: there
/// are no two encodings of one thing.
pub(crate) fn refuses_damage_or_is_canonical<T: std::fmt::Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, FormatError>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    for (damage, bytes) in damaged(bytes) {
        if let Ok(decoded) = decode(&bytes) {
            assert_eq!(encode(&decoded), bytes, "{damage}: {decoded:?}");
        }
    }
}

pub(crate) fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>(), 0..12).prop_map(|chars| chars.into_iter().collect())
}

pub(crate) fn session_id() -> impl Strategy<Value = SessionId> {
    any::<[u8; 16]>().prop_map(SessionId)
}

pub(crate) fn object_name() -> impl Strategy<Value = ObjectName> {
    (session_id(), any::<u32>()).prop_map(|(session, counter)| ObjectName { session, counter })
}

pub(crate) fn chunk_id() -> impl Strategy<Value = ChunkId> {
    any::<[u8; 32]>().prop_map(ChunkId)
}

pub(crate) fn segment_ref() -> impl Strategy<Value = SegmentRef> {
    (object_name(), any::<u64>(), any::<u32>(), any::<u64>())
        .prop_map(|(name, entries, packs, bytes)| SegmentRef { name, entries, packs, bytes })
}

pub(crate) fn snapshot() -> impl Strategy<Value = Snapshot> {
    let kind = prop_oneof![Just(VolumeKind::Block), Just(VolumeKind::Tree)];
    let completeness = prop_oneof![
        Just(Completeness::Complete),
        Just(Completeness::Incomplete),
        Just(Completeness::Checkpoint)
    ];
    let tags = proptest::collection::vec((text(), text()), 0..4).prop_map(|mut tags| {
        tags.sort();
        tags
    });
    let issue = (text(), text()).prop_map(|(what, why)| Issue { what, why });
    let who = (session_id(), any::<[u8; 16]>(), [text(), text(), text(), text()], tags);
    let what = (kind, completeness, chunk_id(), other_than_none(), other_than_none());
    let numbers = (any::<[i64; 2]>(), any::<[u64; 7]>());
    let issues = proptest::collection::vec(issue, 0..4);
    (who, what, numbers, issues).prop_map(|(who, what, (times, numbers), issues)| {
        let [name, host, source, program] = who.2;
        let [logical, allocated, read, new_plain, new_stored, entries, issue_count] = numbers;
        Snapshot {
            id: who.0,
            cluster: ClusterId(who.1),
            kind: what.0,
            completeness: what.1,
            name,
            host,
            source,
            tags: who.3,
            started_ns: times[0],
            finished_ns: times[1],
            root: what.2,
            holds: what.3,
            parent: what.4,
            sizes: Sizes { logical, allocated, read, new_plain, new_stored, entries },
            issue_count,
            issues,
            program,
        }
    })
}

fn other_than_none() -> impl Strategy<Value = Option<SessionId>> {
    proptest::option::of(session_id()).prop_map(|id| id.filter(|id| *id != SessionId::NONE))
}
