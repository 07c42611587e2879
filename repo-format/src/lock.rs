//! How long objects are locked in a bucket that can refuse to delete them, and how far that has
//! been seen to: a part of the catalog.

use std::fmt;
use std::str::FromStr;

use crate::bytes::{Put, Reader};
use crate::error::FormatError;
use crate::id::PackName;
use crate::key::{ObjectKey, pack_fan_out};

/// Groups of objects whose locks are extended together: one for each fan-out folder of packs, and
/// one for all else.
pub const LOCK_GROUPS: usize = 257;
/// The group of all that is no pack.
pub const LOCK_GROUP_OTHERS: usize = LOCK_GROUPS - 1;

/// Who may shorten a lock or delete in spite of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LockMode {
    /// Who has the right to bypass it.
    #[default]
    Governance,
    /// Nobody.
    Compliance,
}

impl LockMode {
    /// Its name, as S3 has it in capital letters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Governance => "governance",
            Self::Compliance => "compliance",
        }
    }
}

impl fmt::Display for LockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LockMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        [Self::Governance, Self::Compliance]
            .into_iter()
            .find(|mode| mode.name().eq_ignore_ascii_case(text))
            .ok_or("it is `governance` or `compliance`")
    }
}

/// How objects are locked. Times are the store's, in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectLock {
    /// Who may go against it.
    pub mode: LockMode,
    /// What snapshots need stays locked for so long from any moment on.
    pub period_s: u64,
    /// Locks are made longer by this, so that each has to be extended only once in so long.
    pub slack_s: u64,
    /// The catalog version that chose these values.
    pub since: u64,
    /// What was stored at this time or later was stored by who knew these values; `None`: not
    /// known yet.
    pub settled_s: Option<u64>,
    /// By group: what was stored before this time, and was not condemned in the version that says
    /// so, is locked until this time plus period and slack. 0: nothing is known.
    pub rounds_s: Vec<u64>,
}

impl ObjectLock {
    /// Values that nothing is locked by yet.
    pub fn new(mode: LockMode, period_s: u64, slack_s: u64, since: u64) -> Self {
        let rounds_s = vec![0; LOCK_GROUPS];
        Self { mode, period_s, slack_s, since, settled_s: None, rounds_s }
    }

    /// What is stored is locked for so long at first, in seconds.
    pub const fn keep_s(&self) -> u64 {
        self.period_s.saturating_add(self.slack_s)
    }

    /// The group that an object's lock is extended with.
    pub fn group_of(key: &ObjectKey) -> usize {
        match key {
            ObjectKey::Pack(name) => Self::group_of_pack(name),
            _ => LOCK_GROUP_OTHERS,
        }
    }

    /// The group of a pack.
    pub fn group_of_pack(name: &PackName) -> usize {
        usize::from(pack_fan_out(name))
    }

    /// When the locks of a group were seen to last; 0 if it is not known.
    pub fn round_s(&self, group: usize) -> u64 {
        self.rounds_s.get(group).copied().unwrap_or(0)
    }

    /// Nothing is known of this group any more.
    pub fn forget_round(&mut self, group: usize) {
        if let Some(round_s) = self.rounds_s.get_mut(group) {
            *round_s = 0;
        }
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.u8(match self.mode {
            LockMode::Governance => 0,
            LockMode::Compliance => 1,
        });
        out.u64(self.period_s);
        out.u64(self.slack_s);
        out.u64(self.since);
        out.u8(self.settled_s.is_some().into());
        out.u64(self.settled_s.unwrap_or(0));
        for group in 0..LOCK_GROUPS {
            out.u64(self.round_s(group));
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let mode = match reader.u8()? {
            0 => LockMode::Governance,
            1 => LockMode::Compliance,
            _ => return Err(FormatError::Inconsistent { what: "mode of the object lock" }),
        };
        let (period_s, slack_s, since) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let settled_s = match (reader.flag()?, reader.u64()?) {
            (true, settled_s) => Some(settled_s),
            (false, 0) => None,
            _ => return Err(FormatError::Inconsistent { what: "times of the object lock" }),
        };
        let mut rounds_s = Vec::with_capacity(LOCK_GROUPS);
        for _ in 0..LOCK_GROUPS {
            rounds_s.push(reader.u64()?);
        }
        Ok(Self { mode, period_s, slack_s, since, settled_s, rounds_s })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn packs_are_grouped_by_their_folder_and_all_else_together() {
        let pack = ObjectKey::Pack(testing::name(7));
        let folder = format!("p/{:02x}/", ObjectLock::group_of(&pack));
        assert!(pack.to_string().starts_with(&folder), "{pack}: {folder}");
        assert_eq!(ObjectLock::group_of(&ObjectKey::Config), LOCK_GROUP_OTHERS);
        assert_eq!(ObjectLock::group_of(&ObjectKey::Catalog(1)), LOCK_GROUP_OTHERS);
    }

    #[test]
    fn a_mode_is_read_back_whatever_its_case() {
        for mode in [LockMode::Governance, LockMode::Compliance] {
            assert_eq!(mode.name().parse(), Ok(mode));
            assert_eq!(mode.name().to_uppercase().parse(), Ok(mode));
        }
        assert!("legal".parse::<LockMode>().is_err());
    }
}
