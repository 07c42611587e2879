//! Reading chunks back: planned by pack, fetched in few large ranges, verified one by one.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use repo_format::error::FormatError;
use repo_format::frame::FrameDecoder;
use repo_format::id::ChunkId;
use repo_format::key::ObjectKey;
use repo_format::limits::CHUNK_BYTES_MAX;
use repo_format::pack::{CHUNK_OVERHEAD, PackCipher, PackKind, TRAILER_LEN, TocRow, Trailer};
use repo_format::segment::PackRow;

use crate::chunks::ChunkSource;
use crate::index::{Index, Place};
use crate::packer::lock;
use crate::parallel::try_each;
use crate::recover::is_lost;
use crate::rescue::Rescue;
use crate::{Repository, RepositoryError};

/// Ranges start and end on this grid, so that a request does not tell a chunk's length.
pub const RANGE_GRID_BYTES: u64 = 64 << 10;
/// Chunks this near one another are fetched with one request.
const GAP_BYTES: u64 = 512 << 10;
/// A range is not grown beyond this, unless one chunk is longer.
pub const RANGE_BYTES_MAX: u64 = 4 << 20;
/// Ranges kept by single reads: neighbours in a manifest are neighbours in a pack.
const WINDOWS: usize = 8;
const WINDOW_BYTES: u64 = 256 << 10;
/// A window that follows another one is twice as long, up to this.
const WINDOW_BYTES_MAX: u64 = 2 << 20;

/// A chunk and the caller's number for it.
pub type Tagged = (u64, ChunkId);

/// One chunk of a planned range.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The caller's number for it.
    pub tag: u64,
    /// The chunk.
    pub id: ChunkId,
    /// Where it is.
    pub place: Place,
}

/// A run of bytes of one pack that holds wanted chunks.
#[derive(Debug, Clone)]
pub struct Range {
    /// The pack.
    pub pack: Arc<PackRow>,
    /// Where the range starts in the pack.
    pub offset: u64,
    /// Its length.
    pub len: usize,
    /// What is wanted of it, ascending by offset.
    pub chunks: Vec<Wanted>,
}

/// Reads chunks. Shared by threads; each brings its own [`Decoder`].
#[derive(Debug)]
pub struct Reader {
    repository: Arc<Repository>,
    index: Arc<Index>,
    windows: Mutex<VecDeque<Window>>,
    decoders: Mutex<Vec<Decoder>>,
    /// Made when a chunk is found nowhere.
    rescue: Mutex<Option<Arc<Rescue>>>,
}

#[derive(Debug, Clone)]
struct Window {
    pack: u32,
    offset: u64,
    bytes: Arc<Vec<u8>>,
}

impl Window {
    /// Whether what begins at `offset` is the next of the pack.
    fn is_before(&self, pack: u32, offset: u64) -> bool {
        let end = self.offset + self.bytes.len() as u64;
        self.pack == pack && self.offset < offset && offset <= end && end <= offset + WINDOW_BYTES
    }
}

/// A thread's tables for opening chunks.
#[derive(Debug)]
pub struct Decoder {
    frames: FrameDecoder,
}

impl Decoder {
    /// New tables.
    ///
    /// # Errors
    ///
    /// zstd has no memory.
    pub fn new() -> Result<Self, RepositoryError> {
        let frames = FrameDecoder::new().map_err(|error| RepositoryError::format("zstd", error))?;
        Ok(Self { frames })
    }
}

impl Reader {
    /// A reader over an index that was brought in line with a view.
    pub fn new(repository: &Arc<Repository>, index: Arc<Index>) -> Self {
        Self {
            repository: Arc::clone(repository),
            index,
            windows: Mutex::default(),
            decoders: Mutex::default(),
            rescue: Mutex::default(),
        }
    }

    /// The repository.
    pub const fn repository(&self) -> &Arc<Repository> {
        &self.repository
    }

