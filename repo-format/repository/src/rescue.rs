//! Reading on when an index segment is lost: packs that no readable segment names still have
//! their own tables.
//!
//! Built the first time a chunk is found nowhere, from the tails of those packs, and kept in
//! memory. A chunk is verified against its id as always, so whose pack it is does not matter; a
//! running backup's packs may be among them. Bounded: see [`ENTRIES_MAX`].

use std::collections::HashMap;
use std::sync::Arc;

use repo_format::id::{CHUNK_PREFIX_LEN, ChunkId, PackName};
use repo_format::key::{ObjectKey, Prefix};
use repo_format::pack::{TRAILER_LEN, TocRow, Trailer};
use repo_format::segment::PackRow;

use crate::index::{Index, Place};
use crate::recover::is_lost;
use crate::{Repository, RepositoryError};

/// Chunks found this way at most: about 40 MB of memory, 512 GiB of chunks of 1 MiB. What is
/// beyond is not found until the index is repaired.
pub(crate) const ENTRIES_MAX: usize = 512 << 10;

/// Numbers of packs from here on are a rescue's, not the index's.
const FIRST_NUMBER: u32 = 1 << 31;

/// Where chunks are in packs that the index does not list.
#[derive(Debug, Default)]
pub(crate) struct Rescue {
    packs: Vec<Arc<PackRow>>,
    /// Position in `packs`, offset and sealed length, by the front of the chunk's id.
    places: HashMap<[u8; CHUNK_PREFIX_LEN], [u32; 3]>,
}

impl Rescue {
    /// Reads the tables of all stored packs that `index` does not list.
    ///
    /// # Errors
    ///
    /// The store or the index failed. A pack that cannot be read is passed over.
    pub(crate) fn build(repository: &Repository, index: &Index) -> Result<Self, RepositoryError> {
        let mut rescue = Self::default();
        for (name, bytes) in unlisted_packs(repository, index)? {
            if rescue.places.len() >= ENTRIES_MAX {
                break;
            }
            match read_table(repository, &name, bytes) {
                Ok((row, table)) => rescue.add(row, &table),
                Err(error) if is_lost(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(rescue)
    }

    fn add(&mut self, row: PackRow, table: &[TocRow]) {
        let position = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        self.packs.push(Arc::new(row));
        for chunk in table {
            self.places.entry(chunk.id.prefix()).or_insert([
                position,
                chunk.offset,
                chunk.stored_len,
            ]);
        }
    }

    /// Where a chunk is, if it is in any of these packs.
    pub(crate) fn locate(&self, id: &ChunkId) -> Option<Place> {
        let [position, offset, stored_len] = *self.places.get(&id.prefix())?;
        // Nothing marks chunks of these packs, so no slot is kept for them.
        Some(Place { pack: FIRST_NUMBER.checked_add(position)?, offset, stored_len, slot: 0 })
    }

    /// The pack of a place that [`Self::locate`] gave.
    pub(crate) fn pack(&self, number: u32) -> Option<Arc<PackRow>> {
        let position = number.checked_sub(FIRST_NUMBER)?;
        self.packs.get(position as usize).cloned()
    }

    /// Whether a pack number is one of a rescue.
    pub(crate) const fn is_number(number: u32) -> bool {
        number >= FIRST_NUMBER
    }
}

/// Names and lengths of stored packs that the index does not list.
///
/// # Errors
///
/// The store or the index failed.
pub(crate) fn unlisted_packs(
    repository: &Repository,
    index: &Index,
) -> Result<Vec<(PackName, u64)>, RepositoryError> {
    let mut found = Vec::new();
    let mut failure = None;
    repository.store().list(Prefix::Packs, &mut |listed| {
        let ObjectKey::Pack(name) = listed.key else { return Ok(()) };
        match index.pack_number(&name) {
            Ok(Some(_)) => {}
            Ok(None) => found.push((name, listed.size_bytes)),
            Err(error) => failure = failure.take().or(Some(error)),
        }
        Ok(())
    })?;
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(found),
    }
}

/// A pack's identity and table from its own tail.
///
/// * `bytes`: length of the object.
///
/// # Errors
///
/// The store failed, or the pack is damaged.
pub(crate) fn read_table(
    repository: &Repository,
    name: &PackName,
    bytes: u64,
) -> Result<(PackRow, Vec<TocRow>), RepositoryError> {
    let key = ObjectKey::Pack(*name);
    let named = |error| RepositoryError::format(key, error);
    let inconsistent =
        || named(repo_format::error::FormatError::Inconsistent { what: "length of a pack" });
    let at = bytes.checked_sub(TRAILER_LEN as u64).ok_or_else(inconsistent)?;
    let mut trailer = [0u8; TRAILER_LEN];
    repository.store().get_range(&key, at, &mut trailer)?;
    let trailer = Trailer::decode(&trailer).map_err(named)?;
    let (cipher, place) = trailer.open(repository.keys()).map_err(named)?;
    if trailer.pack_len != bytes || trailer.identity.name != *name {
        return Err(inconsistent());
    }
    let mut sealed = vec![0; place.len as usize];
    repository.store().get_range(&key, place.offset, &mut sealed)?;
    let table = cipher.open_toc(&place, &mut sealed).map_err(named)?;
    let row = PackRow {
        identity: trailer.identity,
        bytes: u32::try_from(bytes).map_err(|_| inconsistent())?,
        chunks: u32::try_from(table.len()).unwrap_or(u32::MAX),
    };
    Ok((row, table))
}
