//! For the fuzz targets: decoders of what normally lies behind an authentication tag. A key holder
//! can put anything there, so they have to stand any bytes.

use crate::envelope::read_compressed;
use crate::error::FormatError;
use crate::pack::{TocPlace, TocRow, read_place, read_toc};
use crate::segment::{Row, Rows, SegmentBuilder};

/// The plain bytes of a record, from its codec on.
///
/// # Errors
///
/// Any [`FormatError`].
pub fn record(bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
    read_compressed(bytes)
}

/// The sealed part of a pack's trailer.
///
/// # Errors
///
/// Any [`FormatError`].
pub fn toc_place(plain: &[u8], pack_len: u64) -> Result<TocPlace, FormatError> {
    read_place(plain, pack_len)
}

/// A pack's table.
///
/// # Errors
///
/// Any [`FormatError`].
pub fn toc(plain: &[u8], place: &TocPlace) -> Result<Vec<TocRow>, FormatError> {
    read_toc(plain, place)
}

/// The plain blocks of a segment.
///
/// # Errors
///
/// Any [`FormatError`].
pub fn segment(blocks: &[&[u8]], each: &mut dyn FnMut(Row)) -> Result<(), FormatError> {
    let mut rows = Rows::default();
    for (number, block) in blocks.iter().enumerate() {
        rows.read(block, number + 1 == blocks.len(), each)?;
    }
    Ok(())
}

/// The plain bytes that a builder would seal.
pub fn segment_plain(builder: SegmentBuilder<'_>) -> Vec<u8> {
    builder.into_plain()
}

/// What ends a config or a key slot.
pub fn checksum(bytes: &[u8]) -> [u8; 8] {
    crate::bytes::checksum(bytes)
}