    /// The index.
    pub const fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Plans the fetching of chunks: by pack, near ones together. `wanted` are caller's numbers
    /// and ids; those in no known pack are returned apart.
    ///
    /// # Errors
    ///
    /// The index failed.
    pub fn plan(
        &self,
        wanted: impl IntoIterator<Item = (u64, ChunkId)>,
    ) -> Result<(Vec<Range>, Vec<Tagged>), RepositoryError> {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for (tag, id) in wanted {
            match self.locate(&id)?.first() {
                Some(place) => found.push(Wanted { tag, id, place: *place }),
                None => missing.push((tag, id)),
            }
        }
        Ok((self.plan_places(found)?, missing))
    }

    /// Plans the fetching of chunks whose places are known.
    ///
    /// # Errors
    ///
    /// The index failed.
    pub fn plan_places(&self, mut found: Vec<Wanted>) -> Result<Vec<Range>, RepositoryError> {
        found.sort_unstable_by_key(|wanted| (wanted.place.pack, wanted.place.offset));
        let mut ranges: Vec<Range> = Vec::new();
        let mut last_pack = None;
        for wanted in found {
            let number = wanted.place.pack;
            if let Some(range) = ranges.last_mut().filter(|_| last_pack == Some(number))
                && grow(range, &wanted)
            {
                continue;
            }
            let row = match ranges.last().filter(|_| last_pack == Some(number)) {
                Some(range) => Arc::clone(&range.pack),
                None => self.pack(number)?,
            };
            ranges.push(new_range(row, wanted));
            last_pack = Some(number);
        }
        Ok(ranges)
    }

    /// Every place to read a chunk from, the best first: those the index knows, else one in a
    /// pack that the index does not list because a segment is lost.
    ///
    /// # Errors
    ///
    /// The index failed; the store failed while packs were looked through.
    pub fn locate(&self, id: &ChunkId) -> Result<Vec<Place>, RepositoryError> {
        let places = self.index.locate(id)?;
        if places.is_empty() {
            return Ok(self.rescue()?.locate(id).into_iter().collect());
        }
        Ok(places)
    }

    fn rescue(&self) -> Result<Arc<Rescue>, RepositoryError> {
        let mut rescue = lock(&self.rescue);
        if let Some(rescue) = &*rescue {
            return Ok(Arc::clone(rescue));
        }
        let built = Arc::new(Rescue::build(&self.repository, &self.index)?);
        Ok(Arc::clone(rescue.insert(built)))
    }

    /// What opens the pack of a place.
    pub(crate) fn pack(&self, number: u32) -> Result<Arc<PackRow>, RepositoryError> {
        if Rescue::is_number(number) {
            return self.rescue()?.pack(number).ok_or(RepositoryError::WorkerLost);
        }
        self.index.pack(number)?.ok_or(RepositoryError::WorkerLost)
    }

    /// The table of a pack, from its tail.
    ///
    /// # Errors
    ///
    /// The store failed, or the pack is damaged or not the one expected.
    pub fn table(&self, pack: &PackRow) -> Result<Vec<TocRow>, RepositoryError> {
        let key = ObjectKey::Pack(pack.identity.name);
        let named = |error| RepositoryError::format(key, error);
        let too_short = || named(FormatError::Truncated { what: "pack" });
        // A suffix on the grid: what is asked for does not tell how long the table is.
        let (mut start, mut tail) = (u64::from(pack.bytes), Vec::new());
        self.extend_to(&key, start.saturating_sub(1), &mut start, &mut tail)?;
        let trailer = tail.last_chunk::<TRAILER_LEN>().ok_or_else(too_short)?;
        let trailer = Trailer::decode(trailer).map_err(named)?;
        if trailer.identity != pack.identity || trailer.pack_len != u64::from(pack.bytes) {
            return Err(named(FormatError::Inconsistent { what: "identity of a pack" }));
        }
        let (cipher, place) = trailer.open(self.repository.keys()).map_err(named)?;
        self.extend_to(&key, place.offset, &mut start, &mut tail)?;
        let at = usize::try_from(place.offset - start).map_err(|_| too_short())?;
        let sealed = tail.get_mut(at..at + place.len as usize).ok_or_else(too_short)?;
        cipher.open_toc(&place, sealed).map_err(named)
    }

