//! Objects in a bucket of S3, or of what speaks its language.
//!
//! An object is there when the server has said so: it is durable then, and every later read and
//! listing sees it. That, and that of several creators only one succeeds, is what servers promise
//! by `If-None-Match: *`; `probe` makes sure of it before anything is created.
//!
//! The store blocks, as the trait wants it, on a small runtime of its own: its threads move bytes
//! and encrypt, the caller's thread does the rest. It must not be called from within another
//! asynchronous runtime. What a request needs beyond itself (tries, waits, stalls, pace, counting)
//! is in `link`; what providers do differently in `quirks` and in `doc/s3.md`.

mod body;
mod checksum;
mod clock;
mod config;
mod connect;
mod delete;
mod failure;
mod get;
mod limiter;
mod link;
mod list;
mod lock;
mod object;
mod parts;
mod preflight;
mod probe;
mod put;
mod quirks;
mod signing;
mod versions;

use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};

use repo_format::key::{ObjectKey, Prefix};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::OnceCell;

use super::traffic::Traffic;
use super::{
    Listed, Lockable, Op, OpenError, Protection, Refusal, Store, StoreError, Strangers, Swept,
    Versions, may_rewrite,
};
use failure::setup;
use link::Link;
use object::Place;
use put::Mode;
use quirks::Quirks;

pub use config::{
    Creation, Encryption, InFlight, Multipart, PART_BYTES_MIN, S3Config, StaticCredentials,
    StorageClass, Timeouts,
};
pub use preflight::Tried;
pub use quirks::{Checksum, Provider};

/// Threads that move bytes and encrypt them.
const WORKERS: usize = 2;

/// A repository's objects in a bucket.
pub struct S3Store {
    place: Place,
    link: Link,
    quirks: Quirks,
    /// Set once the server was seen to refuse a second creation.
    creates_once: OnceCell<()>,
    /// The same for uploads in parts: whether it does.
    parts_once: OnceCell<bool>,
    /// Until the server refuses to remove many objects at once.
    batches: AtomicBool,
    /// How new objects are locked.
    protection: RwLock<Option<Protection>>,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl std::fmt::Debug for S3Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "S3Store({})", self.place)
    }
}

impl Drop for S3Store {
    fn drop(&mut self) {
        // A name being looked up must not delay the end of the program.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl S3Store {
    /// A store at `s3://bucket/prefix`, whatever is there. Sends nothing yet: what is wrong with
    /// the bucket or the credentials is told by the first request.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] if the configuration cannot be used.
    pub fn open(bucket: &str, prefix: &str, config: &S3Config) -> Result<Self, StoreError> {
        let place = Place::new(bucket, prefix);
        let at = place.to_string();
        check(config).map_err(|why| setup(&at, why))?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("s3")
            .enable_all()
            .build()
            .map_err(|error| setup(&at, format!("threads cannot be started: {error}")))?;
        let link = runtime.block_on(Link::new(config.clone())).map_err(|why| setup(&at, why))?;
        Ok(Self {
            place,
            link,
            quirks: config.quirks(),
            creates_once: OnceCell::new(),
            parts_once: OnceCell::new(),
            batches: AtomicBool::new(config.quirks().batch_delete),
            protection: RwLock::default(),
            runtime: Some(runtime),
        })
    }

    /// A store for a new repository: there is none at this place, nor anything else, and the
    /// server keeps what repositories rely on.
    ///
    /// # Errors
    ///
    /// [`OpenError::AlreadyARepository`], [`OpenError::NotEmpty`]; [`OpenError::Store`] with
    /// [`super::Refusal::NotOnce`] and all else that the server refuses.
    pub fn create(bucket: &str, prefix: &str, config: &S3Config) -> Result<Self, OpenError> {
        let store = Self::open(bucket, prefix, config)?;
        store.require_empty()?;
        store.refuse_buried()?;
        store.wait_for(async {
            store.require_create_once().await?;
            store.probe_race().await
        })?;
        Ok(store)
    }

    /// That nothing is at this place but what an init that died may have left.
    pub(super) fn require_empty(&self) -> Result<(), OpenError> {
        let config = self.object(&ObjectKey::Config).name;
        match self.wait_for(self.foreign_name())? {
            Some(name) if name == config => {
                Err(OpenError::AlreadyARepository { at: self.describe() })
            }
            Some(example) => Err(OpenError::NotEmpty { at: self.describe(), example }),
            None => Ok(()),
        }
    }

    /// Refuses a place where a repository lies below delete markers: what is stored over it would
    /// be in the way when it is brought back.
    fn refuse_buried(&self) -> Result<(), StoreError> {
        if self.wait_for(self.ask_lockable()).unwrap_or(Lockable::No) == Lockable::No {
            return Ok(());
        }
        let page = self.wait_for(self.versions_after("config", None))?;
        if !page.versions.iter().any(|version| version.path == "config" && !version.is_marker) {
            return Ok(());
        }
        Err(StoreError::Refused {
            op: Op::Open,
            at: self.describe_place(),
            refusal: Box::new(Refusal::Buried),
            source: std::io::Error::other("there are old versions of `config`"),
        })
    }

    /// Once this is true nothing is repeated, and what hangs is given up within seconds.
    pub fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.link.config.stop)
    }

    /// Runs a future to its end. Called by many threads at once, each of which polls its own.
    fn wait_for<T>(
        &self,
        future: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(future),
            None => Err(setup(&self.describe_place(), "the store is closed")),
        }
    }
}

