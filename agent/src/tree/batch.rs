//! Groups what the walk meets into batches, and gives each entry what its parents know of it.

use repo_format::tree::{Entry, PageCutter, cmp_paths};
use std::cmp::Ordering;

use super::TreeError;
use super::error::Issue;
use super::reader::TreeReader;
use super::walk::{Found, Step, Walker};

/// A batch has at least this many entries, unless the walk ends.
const ENTRIES_MIN: usize = 16;
/// A batch has at most this many entries.
const ENTRIES_MAX: usize = 256;
/// A batch ends when its paths take this much.
const PATHS_BYTES_MAX: usize = 256 << 10;
/// A batch ends when it has this many issues of the walk.
const ISSUES_MAX: usize = 1024;

/// Entries that one worker captures together, and whose small files share chunks.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Counts batches from 0 in path order.
    pub(super) seq: u64,
    pub(super) items: Vec<Item>,
    pub(super) issues: Vec<Issue>,
}

/// An entry to capture.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) found: Found,
    /// What the parents recorded at the same path, the preferred parent first.
    pub(super) before: Vec<Entry>,
}

/// Cuts a walk into batches. Where they end depends on names alone: the same tree gives the same
/// batches in every run, and a batch whose files are the same gives the same chunks.
pub(super) struct Batcher<'a> {
    walker: Walker<'a>,
    cutter: PageCutter,
    parents: Vec<Parent<'a>>,
    next_seq: u64,
    done: bool,
    /// Why parents were given up.
    pub(super) lost_parents: Vec<TreeError>,
}

struct Parent<'a> {
    reader: TreeReader<'a>,
    next: Option<Entry>,
}

impl<'a> Batcher<'a> {
    pub(super) fn new(
        walker: Walker<'a>,
        cutter: PageCutter,
        parents: Vec<TreeReader<'a>>,
    ) -> Self {
        let mut lost_parents = Vec::new();
        let parents = (parents.into_iter())
            .filter_map(|mut reader| match reader.next_entry() {
                Ok(next) => Some(Parent { reader, next }),
                Err(error) => {
                    lost_parents.push(error);
                    None
                }
            })
            .collect();
        Self { walker, cutter, parents, next_seq: 0, done: false, lost_parents }
    }

    /// Things the walk has left out so far.
    pub(super) const fn excluded(&self) -> u64 {
        self.walker.excluded
    }

    /// The next batch; the last one may have issues only.
    pub(super) fn next(&mut self) -> Result<Option<Batch>, TreeError> {
        if self.done {
            return Ok(None);
        }
        let mut batch = Batch { seq: self.next_seq, ..Batch::default() };
        let mut paths_bytes = 0;
        loop {
            match self.walker.next()? {
                None => {
                    self.done = true;
                    break;
                }
                Some(Step::Issue(issue)) => {
                    batch.issues.push(issue);
                    if batch.issues.len() >= ISSUES_MAX {
                        break;
                    }
                }
                Some(Step::Found(found)) => {
                    let before = self.look_up(&found.path);
                    paths_bytes += found.path.len();
                    let count = batch.items.len() + 1;
                    let ends = count >= ENTRIES_MAX
                        || paths_bytes >= PATHS_BYTES_MAX
                        || (count >= ENTRIES_MIN && self.ends_batch(found.name()));
                    batch.items.push(Item { found: *found, before });
                    if ends {
                        break;
                    }
                }
            }
        }
        self.next_seq += 1;
        Ok(Some(batch))
    }

    /// One name in 64, chosen by a keyed hash. The name and not the path: a directory that was
    /// moved keeps its batches.
    fn ends_batch(&self, name: &[u8]) -> bool {
        self.cutter.ends_leaf(name, PageCutter::MIN_BYTES)
    }

    /// What the parents have at `path`. A parent that cannot be read is given up: its files are
    /// then read again, which is safe.
    fn look_up(&mut self, path: &[u8]) -> Vec<Entry> {
        let mut before = Vec::new();
        let lost = &mut self.lost_parents;
        self.parents.retain_mut(|parent| match parent.advance_to(path) {
            Ok(entry) => {
                before.extend(entry);
                true
            }
            Err(error) => {
                lost.push(error);
                false
            }
        });
        before
    }
}

impl Parent<'_> {
    fn advance_to(&mut self, path: &[u8]) -> Result<Option<Entry>, TreeError> {
        while let Some(next) = &self.next {
            match cmp_paths(&next.path, path) {
                Ordering::Less => self.next = self.reader.next_entry()?,
                Ordering::Equal => {
                    let following = self.reader.next_entry()?;
                    return Ok(std::mem::replace(&mut self.next, following));
                }
                Ordering::Greater => break,
            }
        }
        Ok(None)
    }
}
