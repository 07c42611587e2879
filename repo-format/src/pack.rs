//! A pack: chunks sealed one behind the other, a sealed table of them, padding and a trailer.
//!
//! ```text
//! header 128 B (clear) | sealed frames … | sealed table | padding | trailer 256 B
//! ```
//!
//! Nothing in the clear tells how many chunks there are or how long they are: the table is
//! sealed, its place is sealed in the trailer, and padding hides the sum.

use crate::bytes::{Put, Reader, checked, checksum, len_u32, len_u64, to_usize};
use crate::error::{FormatError, check_suite, check_version};
use crate::id::{ChunkId, PackName, SessionId};
use crate::keys::{Keys, Purpose};
use crate::limits::{CHUNK_BYTES_MAX, FORMAT_VERSION, GRID_BYTES, PACK_BYTES_MAX, PACK_CHUNKS_MAX};
use crate::seal::{DerivedKey, SUITE, SealKey, TAG_LEN};

/// Length of a pack's header.
pub const HEADER_LEN: usize = 128;
/// Length of a pack's trailer.
pub const TRAILER_LEN: usize = 256;
/// What a chunk takes in a pack beyond its frame's payload.
pub const CHUNK_OVERHEAD: usize = TAG_LEN + crate::frame::FRAME_HEADER_LEN;

const MAGIC: &[u8; 4] = b"SVPK";
const TRAILER_MAGIC: &[u8; 8] = b"SVPKEND\x01";
/// Bytes that header and trailer begin with.
const IDENTITY_LEN: usize = 108;
const TOC_ROW_LEN: usize = 32 + 4;
const LOCATOR_LEN: usize = 16;
const LOCATOR_POSITION: u64 = u64::MAX;
/// A pack is never padded to less, and a full one to a multiple of this.
const PADDED_MIN: usize = 64 << 10;

/// What a pack holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PackKind {
    /// Volume and file content.
    Data,
    /// Manifests: volume roots and pages, tree pages, lists of slices.
    Meta,
}

impl PackKind {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Meta => 2,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Result<Self, FormatError> {
        match code {
            1 => Ok(Self::Data),
            2 => Ok(Self::Meta),
            _ => Err(FormatError::Inconsistent { what: "kind of a pack" }),
        }
    }

    const fn purpose(self) -> Purpose {
        match self {
            Self::Data => Purpose::Data,
            Self::Meta => Purpose::Meta,
        }
    }
}

/// What must be known of a pack to open a chunk in it. Index segments repeat it, so that no
/// header has to be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackIdentity {
    /// The pack's name when it was made. A replica may store the same bytes under another name.
    pub name: PackName,
    /// What it holds.
    pub kind: PackKind,
    /// The key epoch it is sealed under.
    pub epoch: u32,
    /// Drawn for this pack.
    pub salt: [u8; 32],
}

impl PackIdentity {
    fn derive(&self, keys: &Keys) -> Result<DerivedKey, FormatError> {
        let root = keys.root(self.kind.purpose(), self.epoch)?;
        let counter = self.name.counter.to_le_bytes();
        Ok(DerivedKey::new(
            root,
            &[b"salvor pack", self.name.session.as_bytes(), &counter, &self.salt],
        ))
    }

    /// The cipher for chunks of this pack, without a check of the commitment: for a pack whose
    /// identity comes from a sealed index segment.
    ///
    /// # Errors
    ///
    /// [`FormatError::UnknownEpoch`].
    pub fn cipher(&self, keys: &Keys) -> Result<PackCipher, FormatError> {
        Ok(PackCipher { key: self.derive(keys)?.seal, identity: *self })
    }

    fn put(&self, out: &mut Vec<u8>, commitment: &[u8; 32]) {
        let start = out.len();
        out.raw(MAGIC);
        out.u16(FORMAT_VERSION);
        out.u16(SUITE);
        out.u8(self.kind.code());
        out.raw(&[0; 3]);
        out.u32(self.epoch);
        out.raw(self.name.session.as_bytes());
        out.u32(self.name.counter);
        out.raw(&self.salt);
        out.raw(commitment);
        let checksum = checksum(out.get(start..).unwrap_or_default());
        out.raw(&checksum);
    }

