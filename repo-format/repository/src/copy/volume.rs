//! The manifest of a block volume under the ids of another repository.
//!
//! A page that is the same in an earlier snapshot, of which the target has a copy, is taken over
//! from that copy by its position, without being read. All others are rewritten a few at a time.

use repo_format::id::ChunkId;
use repo_format::volume::{Page, PageRef, Slot, VolumeRoot};

use super::mover::{Mover, Names, Wants, decoded};
use super::{CopyError, Progress};

/// Pages rewritten at once: 8 GiB of a volume with chunks of 1 MiB, half a MiB of ids.
const PAGES_AT_ONCE: usize = 8;

/// An earlier manifest and its copy.
struct Base {
    source: VolumeRoot,
    target: VolumeRoot,
    /// Whether pages may be taken over unread.
    is_trusted: bool,
}

impl Base {
    /// Reads both roots. `None` if they cannot be read or do not fit each other or `root`.
    fn open(
        mover: &Mover<'_>,
        root: &VolumeRoot,
        pair: (ChunkId, ChunkId),
    ) -> Result<Option<Self>, CopyError> {
        let Some((source, target)) = mover.read_pair(pair)? else { return Ok(None) };
        let (Ok(source), Ok(target)) = (VolumeRoot::decode(&source), VolumeRoot::decode(&target))
        else {
            return Ok(None);
        };
        let same_kind =
            |(a, b): (&PageRef, &PageRef)| std::mem::discriminant(a) == std::mem::discriminant(b);
        let fits = source.chunk_log2 == root.chunk_log2
            && source.chunk_log2 == target.chunk_log2
            && source.size_bytes == target.size_bytes
            && source.pages.iter().zip(&target.pages).all(same_kind);
        let is_trusted = mover.writer.trusts_parents();
        Ok(fits.then_some(Self { source, target, is_trusted }))
    }

    /// Both halves of the page at a position.
    fn at(&self, position: usize) -> Option<(ChunkId, ChunkId)> {
        match (self.source.pages.get(position)?, self.target.pages.get(position)?) {
            (PageRef::Page(source), PageRef::Page(target)) => Some((*source, *target)),
            _ => None,
        }
    }

    /// The target's id of page `id` at a position, if it did not change.
    fn same(&self, position: usize, id: &ChunkId) -> Option<ChunkId> {
        let (source, target) = self.at(position)?;
        (self.is_trusted && source == *id).then_some(target)
    }

    /// What the slots of a page are called in the target.
    fn learn(
        &self,
        mover: &Mover<'_>,
        position: usize,
        hints: &mut Names,
    ) -> Result<(), CopyError> {
        let Some(pair) = self.at(position) else { return Ok(()) };
        let Some((source, target)) = mover.read_pair(pair)? else { return Ok(()) };
        let (Ok(source), Ok(target)) = (Page::decode(&source), Page::decode(&target)) else {
            return Ok(());
        };
        for slots in source.slots.iter().zip(&target.slots) {
            if let (Slot::Data(source), Slot::Data(target)) = slots {
                hints.insert(*source, *target);
            }
        }
        Ok(())
    }
}

/// Copies a volume. Returns the root of its manifest in the target.
///
/// * `base`: roots of an earlier snapshot and of its copy.
///
/// # Errors
///
/// [`CopyError`]; what was stored stays stored.
pub(super) fn copy(
    mover: &Mover<'_>,
    root: &ChunkId,
    base: Option<(ChunkId, ChunkId)>,
) -> Result<ChunkId, CopyError> {
    let mut root = decoded(root, VolumeRoot::decode(&mover.read_page(root)?))?;
    let base = match base {
        Some(pair) => Base::open(mover, &root, pair)?,
        None => None,
    };
    let mut changed: Vec<(usize, ChunkId)> = Vec::new();
    for position in 0..root.pages.len() {
        let Some(PageRef::Page(id)) = root.pages.get(position).copied() else { continue };
        match base.as_ref().and_then(|base| base.same(position, &id)) {
            Some(same) => {
                set(&mut root, position, same);
                let covered = page_bytes(&root, position);
                Progress::add(&mover.progress.done_bytes, covered);
                Progress::add(&mover.progress.present_bytes, covered);
            }
            None => changed.push((position, id)),
        }
        if changed.len() >= PAGES_AT_ONCE {
            rewrite(mover, &mut root, base.as_ref(), &changed)?;
            changed.clear();
        }
    }
    rewrite(mover, &mut root, base.as_ref(), &changed)?;
    mover.put_page(&root.encode())
}

fn set(root: &mut VolumeRoot, position: usize, id: ChunkId) {
    if let Some(page) = root.pages.get_mut(position) {
        *page = PageRef::Page(id);
    }
}

/// What a page covers of its volume, in bytes.
fn page_bytes(root: &VolumeRoot, position: usize) -> u64 {
    let page = (repo_format::limits::PAGE_SLOTS as u64) << root.chunk_log2;
    root.size_bytes.saturating_sub(position as u64 * page).min(page)
}

fn rewrite(
    mover: &Mover<'_>,
    root: &mut VolumeRoot,
    base: Option<&Base>,
    changed: &[(usize, ChunkId)],
) -> Result<(), CopyError> {
    let (mut pages, mut wants, mut hints) = (Vec::new(), Wants::new(), Names::new());
    for (position, id) in changed {
        let page = decoded(id, Page::decode(&mover.read_page(id)?))?;
        for slot in &page.slots {
            if let Slot::Data(id) = slot {
                *wants.entry(*id).or_default() += 1 << root.chunk_log2;
            }
        }
        if let Some(base) = base {
            base.learn(mover, *position, &mut hints)?;
        }
        pages.push((*position, page));
    }
    let names = mover.bring(&wants, &hints)?;
    for (position, mut page) in pages {
        for slot in &mut page.slots {
            if let Slot::Data(id) = slot {
                *slot = Slot::Data(super::name_of(&names, id)?);
            }
        }
        set(root, position, mover.put_page(&page.encode())?);
    }
    Ok(())
}
