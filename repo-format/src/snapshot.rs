//! A snapshot's record: what was saved, when, how completely, and where its manifest starts.

use crate::bytes::{Put, Reader, cut, len_u64, to_usize};
use crate::error::{FormatError, check_record_version};
use crate::id::{ChunkId, ClusterId, SessionId, SnapshotId};
use crate::limits::{ISSUES_MAX, RECORD_VERSION, TAGS_MAX, TEXT_BYTES_MAX};

/// What kind of manifest a snapshot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeKind {
    /// A block device or raw image: [`crate::volume::VolumeRoot`].
    Block,
    /// A directory tree: [`crate::tree::TreeRoot`].
    Tree,
}

/// How much of the source a snapshot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completeness {
    /// All of it.
    Complete,
    /// All but what its issues name.
    Incomplete,
    /// What a run had saved when it was last safe to stop. The next run of the same volume goes on
    /// from here; its commit forgets this.
    Checkpoint,
}

/// Something that could not be saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// The path, or the extent of a volume.
    pub what: String,
    /// Why.
    pub why: String,
}

/// Issues kept by name; more are only counted.
pub const ISSUES_KEPT: usize = to_usize(ISSUES_MAX);

/// Sizes of a snapshot, in bytes unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Length of the volume, or the sum of its files.
    pub logical: u64,
    /// Without holes.
    pub allocated: u64,
    /// Read from the source by this run.
    pub read: u64,
    /// Plain bytes that were new to the repository.
    pub new_plain: u64,
    /// What those take when stored.
    pub new_stored: u64,
    /// Files, directories and so on; 0 for a block volume.
    pub entries: u64,
}

/// One snapshot. Texts over [`TEXT_BYTES_MAX`] and lists over their limits are cut when it is
/// encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The session that committed it.
    pub id: SnapshotId,
    /// Whose it is. Another cluster's snapshots are never deleted unless adopted.
    pub cluster: ClusterId,
    /// Kind of manifest.
    pub kind: VolumeKind,
    /// Completeness.
    pub completeness: Completeness,
    /// Name of the volume: snapshots of one name form a series.
    pub name: String,
    /// Machine that made it.
    pub host: String,
    /// Path it was read from.
    pub source: String,
    /// Labels, ascending by key.
    pub tags: Vec<(String, String)>,
    /// When reading began, in nanoseconds since 1970 by the maker's clock. For people and
    /// retention; nothing's safety depends on it.
    pub started_ns: i64,
    /// When it was committed, likewise.
    pub finished_ns: i64,
    /// Root of its manifest, a metadata chunk; [`ChunkId::NONE`] for a checkpoint that has none.
    pub root: ChunkId,
    /// For a checkpoint: the session whose indexed packs are kept whole while it is listed, so
    /// that what a killed run stored is there for the next.
    pub holds: Option<SessionId>,
    /// The snapshot it was compared with.
    pub parent: Option<SnapshotId>,
    /// Sizes.
    pub sizes: Sizes,
    /// Issues in all.
    pub issue_count: u64,
    /// The first [`ISSUES_KEPT`] of them.
    pub issues: Vec<Issue>,
    /// Version of the program that made it.
    pub program: String,
}

impl Snapshot {
    /// A complete snapshot of `name` with this manifest, and nothing else said of it.
    pub fn new(name: impl Into<String>, kind: VolumeKind, root: ChunkId) -> Self {
        Self {
            id: SnapshotId::NONE,
            cluster: ClusterId::NONE,
            kind,
            completeness: Completeness::Complete,
            name: name.into(),
            host: String::new(),
            source: String::new(),
            tags: Vec::new(),
            started_ns: 0,
            finished_ns: 0,
            root,
            holds: None,
            parent: None,
            sizes: Sizes::default(),
            issue_count: 0,
            issues: Vec::new(),
            program: String::new(),
        }
    }

