//! Checksums of bodies, as headers want them.

use aws_sdk_s3::primitives::Blob;
use md5::Digest;

use super::quirks::Checksum;

/// The checksum of a body. Text is base64, but for SHA-256, which signatures have in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sum {
    Crc32c(String),
    Md5(String),
    Sha256(String),
}

impl Sum {
    pub(super) fn of(kind: Checksum, body: &[u8]) -> Self {
        match kind {
            Checksum::Crc32c => {
                let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, body);
                // Of 64 bits the lower half is the sum.
                let bytes = u32::try_from(sum & u64::from(u32::MAX)).unwrap_or(0).to_be_bytes();
                Self::Crc32c(base64(&bytes))
            }
            Checksum::Md5 => Self::Md5(base64(&md5::Md5::digest(body))),
            Checksum::Sha256 => Self::Sha256(hex(&sha2::Sha256::digest(body))),
        }
    }

    pub(super) fn crc32c(&self) -> Option<String> {
        if let Self::Crc32c(text) = self { Some(text.clone()) } else { None }
    }

    pub(super) fn md5(&self) -> Option<String> {
        if let Self::Md5(text) = self { Some(text.clone()) } else { None }
    }
}

fn base64(bytes: &[u8]) -> String {
    aws_smithy_types::base64::encode(Blob::new(bytes))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_standards() {
        // RFC 3720 B.4, RFC 1321 A.5 and FIPS 180-4 give them for these texts.
        assert_eq!(
            Sum::of(Checksum::Crc32c, &[0; 32]),
            Sum::Crc32c(base64(&[0x8a, 0x91, 0x36, 0xaa]))
        );
        assert_eq!(Sum::of(Checksum::Md5, b""), Sum::Md5("1B2M2Y8AsgTpgAmY7PhCfg==".into()));
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Sum::of(Checksum::Sha256, b"abc"), Sum::Sha256(abc.into()));
    }
}