    /// Makes `tail`, which holds a pack's bytes from `start` on, begin at `offset` or before.
    fn extend_to(
        &self,
        key: &ObjectKey,
        offset: u64,
        start: &mut u64,
        tail: &mut Vec<u8>,
    ) -> Result<(), RepositoryError> {
        let begin = offset / RANGE_GRID_BYTES * RANGE_GRID_BYTES;
        if begin >= *start {
            return Ok(());
        }
        let mut longer = vec![0; usize::try_from(*start - begin).unwrap_or(0)];
        self.repository.store().get_range(key, begin, &mut longer)?;
        longer.append(tail);
        (*start, *tail) = (begin, longer);
        Ok(())
    }

    /// Fetches a range into `bytes`, which is made as long as the range.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub fn fetch(&self, range: &Range, bytes: &mut Vec<u8>) -> Result<(), RepositoryError> {
        bytes.resize(range.len, 0);
        self.fetch_into(range, bytes)
    }

    /// As [`Self::fetch`], into a buffer of exactly the range's length. A page-aligned one is
    /// filled past the page cache.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub fn fetch_into(&self, range: &Range, bytes: &mut [u8]) -> Result<(), RepositoryError> {
        let key = ObjectKey::Pack(range.pack.identity.name);
        Ok(self.repository.store().get_range(&key, range.offset, bytes)?)
    }

    /// Fetches each of some ranges; all at once, if they come from a server.
    pub fn fetch_all(&self, ranges: &[Range]) -> Vec<Result<Vec<u8>, RepositoryError>> {
        let fetch = |range: &Range| {
            let mut bytes = Vec::new();
            self.fetch(range, &mut bytes).map(|()| bytes)
        };
        if self.is_far() {
            let fetched = try_each(ranges, |range| Ok::<_, Infallible>(fetch(range)));
            return fetched.unwrap_or_else(|never| match never {});
        }
        ranges.iter().map(fetch).collect()
    }

    /// Whether most of a request is waiting, so that many should be on their way at once.
    pub fn is_far(&self) -> bool {
        self.repository.store().traffic().is_some()
    }

    /// The cipher of a range's pack.
    ///
    /// # Errors
    ///
    /// The keys do not hold the pack's epoch.
    pub fn cipher(&self, pack: &PackRow) -> Result<PackCipher, RepositoryError> {
        let named = |error| RepositoryError::format(ObjectKey::Pack(pack.identity.name), error);
        pack.identity.cipher(self.repository.keys()).map_err(named)
    }

    /// Opens one wanted chunk out of a fetched range and verifies it against its id.
    /// `plain` is replaced.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Damaged`] with the pack's name.
    pub fn open_chunk(
        &self,
        range: &Range,
        bytes: &mut [u8],
        cipher: &PackCipher,
        wanted: &Wanted,
        decoder: &mut Decoder,
        plain: &mut Vec<u8>,
    ) -> Result<(), RepositoryError> {
        self.open_frame(range, bytes, cipher, wanted, decoder, plain).map(drop)
    }

    /// As [`Self::open_chunk`]; also gives the chunk's frame as it is stored.
    pub(crate) fn open_frame<'a>(
        &self,
        range: &Range,
        bytes: &'a mut [u8],
        cipher: &PackCipher,
        wanted: &Wanted,
        decoder: &mut Decoder,
        plain: &mut Vec<u8>,
    ) -> Result<&'a [u8], RepositoryError> {
        let named =
            |error| RepositoryError::format(ObjectKey::Pack(range.pack.identity.name), error);
        let sealed = sealed_part(range, bytes, wanted).map_err(named)?;
        let frame = cipher.open_chunk(&wanted.id, wanted.place.offset, sealed).map_err(named)?;
        decoder.frames.decode(frame, plain).map_err(named)?;
        self.check_content(range.pack.identity.kind, &wanted.id, plain).map_err(named)?;
        Ok(frame)
    }

    /// As [`Self::open_chunk`], into a buffer that must be exactly as long as the chunk.
    ///
    /// # Errors
    ///
    /// As [`Self::open_chunk`].
    pub fn open_chunk_into(
        &self,
        range: &Range,
        bytes: &mut [u8],
        cipher: &PackCipher,
        wanted: &Wanted,
        decoder: &mut Decoder,
        plain: &mut [u8],
    ) -> Result<(), RepositoryError> {
        let named =
            |error| RepositoryError::format(ObjectKey::Pack(range.pack.identity.name), error);
        let sealed = sealed_part(range, bytes, wanted).map_err(named)?;
        let frame = cipher.open_chunk(&wanted.id, wanted.place.offset, sealed).map_err(named)?;
        decoder.frames.decode_into(frame, plain).map_err(named)?;
        self.check_content(range.pack.identity.kind, &wanted.id, plain).map_err(named)
    }

    fn check_content(&self, kind: PackKind, id: &ChunkId, plain: &[u8]) -> Result<(), FormatError> {
        if self.repository.keys().chunk_id(kind, plain) == *id {
            Ok(())
        } else {
            Err(FormatError::WrongContent)
        }
    }

    /// Fetches one chunk from any place that still gives it: all places are tried.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::MissingChunk`], [`RepositoryError::DamagedChunk`], or the store cannot
    /// be reached.
    pub fn fetch_one(&self, id: &ChunkId, plain: &mut Vec<u8>) -> Result<(), RepositoryError> {
        let mut places = self.locate(id)?;
        if places.is_empty() {
            return Err(RepositoryError::MissingChunk { id: *id });
        }
        let mut decoder = self.take_decoder()?;
        let mut whys = Vec::new();
        let mut tried = 0;
        while let Some(place) = places.get(tried) {
            match self.fetch_from(id, *place, &mut decoder, plain) {
                Ok(()) => {
                    lock(&self.decoders).push(decoder);
                    return Ok(());
                }
                Err(error) if is_lost(&error) => whys.push(error.to_string()),
                Err(error) => return Err(error),
            }
            tried += 1;
            if tried == places.len() && !places.iter().any(|place| Rescue::is_number(place.pack)) {
                places.extend(self.rescue()?.locate(id));
            }
        }
        Err(RepositoryError::DamagedChunk { id: *id, why: whys.join("; ") })
    }

    /// Fetches one chunk from one place.
    ///
    /// # Errors
    ///
    /// The chunk there is damaged, or the store cannot be reached.
    pub(crate) fn fetch_at(
        &self,
        id: &ChunkId,
        place: Place,
        plain: &mut Vec<u8>,
    ) -> Result<(), RepositoryError> {
        let mut decoder = self.take_decoder()?;
        let fetched = self.fetch_from(id, place, &mut decoder, plain);
        lock(&self.decoders).push(decoder);
        fetched
    }

    fn take_decoder(&self) -> Result<Decoder, RepositoryError> {
        let pooled = lock(&self.decoders).pop();
        pooled.map_or_else(Decoder::new, Ok)
    }

    fn fetch_from(
        &self,
        id: &ChunkId,
        place: Place,
        decoder: &mut Decoder,
        plain: &mut Vec<u8>,
    ) -> Result<(), RepositoryError> {
        let row = self.pack(place.pack)?;
        let window = self.window(&row, place)?;
        let cipher = self.cipher(&row)?;
        let start = usize::try_from(u64::from(place.offset) - window.offset).unwrap_or(0);
        let sealed = window.bytes.get(start..start + place.stored_len as usize);
        // Opening works in place; the window stays as it was fetched.
        let mut sealed = sealed.unwrap_or_default().to_vec();
        let name = row.identity.name;
        let named = |error| RepositoryError::format(ObjectKey::Pack(name), error);
        let frame = cipher.open_chunk(id, place.offset, &mut sealed).map_err(named)?;
        decoder.frames.decode(frame, plain).map_err(named)?;
        self.check_content(row.identity.kind, id, plain).map_err(named)
    }

    /// The bytes around a place, from the cache or the store.
    fn window(&self, row: &Arc<PackRow>, place: Place) -> Result<Window, RepositoryError> {
        let (start, end) = bounds(place);
        let offset = start / RANGE_GRID_BYTES * RANGE_GRID_BYTES;
        let mut wanted = WINDOW_BYTES;
        {
            let mut windows = lock(&self.windows);
            let holds = |window: &Window| {
                window.pack == place.pack
                    && window.offset <= start
                    && end <= window.offset + window.bytes.len() as u64
            };
            if let Some(at) = windows.iter().position(holds)
                && let Some(window) = windows.remove(at)
            {
                windows.push_front(window.clone());
                return Ok(window);
            }
            // Pages that are read in their order lie in that order: soon more of them are wanted.
            let before = windows.iter().find(|window| window.is_before(place.pack, offset));
            if let Some(before) = before {
                wanted = (2 * before.bytes.len() as u64).clamp(WINDOW_BYTES, WINDOW_BYTES_MAX);
            }
        }
        let end = end.next_multiple_of(RANGE_GRID_BYTES).max(offset + wanted);
        let len = end.min(row.bytes.into()).saturating_sub(offset);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        let key = ObjectKey::Pack(row.identity.name);
        self.repository.store().get_range(&key, offset, &mut bytes)?;
        let window = Window { pack: place.pack, offset, bytes: Arc::new(bytes) };
        let mut windows = lock(&self.windows);
        windows.push_front(window.clone());
        windows.truncate(WINDOWS);
        Ok(window)
    }
}