    /// Reads the [`IDENTITY_LEN`] bytes that header and trailer share.
    fn read(bytes: &[u8]) -> Result<(Self, [u8; 32]), FormatError> {
        let bytes = bytes.get(..IDENTITY_LEN).ok_or(FormatError::Truncated { what: "pack" })?;
        if bytes.first_chunk() != Some(MAGIC) {
            return Err(FormatError::BadMagic { expected: "pack" });
        }
        let mut reader = Reader::new(checked(bytes, "pack")?, "pack");
        reader.take(4)?;
        check_version(reader.u16()?)?;
        check_suite(reader.u16()?)?;
        let kind = PackKind::from_code(reader.u8()?)?;
        reader.zeroes(3)?;
        let epoch = reader.u32()?;
        let session = SessionId(reader.array()?);
        let name = PackName { session, counter: reader.u32()? };
        let salt = reader.array()?;
        let commitment = reader.array()?;
        reader.finish()?;
        Ok((Self { name, kind, epoch, salt }, commitment))
    }
}

/// Seals and opens the chunks of one pack.
#[derive(Debug)]
pub struct PackCipher {
    key: SealKey,
    identity: PackIdentity,
}

impl PackCipher {
    /// Opens the sealed chunk that was read from `offset` of the pack and returns its frame.
    ///
    /// # Errors
    ///
    /// [`FormatError::Unauthentic`] if it is not that chunk, or damaged.
    pub fn open_chunk<'a>(
        &self,
        id: &ChunkId,
        offset: u32,
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], FormatError> {
        self.key.open(offset.into(), &self.aad(b"salvor chunk", Some(id)), sealed)
    }

    fn aad(&self, what: &[u8; 12], id: Option<&ChunkId>) -> [u8; 69] {
        let mut aad = [0u8; 69];
        let parts: [&[u8]; 6] = [
            what,
            &[self.identity.kind.code()],
            &self.identity.epoch.to_le_bytes(),
            self.identity.name.session.as_bytes(),
            &self.identity.name.counter.to_le_bytes(),
            id.map_or(&[0; 32], |id| id.as_bytes()),
        ];
        for (to, from) in aad.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        aad
    }
}

/// One chunk of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TocRow {
    /// The chunk.
    pub id: ChunkId,
    /// Where its sealed frame starts in the pack.
    pub offset: u32,
    /// Length of its sealed frame, tag included.
    pub stored_len: u32,
}

impl TocRow {
    fn end(&self) -> Option<u32> {
        chunk_end(self.offset, self.stored_len)
    }
}

/// The end of a sealed frame in its pack, or `None` if no chunk can be there.
pub(crate) fn chunk_end(offset: u32, stored_len: u32) -> Option<u32> {
    let lens = CHUNK_OVERHEAD..=CHUNK_BYTES_MAX + CHUNK_OVERHEAD;
    let end = offset.checked_add(stored_len)?;
    let is_chunk = to_usize(offset.into()) >= HEADER_LEN
        && lens.contains(&to_usize(stored_len.into()))
        && to_usize(end.into()) <= PACK_BYTES_MAX;
    is_chunk.then_some(end)
}

/// A buffer for one pack, aligned to [`GRID_BYTES`] so that it can be written with O_DIRECT.
/// It is made once and used for many packs.
pub struct PackBuffer {
    bytes: Vec<u8>,
    start: usize,
    target: usize,
    capacity: usize,
}

impl std::fmt::Debug for PackBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackBuffer({} of {})", self.bytes.len() - self.start, self.capacity)
    }
}

impl PackBuffer {
    /// A buffer for packs of which `target_bytes` is the length at which they are closed. It
    /// holds that, one chunk of `chunk_bytes` more, the table and the trailer.
    pub fn new(target_bytes: usize, chunk_bytes: usize) -> Self {
        let rows = target_bytes / GRID_BYTES * TOC_ROW_LEN;
        let capacity = target_bytes + chunk_bytes + rows + 2 * PADDED_MIN;
        let capacity = capacity.next_multiple_of(PADDED_MIN).min(PACK_BYTES_MAX);
        let mut bytes: Vec<u8> = Vec::with_capacity(capacity + GRID_BYTES);
        let start = bytes.as_ptr().align_offset(GRID_BYTES).min(GRID_BYTES);
        bytes.resize(start, 0);
        Self { bytes, start, target: target_bytes, capacity }
    }

