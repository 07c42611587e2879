//! A chunk's plain bytes, compressed if that gains anything: codec, plain length, payload.

use zstd::bulk::{Compressor, Decompressor};

use crate::bytes::{len_u32, len_u64, to_usize};
use crate::error::FormatError;
use crate::limits::CHUNK_BYTES_MAX;

/// Bytes before the payload: codec and plain length.
pub const FRAME_HEADER_LEN: usize = 5;

const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;

/// A payload that zstd does not shrink by at least one part in this many is stored as it is:
/// the bytes saved would not pay for decompressing them.
const WORTH_ONE_IN: usize = 32;

/// How hard to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all: nothing about content can then be told from a stored length.
    Off,
    /// zstd at this level, −7 to 19.
    Zstd(i32),
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(1)
    }
}

/// A frame in its two parts. The payload is the plain itself where that does not shrink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    header: [u8; FRAME_HEADER_LEN],
    payload: &'a [u8],
}

impl Frame<'_> {
    /// Header and payload.
    pub const fn parts(&self) -> [&[u8]; 2] {
        [&self.header, self.payload]
    }

    /// The parts in one.
    pub fn to_vec(&self) -> Vec<u8> {
        self.parts().concat()
    }
}

/// Makes frames. One per thread: it holds the compressor's tables.
pub struct FrameEncoder {
    compression: Compression,
    compressor: Option<Compressor<'static>>,
    /// Never made shorter: only growing it costs.
    room: Vec<u8>,
}

impl std::fmt::Debug for FrameEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameEncoder")
    }
}

impl FrameEncoder {
    /// An encoder.
    ///
    /// # Errors
    ///
    /// [`FormatError::Compression`] if zstd refuses the level.
    pub fn new(compression: Compression) -> Result<Self, FormatError> {
        let compressor = match compression {
            Compression::Off => None,
            Compression::Zstd(level) => Some(new_compressor(level)?),
        };
        Ok(Self { compression, compressor, room: Vec::new() })
    }

    /// Compresses like this from now on.
    ///
    /// # Errors
    ///
    /// As [`FrameEncoder::new`]; the encoder is then as it was.
    pub fn set_compression(&mut self, compression: Compression) -> Result<(), FormatError> {
        if compression != self.compression {
            let room = std::mem::take(&mut self.room);
            *self = Self { room, ..Self::new(compression)? };
        }
        Ok(())
    }

    /// The frame of `plain`, which is 1 to [`CHUNK_BYTES_MAX`] bytes.
    pub fn encode<'a>(&'a mut self, plain: &'a [u8]) -> Frame<'a> {
        // What does not fit with a gain is stored raw anyway.
        let room = plain.len() - plain.len() / WORTH_ONE_IN;
        if self.compressor.is_some() && self.room.len() < room {
            self.room.resize(room, 0);
        }
        let compressed = self
            .compressor
            .as_mut()
            .zip(self.room.get_mut(..room))
            .and_then(|(compressor, room)| compressor.compress_to_buffer(plain, room).ok())
            .and_then(|len| self.room.get(..len));
        let codec = if compressed.is_some() { CODEC_ZSTD } else { CODEC_RAW };
        let [a, b, c, d] = len_u32(plain.len()).to_le_bytes();
        Frame { header: [codec, a, b, c, d], payload: compressed.unwrap_or(plain) }
    }
}

fn new_compressor(level: i32) -> Result<Compressor<'static>, FormatError> {
    let mut compressor = Compressor::new(level).map_err(|_| FormatError::Compression)?;
    // The frame has the length and the AEAD tag guards it: zstd need not repeat either.
    compressor.include_checksum(false).map_err(|_| FormatError::Compression)?;
    compressor.include_contentsize(false).map_err(|_| FormatError::Compression)?;
    compressor.include_dictid(false).map_err(|_| FormatError::Compression)?;
    Ok(compressor)
}

/// Takes frames apart. One per thread.
pub struct FrameDecoder {
    decompressor: Decompressor<'static>,
}

impl std::fmt::Debug for FrameDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameDecoder")
    }
}

impl FrameDecoder {
    /// A decoder.
    ///
    /// # Errors
    ///
    /// [`FormatError::Compression`] if zstd has no memory for its tables.
    pub fn new() -> Result<Self, FormatError> {
        let decompressor = Decompressor::new().map_err(|_| FormatError::Compression)?;
        Ok(Self { decompressor })
    }

