//! What differs between two trees.

use std::cmp::Ordering;

use repo_format::id::ChunkId;
use repo_format::tree::{Child, Entry, cmp_paths};

use super::TreeError;
use super::reader::{Front, TreeReader};

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Only the second tree has it.
    Added(Box<Entry>),
    /// Only the first tree has it.
    Removed(Box<Entry>),
    /// Both have it, and not the same.
    Changed {
        /// In the first tree.
        before: Box<Entry>,
        /// In the second tree.
        after: Box<Entry>,
        /// In what respect.
        what: What,
    },
}

/// What a changed entry differs in. Inode and device numbers, link counts and `ctime` do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
#[expect(missing_docs, reason = "the parts of an entry")]
pub struct What {
    pub kind: bool,
    /// Bytes, link target, hard-link target or device number. A file whose size, `mtime` and
    /// `ctime` are the same counts as the same, wherever its bytes are stored.
    pub content: bool,
    pub mode: bool,
    pub owner: bool,
    pub mtime: bool,
    pub xattrs: bool,
}

impl What {
    fn between(a: &Entry, b: &Entry) -> Self {
        let same_times = a.meta.mtime == b.meta.mtime && a.meta.ctime == b.meta.ctime;
        let same_content = a.meta.size == b.meta.size
            && a.meta.rdev == b.meta.rdev
            && (same_times || (a.content == b.content && a.extents == b.extents));
        Self {
            kind: a.kind != b.kind,
            content: !same_content,
            mode: a.meta.mode != b.meta.mode,
            owner: (a.meta.uid, a.meta.gid) != (b.meta.uid, b.meta.gid),
            mtime: a.meta.mtime != b.meta.mtime,
            xattrs: a.meta.xattrs != b.meta.xattrs,
        }
    }

    /// Whether nothing differs.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// Differences between two trees in path order. Pages that both trees share are not read.
pub struct Diff<'a> {
    a: TreeReader<'a>,
    b: TreeReader<'a>,
    failed: bool,
}

/// Compares tree `a` with the later tree `b`.
pub fn diff<'a>(a: TreeReader<'a>, b: TreeReader<'a>) -> Diff<'a> {
    Diff { a, b, failed: false }
}

enum Step {
    End,
    SkipBoth,
    OpenA,
    OpenB,
    OpenBoth,
    TakeA,
    TakeB,
    TakeBoth,
}

/// A front without its borrow: an entry's or page's place in the order.
enum Place {
    End,
    Page { id: ChunkId, level: u8 },
    Entry,
}

impl Diff<'_> {
    fn step(&mut self) -> Step {
        let (a, b) = (self.a.front(), self.b.front());
        let order = match (first_path(a.as_ref()), first_path(b.as_ref())) {
            (None, None) => return Step::End,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(a), Some(b)) => cmp_paths(a, b),
        };
        match (place(a.as_ref()), place(b.as_ref())) {
            (Place::Page { id: a, .. }, Place::Page { id: b, .. }) if a == b => Step::SkipBoth,
            (Place::Page { level: a, .. }, Place::Page { level: b, .. }) => {
                match order.then(b.cmp(&a)) {
                    Ordering::Less => Step::OpenA,
                    Ordering::Equal => Step::OpenBoth,
                    Ordering::Greater => Step::OpenB,
                }
            }
            (Place::Page { .. }, Place::End) => Step::OpenA,
            (Place::End, Place::Page { .. }) => Step::OpenB,
            (Place::Page { .. }, Place::Entry) if order != Ordering::Greater => Step::OpenA,
            (Place::Entry, Place::Page { .. }) if order != Ordering::Less => Step::OpenB,
            _ => match order {
                Ordering::Less => Step::TakeA,
                Ordering::Equal => Step::TakeBoth,
                Ordering::Greater => Step::TakeB,
            },
        }
    }

    fn advance(&mut self) -> Result<Option<Difference>, TreeError> {
        loop {
            match self.step() {
                Step::End => return Ok(None),
                Step::SkipBoth => {
                    self.a.skip_page();
                    self.b.skip_page();
                }
                Step::OpenA => self.a.descend()?,
                Step::OpenB => self.b.descend()?,
                Step::OpenBoth => {
                    self.a.descend()?;
                    self.b.descend()?;
                }
                Step::TakeA => {
                    let entry = self.a.next_entry()?;
                    return Ok(entry.map(|entry| Difference::Removed(Box::new(entry))));
                }
                Step::TakeB => {
                    let entry = self.b.next_entry()?;
                    return Ok(entry.map(|entry| Difference::Added(Box::new(entry))));
                }
                Step::TakeBoth => {
                    let (before, after) = (self.a.next_entry()?, self.b.next_entry()?);
                    let (Some(before), Some(after)) = (before, after) else { return Ok(None) };
                    let what = What::between(&before, &after);
                    if !what.is_nothing() {
                        let (before, after) = (Box::new(before), Box::new(after));
                        return Ok(Some(Difference::Changed { before, after, what }));
                    }
                }
            }
        }
    }
}

fn first_path<'r>(front: Option<&'r Front<'_>>) -> Option<&'r [u8]> {
    front.map(|front| match front {
        Front::Page(Child { first_path, .. }, _) => first_path.as_slice(),
        Front::Entry(entry) => entry.path.as_slice(),
    })
}

fn place(front: Option<&Front<'_>>) -> Place {
    match front {
        None => Place::End,
        Some(Front::Page(child, level)) => Place::Page { id: child.page, level: *level },
        Some(Front::Entry(_)) => Place::Entry,
    }
}

impl Iterator for Diff<'_> {
    type Item = Result<Difference, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance();
        self.failed = next.is_err();
        next.transpose()
    }
}
