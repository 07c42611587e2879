//! A session: a process's stay in the repository, and the write-once register that ends it.

use crate::bytes::{Put, Reader, len_u64};
use crate::error::{FormatError, check_record_version};
use crate::id::{ClusterId, ObjectName, SegmentName, SessionId, SnapshotId};
use crate::limits::{COMMIT_FORGETS_MAX, COMMIT_SEGMENTS_MAX, RECORD_VERSION, TEXT_BYTES_MAX};
use crate::snapshot::Snapshot;

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
    /// The main session a part of whose work this one commits. While this one is open, nothing
    /// that main stored is a left-over.
    pub part_of: Option<SessionId>,
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
        let mut out = vec![RECORD_VERSION];
        out.u8(match self.kind {
            SessionKind::Writer => 0,
            SessionKind::Reader => 1,
        });
        out.u64(self.base);
        out.optional(self.pinned.as_ref().map(SnapshotId::as_bytes));
        out.optional(self.part_of.as_ref().map(SessionId::as_bytes));
        out.raw(self.cluster.as_bytes());
        out.text(&self.process.host);
        out.text(&self.process.boot_id);
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
        check_record_version(reader.u8()?)?;
        let kind = match reader.u8()? {
            0 => SessionKind::Writer,
            1 => SessionKind::Reader,
            _ => return Err(FormatError::Inconsistent { what: "kind of a session" }),
        };
        let base = reader.u64()?;
        let pinned = reader.optional()?.map(SnapshotId::from_bytes);
        let part_of = reader.optional()?.map(SessionId::from_bytes);
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
        Ok(Self { kind, base, pinned, part_of, cluster, process, opened_s })
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
        let mut out = vec![RECORD_VERSION];
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
        check_record_version(reader.u8()?)?;
        let nonce = reader.array()?;
        let count = reader.count(COMMIT_SEGMENTS_MAX, SegmentRef::LEN, "segments of a commit")?;
        let segments =
            (0..count).map(|_| SegmentRef::read(&mut reader)).collect::<Result<_, _>>()?;
        let count = reader.count(COMMIT_FORGETS_MAX, SnapshotId::LEN, "forgotten snapshots")?;
        let forgets = (0..count)
            .map(|_| reader.array().map(SnapshotId::from_bytes))
            .collect::<Result<_, _>>()?;
        let snapshot = if reader.flag()? { Some(Snapshot::read(&mut reader)?) } else { None };
        reader.finish()?;
        Ok(Self { nonce, segments, snapshot, forgets })
    }
}

/// The content of `com/<sid>` that ends a session without a commit. Whatever is in the register
/// and is no valid commit counts as a fence: a hostile writer can force a retry, never a loss.
pub const FENCE: &[u8; 16] = b"SALVOR FENCE v1\n";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    fn session() -> Session {
        Session {
            kind: SessionKind::Reader,
            base: 7,
            pinned: Some(SessionId([9; 16])),
            part_of: Some(SessionId([8; 16])),
            cluster: ClusterId([1; 16]),
            process: Process {
                host: "node-1".into(),
                boot_id: "b".into(),
                pid_namespace: 4_026_531_836,
                pid: 42,
                start_ticks: 1000,
            },
            opened_s: 1_700_000_000,
        }
    }

    proptest! {
        #[test]
        fn a_commit_is_read_back_as_it_was(
            nonce in any::<[u8; 16]>(),
            segments in proptest::collection::vec(testing::segment_ref(), 0..4),
            snapshot in proptest::option::of(testing::snapshot()),
            forgets in proptest::collection::vec(testing::session_id(), 0..4),
        ) {
            let commit = Commit { nonce, segments, snapshot, forgets };
            prop_assert_eq!(Commit::decode(&commit.encode()).unwrap(), commit);
        }
    }

    #[test]
    fn a_session_is_read_back_as_it_was() {
        let pinned = session();
        let writer = Session { kind: SessionKind::Writer, pinned: None, ..pinned.clone() };
        for session in [pinned, writer] {
            assert_eq!(Session::decode(&session.encode()).unwrap(), session);
        }
    }

    #[test]
    fn a_damaged_session_is_refused_or_another_session() {
        let decode = |bytes: &[u8]| Session::decode(bytes);
        testing::refuses_damage_or_is_canonical(&session().encode(), decode, Session::encode);
    }

    #[test]
    fn a_damaged_commit_is_refused_or_another_commit() {
        let segment =
            SegmentRef { name: testing::name(3), entries: 1000, packs: 2, bytes: 1 << 20 };
        let commit = Commit {
            nonce: [8; 16],
            segments: vec![segment],
            snapshot: None,
            forgets: vec![SessionId([4; 16])],
        };
        let decode = |bytes: &[u8]| Commit::decode(bytes);
        testing::refuses_damage_or_is_canonical(&commit.encode(), decode, Commit::encode);
    }

    #[test]
    fn a_record_of_a_newer_layout_is_told_from_damage() {
        let newer = |mut bytes: Vec<u8>| {
            bytes[0] = 2;
            bytes
        };
        let expected = FormatError::NewerVersion { found: 2, supported: 1 };
        assert_eq!(Session::decode(&newer(session().encode())), Err(expected.clone()));
        assert_eq!(Commit::decode(&newer(Commit::default().encode())), Err(expected));
    }

    #[test]
    fn a_fence_is_no_commit() {
        assert!(Commit::decode(FENCE).is_err());
    }

    #[test]
    fn a_count_that_lies_is_refused() {
        let mut bytes = vec![RECORD_VERSION];
        bytes.raw(&[0; 16]);
        bytes.varint(COMMIT_SEGMENTS_MAX + 1);
        assert!(matches!(Commit::decode(&bytes), Err(FormatError::Limit { .. })));
    }
}
