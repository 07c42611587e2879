//! A repository's reader as trees want it: many chunks at once, in the order they are stored.

use std::ops::ControlFlow;

use repo_format::id::ChunkId;
use repo_format::pack::PackKind;
use repository::RepositoryError;
use repository::chunks::ChunkSource;
use repository::reader::{Decoder, Range, Reader};

use crate::tree::BatchSource;
use crate::tree::source::Each;

/// A reader of one repository.
#[derive(Debug)]
pub(super) struct Batched<'a>(pub(super) &'a Reader);

impl ChunkSource for Batched<'_> {
    fn get(
        &self,
        kind: PackKind,
        id: &ChunkId,
        plain: &mut Vec<u8>,
    ) -> Result<(), RepositoryError> {
        self.0.get(kind, id, plain)
    }
}

impl BatchSource for Batched<'_> {
    fn locate(&self, _: PackKind, ids: &[ChunkId]) -> Result<Vec<u64>, RepositoryError> {
        let places = self.0.index().locate_many(ids)?;
        Ok(places
            .iter()
            .map(|places| {
                let place = places.first();
                place.map_or(0, |place| u64::from(place.pack) << 32 | u64::from(place.offset))
            })
            .collect())
    }

    fn get_many(
        &self,
        kind: PackKind,
        ids: &[ChunkId],
        each: Each<'_>,
    ) -> Result<(), RepositoryError> {
        if let [id] = ids {
            let mut plain = Vec::new();
            let got = self.get(kind, id, &mut plain);
            let _ = each(0, got.map(|()| plain.as_slice()));
            return Ok(());
        }
        let (ranges, missing) = self.0.plan((0u64..).zip(ids.iter().copied()))?;
        for (tag, id) in missing {
            if each(position(tag), Err(RepositoryError::MissingChunk { id })).is_break() {
                return Ok(());
            }
        }
        let (mut bytes, mut plain, mut decoder) = (Vec::new(), Vec::new(), Decoder::new()?);
        for range in ranges {
            if self.range(&range, &mut bytes, &mut decoder, &mut plain, each)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Batched<'_> {
    fn range(
        &self,
        range: &Range,
        bytes: &mut Vec<u8>,
        decoder: &mut Decoder,
        plain: &mut Vec<u8>,
        each: Each<'_>,
    ) -> Result<ControlFlow<()>, RepositoryError> {
        match self.0.fetch(range, bytes) {
            Err(error) if !error.is_damage() => return Err(error),
            // Chunk by chunk, other copies are still tried.
            Err(_) => bytes.clear(),
            Ok(()) => {}
        }
        let cipher = self.0.cipher(&range.pack)?;
        for wanted in &range.chunks {
            let got = self
                .0
                .open_chunk(range, bytes, &cipher, wanted, decoder, plain)
                .or_else(|_| self.0.fetch_one(&wanted.id, plain));
            if each(position(wanted.tag), got.map(|()| plain.as_slice())).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn position(tag: u64) -> usize {
    usize::try_from(tag).unwrap_or(usize::MAX)
}