    /// Length of the plain bytes that `frame` claims to hold, checked against `limit_bytes`.
    ///
    /// # Errors
    ///
    /// [`FormatError::Truncated`], [`FormatError::Limit`].
    pub fn plain_len(frame: &[u8], limit_bytes: usize) -> Result<usize, FormatError> {
        let header = frame
            .first_chunk::<FRAME_HEADER_LEN>()
            .ok_or(FormatError::Truncated { what: "frame" })?;
        let [_, a, b, c, d] = *header;
        let len = to_usize(u32::from_le_bytes([a, b, c, d]).into());
        if len > limit_bytes {
            let (found, limit) = (len_u64(len), len_u64(limit_bytes));
            return Err(FormatError::Limit { what: "plain length of a frame", found, limit });
        }
        Ok(len)
    }

    /// Replaces `plain` by what `frame` holds.
    ///
    /// # Errors
    ///
    /// Any [`FormatError`]; what `plain` holds then is unspecified. It never grows beyond
    /// [`CHUNK_BYTES_MAX`].
    pub fn decode(&mut self, frame: &[u8], plain: &mut Vec<u8>) -> Result<(), FormatError> {
        let len = Self::plain_len(frame, CHUNK_BYTES_MAX)?;
        plain.resize(len, 0);
        self.decode_into(frame, plain)
    }

    /// Fills `plain`, which must be exactly as long as the frame says.
    ///
    /// # Errors
    ///
    /// [`FormatError::Compression`], [`FormatError::Inconsistent`], [`FormatError::Truncated`].
    pub fn decode_into(&mut self, frame: &[u8], plain: &mut [u8]) -> Result<(), FormatError> {
        let wrong_length = FormatError::Inconsistent { what: "plain length of a frame" };
        if Self::plain_len(frame, plain.len())? != plain.len() {
            return Err(wrong_length);
        }
        let Some(([codec, ..], payload)) = frame.split_first_chunk::<FRAME_HEADER_LEN>() else {
            return Err(FormatError::Truncated { what: "frame" });
        };
        match *codec {
            CODEC_RAW if payload.len() == plain.len() => plain.copy_from_slice(payload),
            CODEC_RAW => return Err(wrong_length),
            CODEC_ZSTD => {
                let written = self
                    .decompressor
                    .decompress_to_buffer(payload, plain)
                    .map_err(|_| FormatError::Compression)?;
                if written != plain.len() {
                    return Err(FormatError::Compression);
                }
            }
            _ => return Err(FormatError::Inconsistent { what: "codec of a frame" }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{damaged, noise};

    fn encoded(compression: Compression, plain: &[u8]) -> Vec<u8> {
        FrameEncoder::new(compression).unwrap().encode(plain).to_vec()
    }

    #[test]
    fn a_frame_is_decoded_as_it_was_at_every_level() {
        let mut text = b"to be or not to be, ".repeat(500);
        text.extend_from_slice(&noise(1, 5000));
        let levels = (-7..=19).map(Compression::Zstd).chain([Compression::Off]);
        for compression in levels {
            for plain in [&[][..], b"x", &[0; 1000], &noise(2, 10_000), &text] {
                let frame = encoded(compression, plain);
                assert!(frame.len() <= plain.len() + FRAME_HEADER_LEN);
                let mut decoded = vec![0xdd; 17];
                FrameDecoder::new().unwrap().decode(&frame, &mut decoded).unwrap();
                assert_eq!(decoded, plain, "{compression:?}");
            }
        }
    }

    #[test]
    fn the_largest_chunk_fits_a_frame() {
        let plain = noise(1, CHUNK_BYTES_MAX);
        let mut decoded = Vec::new();
        let frame = encoded(Compression::default(), &plain);
        FrameDecoder::new().unwrap().decode(&frame, &mut decoded).unwrap();
        assert_eq!(decoded, plain);
    }

    #[test]
    fn what_does_not_shrink_is_stored_as_it_is() {
        let plain = noise(3, 100_000);
        let frame = encoded(Compression::Zstd(19), &plain);
        assert_eq!((frame[0], &frame[FRAME_HEADER_LEN..]), (CODEC_RAW, plain.as_slice()));
    }

    #[test]
    fn a_damaged_frame_is_refused_or_as_long_as_it_says() {
        let mut decoder = FrameDecoder::new().unwrap();
        for compression in [Compression::Off, Compression::Zstd(1)] {
            for (damage, frame) in damaged(&encoded(compression, &[7; 200])) {
                let mut plain = Vec::new();
                if decoder.decode(&frame, &mut plain).is_ok() {
                    assert_eq!(plain.len(), 200, "{damage}");
                }
                assert!(plain.capacity() <= 2 * CHUNK_BYTES_MAX, "{damage}");
            }
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_anything_is_reserved() {
        let mut frame = vec![CODEC_RAW];
        frame.extend_from_slice(&u32::MAX.to_le_bytes());
        let mut plain = Vec::new();
        let refused = FrameDecoder::new().unwrap().decode(&frame, &mut plain);
        assert!(matches!(refused, Err(FormatError::Limit { .. })));
        assert_eq!(plain.capacity(), 0);
    }
}