    /// The finished pack.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// The length that a pack of `len` bytes is padded to. `None` if it does not fit.
    ///
    /// A pack that is full is full whatever is in it, and a round length hides what is left to
    /// tell. A shorter one, the last of a session, would tell how much the session stored.
    fn padded_len(&self, len: usize) -> Option<usize> {
        let padded = if len >= self.target {
            len.checked_next_multiple_of(PADDED_MIN)?
        } else {
            padme_len(len)
        };
        (padded <= self.capacity).then_some(padded)
    }

    fn clear(&mut self) {
        self.bytes.truncate(self.start);
    }
}

/// A pack being filled.
#[derive(Debug)]
pub struct PackBuilder {
    buffer: PackBuffer,
    cipher: PackCipher,
    commitment: [u8; 32],
    toc: Vec<TocRow>,
    /// Of the first `hashed_bytes` of the buffer: each chunk is hashed while caches have it.
    hasher: blake3::Hasher,
    hashed_bytes: usize,
}

impl PackBuilder {
    /// Starts a pack in `buffer`. `identity.salt` must be fresh random bytes.
    ///
    /// # Errors
    ///
    /// [`FormatError::UnknownEpoch`].
    pub fn new(
        mut buffer: PackBuffer,
        keys: &Keys,
        identity: PackIdentity,
    ) -> Result<Self, FormatError> {
        let derived = identity.derive(keys)?;
        buffer.clear();
        identity.put(&mut buffer.bytes, &derived.commitment);
        buffer.bytes.resize(buffer.start + HEADER_LEN, 0);
        let cipher = PackCipher { key: derived.seal, identity };
        let commitment = derived.commitment;
        let hasher = blake3::Hasher::new();
        Ok(Self { buffer, cipher, commitment, toc: Vec::new(), hasher, hashed_bytes: 0 })
    }

    /// Bytes taken so far, the table and trailer not counted.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether no chunk was added yet.
    pub fn is_empty(&self) -> bool {
        self.toc.is_empty()
    }

    /// Whether a frame of `frame_len` still fits.
    pub fn fits(&self, frame_len: usize) -> bool {
        let table = (self.toc.len() + 1) * TOC_ROW_LEN + 4 + TAG_LEN;
        let end = self.len() + frame_len + TAG_LEN + table + TRAILER_LEN;
        self.toc.len() < to_usize(PACK_CHUNKS_MAX.into()) && self.buffer.padded_len(end).is_some()
    }

    /// Seals a frame into the pack. The caller asked [`Self::fits`] before.
    ///
    /// * `frame`: in two parts, so that a payload need not be copied behind its header before.
    pub fn push(&mut self, id: ChunkId, frame: [&[u8]; 2]) -> TocRow {
        let at = self.buffer.bytes.len();
        let offset = len_u32(self.buffer.len());
        for part in frame {
            self.buffer.bytes.extend_from_slice(part);
        }
        let frame_len = self.buffer.bytes.len() - at;
        let aad = self.cipher.aad(b"salvor chunk", Some(&id));
        let tag = self.cipher.key.seal(
            offset.into(),
            &aad,
            self.buffer.bytes.get_mut(at..).unwrap_or_default(),
        );
        self.buffer.bytes.extend_from_slice(&tag);
        self.hash_on();
        let row = TocRow { id, offset, stored_len: len_u32(frame_len + TAG_LEN) };
        self.toc.push(row);
        row
    }

    fn hash_on(&mut self) {
        self.hasher.update(self.buffer.as_bytes().get(self.hashed_bytes..).unwrap_or_default());
        self.hashed_bytes = self.buffer.len();
    }

    /// The chunks so far, in the order of their offsets.
    pub fn rows(&self) -> &[TocRow] {
        &self.toc
    }

    /// The pack's identity.
    pub const fn identity(&self) -> &PackIdentity {
        &self.cipher.identity
    }

    /// Closes the pack: adds the table, the padding and the trailer.
    pub fn finish(mut self) -> FinishedPack {
        let toc_offset = self.buffer.len();
        self.put_toc();
        let toc_len = self.buffer.len() - toc_offset;
        let end = self.buffer.len() + TRAILER_LEN;
        let total = self.buffer.padded_len(end).unwrap_or(end.next_multiple_of(GRID_BYTES));
        self.put_padding(total - TRAILER_LEN);
        self.put_trailer(toc_offset, toc_len, total);
        FinishedPack { identity: self.cipher.identity, rows: self.toc, buffer: self.buffer }
    }

