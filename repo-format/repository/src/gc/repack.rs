//! Moving what is needed out of packs that are mostly garbage.

use repo_format::pack::PackKind;

use super::mark::PackMarks;
use crate::RepositoryError;
use crate::index::Place;
use crate::reader::{Decoder, Reader, Wanted};
use crate::writer::Writer;

/// Packs worth emptying, the emptiest first, as far as the budgets go.
///
/// * `live_below`: a pack whose needed share is at least this is left alone.
/// * `budget_bytes`: most needed bytes to move.
pub(crate) fn choose<'a>(
    packs: impl Iterator<Item = (&'a u32, &'a PackMarks)>,
    live_below: f64,
    budget_bytes: u64,
) -> Vec<u32> {
    let share = |pack: &PackMarks| ratio(pack.needed_bytes, pack.row.bytes.into());
    let mut candidates: Vec<(u32, f64, u64)> = packs
        // A pack of which every chunk is needed has only its table and padding besides, and what
        // it is written to has those too: each prune would write it anew, for ever.
        .filter(|(_, pack)| (1..pack.row.chunks).contains(&pack.needed_chunks))
        .filter(|(_, pack)| share(pack) < live_below)
        .map(|(number, pack)| (*number, share(pack), pack.needed_bytes))
        .collect();
    candidates.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut left = budget_bytes;
    candidates
        .into_iter()
        .take_while(|(_, _, bytes)| {
            let fits = *bytes <= left;
            left = left.saturating_sub(*bytes);
            fits
        })
        .map(|(number, _, _)| number)
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Writes the needed chunks of one pack again.
///
/// # Errors
///
/// The store failed, or the pack is damaged: it is then left as it is.
pub(crate) fn empty(
    reader: &Reader,
    writer: &Writer,
    number: u32,
    marks: &PackMarks,
) -> Result<(), RepositoryError> {
    let table = reader.table(&marks.row)?;
    let wanted: Vec<Wanted> = (0u32..)
        .zip(&table)
        .filter(|(slot, _)| marks.needs(*slot))
        .map(|(slot, row)| {
            let (offset, stored_len) = (row.offset, row.stored_len);
            let place = Place { pack: number, offset, stored_len, slot };
            Wanted { tag: 0, id: row.id, place }
        })
        .collect();
    let kind: PackKind = marks.row.identity.kind;
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
    Ok(())
}
