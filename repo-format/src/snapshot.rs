//! A snapshot's record: what was saved, when, how completely, and where its manifest starts.

use crate::bytes::{Put, Reader, len_u64};
use crate::error::FormatError;
use crate::id::{ChunkId, ClusterId, SnapshotId};
use crate::limits::{TAGS_MAX, TEXT_BYTES_MAX};

const VERSION: u8 = 1;

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
pub const ISSUES_KEPT: usize = 1000;

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

/// One snapshot.
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
    /// Root of its manifest, a metadata chunk.
    pub root: ChunkId,
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
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.u8(VERSION);
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
            out.blob(text.as_bytes());
        }
        out.varint(len_u64(self.tags.len()));
        for (key, value) in &self.tags {
            out.blob(key.as_bytes());
            out.blob(value.as_bytes());
        }
        out.i64(self.started_ns);
        out.i64(self.finished_ns);
        out.raw(self.root.as_bytes());
        out.u8(self.parent.is_some().into());
        out.raw(self.parent.unwrap_or(SnapshotId::NONE).as_bytes());
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
        out.varint(len_u64(self.issues.len()));
        for issue in &self.issues {
            out.blob(issue.what.as_bytes());
            out.blob(issue.why.as_bytes());
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let version = reader.u8()?;
        if version > VERSION {
            let (found, supported) = (version.into(), VERSION.into());
            return Err(FormatError::NewerVersion { found, supported });
        }
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
        let started_ns = reader.i64()?;
        let finished_ns = reader.i64()?;
        let root = ChunkId(reader.array()?);
        let has_parent = reader.u8()? != 0;
        let parent = Some(SnapshotId::from_bytes(reader.array()?)).filter(|_| has_parent);
        let sizes = Sizes {
            logical: reader.varint()?,
            allocated: reader.varint()?,
            read: reader.varint()?,
            new_plain: reader.varint()?,
            new_stored: reader.varint()?,
            entries: reader.varint()?,
        };
        let issue_count = reader.varint()?;
        let issues = read_pairs(reader, len_u64(ISSUES_KEPT), "issues")?
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
            parent,
            sizes,
            issue_count,
            issues,
            program,
        })
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