    fn put_toc(&mut self) {
        let (at, position) = (self.buffer.bytes.len(), len_u64(self.buffer.len()));
        self.buffer.bytes.u32(len_u32(self.toc.len()));
        for row in &self.toc {
            self.buffer.bytes.raw(row.id.as_bytes());
            self.buffer.bytes.u32(row.stored_len);
        }
        let aad = self.cipher.aad(b"salvor table", None);
        let tag = self.cipher.key.seal(
            position,
            &aad,
            self.buffer.bytes.get_mut(at..).unwrap_or_default(),
        );
        self.buffer.bytes.raw(&tag);
    }

    /// Fills up to `end` with bytes that look like ciphertext to who lacks the key.
    fn put_padding(&mut self, end: usize) {
        let at = self.buffer.bytes.len();
        self.buffer.bytes.resize(self.buffer.start + end, 0);
        let padding = self.buffer.bytes.get_mut(at..).unwrap_or_default();
        let aad = self.cipher.aad(b"salvor blank", None);
        // The tag is dropped: zeroes under the pack's key stream are all that is wanted.
        self.cipher.key.seal(len_u64(end) | 1 << 63, &aad, padding);
    }

    fn put_trailer(&mut self, toc_offset: usize, toc_len: usize, total: usize) {
        self.hash_on();
        let hash = self.hasher.finalize();
        let mut trailer = Vec::with_capacity(TRAILER_LEN);
        self.cipher.identity.put(&mut trailer, &self.commitment);
        let at = trailer.len();
        trailer.u64(len_u64(toc_offset));
        trailer.u32(len_u32(toc_len));
        trailer.u32(len_u32(self.toc.len()));
        let aad = self.cipher.aad(b"salvor place", None);
        let tag =
            self.cipher.key.seal(LOCATOR_POSITION, &aad, trailer.get_mut(at..).unwrap_or_default());
        trailer.raw(&tag);
        trailer.u64(len_u64(total));
        trailer.raw(hash.as_bytes());
        trailer.resize(TRAILER_LEN - 16, 0);
        let checksum = checksum(&trailer);
        trailer.raw(&checksum);
        trailer.raw(TRAILER_MAGIC);
        self.buffer.bytes.raw(&trailer);
    }
}

/// A closed pack, ready to be stored.
#[derive(Debug)]
pub struct FinishedPack {
    /// What opens it.
    pub identity: PackIdentity,
    /// Its chunks in the order of their offsets.
    pub rows: Vec<TocRow>,
    /// Its bytes.
    pub buffer: PackBuffer,
}

/// The next Padmé length on the grid, [`PADDED_MIN`] at least: 32 lengths per doubling, at most a
/// sixteenth more.
fn padme_len(len: usize) -> usize {
    let len = len.max(PADDED_MIN);
    let exponent = len.ilog2();
    let last_bits = exponent - (exponent.ilog2() + 1);
    len.next_multiple_of(1 << last_bits).next_multiple_of(GRID_BYTES)
}

/// A decoded trailer.
#[derive(Debug)]
pub struct Trailer {
    /// The pack it ends.
    pub identity: PackIdentity,
    /// Length of the whole pack.
    pub pack_len: u64,
    /// BLAKE3 of everything before the trailer: a scrub needs no key.
    pub hash: [u8; 32],
    commitment: [u8; 32],
    locator: [u8; LOCATOR_LEN + TAG_LEN],
}

/// Where a pack's table is, from the sealed part of its trailer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TocPlace {
    /// Offset of the sealed table in the pack.
    pub offset: u64,
    /// Its length, tag included.
    pub len: u32,
    /// Rows in it.
    pub rows: u32,
}

