//! Names: of the repository, of its objects, of what is tried out in it.

use repo_format::key::{ObjectKey, Prefix};

use super::S3Store;
use super::link::Call;
use crate::store::traffic::Action;
use crate::store::{Held, Op, StoreError, is_lockable};

/// One object in the bucket.
#[derive(Clone, Debug)]
pub(super) struct Object {
    /// Its name in the bucket.
    pub(super) name: String,
    pub(super) kind: Option<Prefix>,
    pub(super) storage_class: Option<String>,
    /// What it is locked with when it is created.
    pub(super) lock: Option<Held>,
}

impl Object {
    /// Whether a second answer is about the same bytes as the first one.
    pub(super) fn goes_on(&self) -> bool {
        self.kind != Some(Prefix::Heartbeats)
    }
}

/// A bucket, and what all names start with.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) bucket: String,
    /// Empty, or ends with a slash.
    pub(super) prefix: String,
}

impl Place {
    pub(super) fn new(bucket: &str, prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        let slash = if prefix.is_empty() { "" } else { "/" };
        Self { bucket: bucket.into(), prefix: format!("{prefix}{slash}") }
    }

    /// URL of what has this name in the bucket.
    pub(super) fn url(&self, name: &str) -> String {
        format!("s3://{}/{name}", self.bucket)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let url = self.url(&self.prefix);
        f.write_str(url.trim_end_matches('/'))
    }
}

impl S3Store {
    pub(super) fn object(&self, key: &ObjectKey) -> Object {
        Object {
            name: format!("{}{key}", self.place.prefix),
            kind: key.prefix(),
            storage_class: self.link.config.storage_class(key).map(ToOwned::to_owned),
            lock: if is_lockable(key) { self.lock_of_new() } else { None },
        }
    }

    /// An object that is none of the repository's.
    pub(super) fn scratch(&self, name: &str) -> Object {
        let name = format!("{}tmp/{name}", self.place.prefix);
        Object { name, kind: None, storage_class: None, lock: None }
    }

    pub(super) fn call(&self, op: Op, action: Action, object: &Object) -> Call<'_> {
        Call {
            op,
            action,
            right: action.right(),
            at: self.place.url(&object.name),
            bucket: &self.place.bucket,
            kind: object.kind,
            body_bytes: 0,
        }
    }

    /// A request about many objects.
    pub(super) fn call_all(&self, op: Op, action: Action, kind: Option<Prefix>) -> Call<'_> {
        let folder = kind.map_or("", Prefix::folder);
        let at = self.place.url(&format!("{}{folder}", self.place.prefix));
        let right = action.right();
        Call { op, action, right, at, bucket: &self.place.bucket, kind, body_bytes: 0 }
    }
}

/// A name that nobody else uses.
pub(super) fn nonce(op: Op, at: &str) -> Result<String, StoreError> {
    let random = || {
        getrandom::u64().map_err(|error| StoreError::Server {
            op,
            at: at.into(),
            source: std::io::Error::other(format!("the system gave no random bytes: {error}")),
        })
    };
    Ok(format!("{:016x}{:016x}", random()?, random()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_shown_as_it_is_typed() {
        for (bucket, prefix, url) in
            [("b", "", "s3://b"), ("b", "a/c", "s3://b/a/c"), ("b", "/a/", "s3://b/a")]
        {
            assert_eq!(Place::new(bucket, prefix).to_string(), url);
        }
        assert_eq!(Place::new("b", "a").url("a/config"), "s3://b/a/config");
    }
}
