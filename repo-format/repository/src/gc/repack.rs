//! Moving what is needed out of packs that are mostly garbage.

use std::ops::ControlFlow;

use repo_format::id::ChunkId;
use repo_format::pack::PackKind;

use super::mark::Marks;
use crate::RepositoryError;
use crate::index::{Index, PackSet, PackState, Place};
use crate::reader::{Decoder, Reader, Wanted};
use crate::writer::Writer;

/// Shares of packs are told apart this finely.
const SHARES: usize = 1024;
/// Packs chosen at once.
const CHOSEN_MAX: usize = 16 << 10;

/// Chooses packs worth emptying: the emptiest first, as far as the budget goes.
pub(crate) struct Choice<'a> {
    pub(crate) index: &'a Index,
    pub(crate) marks: &'a Marks,
    /// Left out.
    pub(crate) tried: &'a PackSet,
    /// Packs from this number on are left out, too: the repack made them itself.
    pub(crate) end: u32,
    /// A pack whose needed share is at least this is left alone.
    pub(crate) live_below: f64,
    /// Most needed bytes to move.
    pub(crate) budget_bytes: u64,
}

impl Choice<'_> {
    /// The first of them.
    pub(crate) fn packs(&self) -> Result<Vec<u32>, RepositoryError> {
        let (last, _) = self.last_share()?;
        let mut chosen = Vec::new();
        self.each(&mut |number, share, bytes| {
            if share <= last {
                chosen.push((share, number, bytes));
            }
            // The emptiest so far, now and then: of one share there may be very many.
            if chosen.len() == 2 * CHOSEN_MAX {
                chosen.sort_unstable();
                chosen.truncate(CHOSEN_MAX);
            }
        })?;
        chosen.sort_unstable();
        chosen.truncate(CHOSEN_MAX);
        let mut left = self.budget_bytes;
        let fitting = chosen.into_iter().take_while(|(_, _, bytes)| take(&mut left, *bytes));
        Ok(fitting.map(|(_, number, _)| number).collect())
    }

    /// How many there are in all, and the bytes to move.
    pub(crate) fn total(&self) -> Result<(u64, u64), RepositoryError> {
        let (last, before) = self.last_share()?;
        let (mut packs, mut sum, mut is_full) = (0, 0, false);
        let mut left = self.budget_bytes.saturating_sub(before);
        self.each(&mut |_, share, bytes| {
            is_full |= share == last && !is_full && !take(&mut left, bytes);
            if share < last || share == last && !is_full {
                packs += 1;
                sum += bytes;
            }
        })?;
        Ok((packs, sum))
    }

    /// The share up to which the budget goes, and what packs with smaller ones take of it.
    fn last_share(&self) -> Result<(usize, u64), RepositoryError> {
        let mut sums = vec![0; SHARES];
        self.each(&mut |_, share, bytes| {
            if let Some(sum) = sums.get_mut(share) {
                *sum += bytes;
            }
        })?;
        let mut before = 0;
        for (share, sum) in sums.into_iter().enumerate() {
            if before + sum > self.budget_bytes {
                return Ok((share, before));
            }
            before += sum;
        }
        Ok((SHARES, before))
    }

    /// Hands out the candidates by number: share and bytes that are needed.
    fn each(&self, each: &mut dyn FnMut(u32, usize, u64)) -> Result<(), RepositoryError> {
        Ok(self.index.packs(&mut |number, row, state| {
            let bytes = u64::from(self.marks.needed_bytes(number));
            let share = ratio(bytes, row.bytes.into());
            let is_mixed = bytes > 0 && share < self.live_below && number < self.end;
            // A pack of which every chunk is needed has only its table and padding besides, and what
            // it is written to has those too: each prune would write it anew, for ever.
            let is_mixed = is_mixed && !self.marks.needs_chunks(number, row.chunks);
            if is_mixed && state == PackState::Live && !self.tried.contains(number) {
                let share = bytes * SHARES as u64 / u64::from(row.bytes).max(1);
                each(number, usize::try_from(share).unwrap_or(SHARES), bytes);
            }
            ControlFlow::Continue(())
        })?)
    }
}

/// Takes `bytes` out of what is left, if there is enough.
fn take(left: &mut u64, bytes: u64) -> bool {
    let rest = left.checked_sub(bytes);
    *left = rest.unwrap_or(*left);
    rest.is_some()
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Writes the needed chunks of one pack again. Returns them.
///
/// # Errors
///
/// The store failed, or the pack is damaged: it is then left as it is.
pub(crate) fn empty(
    reader: &Reader,
    writer: &Writer,
    number: u32,
    marks: &Marks,
) -> Result<Vec<ChunkId>, RepositoryError> {
    let Some(pack) = reader.index().pack(number)? else { return Ok(Vec::new()) };
    let table = reader.table(&pack)?;
    let wanted: Vec<Wanted> = (0u32..)
        .zip(&table)
        .filter(|(slot, _)| marks.needs(number, *slot))
        .map(|(slot, row)| {
            let (offset, stored_len) = (row.offset, row.stored_len);
            let place = Place { pack: number, offset, stored_len, slot };
            Wanted { tag: 0, id: row.id, place }
        })
        .collect();
    let kind: PackKind = pack.identity.kind;
    let moved = wanted.iter().map(|wanted| wanted.id).collect();
    let (mut bytes, mut plain, mut decoder) = (Vec::new(), Vec::new(), Decoder::new()?);
    for range in reader.plan_places(wanted)? {
        reader.fetch(&range, &mut bytes)?;
        let cipher = reader.cipher(&range.pack)?;
        for chunk in &range.chunks {
            let frame =
                reader.open_frame(&range, &mut bytes, &cipher, chunk, &mut decoder, &mut plain)?;
            writer.rewrite(kind, &chunk.id, frame, plain.len())?;
        }
    }
    Ok(moved)
}
