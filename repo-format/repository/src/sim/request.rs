//! One request to the simulated store, and what may go wrong with it.

use std::sync::Arc;

use repo_format::key::{ObjectKey, Prefix};
use rustix::io::Errno;

use crate::store::{Memory, Op, Store, StoreError};

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Object(ObjectKey),
    All(Prefix),
}

impl Target {
    pub(super) fn prefix(&self) -> Option<Prefix> {
        match self {
            Self::Object(key) => key.prefix(),
            Self::All(prefix) => Some(*prefix),
        }
    }
}

/// What an agent is about to ask of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) op: Op,
    pub(super) target: Target,
}

/// A request that changes what is stored.
#[derive(Debug, Clone)]
pub(super) enum Write {
    PutNew(ObjectKey, Arc<[u8]>),
    Put(ObjectKey, Arc<[u8]>),
    Delete(ObjectKey),
}

impl Write {
    pub(super) const fn key(&self) -> &ObjectKey {
        match self {
            Self::PutNew(key, _) | Self::Put(key, _) | Self::Delete(key) => key,
        }
    }

    pub(super) const fn op(&self) -> Op {
        match self {
            Self::PutNew(..) => Op::PutNew,
            Self::Put(..) => Op::Put,
            Self::Delete(_) => Op::Delete,
        }
    }

    pub(super) fn apply(&self, objects: &Memory) -> Result<(), StoreError> {
        match self {
            Self::PutNew(key, body) => objects.put_new(key, body),
            Self::Put(key, body) => objects.put(key, body),
            Self::Delete(key) => objects.delete(key),
        }
    }
}

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its sender dies before it is sent.
    CrashBefore,
    /// It is carried out, and its sender dies before it hears of it.
    CrashAfter,
    /// Its sender dies, and it is carried out later.
    CrashUnderWay,
    /// It is carried out; its sender hears that it is not known.
    LostReply,
    /// It is not carried out; its sender hears that it is not known.
    Refused,
    /// It is carried out, and once more later.
    Twice,
    /// Its sender hears that it is not known, and it is carried out later.
    Late,
}

impl Fault {
    pub(super) const ALL: [Self; 7] = [
        Self::CrashBefore,
        Self::CrashAfter,
        Self::CrashUnderWay,
        Self::LostReply,
        Self::Refused,
        Self::Twice,
        Self::Late,
    ];

    /// Whether it means anything for this request.
    pub(super) const fn applies_to(self, op: Op) -> bool {
        match self {
            Self::CrashBefore | Self::Refused => true,
            Self::CrashAfter | Self::CrashUnderWay | Self::LostReply | Self::Twice | Self::Late => {
                op.is_write()
            }
        }
    }

    pub(super) const fn is_crash(self) -> bool {
        matches!(self, Self::CrashBefore | Self::CrashAfter | Self::CrashUnderWay)
    }

    /// Whether the request is carried out at once.
    pub(super) const fn is_done(self) -> bool {
        matches!(self, Self::CrashAfter | Self::LostReply | Self::Twice)
    }

    /// Whether the request is carried out later.
    pub(super) const fn is_late(self) -> bool {
        matches!(self, Self::CrashUnderWay | Self::Twice | Self::Late)
    }
}

/// The answer to a request of which nothing is known.
pub(super) fn unknown(op: Op, at: String) -> StoreError {
    StoreError::from_io(op, at, Errno::TIMEDOUT.into())
}
