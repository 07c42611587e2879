//! From what a user typed to a store.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::str::FromStr;

use super::s3::{S3Config, S3Store};
use super::{FsStore, Store, StoreError};

/// Where a repository is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder of a file system.
    Path(PathBuf),
    /// A bucket and the path below it, without slashes at either end; may be empty.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// What all keys start with, without the slash that follows.
        prefix: String,
    },
}

/// Why a repository's place could not be opened or made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its doc")]
pub enum OpenError {
    #[error(
        "`{url}` is no place for a repository: {why}. Give a path, file:///dir or s3://bucket/prefix"
    )]
    Url { url: String, why: &'static str },

    #[error(
        "{at} does not exist: check the path and that its file system is mounted; `salvor init` makes a new repository"
    )]
    Missing { at: String },

    #[error(
        "{at} does not exist, so no repository can be made in it: check the path and that its file system is mounted, or make the folder"
    )]
    NoParent { at: String },

    #[error("{at} is not a directory")]
    NotADirectory { at: String },

    #[error(
        "{at} is not a repository: it has no `config`. Check the path; `salvor init` makes a new repository"
    )]
    NotARepository { at: String },

    #[error(
        "{bulk} does not hold the data of the repository whose registers are in {registers}: check --repo and --registers. Nothing was changed"
    )]
    Apart { registers: String, bulk: String },

    #[error("{at} is a repository already")]
    AlreadyARepository { at: String },

    #[error("{at} is not empty (it has `{example}`): a new repository needs a place of its own")]
    NotEmpty { at: String, example: String },

    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Location {
    /// Reads a path, `file:///dir` (percent-encoded as URLs are) or `s3://bucket/prefix`.
    ///
    /// # Errors
    ///
    /// [`OpenError::Url`].
    pub fn parse(text: &str) -> Result<Self, OpenError> {
        let wrong = |why| OpenError::Url { url: text.into(), why };
        let Some((scheme, rest)) = text.split_once("://") else {
            if text.is_empty() {
                return Err(wrong("it is empty"));
            }
            return Ok(Self::Path(text.into()));
        };
        match scheme {
            "file" => {
                let path = rest.strip_prefix("localhost").unwrap_or(rest);
                if !path.starts_with('/') {
                    return Err(wrong("after file:// comes an absolute path, with three slashes"));
                }
                let bytes = percent_decoded(path).ok_or_else(|| {
                    wrong("a % in a URL is followed by two hexadecimal digits, never 00")
                })?;
                Ok(Self::Path(OsString::from_vec(bytes).into()))
            }
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(wrong("after s3:// comes the name of a bucket"));
                }
                let prefix = prefix.trim_matches('/').into();
                Ok(Self::S3 { bucket: bucket.into(), prefix })
            }
            _ => Err(wrong("its scheme is not known")),
        }
    }

    /// Opens the store of an existing repository.
    ///
    /// * `s3`: how to reach a bucket, if that is where it is.
    ///
    /// # Errors
    ///
    /// Those of [`FsStore::open`] and [`S3Store::open`].
    pub fn open(&self, s3: &S3Config) -> Result<Box<dyn Store>, OpenError> {
        match self {
            Self::Path(path) => Ok(Box::new(FsStore::open(path)?)),
            Self::S3 { bucket, prefix } => Ok(Box::new(S3Store::open(bucket, prefix, s3)?)),
        }
    }

    /// Makes a place for a new repository.
    ///
    /// * `s3`: how to reach a bucket, if that is where it will be.
    ///
    /// # Errors
    ///
    /// Those of [`FsStore::create`] and [`S3Store::create`].
    pub fn create(&self, s3: &S3Config) -> Result<Box<dyn Store>, OpenError> {
        match self {
            Self::Path(path) => Ok(Box::new(FsStore::create(path)?)),
            Self::S3 { bucket, prefix } => Ok(Box::new(S3Store::create(bucket, prefix, s3)?)),
        }
    }
}

impl FromStr for Location {
    type Err = OpenError;

    fn from_str(text: &str) -> Result<Self, OpenError> {
        Self::parse(text)
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// `None` where a `%` is not followed by two hexadecimal digits, or stands for a zero byte, which
/// no path can hold.
pub(super) fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        let value = u8::try_from(digit()? * 16 + digit()?).ok()?;
        if value == 0 {
            return None;
        }
        decoded.push(value);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> PathBuf {
        match Location::parse(text).unwrap() {
            Location::Path(path) => path,
            Location::S3 { .. } => panic!("{text} was taken for S3"),
        }
    }

    #[test]
    fn a_path_is_taken_as_it_is_and_a_file_url_is_decoded() {
        assert_eq!(path("repo/100%"), PathBuf::from("repo/100%"));
        assert_eq!(path("/srv/repo"), PathBuf::from("/srv/repo"));
        assert_eq!(path("file:///srv/my%20repo"), PathBuf::from("/srv/my repo"));
        assert_eq!(path("file://localhost/srv"), PathBuf::from("/srv"));
    }

    #[test]
    fn a_bucket_and_a_prefix_are_told_apart() {
        let location = Location::parse("s3://bucket/a/b/").unwrap();
        assert_eq!(location, Location::S3 { bucket: "bucket".into(), prefix: "a/b".into() });
        assert_eq!(location.to_string(), "s3://bucket/a/b");
        let whole = Location::parse("s3://bucket").unwrap();
        assert_eq!(whole, Location::S3 { bucket: "bucket".into(), prefix: String::new() });
    }

    #[test]
    fn what_is_no_place_is_refused_with_a_reason() {
        for text in ["", "ftp://host/x", "file://host/x", "file:///a%2", "file:///a%00b", "s3:///x"]
        {
            let message = Location::parse(text).unwrap_err().to_string();
            assert!(message.contains("s3://bucket/prefix"), "{text}: {message}");
        }
    }
}
