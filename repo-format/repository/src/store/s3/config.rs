//! Everything about S3 that can be chosen.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use repo_format::key::ObjectKey;
use zeroize::Zeroizing;

use super::quirks::{Checksum, Provider, Quirks};
use crate::store::wrap::RetryPolicy;

/// Smallest part of a multipart upload, but for the last one: what all servers accept.
pub const PART_BYTES_MIN: usize = 5 << 20;

/// How to reach a server and what to ask of it. The default is AWS with the credentials and the
/// region of the environment.
#[derive(Clone, Debug, Default)]
pub struct S3Config {
    /// URL of the server; `None` is AWS.
    pub endpoint: Option<String>,
    /// The region; else that of the environment or profile, else `us-east-1`. A wrong one is
    /// corrected by what the server answers.
    pub region: Option<String>,
    /// Who runs the server; guessed from the endpoint if `None`.
    pub provider: Option<Provider>,
    /// Whether the bucket goes into the path; the provider decides if `None`.
    pub path_style: Option<bool>,
    /// A PEM file with certificates to trust beside those of the system.
    pub ca_file: Option<PathBuf>,
    /// Keys to use instead of those that the environment leads to.
    pub credentials: Option<StaticCredentials>,
    /// The storage class of packs; all else is small and read often, and stays in the default.
    pub pack_class: Option<StorageClass>,
    /// Encryption by the server. What is stored is encrypted anyway.
    pub encryption: Encryption,
    /// Whether who asks pays for it, as some buckets demand.
    pub requester_pays: bool,
    /// The checksum of bodies; the provider decides if `None`.
    pub checksum: Option<Checksum>,
    /// How objects are created.
    pub creation: Creation,
    /// When and how bodies are sent in parts.
    pub multipart: Multipart,
    /// How long and how often one request is tried.
    pub retry: RetryPolicy,
    /// When a try is given up.
    pub timeouts: Timeouts,
    /// Most requests on their way at once.
    pub in_flight: InFlight,
    /// Once this is true nothing is repeated, and what hangs is given up within seconds.
    pub stop: Arc<AtomicBool>,
}

impl S3Config {
    /// Who runs the server: as given, else by the endpoint.
    pub fn provider(&self) -> Provider {
        self.provider.unwrap_or_else(|| Provider::of_endpoint(self.endpoint.as_deref()))
    }

    /// What the provider needs, with what was chosen in its place.
    pub(super) fn quirks(&self) -> Quirks {
        let quirks = self.provider().quirks();
        Quirks {
            checksum: self.checksum.unwrap_or(quirks.checksum),
            path_style: self.path_style.unwrap_or(quirks.path_style),
            ..quirks
        }
    }

    pub(super) fn storage_class(&self, key: &ObjectKey) -> Option<&str> {
        match key {
            ObjectKey::Pack(_) => self.pack_class.as_ref().map(|class| class.0.as_str()),
            _ => None,
        }
    }
}

/// How objects are created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Creation {
    /// Of all creators only one succeeds, or nothing is written.
    #[default]
    Once,
    /// An object of the same name is replaced. Only for names that nobody else writes; see
    /// [`crate::store::SplitStore`].
    Plain,
}

/// Credentials that do not come from the environment.
#[derive(Clone)]
pub struct StaticCredentials {
    /// The access key's id, which is no secret.
    pub access_key_id: String,
    /// The secret.
    pub secret_access_key: Zeroizing<String>,
    /// The token of temporary credentials.
    pub session_token: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for StaticCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StaticCredentials({}, …)", self.access_key_id)
    }
}

/// A storage class whose objects can be read at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageClass(String);

impl StorageClass {
    /// As the server calls it.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for StorageClass {
    type Err = &'static str;

    /// Any name but those of archives: packs hold manifests too, and prune and verify read.
    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "" => Err("it is empty"),
            "GLACIER" | "DEEP_ARCHIVE" => {
                Err("objects of this class must be thawed before they can be read, and every \
                     restore, verify and prune reads packs; GLACIER_IR is as cheap a class \
                     without that")
            }
            _ => Ok(Self(text.into())),
        }
    }
}

/// Encryption by the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Encryption {
    /// As the bucket's default has it.
    #[default]
    Bucket,
    /// With keys of the server (`AES256`).
    Server,
    /// With a key in KMS (`aws:kms`): this one, or the account's own.
    Kms(Option<String>),
}

/// When and how bodies are sent in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multipart {
    /// Longer bodies are sent in parts. Every part is a request, so packs of the usual size are
    /// below.
    pub threshold_bytes: usize,
    /// Length of a part, at least [`PART_BYTES_MIN`].
    pub part_bytes: usize,
    /// Parts on their way at once.
    pub parallel: usize,
}

impl Default for Multipart {
    fn default() -> Self {
        Self { threshold_bytes: 96 << 20, part_bytes: 32 << 20, parallel: 4 }
    }
}

/// When a try is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection stands, TLS included.
    pub connect: Duration,
    /// As long as no byte moves.
    pub stall: Duration,
    /// Bytes a second below which a try ends although something moves.
    pub slowest_bytes_s: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_mins(1),
            slowest_bytes_s: 32 << 10,
        }
    }
}

/// Most requests on their way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight(pub u32);

impl Default for InFlight {
    fn default() -> Self {
        Self(64)
    }
}

#[cfg(test)]
mod tests {
    use repo_format::id::{ObjectName, SessionId};

    use super::*;

    #[test]
    fn only_packs_get_the_storage_class_and_never_an_archive() {
        let class = |text: &str| text.parse::<StorageClass>();
        let config = S3Config { pack_class: class("STANDARD_IA").ok(), ..S3Config::default() };
        let name = ObjectName { session: SessionId([1; 16]), counter: 1 };
        assert_eq!(config.storage_class(&ObjectKey::Pack(name)), Some("STANDARD_IA"));
        for key in [ObjectKey::Config, ObjectKey::Segment(name), ObjectKey::Catalog(1)] {
            assert_eq!(config.storage_class(&key), None, "{key}");
        }
        assert!(class("DEEP_ARCHIVE").unwrap_err().contains("thawed"));
        assert!(class("GLACIER").is_err() && class("").is_err());
    }

    #[test]
    fn what_is_chosen_goes_before_what_the_provider_needs() {
        let config = S3Config { endpoint: Some("http://localhost".into()), ..S3Config::default() };
        assert_eq!(config.quirks(), Provider::Other.quirks());
        let chosen =
            S3Config { path_style: Some(false), checksum: Some(Checksum::Md5), ..config.clone() };
        let quirks = chosen.quirks();
        assert!(!quirks.path_style && quirks.checksum == Checksum::Md5 && quirks.batch_delete);
    }

    #[test]
    fn no_secret_is_printed() {
        let credentials = StaticCredentials {
            access_key_id: "AKID".into(),
            secret_access_key: Zeroizing::new("hush".into()),
            session_token: Some(Zeroizing::new("hush".into())),
        };
        let config = S3Config { credentials: Some(credentials), ..S3Config::default() };
        let text = format!("{config:?}");
        assert!(text.contains("AKID") && !text.contains("hush"), "{text}");
    }
}
