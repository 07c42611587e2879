//! Little-endian reading and writing with every length checked before it is believed.

use crate::error::FormatError;
use crate::limits::TEXT_BYTES_MAX;

/// Reads fields from the front of a byte slice. Nothing it does can panic or allocate more than
/// the bytes it was given.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// `what` names the object in errors.
    pub(crate) const fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let (head, rest) =
            self.rest.split_at_checked(len).ok_or(FormatError::Truncated { what: self.what })?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (head, rest) =
            self.rest.split_first_chunk().ok_or(FormatError::Truncated { what: self.what })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, FormatError> {
        self.array().map(i64::from_le_bytes)
    }

    /// An unsigned LEB128 number of at most ten bytes, in its shortest form only.
    pub(crate) fn varint(&mut self) -> Result<u64, FormatError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(FormatError::Inconsistent { what: "a number over 64 bits" });
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                let shortest = byte != 0 || shift == 0;
                return shortest
                    .then_some(value)
                    .ok_or(FormatError::Inconsistent { what: "a number with a needless byte" });
            }
        }
        Err(FormatError::Inconsistent { what: "a number over 64 bits" })
    }

    /// A signed number as a zigzag [`Self::varint`].
    pub(crate) fn signed_varint(&mut self) -> Result<i64, FormatError> {
        let zigzag = self.varint()?;
        Ok((zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed()))
    }

    /// A [`Self::varint`] that must not exceed `limit`.
    pub(crate) fn bounded(&mut self, limit: u64, what: &'static str) -> Result<u64, FormatError> {
        let found = self.varint()?;
        if found > limit {
            return Err(FormatError::Limit { what, found, limit });
        }
        Ok(found)
    }

    /// A count whose items take at least `item_bytes` each, so that it cannot exceed what is left
    /// to read: a caller may reserve that many.
    pub(crate) fn count(
        &mut self,
        limit: u64,
        item_bytes: usize,
        what: &'static str,
    ) -> Result<usize, FormatError> {
        let count = to_usize(self.bounded(limit, what)?);
        if count.checked_mul(item_bytes).is_none_or(|bytes| bytes > self.remaining()) {
            return Err(FormatError::Truncated { what });
        }
        Ok(count)
    }

    /// A byte string: its length as a varint of at most `limit`, then its bytes.
    pub(crate) fn blob(&mut self, limit: u64, what: &'static str) -> Result<&'a [u8], FormatError> {
        let len = self.count(limit, 1, what)?;
        self.take(len)
    }

    /// A [`Self::blob`] that must be UTF-8.
    pub(crate) fn text(&mut self, limit: u64, what: &'static str) -> Result<String, FormatError> {
        let bytes = self.blob(limit, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| FormatError::Inconsistent { what })
    }

    /// A byte that is 0 or 1.
    pub(crate) fn flag(&mut self) -> Result<bool, FormatError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(FormatError::Inconsistent { what: "a flag other than 0 and 1" }),
        }
    }

    /// Bytes kept for later versions: zeroes in this one.
    pub(crate) fn zeroes(&mut self, len: usize) -> Result<(), FormatError> {
        if self.take(len)?.iter().all(|byte| *byte == 0) {
            Ok(())
        } else {
            Err(FormatError::Inconsistent { what: "reserved bytes other than 0" })
        }
    }

    /// A [`Self::flag`] and an array, which is zeroes if the flag is 0.
    pub(crate) fn optional<const N: usize>(&mut self) -> Result<Option<[u8; N]>, FormatError> {
        if self.flag()? {
            return self.array().map(Some);
        }
        self.zeroes(N).map(|()| None)
    }

    /// Nothing may follow.
    pub(crate) fn finish(self) -> Result<(), FormatError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(FormatError::Inconsistent { what: "bytes after its end" })
        }
    }
}

/// The writing side of [`Reader`].
pub(crate) trait Put {
    fn raw(&mut self, bytes: &[u8]);

    fn u8(&mut self, value: u8) {
        self.raw(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    fn i64(&mut self, value: i64) {
        self.raw(&value.to_le_bytes());
    }

    fn varint(&mut self, mut value: u64) {
        loop {
            let low = (value & 0x7f).to_le_bytes()[0];
            value >>= 7;
            if value == 0 {
                return self.u8(low);
            }
            self.u8(low | 0x80);
        }
    }

    fn signed_varint(&mut self, value: i64) {
        self.varint(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    fn blob(&mut self, bytes: &[u8]) {
        self.varint(len_u64(bytes.len()));
        self.raw(bytes);
    }

    /// A [`Put::blob`] of at most [`TEXT_BYTES_MAX`] bytes: what is longer is cut, so that no
    /// record is written that cannot be read.
    fn text(&mut self, text: &str) {
        self.blob(cut(text).as_bytes());
    }

    fn optional<const N: usize>(&mut self, bytes: Option<&[u8; N]>) {
        self.u8(bytes.is_some().into());
        self.raw(bytes.unwrap_or(&[0; N]));
    }
}

impl Put for Vec<u8> {
    fn raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

const _: () = assert!(usize::BITS == 64, "lengths of the format are u64 and held as usize");

/// A length as a number of the format.
#[expect(clippy::as_conversions, reason = "usize has 64 bits: asserted above")]
pub(crate) const fn len_u64(len: usize) -> u64 {
    len as u64
}

/// A number of the format as a length.
#[expect(clippy::as_conversions, reason = "usize has 64 bits: asserted above")]
#[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits: asserted above")]
pub(crate) const fn to_usize(len: u64) -> usize {
    len as usize
}

/// A length as a number of 32 bits, for what the limits keep far below that.
pub(crate) fn len_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// The front of `text` that a record has room for.
pub(crate) fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(to_usize(TEXT_BYTES_MAX))).unwrap_or_default()
}

/// Length of a [`checksum`].
pub(crate) const CHECKSUM_LEN: usize = 8;

/// The front of BLAKE3: tells damage in what is stored in the clear. It has no key and proves
/// nothing about who wrote the bytes.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    blake3::hash(bytes).as_bytes().first_chunk().copied().unwrap_or_default()
}

/// The bytes before a trailing [`checksum`] that fits them.
pub(crate) fn checked<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a [u8], FormatError> {
    let (covered, found) =
        bytes.split_last_chunk::<CHECKSUM_LEN>().ok_or(FormatError::Truncated { what })?;
    if *found == checksum(covered) { Ok(covered) } else { Err(FormatError::Checksum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_are_read_back() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, u64::MAX >> shift] {
                let mut bytes = Vec::new();
                bytes.varint(value);
                bytes.signed_varint(value.cast_signed());
                let mut reader = Reader::new(&bytes, "test");
                assert_eq!(reader.varint().unwrap(), value);
                assert_eq!(reader.signed_varint().unwrap(), value.cast_signed());
                reader.finish().unwrap();
            }
        }
    }

    #[test]
    fn a_number_has_one_form_only() {
        for bytes in [&[0x80, 0][..], &[0xff; 10], &[0x81, 0x80, 0], &[0x80; 11]] {
            assert!(Reader::new(bytes, "test").varint().is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_count_over_what_is_left_is_refused_before_anything_is_reserved() {
        let mut bytes = Vec::new();
        bytes.varint(1 << 40);
        let refused = Reader::new(&bytes, "test").count(u64::MAX, 32, "ids");
        assert_eq!(refused, Err(FormatError::Truncated { what: "ids" }));
    }
}
