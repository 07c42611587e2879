//! Counting the requests that a store sends to a server.

use std::sync::atomic::{AtomicU64, Ordering};

use repo_format::key::Prefix;

/// What is asked of a server with one request. `Display` gives the name that S3 has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[expect(missing_docs, reason = "named as S3 names them")]
pub enum Action {
    GetObject,
    HeadObject,
    PutObject,
    CreateMultipartUpload,
    UploadPart,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListObjectsV2,
    ListMultipartUploads,
    DeleteObject,
    DeleteObjects,
    ListObjectVersions,
    CopyObject,
    GetObjectLockConfiguration,
    GetObjectRetention,
    PutObjectRetention,
}

impl Action {
    /// Every action, in the order of declaration.
    pub const ALL: [Self; 16] = [
        Self::GetObject,
        Self::HeadObject,
        Self::PutObject,
        Self::CreateMultipartUpload,
        Self::UploadPart,
        Self::CompleteMultipartUpload,
        Self::AbortMultipartUpload,
        Self::ListObjectsV2,
        Self::ListMultipartUploads,
        Self::DeleteObject,
        Self::DeleteObjects,
        Self::ListObjectVersions,
        Self::CopyObject,
        Self::GetObjectLockConfiguration,
        Self::GetObjectRetention,
        Self::PutObjectRetention,
    ];

    /// The right that a policy has to grant for it.
    pub const fn right(self) -> &'static str {
        match self {
            Self::GetObject | Self::HeadObject => "s3:GetObject",
            Self::PutObject
            | Self::CreateMultipartUpload
            | Self::UploadPart
            | Self::CompleteMultipartUpload => "s3:PutObject",
            Self::AbortMultipartUpload => "s3:AbortMultipartUpload",
            Self::ListObjectsV2 => "s3:ListBucket",
            Self::ListMultipartUploads => "s3:ListBucketMultipartUploads",
            Self::DeleteObject | Self::DeleteObjects => "s3:DeleteObject",
            Self::ListObjectVersions => "s3:ListBucketVersions",
            Self::CopyObject => "s3:GetObjectVersion and s3:PutObject",
            Self::GetObjectLockConfiguration => "s3:GetBucketObjectLockConfiguration",
            Self::GetObjectRetention => "s3:GetObjectRetention",
            Self::PutObjectRetention => "s3:PutObjectRetention",
        }
    }
}

/// What providers charge by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// PUT, POST, COPY and LIST.
    Put,
    /// GET and HEAD.
    Get,
    /// DELETE and giving up uploads: free with nearly all.
    Delete,
}

impl Action {
    /// What it is charged as.
    pub const fn class(self) -> Class {
        match self {
            Self::GetObject
            | Self::HeadObject
            | Self::GetObjectLockConfiguration
            | Self::GetObjectRetention => Class::Get,
            Self::PutObject
            | Self::CreateMultipartUpload
            | Self::UploadPart
            | Self::CompleteMultipartUpload
            | Self::ListObjectsV2
            | Self::ListMultipartUploads
            | Self::ListObjectVersions
            | Self::CopyObject
            | Self::PutObjectRetention => Class::Put,
            Self::AbortMultipartUpload | Self::DeleteObject | Self::DeleteObjects => Class::Delete,
        }
    }

    /// Whether the bytes that move are the server's rather than ours.
    const fn receives(self) -> bool {
        matches!(self, Self::GetObject)
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// One row for each prefix, then one for what has none.
const KINDS: usize = Prefix::ALL.len() + 1;

/// Counters of requests, by action and kind of object; they only rise.
#[derive(Debug, Default)]
pub struct Traffic {
    cells: [[Cell; KINDS]; Action::ALL.len()],
}

#[derive(Debug, Default)]
struct Cell {
    requests: AtomicU64,
    failures: AtomicU64,
    slow_downs: AtomicU64,
    moved_bytes: AtomicU64,
}

/// What was asked of one kind of object with one action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TrafficRow {
    /// The action.
    pub action: Action,
    /// The objects' folder; `-` for what is in none.
    pub kind: &'static str,
    /// Requests sent, every try, every part and every page of a listing for itself.
    pub requests: u64,
    /// Those that were tried again or given up.
    pub failures: u64,
    /// Those among them that the server answered with a demand to slow down.
    pub slow_downs: u64,
    /// Bytes of bodies that moved, those of tries that failed among them. What comes with answers
    /// to listings and such is not counted.
    pub moved_bytes: u64,
}

/// Requests by what they are charged as, and bytes of bodies by where they went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// [`Class::Put`].
    pub put_class: u64,
    /// [`Class::Get`].
    pub get_class: u64,
    /// [`Class::Delete`].
    pub delete: u64,
    /// To the server.
    pub sent_bytes: u64,
    /// From the server.
    pub received_bytes: u64,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With what was asked for, or with an answer such as "missing" and "exists".
    Answered,
    Failed,
    SlowDown,
}

