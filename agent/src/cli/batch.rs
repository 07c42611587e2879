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
        let (mut plain, mut decoder) = (Vec::new(), Decoder::new()?);
        if !self.0.is_far() {
            let mut bytes = Vec::new();
            for range in &ranges {
                let fetched = self.0.fetch(range, &mut bytes).map(|()| bytes.as_mut_slice());
                if self.range(range, fetched, &mut decoder, &mut plain, each)?.is_break() {
                    break;
                }
            }
            return Ok(());
        }
        let mut left = ranges.as_slice();
        while !left.is_empty() {
            let (together, others) = left.split_at(together(left));
            left = others;
            for (range, fetched) in together.iter().zip(self.0.fetch_all(together)) {
                let mut bytes = Vec::new();
                let fetched = fetched.map(|fetched| {
                    bytes = fetched;
                    bytes.as_mut_slice()
                });
                if self.range(range, fetched, &mut decoder, &mut plain, each)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Batched<'_> {
    fn range(
        &self,
        range: &Range,
        fetched: Result<&mut [u8], RepositoryError>,
        decoder: &mut Decoder,
        plain: &mut Vec<u8>,
        each: Each<'_>,
    ) -> Result<ControlFlow<()>, RepositoryError> {
        let bytes = match fetched {
            Err(error) if !error.is_damage() => return Err(error),
            // Chunk by chunk, other copies are still tried.
            Err(_) => &mut [],
            Ok(bytes) => bytes,
        };
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

/// How many of the ranges are fetched at once.
fn together(ranges: &[Range]) -> usize {
    const BYTES_MAX: usize = 16 << 20;
    let mut bytes = 0;
    let fits = |range: &&Range| {
        bytes += range.len;
        bytes <= BYTES_MAX
    };
    ranges.iter().take_while(fits).count().max(1)
}

fn position(tag: u64) -> usize {
    usize::try_from(tag).unwrap_or(usize::MAX)
}
