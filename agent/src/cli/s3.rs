//! How to reach a bucket: options, and what they mean.

#![expect(
    clippy::doc_markdown,
    reason = "these comments are the help texts, and terminals show no markup"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use repository::store::s3::{
    Checksum, Encryption, Multipart, Provider, S3Config, StorageClass, Timeouts,
};
use repository::store::wrap::RetryPolicy;

use super::units::Size;

/// Options for repositories in S3. Credentials come from where the AWS tools have them.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options for s3:// repositories")]
pub(crate) struct S3Args {
    /// URL of the server, if it is not AWS
    #[arg(long, env = "SALVOR_S3_ENDPOINT", value_name = "URL", global = true)]
    pub(crate) endpoint: Option<String>,

    /// Region of the bucket [default: that of the environment or profile, else what the server
    /// says]
    #[arg(long, env = "SALVOR_S3_REGION", value_name = "REGION", global = true)]
    pub(crate) region: Option<String>,

    /// Put the bucket into the path rather than the host name of requests [default: yes, but for
    /// AWS]
    #[arg(
        long,
        env = "SALVOR_S3_PATH_STYLE",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        global = true
    )]
    pub(crate) path_style: Option<bool>,

    /// A PEM file with certificates to trust beside those of the system
    #[arg(long, env = "SALVOR_S3_CA_FILE", value_name = "FILE", global = true)]
    pub(crate) ca_file: Option<PathBuf>,

    /// Storage class of packs, such as STANDARD_IA or GLACIER_IR; all else stays in the default
    /// class. Archives that have to be thawed will not do
    #[arg(long, env = "SALVOR_S3_STORAGE_CLASS", value_name = "CLASS", global = true)]
    pub(crate) storage_class: Option<StorageClass>,

    /// Encryption by the server, beside our own: AES256 or aws:kms
    #[arg(long, env = "SALVOR_S3_SSE", value_name = "AES256|aws:kms", value_parser = ["AES256", "aws:kms"], global = true)]
    pub(crate) sse: Option<String>,

    /// The key for aws:kms [default: the account's own]
    #[arg(long, env = "SALVOR_S3_SSE_KMS_KEY", value_name = "ID", global = true)]
    pub(crate) sse_kms_key: Option<String>,

    /// Pay for requests to a bucket whose owner does not
    #[arg(long, env = "SALVOR_S3_REQUESTER_PAYS", global = true)]
    pub(crate) requester_pays: bool,

    /// Who runs the server: aws, minio, ceph, backblaze, google, cloudflare, storagegrid or other
    /// [default: by the endpoint]
    #[arg(long, env = "SALVOR_S3_PROVIDER", value_name = "NAME", global = true)]
    pub(crate) provider: Option<Provider>,

    /// Checksum of what is sent: crc32c, md5 or sha256 [default: by the provider]
    #[arg(long, env = "SALVOR_S3_CHECKSUM", value_name = "NAME", hide = true, global = true)]
    pub(crate) checksum: Option<Checksum>,

    /// Send what is longer than this in parts
    #[arg(long, env = "SALVOR_S3_MULTIPART", value_name = "SIZE", hide = true, global = true)]
    pub(crate) multipart: Option<Size>,

    /// Try a request for so long, in seconds
    #[arg(long, env = "SALVOR_S3_RETRY_SECONDS", value_name = "N", hide = true, global = true)]
    pub(crate) retry_seconds: Option<u64>,

    /// Give a try up when nothing comes or goes for so long, in seconds
    #[arg(long, env = "SALVOR_S3_STALL_SECONDS", value_name = "N", hide = true, global = true)]
    pub(crate) stall_seconds: Option<u64>,
}

impl S3Args {
    /// * `stop`: ends waits once it is true.
    pub(crate) fn config(&self, stop: &Arc<AtomicBool>) -> S3Config {
        S3Config {
            endpoint: self.endpoint.clone().or_else(aws_endpoint),
            region: self.region.clone(),
            provider: self.provider,
            path_style: self.path_style,
            ca_file: self.ca_file.clone(),
            credentials: None,
            pack_class: self.storage_class.clone(),
            encryption: self.encryption(),
            requester_pays: self.requester_pays,
            checksum: self.checksum,
            multipart: self.multipart(),
            retry: self.retry(),
            timeouts: self.timeouts(),
            stop: Arc::clone(stop),
            ..S3Config::default()
        }
    }

    fn encryption(&self) -> Encryption {
        match (self.sse.as_deref(), &self.sse_kms_key) {
            (Some("AES256"), _) => Encryption::Server,
            (Some(_), key) => Encryption::Kms(key.clone()),
            (None, Some(key)) => Encryption::Kms(Some(key.clone())),
            (None, None) => Encryption::Bucket,
        }
    }

    fn multipart(&self) -> Multipart {
        let usual = Multipart::default();
        match self.multipart.map(|size| usize::try_from(size.0).unwrap_or(usize::MAX)) {
            Some(threshold_bytes) => Multipart {
                threshold_bytes,
                part_bytes: threshold_bytes.clamp(5 << 20, usual.part_bytes),
                ..usual
            },
            None => usual,
        }
    }

    fn retry(&self) -> RetryPolicy {
        let usual = RetryPolicy::default();
        RetryPolicy {
            budget: self.retry_seconds.map_or(usual.budget, Duration::from_secs),
            ..usual
        }
    }

    fn timeouts(&self) -> Timeouts {
        let usual = Timeouts::default();
        Timeouts { stall: self.stall_seconds.map_or(usual.stall, Duration::from_secs), ..usual }
    }
}

/// The variables that the AWS tools read, too.
fn aws_endpoint() -> Option<String> {
    ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|url| !url.is_empty()))
}
