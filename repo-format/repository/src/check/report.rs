//! What a verify found.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Mutex;

use repo_format::id::PackName;
use serde::Serialize;

use crate::packer::lock;

/// Problems kept by name; more are only counted.
pub const PROBLEMS_MAX: usize = 10_000;
/// Damaged paths kept by name for each snapshot; more are only counted.
pub const PATHS_MAX: usize = 1000;

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "named after the kinds of object")]
pub struct Checked {
    pub key_slots: u64,
    pub catalogs: u64,
    pub catalog_pages: u64,
    pub sessions: u64,
    pub segments: u64,
    pub packs: u64,
    /// Packs read from end to end.
    pub packs_read: u64,
    /// Bytes of those.
    pub bytes_read: u64,
    /// Chunks decrypted and compared with their ids.
    pub chunks_read: u64,
    pub snapshots: u64,
    /// Manifest pages, each once however many snapshots share it.
    pub pages: u64,
    /// References to chunks on those pages, each looked up in the index.
    pub references: u64,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The object's path in the repository.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
}

/// A snapshot that cannot be restored in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedSnapshot {
    /// Its id; `unknown`, with the catalog page that listed it, if its own record is lost.
    pub id: String,
    /// Its name; empty if its own record is lost.
    pub name: String,
    /// When it was begun, in nanoseconds since 1970.
    pub started_ns: i64,
    /// Whether it is a checkpoint, which only saves the next backup work.
    pub is_checkpoint: bool,
    /// What of it is damaged: files by path, `bytes A..B` of a volume, or `everything`. Paths that
    /// are no UTF-8 have their odd bytes escaped. The first [`PATHS_MAX`].
    pub paths: Vec<String>,
    /// How many there are.
    pub path_count: u64,
}

/// Stored objects that nothing lists: what ended sessions left, for the next prune. No problem.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "said above")]
pub struct Leftover {
    pub packs: u64,
    pub pack_bytes: u64,
    pub segments: u64,
    pub segment_bytes: u64,
}

/// What a verify found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyReport {
    /// What was looked at.
    pub checked: Checked,
    /// One row an object, by its path. The first [`PROBLEMS_MAX`].
    pub problems: Vec<Problem>,
    /// How many there are.
    pub problem_count: u64,
    /// Oldest first.
    pub damaged_snapshots: Vec<DamagedSnapshot>,
    /// Packs found missing or damaged now, by name.
    pub bad_packs: Vec<String>,
    /// Packs known to be bad from an earlier verify that no snapshot depends on any more: their
    /// chunks were stored again. The next prune removes them. No problem.
    pub healed_packs: Vec<String>,
    /// Packs known to be bad that turned out to be sound: someone put them back.
    pub sound_packs: Vec<String>,
    /// What nothing lists.
    pub leftover: Leftover,
    /// Anything a user may want to know that is no problem.
    pub notes: Vec<String>,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub const fn is_clean(&self) -> bool {
        self.problem_count == 0 && self.damaged_snapshots.is_empty()
    }
}

/// Collects findings from all threads.
#[derive(Debug, Default)]
pub(super) struct Findings {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    problems: BTreeMap<String, String>,
    /// Objects whose problem was only counted.
    more: u64,
    bad_packs: BTreeSet<PackName>,
    sound_packs: HashSet<PackName>,
    damaged_snapshots: BTreeMap<String, DamagedSnapshot>,
}

impl Findings {
    #[expect(clippy::needless_pass_by_value, reason = "keys are small and come by value")]
    pub(super) fn problem(&self, object: impl ToString, what: impl Into<String>) {
        let mut inner = lock(&self.inner);
        let object = object.to_string();
        if inner.problems.contains_key(&object) {
            return;
        }
        if inner.problems.len() < PROBLEMS_MAX {
            inner.problems.insert(object, what.into());
        } else {
            inner.more += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.inner).problems.is_empty()
    }

    pub(super) fn bad_pack(&self, pack: PackName) {
        lock(&self.inner).bad_packs.insert(pack);
    }

    pub(super) fn is_bad(&self, pack: &PackName) -> bool {
        lock(&self.inner).bad_packs.contains(pack)
    }

    pub(super) fn sound_pack(&self, pack: PackName) {
        lock(&self.inner).sound_packs.insert(pack);
    }

    pub(super) fn damaged_snapshot(&self, damaged: DamagedSnapshot) {
        lock(&self.inner).damaged_snapshots.insert(damaged.id.clone(), damaged);
    }

    pub(super) fn bad_packs(&self) -> BTreeSet<PackName> {
        lock(&self.inner).bad_packs.clone()
    }

    pub(super) fn sound_packs(&self) -> HashSet<PackName> {
        lock(&self.inner).sound_packs.clone()
    }

    /// Moves everything into a report.
    pub(super) fn into_report(self, report: &mut VerifyReport) {
        let inner = self.inner.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        report.problem_count = inner.problems.len() as u64 + inner.more;
        let row = |(object, what)| Problem { object, what };
        report.problems = inner.problems.into_iter().map(row).collect();
        report.bad_packs = inner.bad_packs.iter().map(ToString::to_string).collect();
        report.sound_packs = inner.sound_packs.iter().map(ToString::to_string).collect();
        report.sound_packs.sort();
        report.damaged_snapshots = inner.damaged_snapshots.into_values().collect();
        report.damaged_snapshots.sort_by(|a, b| (a.started_ns, &a.id).cmp(&(b.started_ns, &b.id)));
    }
}