    /// Bytes of the shortest record.
    pub(crate) const LEN_MIN: usize = 128;

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.u8(RECORD_VERSION);
        out.raw(self.id.as_bytes());
        out.raw(self.cluster.as_bytes());
        out.u8(match self.kind {
            VolumeKind::Block => 0,
            VolumeKind::Tree => 1,
        });
        out.u8(match self.completeness {
            Completeness::Complete => 0,
            Completeness::Incomplete => 1,
            Completeness::Checkpoint => 2,
        });
        for text in [&self.name, &self.host, &self.source, &self.program] {
            out.text(text);
        }
        let tags = self.tags.iter().take(to_usize(TAGS_MAX));
        let mut tags: Vec<_> = tags.map(|(key, value)| (cut(key), cut(value))).collect();
        tags.sort_unstable();
        put_pairs(out, tags.into_iter());
        out.i64(self.started_ns);
        out.i64(self.finished_ns);
        out.raw(self.root.as_bytes());
        for id in [self.holds, self.parent] {
            out.raw(id.unwrap_or(SnapshotId::NONE).as_bytes());
        }
        let sizes = &self.sizes;
        for size in [
            sizes.logical,
            sizes.allocated,
            sizes.read,
            sizes.new_plain,
            sizes.new_stored,
            sizes.entries,
            self.issue_count,
        ] {
            out.varint(size);
        }
        let issues = self.issues.iter().take(ISSUES_KEPT);
        put_pairs(out, issues.map(|issue| (issue.what.as_str(), issue.why.as_str())));
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        check_record_version(reader.u8()?)?;
        let id = SnapshotId::from_bytes(reader.array()?);
        let cluster = ClusterId(reader.array()?);
        let kind = match reader.u8()? {
            0 => VolumeKind::Block,
            1 => VolumeKind::Tree,
            _ => return Err(FormatError::Inconsistent { what: "kind of a snapshot" }),
        };
        let completeness = match reader.u8()? {
            0 => Completeness::Complete,
            1 => Completeness::Incomplete,
            2 => Completeness::Checkpoint,
            _ => return Err(FormatError::Inconsistent { what: "completeness of a snapshot" }),
        };
        let mut text = |what| reader.text(TEXT_BYTES_MAX, what);
        let [name, host, source, program] =
            [text("name")?, text("host")?, text("source")?, text("program")?];
        let tags = read_pairs(reader, TAGS_MAX, "tags")?;
        if !tags.is_sorted() {
            return Err(FormatError::Inconsistent { what: "order of tags" });
        }
        let started_ns = reader.i64()?;
        let finished_ns = reader.i64()?;
        let root = ChunkId(reader.array()?);
        let mut optional_id =
            || Ok(Some(SessionId(reader.array()?)).filter(|id| *id != SessionId::NONE));
        let [holds, parent] = [optional_id()?, optional_id()?];
        let sizes = Sizes {
            logical: reader.varint()?,
            allocated: reader.varint()?,
            read: reader.varint()?,
            new_plain: reader.varint()?,
            new_stored: reader.varint()?,
            entries: reader.varint()?,
        };
        let issue_count = reader.varint()?;
        let issues = read_pairs(reader, ISSUES_MAX, "issues")?
            .into_iter()
            .map(|(what, why)| Issue { what, why })
            .collect();
        Ok(Self {
            id,
            cluster,
            kind,
            completeness,
            name,
            host,
            source,
            tags,
            started_ns,
            finished_ns,
            root,
            holds,
            parent,
            sizes,
            issue_count,
            issues,
            program,
        })
    }
}

fn put_pairs<'a>(out: &mut Vec<u8>, pairs: impl ExactSizeIterator<Item = (&'a str, &'a str)>) {
    out.varint(len_u64(pairs.len()));
    for (one, other) in pairs {
        out.text(one);
        out.text(other);
    }
}

fn read_pairs(
    reader: &mut Reader<'_>,
    limit: u64,
    what: &'static str,
) -> Result<Vec<(String, String)>, FormatError> {
    let count = reader.count(limit, 2, what)?;
    (0..count)
        .map(|_| Ok((reader.text(TEXT_BYTES_MAX, what)?, reader.text(TEXT_BYTES_MAX, what)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    fn encode(snapshot: &Snapshot) -> Vec<u8> {
        let mut out = Vec::new();
        snapshot.put(&mut out);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Snapshot, FormatError> {
        let mut reader = Reader::new(bytes, "snapshot");
        let snapshot = Snapshot::read(&mut reader)?;
        reader.finish().map(|()| snapshot)
    }

    fn shortest() -> Snapshot {
        Snapshot::new("", VolumeKind::Tree, ChunkId::NONE)
    }

    proptest! {
        #[test]
        fn a_snapshot_is_read_back_as_it_was(snapshot in testing::snapshot()) {
            prop_assert_eq!(decode(&encode(&snapshot)).unwrap(), snapshot);
        }
    }

    #[test]
    fn a_damaged_snapshot_is_refused_or_another_snapshot() {
        let snapshot = Snapshot {
            name: "disk".into(),
            tags: vec![("app".into(), "db".into()), ("app".into(), "web".into())],
            issues: vec![Issue { what: "a/b".into(), why: "EIO".into() }],
            parent: Some(SessionId([3; 16])),
            ..shortest()
        };
        testing::refuses_damage_or_is_canonical(&encode(&snapshot), decode, encode);
    }

    #[test]
    fn no_snapshot_is_shorter_than_its_smallest_count_assumes() {
        assert_eq!(encode(&shortest()).len(), Snapshot::LEN_MIN);
    }

    #[test]
    fn whatever_a_snapshot_says_it_can_be_read_back() {
        let long = "ü".repeat(4096);
        let snapshot = Snapshot {
            name: long.clone(),
            source: long.clone(),
            tags: (0..2000).rev().map(|n| (n.to_string(), long.clone())).collect(),
            issues: vec![Issue { what: long.clone(), why: long }; 2000],
            ..shortest()
        };
        let read = decode(&encode(&snapshot)).unwrap();
        assert_eq!(read.name, "ü".repeat(2048));
        assert_eq!(read.issues.len(), ISSUES_KEPT);
        assert!(read.tags.is_sorted());
        assert_eq!(encode(&read), encode(&decode(&encode(&read)).unwrap()));
    }
}
