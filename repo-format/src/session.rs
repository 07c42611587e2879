//! A session: a process's stay in the repository, and the write-once register that ends it.

use crate::bytes::{Put, Reader, len_u64};
use crate::error::FormatError;
use crate::id::{ClusterId, ObjectName, SegmentName, SessionId, SnapshotId};
use crate::limits::TEXT_BYTES_MAX;
use crate::snapshot::Snapshot;

const VERSION: u8 = 1;
const SEGMENTS_MAX: u64 = 65_536;
const FORGETS_MAX: u64 = 65_536;

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    /// Writes chunks: a backup, or a repack.
    Writer,
    /// Reads one snapshot, which garbage collection keeps meanwhile.
    Reader,
}

/// The process behind a session, so that a maintainer on the same machine can tell at once that
/// it is dead. Only liveness depends on it: a wrong answer costs a writer one checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// Host name, for people.
    pub host: String,
    /// The kernel's boot id; empty if unknown.
    pub boot_id: String,
    /// Inode of the PID namespace; 0 if unknown.
    pub pid_namespace: u64,
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot, which tells a reused pid.
    pub start_ticks: u64,
}

/// `ses/<sid>`: acknowledged before the session reads the catalog it works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What for.
    pub kind: SessionKind,
    /// Number of the newest catalog before the session was opened. A verdict on what was
    /// condemned after `base` waits for this session.
    pub base: u64,
    /// The snapshot that a reader holds.
    pub pinned: Option<SnapshotId>,
    /// Whose session.
    pub cluster: ClusterId,
    /// The process.
    pub process: Process,
    /// Seconds since 1970, for people.
    pub opened_s: u64,
}

impl Session {
    /// The record's plain bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.u8(match self.kind {
            SessionKind::Writer => 0,
            SessionKind::Reader => 1,
        });
        out.u64(self.base);
        out.u8(self.pinned.is_some().into());
        out.raw(self.pinned.unwrap_or(SnapshotId::NONE).as_bytes());
        out.raw(self.cluster.as_bytes());
        out.blob(self.process.host.as_bytes());
        out.blob(self.process.boot_id.as_bytes());
        out.u64(self.process.pid_namespace);
        out.u32(self.process.pid);
        out.u64(self.process.start_ticks);
        out.u64(self.opened_s);
        out
    }

    /// Decodes the record.
    ///
    /// # Errors
    ///
    /// Any [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes, "session");
        check_version(reader.u8()?)?;
        let kind = match reader.u8()? {
            0 => SessionKind::Writer,
            1 => SessionKind::Reader,
            _ => return Err(FormatError::Inconsistent { what: "kind of a session" }),
        };
        let base = reader.u64()?;
        let has_pin = reader.u8()? != 0;
        let pinned = Some(SnapshotId::from_bytes(reader.array()?)).filter(|_| has_pin);
        let cluster = ClusterId(reader.array()?);
        let process = Process {
            host: reader.text(TEXT_BYTES_MAX, "host")?,
            boot_id: reader.text(TEXT_BYTES_MAX, "boot id")?,
            pid_namespace: reader.u64()?,
            pid: reader.u32()?,
            start_ticks: reader.u64()?,
        };
        let opened_s = reader.u64()?;
        reader.finish()?;
        Ok(Self { kind, base, pinned, cluster, process, opened_s })
    }
}

/// A segment as commits and catalogs list it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentRef {
    /// The segment.
    pub name: SegmentName,
    /// Index entries in it.
    pub entries: u64,
    /// Packs in its table.
    pub packs: u32,
    /// Length of the object.
    pub bytes: u64,
}

impl SegmentRef {
    /// Bytes of one encoded row.
    pub(crate) const LEN: usize = 16 + 4 + 8 + 4 + 8;

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_name(out, &self.name);
        out.u64(self.entries);
        out.u32(self.packs);
        out.u64(self.bytes);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            name: read_name(reader)?,
            entries: reader.u64()?,
            packs: reader.u32()?,
            bytes: reader.u64()?,
        })
    }
}

pub(crate) fn put_name(out: &mut Vec<u8>, name: &ObjectName) {
    out.raw(name.session.as_bytes());
    out.u32(name.counter);
}

pub(crate) fn read_name(reader: &mut Reader<'_>) -> Result<ObjectName, FormatError> {
    Ok(ObjectName { session: SessionId(reader.array()?), counter: reader.u32()? })
}

/// What a session's commit makes visible, all at once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Commit {
    /// Random: tells one's own commit from another's after a lost reply.
    pub nonce: [u8; 16],
    /// The segments that index the session's packs.
    pub segments: Vec<SegmentRef>,
    /// The snapshot; `None` for a repack.
    pub snapshot: Option<Snapshot>,
    /// Snapshots forgotten when this is folded: the checkpoints that the snapshot supersedes.
    pub forgets: Vec<SnapshotId>,
}

impl Commit {
    /// The record's plain bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.raw(&self.nonce);
        out.varint(len_u64(self.segments.len()));
        for segment in &self.segments {
            segment.put(&mut out);
        }
        out.varint(len_u64(self.forgets.len()));
        for id in &self.forgets {
            out.raw(id.as_bytes());
        }
        out.u8(self.snapshot.is_some().into());
        if let Some(snapshot) = &self.snapshot {
            snapshot.put(&mut out);
        }
        out
    }

    /// Decodes the record.
    ///
    /// # Errors
    ///
    /// Any [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes, "commit");
        check_version(reader.u8()?)?;
        let nonce = reader.array()?;
        let count = reader.count(SEGMENTS_MAX, SegmentRef::LEN, "segments of a commit")?;
        let segments =
            (0..count).map(|_| SegmentRef::read(&mut reader)).collect::<Result<_, _>>()?;
        let count = reader.count(FORGETS_MAX, SnapshotId::LEN, "forgotten snapshots")?;
        let forgets = (0..count)
            .map(|_| reader.array().map(SnapshotId::from_bytes))
            .collect::<Result<_, _>>()?;
        let snapshot = match reader.u8()? {
            0 => None,
            _ => Some(Snapshot::read(&mut reader)?),
        };
        reader.finish()?;
        Ok(Self { nonce, segments, snapshot, forgets })
    }
}

/// The content of `com/<sid>` that ends a session without a commit. Whatever is in the register
/// and is no valid commit counts as a fence: a hostile writer can force a retry, never a loss.
pub const FENCE: &[u8; 16] = b"SALVOR FENCE v1\n";

fn check_version(version: u8) -> Result<(), FormatError> {
    if version > VERSION {
        return Err(FormatError::NewerVersion { found: version.into(), supported: VERSION.into() });
    }
    Ok(())
}