impl Trailer {
    /// Decodes the last [`TRAILER_LEN`] bytes of a pack.
    ///
    /// # Errors
    ///
    /// Any [`FormatError`].
    pub fn decode(bytes: &[u8; TRAILER_LEN]) -> Result<Self, FormatError> {
        let truncated = FormatError::Truncated { what: "pack's trailer" };
        let (bytes, magic) = bytes.split_last_chunk().ok_or(truncated)?;
        if magic != TRAILER_MAGIC {
            return Err(FormatError::BadMagic { expected: "pack's trailer" });
        }
        let covered = checked(bytes, "pack's trailer")?;
        let (identity, commitment) = PackIdentity::read(covered)?;
        let mut reader = Reader::new(covered, "pack's trailer");
        reader.take(IDENTITY_LEN)?;
        let locator = reader.array()?;
        let pack_len = reader.u64()?;
        let hash = reader.array()?;
        reader.zeroes(reader.remaining())?;
        Ok(Self { identity, pack_len, hash, commitment, locator })
    }

    /// Opens the sealed part: the pack's cipher and the place of its table.
    ///
    /// # Errors
    ///
    /// [`FormatError::WrongKey`], [`FormatError::Unauthentic`] and the like.
    pub fn open(&self, keys: &Keys) -> Result<(PackCipher, TocPlace), FormatError> {
        let key = self.identity.derive(keys)?.committed(&self.commitment)?;
        let cipher = PackCipher { key, identity: self.identity };
        let mut locator = self.locator;
        let aad = cipher.aad(b"salvor place", None);
        let plain = cipher.key.open(LOCATOR_POSITION, &aad, &mut locator)?;
        let place = read_place(plain, self.pack_len)?;
        Ok((cipher, place))
    }
}

pub(crate) fn read_place(plain: &[u8], pack_len: u64) -> Result<TocPlace, FormatError> {
    let mut reader = Reader::new(plain, "pack's trailer");
    let place = TocPlace { offset: reader.u64()?, len: reader.u32()?, rows: reader.u32()? };
    reader.finish()?;
    let end = place.offset.saturating_add(place.len.into());
    let fits = u64::from(place.len)
        == u64::from(place.rows) * len_u64(TOC_ROW_LEN) + 4 + len_u64(TAG_LEN)
        && place.offset >= len_u64(HEADER_LEN)
        && end.saturating_add(len_u64(TRAILER_LEN)) <= pack_len
        && pack_len <= len_u64(PACK_BYTES_MAX)
        && place.rows <= PACK_CHUNKS_MAX;
    if !fits {
        return Err(FormatError::Inconsistent { what: "place of a pack's table" });
    }
    Ok(place)
}

pub(crate) fn read_toc(plain: &[u8], place: &TocPlace) -> Result<Vec<TocRow>, FormatError> {
    let broken = FormatError::Inconsistent { what: "rows of a pack's table" };
    let mut reader = Reader::new(plain, "pack's table");
    let rows_len = to_usize(place.rows.into()).checked_mul(TOC_ROW_LEN);
    if reader.u32()? != place.rows || rows_len != Some(reader.remaining()) {
        return Err(broken);
    }
    let mut rows = Vec::with_capacity(to_usize(place.rows.into()));
    let mut offset = len_u32(HEADER_LEN);
    for _ in 0..place.rows {
        let row = TocRow { id: ChunkId(reader.array()?), offset, stored_len: reader.u32()? };
        offset = row.end().filter(|end| u64::from(*end) <= place.offset).ok_or(broken.clone())?;
        rows.push(row);
    }
    if u64::from(offset) != place.offset {
        return Err(broken);
    }
    Ok(rows)
}

impl PackCipher {
    /// Opens the sealed table read from `place`.
    ///
    /// # Errors
    ///
    /// [`FormatError::Unauthentic`], [`FormatError::Inconsistent`], [`FormatError::Truncated`].
    pub fn open_toc(
        &self,
        place: &TocPlace,
        sealed: &mut [u8],
    ) -> Result<Vec<TocRow>, FormatError> {
        let aad = self.aad(b"salvor table", None);
        read_toc(self.key.open(place.offset, &aad, sealed)?, place)
    }
}

/// Decodes the identity in a pack's header, without any key.
///
/// # Errors
///
/// Any [`FormatError`].
pub fn decode_header(bytes: &[u8; HEADER_LEN]) -> Result<PackIdentity, FormatError> {
    let (identity, _) = PackIdentity::read(bytes)?;
    let mut reader = Reader::new(bytes, "pack");
    reader.take(IDENTITY_LEN)?;
    reader.zeroes(reader.remaining())?;
    Ok(identity)
}

#[cfg(test)]
mod tests;
