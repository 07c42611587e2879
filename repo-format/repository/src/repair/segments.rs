//! Index segments that cannot be read, made anew from the tables of the packs they named.

use std::collections::HashSet;

use repo_format::id::{ClusterId, PackName, SegmentName};
use repo_format::key::ObjectKey;
use repo_format::segment::{Entry, PackRow};
use repo_format::session::SegmentRef;

use super::Repair;
use crate::recover::{describe, is_lost};
use crate::rescue::{read_table, unlisted_packs};
use crate::session::OpenSession;
use crate::view::View;
use crate::writer::sync_index;
use crate::{RepositoryError, gc, segments};

/// Entries of one segment: 10 MB, which bounds the memory.
const ENTRIES_MAX: usize = 256 << 10;

impl Repair<'_> {
    /// Replaces the segments that cannot be read by new ones of all stored packs that no other
    /// segment names. Which of these the lost ones named cannot be told, so a running backup's
    /// packs may be among them: listing these early does no harm.
    pub(super) fn segments(&mut self) -> Result<(), RepositoryError> {
        let mut view = self.fold()?;
        let lost = self.unreadable(&view)?;
        let packs = self.unnamed(&view, &lost)?;
        if lost.is_empty() && packs.is_empty() {
            return self.sync(&view);
        }
        // The session keeps others from taking the new segments for left-overs.
        let session = OpenSession::writer(self.repository, ClusterId::NONE)?;
        let mut rebuilt =
            Rebuilt { session: &session, segments: Vec::new(), batch: Batch::default() };
        for (pack, bytes) in packs {
            self.check_cancelled()?;
            match read_table(self.repository, &pack, bytes) {
                Ok((row, table)) => {
                    rebuilt.batch.add(row, &table);
                    if rebuilt.batch.entries.len() >= ENTRIES_MAX {
                        rebuilt.write()?;
                    }
                }
                Err(error) if is_lost(&error) => {
                    self.report.lost.push(format!("{pack}: {}", describe(&error)));
                }
                Err(error) => return Err(error),
            }
        }
        rebuilt.write()?;
        let new = rebuilt.segments;
        gc::transition(self.repository, &mut view, |view, draft| {
            let listed = &view.head.catalog.segments;
            let gone: Vec<SegmentRef> =
                lost.iter().filter(|segment| listed.contains(segment)).copied().collect();
            draft.replace_segments(&gone, &new);
            Ok(())
        })?;
        for segment in &lost {
            self.report.done.push(format!("index segment x/{} was replaced", segment.name));
        }
        self.report.rebuilt_segments += new.len() as u64;
        if !new.is_empty() {
            let packs: u64 = new.iter().map(|segment| u64::from(segment.packs)).sum();
            self.report.done.push(format!("{packs} packs were indexed anew from their own tables"));
        }
        self.sync(&view)
    }

    fn sync(&self, view: &View) -> Result<(), RepositoryError> {
        sync_index(self.repository, self.index, view).map(drop)
    }

    fn unreadable(&self, view: &View) -> Result<Vec<SegmentRef>, RepositoryError> {
        let mut lost = Vec::new();
        let mut seen: HashSet<SegmentName> = HashSet::new();
        for segment in &view.head.catalog.segments {
            self.check_cancelled()?;
            if !seen.insert(segment.name) {
                continue;
            }
            let size = self.repository.store().size(&ObjectKey::Segment(segment.name));
            let surveyed = size
                .map_err(RepositoryError::from)
                .and_then(|bytes| segments::survey(self.repository, segment.name, bytes));
            match surveyed {
                Ok(found) if found == *segment => {}
                Ok(_) => lost.push(*segment),
                Err(error) if is_lost(&error) => lost.push(*segment),
                Err(error) => return Err(error),
            }
        }
        Ok(lost)
    }

    /// Stored packs that no readable segment names and that are not dead. If no segment is lost,
    /// only those that this machine's cache knows to have been listed once.
    fn unnamed(
        &self,
        view: &View,
        lost: &[SegmentRef],
    ) -> Result<Vec<(PackName, u64)>, RepositoryError> {
        let mut readable = view.index_view();
        readable.segments.retain(|segment| !lost.contains(segment));
        let source = segments::Source::new(self.repository);
        self.index.sync(&readable, &source)?;
        let dead: HashSet<PackName> = view.head.catalog.dead.iter().copied().collect();
        let mut packs = Vec::new();
        for (pack, bytes) in unlisted_packs(self.repository, self.index)? {
            if !dead.contains(&pack) && (!lost.is_empty() || self.index.was_listed(&pack)?) {
                packs.push((pack, bytes));
            }
        }
        Ok(packs)
    }
}

/// Packs and their chunks that go into one segment.
#[derive(Default)]
struct Batch {
    packs: Vec<PackRow>,
    entries: Vec<Entry>,
}

impl Batch {
    fn add(&mut self, row: PackRow, table: &[repo_format::pack::TocRow]) {
        let number = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        self.packs.push(row);
        self.entries.extend((0u32..).zip(table).map(|(slot, chunk)| {
            Entry::new(&chunk.id, number, chunk.offset, chunk.stored_len, slot)
        }));
    }
}

struct Rebuilt<'a> {
    session: &'a OpenSession,
    segments: Vec<SegmentRef>,
    batch: Batch,
}

impl Rebuilt<'_> {
    fn write(&mut self) -> Result<(), RepositoryError> {
        let Batch { packs, mut entries } = std::mem::take(&mut self.batch);
        if packs.is_empty() {
            return Ok(());
        }
        let counter = u32::try_from(self.segments.len()).unwrap_or(u32::MAX);
        let name = SegmentName { session: self.session.id(), counter };
        let written = segments::write(self.session.repository(), name, &packs, &mut entries)?;
        self.segments.push(written);
        Ok(())
    }
}