/// The sealed bytes of a wanted chunk in those of its range.
fn sealed_part<'a>(
    range: &Range,
    bytes: &'a mut [u8],
    wanted: &Wanted,
) -> Result<&'a mut [u8], FormatError> {
    let (start, end) = bounds(wanted.place);
    let at = |offset: u64| usize::try_from(offset.checked_sub(range.offset)?).ok();
    at(start)
        .zip(at(end))
        .and_then(|(start, end)| bytes.get_mut(start..end))
        .ok_or(FormatError::Truncated { what: "pack" })
}

fn bounds(place: Place) -> (u64, u64) {
    let start = u64::from(place.offset);
    (start, start + u64::from(place.stored_len))
}

fn new_range(pack: Arc<PackRow>, wanted: Wanted) -> Range {
    let (start, end) = bounds(wanted.place);
    let offset = start / RANGE_GRID_BYTES * RANGE_GRID_BYTES;
    let end = end.next_multiple_of(RANGE_GRID_BYTES).min(pack.bytes.into());
    let len = usize::try_from(end.saturating_sub(offset)).unwrap_or(0);
    Range { pack, offset, len, chunks: vec![wanted] }
}

/// Adds a chunk to a range of the same pack, if it is near enough.
fn grow(range: &mut Range, wanted: &Wanted) -> bool {
    let (start, end) = bounds(wanted.place);
    let end = end.next_multiple_of(RANGE_GRID_BYTES).min(range.pack.bytes.into());
    let range_end = range.offset + range.len as u64;
    if start > range_end + GAP_BYTES || end.saturating_sub(range.offset) > RANGE_BYTES_MAX {
        return false;
    }
    range.len = usize::try_from(end.max(range_end) - range.offset).unwrap_or(range.len);
    range.chunks.push(*wanted);
    true
}

impl ChunkSource for Reader {
    fn get(
        &self,
        _kind: PackKind,
        id: &ChunkId,
        plain: &mut Vec<u8>,
    ) -> Result<(), RepositoryError> {
        self.fetch_one(id, plain)
    }
}

/// Longest range a plan can hold: one chunk of the greatest length, on the grid.
#[expect(clippy::cast_possible_truncation, reason = "a grid of 64 KiB")]
pub const RANGE_BYTES_BOUND: usize =
    CHUNK_BYTES_MAX + CHUNK_OVERHEAD + 2 * RANGE_GRID_BYTES as usize;