impl Traffic {
    pub(crate) fn count(
        &self,
        action: Action,
        kind: Option<Prefix>,
        ending: Ending,
        moved_bytes: u64,
    ) {
        let column = Prefix::ALL.iter().position(|one| Some(*one) == kind).unwrap_or(KINDS - 1);
        let Some(cell) = self.cells.get(action as usize).and_then(|row| row.get(column)) else {
            return;
        };
        cell.requests.fetch_add(1, Ordering::Relaxed);
        cell.moved_bytes.fetch_add(moved_bytes, Ordering::Relaxed);
        if ending != Ending::Answered {
            cell.failures.fetch_add(1, Ordering::Relaxed);
        }
        if ending == Ending::SlowDown {
            cell.slow_downs.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was counted so far; only what was asked at least once.
    pub fn read(&self) -> Vec<TrafficRow> {
        let mut rows = Vec::new();
        for (action, cells) in Action::ALL.iter().zip(&self.cells) {
            for (kind, cell) in cells.iter().enumerate() {
                let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                let row = TrafficRow {
                    action: *action,
                    kind: Prefix::ALL.get(kind).map_or("-", |prefix| prefix.folder()),
                    requests: read(&cell.requests),
                    failures: read(&cell.failures),
                    slow_downs: read(&cell.slow_downs),
                    moved_bytes: read(&cell.moved_bytes),
                };
                if row.requests > 0 {
                    rows.push(row);
                }
            }
        }
        rows
    }

    /// All requests together.
    pub fn requests(&self) -> u64 {
        self.read().iter().map(|row| row.requests).sum()
    }

    /// What was counted so far, of all kinds of objects together.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for row in self.read() {
            *match row.action.class() {
                Class::Put => &mut totals.put_class,
                Class::Get => &mut totals.get_class,
                Class::Delete => &mut totals.delete,
            } += row.requests;
            *if row.action.receives() {
                &mut totals.received_bytes
            } else {
                &mut totals.sent_bytes
            } += row.moved_bytes;
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_the_row_of_its_place() {
        for (place, action) in Action::ALL.iter().enumerate() {
            assert_eq!(*action as usize, place);
        }
    }

    #[test]
    fn requests_are_counted_by_action_and_kind() {
        let traffic = Traffic::default();
        traffic.count(Action::PutObject, Some(Prefix::Packs), Ending::Answered, 7);
        traffic.count(Action::PutObject, Some(Prefix::Packs), Ending::SlowDown, 2);
        traffic.count(Action::UploadPart, Some(Prefix::Packs), Ending::Failed, 1);
        traffic.count(Action::GetObject, None, Ending::Answered, 5);
        let rows = traffic.read();
        let of = |action| *rows.iter().find(|row| row.action == action).unwrap();
        let put = of(Action::PutObject);
        assert_eq!((put.kind, put.requests, put.failures, put.slow_downs), ("p", 2, 1, 1));
        assert_eq!((of(Action::UploadPart).failures, of(Action::UploadPart).slow_downs), (1, 0));
        assert_eq!(of(Action::GetObject).kind, "-");
        assert_eq!((rows.len(), traffic.requests()), (3, 4));
    }

    #[test]
    fn requests_and_bytes_add_up_to_what_is_charged() {
        let traffic = Traffic::default();
        for (place, action) in Action::ALL.into_iter().enumerate() {
            traffic.count(action, None, Ending::Answered, 1 << place);
        }
        let totals = traffic.totals();
        assert_eq!((totals.put_class, totals.get_class, totals.delete), (9, 4, 3));
        // The body of the one GET came, everything else went.
        assert_eq!((totals.sent_bytes, totals.received_bytes), ((1 << 16) - 2, 1));
        for action in Action::ALL {
            let free =
                action.to_string().starts_with("Delete") || action.to_string().starts_with("Abort");
            assert_eq!(action.class() == Class::Delete, free, "{action}");
        }
    }
}