/// What can be told to be wrong without asking anybody.
fn check(config: &S3Config) -> Result<(), String> {
    if let Some(endpoint) = &config.endpoint {
        let host = ["http://", "https://"].iter().find_map(|scheme| endpoint.strip_prefix(scheme));
        if host.is_none_or(|host| host.is_empty() || host.starts_with('/')) {
            return Err(format!(
                "--endpoint `{endpoint}` is no URL: it begins with https:// or http://"
            ));
        }
    }
    if config.multipart.part_bytes < PART_BYTES_MIN {
        return Err(format!("parts of uploads must have {PART_BYTES_MIN} bytes or more"));
    }
    Ok(())
}

impl Store for S3Store {
    fn get(&self, key: &ObjectKey, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.wait_for(self.read_whole(Op::Get, &self.object(key), limit_bytes))
    }

    fn get_range(
        &self,
        key: &ObjectKey,
        offset_bytes: u64,
        buf: &mut [u8],
    ) -> Result<(), StoreError> {
        self.wait_for(self.read_range(&self.object(key), offset_bytes, buf))
    }

    fn put_new(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        self.wait_for(self.create_key(key, body))
    }

    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        let object = self.object(key);
        if !may_rewrite(key) {
            return Err(StoreError::WriteOnce { at: self.place.url(&object.name) });
        }
        self.wait_for(self.put_whole(Op::Put, &object, body, Mode::Replace, None, &mut false))
    }

    fn list(
        &self,
        prefix: Prefix,
        visit: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
    ) -> Result<Strangers, StoreError> {
        self.list_objects(prefix, visit)
    }

    fn list_first(&self, prefix: Prefix) -> Result<Option<ObjectKey>, StoreError> {
        self.first_object(prefix)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.wait_for(self.remove(&self.object(key)))
    }

    fn delete_many(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
        self.wait_for(self.remove_many(keys))
    }

    fn size(&self, key: &ObjectKey) -> Result<u64, StoreError> {
        self.wait_for(self.length(Op::Size, &self.object(key)))
    }

    fn sweep_temporary(&self) -> Result<Swept, StoreError> {
        self.wait_for(self.sweep_uploads())
    }

    fn prepare(&self) {
        if self.link.config.creation != Creation::Plain {
            drop(self.wait_for(self.require_create_once()));
        }
    }

    fn traffic(&self) -> Option<Arc<Traffic>> {
        Some(Arc::clone(&self.link.traffic))
    }

    fn versions(&self) -> Option<&dyn Versions> {
        Some(self)
    }

    fn describe(&self) -> String {
        self.describe_place()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_cannot_work_is_refused_with_a_reason() {
        let config =
            |endpoint: &str| S3Config { endpoint: Some(endpoint.into()), ..S3Config::default() };
        for endpoint in ["", "localhost:9000", "ftp://x", "https://"] {
            let message = S3Store::open("b", "p", &config(endpoint)).unwrap_err().to_string();
            assert!(message.contains("--endpoint") && message.contains("s3://b/p"), "{message}");
        }
        let small = Multipart { part_bytes: 1 << 20, ..Multipart::default() };
        let small = S3Config { multipart: small, ..S3Config::default() };
        assert!(S3Store::open("b", "", &small).unwrap_err().to_string().contains("parts"));
        let bogus = std::env::temp_dir().join("no-such-salvor-ca.pem");
        let bogus = S3Config { ca_file: Some(bogus), ..config("https://localhost") };
        let message = S3Store::open("b", "", &bogus).unwrap_err().to_string();
        assert!(
            message.contains("--ca-file") && message.contains("no-such-salvor-ca"),
            "{message}"
        );
    }
}
