//! In what providers of S3 differ. The table for people is in `doc/s3.md`.

use std::str::FromStr;

/// Who runs the server, as far as it makes a difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "names of products")]
pub enum Provider {
    Aws,
    Minio,
    Ceph,
    Backblaze,
    Google,
    Cloudflare,
    StorageGrid,
    /// What every server that speaks S3 can do.
    #[default]
    Other,
}

/// How a body is protected on its way, besides TLS. The server refuses one that arrives changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// `x-amz-checksum-crc32c`, which the server also keeps; in multipart uploads for each part.
    Crc32c,
    /// `Content-MD5`.
    Md5,
    /// SHA-256 as a part of the request's signature, which every server has to check. The most
    /// work.
    Sha256,
}

/// What a provider needs to be asked differently. What it may lack but can be tried out is probed
/// instead: creating only once, and the same at the end of a multipart upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quirks {
    /// The strongest checksum that costs little there.
    pub checksum: Checksum,
    /// Whether one request may delete many objects.
    pub batch_delete: bool,
    /// Whether the bucket is a part of the path rather than of the host's name.
    pub path_style: bool,
}

impl Provider {
    /// All of them, by the names that are used on the command line.
    pub const NAMES: [(&'static str, Self); 8] = [
        ("aws", Self::Aws),
        ("minio", Self::Minio),
        ("ceph", Self::Ceph),
        ("backblaze", Self::Backblaze),
        ("google", Self::Google),
        ("cloudflare", Self::Cloudflare),
        ("storagegrid", Self::StorageGrid),
        ("other", Self::Other),
    ];

    /// Who answers at an endpoint, as far as its host name tells; AWS if there is none.
    pub fn of_endpoint(endpoint: Option<&str>) -> Self {
        let Some(endpoint) = endpoint else { return Self::Aws };
        let host = endpoint.split("://").last().unwrap_or(endpoint);
        let host = host.split(['/', ':']).next().unwrap_or(host);
        [
            (".amazonaws.com", Self::Aws),
            (".amazonaws.com.cn", Self::Aws),
            (".backblazeb2.com", Self::Backblaze),
            ("storage.googleapis.com", Self::Google),
            (".r2.cloudflarestorage.com", Self::Cloudflare),
        ]
        .into_iter()
        .find_map(|(end, provider)| host.ends_with(end).then_some(provider))
        .unwrap_or_default()
    }

    /// Its row of the table.
    pub const fn quirks(self) -> Quirks {
        let (checksum, batch_delete, path_style) = match self {
            Self::Aws => (Checksum::Crc32c, true, false),
            Self::Minio => (Checksum::Crc32c, true, true),
            Self::Ceph | Self::Backblaze | Self::Cloudflare | Self::StorageGrid => {
                (Checksum::Md5, true, true)
            }
            Self::Google => (Checksum::Md5, false, true),
            Self::Other => (Checksum::Sha256, true, true),
        };
        Quirks { checksum, batch_delete, path_style }
    }
}

impl FromStr for Provider {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        by_name(&Self::NAMES, text)
    }
}

impl Checksum {
    /// All of them, by the names that are used on the command line.
    pub const NAMES: [(&'static str, Self); 3] =
        [("crc32c", Self::Crc32c), ("md5", Self::Md5), ("sha256", Self::Sha256)];
}

impl FromStr for Checksum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        by_name(&Self::NAMES, text)
    }
}

fn by_name<T: Copy>(names: &[(&str, T)], text: &str) -> Result<T, String> {
    let found = names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        format!("it is one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_known_by_its_host() {
        for (endpoint, provider) in [
            (None, Provider::Aws),
            (Some("https://s3.eu-west-1.amazonaws.com"), Provider::Aws),
            (Some("https://s3.us-west-004.backblazeb2.com/"), Provider::Backblaze),
            (Some("https://storage.googleapis.com:443"), Provider::Google),
            (Some("https://0123.r2.cloudflarestorage.com"), Provider::Cloudflare),
            (Some("http://127.0.0.1:9000"), Provider::Other),
            (Some("https://amazonaws.com.example.org"), Provider::Other),
        ] {
            assert_eq!(Provider::of_endpoint(endpoint), provider, "{endpoint:?}");
        }
    }

    #[test]
    fn every_name_is_read_back_and_others_are_answered_with_the_list() {
        for (name, provider) in Provider::NAMES {
            assert_eq!(name.parse::<Provider>(), Ok(provider));
        }
        assert!("gcs".parse::<Provider>().unwrap_err().contains("google"));
        assert!("crc64".parse::<Checksum>().unwrap_err().contains("crc32c"));
    }
}
