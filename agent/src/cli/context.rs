//! What every command needs: the repository, opened; its index; the memory to work with.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use repo_format::id::ClusterId;
use repository::index::Index;
use repository::store::s3::S3Config;
use repository::store::{Location, SplitStore, Store};
use repository::view::View;
use repository::{Glance, Repository, RepositoryError, UnlockSecret, catalog};
use zeroize::Zeroizing;

use super::args::{Global, IoEngine};
use super::budget::{Budget, MEMORY_MIN};
use super::error::CliError;
use super::ui::Ui;
use crate::volume::{self, Engine};

/// A command's surroundings.
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) ui: Ui,
    pub(crate) cancel: Arc<AtomicBool>,
}

impl Context {
    pub(crate) fn new(global: Global) -> Result<Self, CliError> {
        if global.memory.0 < MEMORY_MIN {
            return Err(CliError::Usage("--memory must be at least 96M".into()));
        }
        if global.threads == Some(0) {
            return Err(CliError::Usage("--threads must be at least 1".into()));
        }
        raise_file_limit();
        let ui = Ui::new(&global);
        let cancel = watch_signals()?;
        Ok(Self { global, ui, cancel })
    }

    /// Whose snapshots this command makes and may forget.
    pub(crate) fn cluster(&self) -> ClusterId {
        self.global.cluster.as_deref().map_or(ClusterId::NONE, ClusterId::of_name)
    }

    /// Threads that compute.
    pub(crate) fn threads(&self) -> usize {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        self.global.threads.unwrap_or(processors)
    }

    /// Where the repository is.
    pub(crate) fn location(&self) -> Result<Location, CliError> {
        let url = self.global.repo.as_deref().ok_or_else(|| {
            CliError::Usage("no repository given: use --repo URL or set SALVOR_REPO".into())
        })?;
        Ok(Location::parse(url)?)
    }

    /// How to reach a bucket.
    pub(crate) fn s3(&self) -> S3Config {
        self.global.s3.config(&self.cancel)
    }

    pub(crate) fn store(&self, create: bool) -> Result<Arc<dyn Store>, CliError> {
        self.store_at(&self.location()?, self.global.registers.as_deref(), create)
    }

    /// The store at another place. Buckets are reached in the same way as the repository's own.
    ///
    /// * `registers`: see [`SplitStore`].
    pub(crate) fn store_at(
        &self,
        location: &Location,
        registers: Option<&str>,
        create: bool,
    ) -> Result<Arc<dyn Store>, CliError> {
        let s3 = self.s3();
        let Some(registers) = registers else {
            let store = if create { location.create(&s3)? } else { location.open(&s3)? };
            return Ok(Arc::from(store));
        };
        let Location::S3 { bucket, prefix } = location else {
            let message = "--registers is for buckets: a directory keeps its own";
            return Err(CliError::Usage(message.into()));
        };
        let (registers, bulk) = (Location::parse(registers)?, (bucket.as_str(), prefix.as_str()));
        Ok(Arc::new(if create {
            SplitStore::create(&registers, bulk, &s3)?
        } else {
            SplitStore::open(&registers, bulk, &s3)?
        }))
    }

    pub(crate) fn open(&self) -> Result<Arc<Repository>, CliError> {
        let store = self.store(false)?;
        let secret = self.secret(false)?;
        Ok(Arc::new(Repository::open(store, &secret)?))
    }

    /// As [`Self::open`], with a first look at what is there.
    ///
    /// * `creates`: whether anything will be created, were it a session to read.
    pub(crate) fn open_with_glance(
        &self,
        creates: bool,
    ) -> Result<(Arc<Repository>, Option<Glance>), CliError> {
        let store = self.store(false)?;
        let secret = self.secret(false)?;
        let (repository, glance) = Repository::open_with_glance(store, &secret, creates)?;
        Ok((Arc::new(repository), glance))
    }

    /// The secret that opens the repository; asked for twice when it is a `new` one.
    pub(crate) fn secret(&self, new: bool) -> Result<UnlockSecret, CliError> {
        read_secret(
            self.global.passphrase_file.as_ref(),
            self.global.key_file.as_ref(),
            "SALVOR_PASSPHRASE",
            if new { Ask::Twice } else { Ask::Once },
        )
    }

    pub(crate) fn budget(&self, chunk_bytes: usize) -> Budget {
        Budget::new(self.global.memory.0, chunk_bytes)
    }

    pub(crate) fn cache_dir(&self) -> PathBuf {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        self.global.cache_dir.clone().unwrap_or_else(|| {
            std::env::var_os("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
                .or_else(home)
                .unwrap_or_else(std::env::temp_dir)
                .join("salvor")
        })
    }

    /// The index cache, not yet in line with anything.
    pub(crate) fn index(&self, repository: &Repository) -> Result<Arc<Index>, CliError> {
        let budget = self.budget(1 << repository.config().chunk_log2);
        self.index_within(repository, budget.index_bytes)
    }

    /// As [`Self::index`], with so much memory.
    pub(crate) fn index_within(
        &self,
        repository: &Repository,
        memory_bytes: usize,
    ) -> Result<Arc<Index>, CliError> {
        let index = Index::open(&self.cache_dir(), repository.id(), memory_bytes)
            .map_err(RepositoryError::from)?;
        for notice in index.take_notices() {
            self.ui.note(&notice.to_string());
        }
        Ok(Arc::new(index))
    }

    /// The highest catalog version this machine saw, if it saw any.
    pub(crate) fn witness(&self, repository: &Repository) -> Option<u64> {
        std::fs::read_to_string(self.witness_file(repository)).ok()?.trim().parse().ok()
    }

    /// Remembers the newest catalog, and refuses one that is older than what was seen before: the
    /// storage was rolled back, or objects were removed from it.
    pub(crate) fn check_witness(
        &self,
        repository: &Repository,
        view: &View,
    ) -> Result<(), CliError> {
        let found = view.head.catalog.n;
        let seen = self.witness(repository).unwrap_or(0);
        if found < seen {
            // Another process of this machine may have noted a catalog younger than the view.
            let found = catalog::newest_number(repository)?;
            if found < seen {
                return Err(RepositoryError::RolledBack { seen, found }.into());
            }
        }
        if found > seen || seen == 0 {
            let file = self.witness_file(repository);
            // A cache that cannot be written to remembers nothing, and that is all.
            drop(std::fs::create_dir_all(self.cache_dir()));
            drop(std::fs::write(file, found.to_string()));
        }
        Ok(())
    }

    fn witness_file(&self, repository: &Repository) -> PathBuf {
        self.cache_dir().join(format!("{}.head", repository.id()))
    }

    /// Where large scratch files may be put: beside the cache rather than in memory.
    pub(crate) fn scratch_dir(&self) -> PathBuf {
        let dir = self.cache_dir();
        if std::fs::create_dir_all(&dir).is_ok() { dir } else { std::env::temp_dir() }
    }

    pub(crate) fn engine(&self) -> Result<Engine, CliError> {
        let wish = match self.global.io_engine {
            IoEngine::Auto => None,
            IoEngine::Uring => Some(Engine::Uring),
            IoEngine::Pread => Some(Engine::Pread),
        };
        let choice = volume::probe(wish)?;
        self.ui.detail(&format!("I/O engine: {} ({})", choice.engine, choice.why));
        Ok(choice.engine)
    }
}

/// Trees keep hundreds of files open at once, beside those of the index.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With fewer, a run is slower or says which file it could not open.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// The first SIGINT or SIGTERM asks to stop; a second one stops at once.
fn watch_signals() -> Result<Arc<AtomicBool>, CliError> {
    let cancel = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&cancel))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&cancel)))
            .map_err(CliError::io("cannot watch for signals"))?;
    }
    Ok(cancel)
}

/// What to do when no secret is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    Once,
    Twice,
}

/// Reads a secret from a file, the environment or the terminal.
pub(crate) fn read_secret(
    passphrase_file: Option<&PathBuf>,
    key_file: Option<&PathBuf>,
    variable: &str,
    ask: Ask,
) -> Result<UnlockSecret, CliError> {
    if let Some(path) = key_file {
        let bytes = read_file(path, "key file")?;
        if bytes.len() < 32 {
            let message = format!("key file {} has fewer than 32 bytes", path.display());
            return Err(CliError::Failed(message));
        }
        return Ok(UnlockSecret::KeyFile(bytes));
    }
    if let Some(path) = passphrase_file {
        let bytes = read_file(path, "passphrase file")?;
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        return passphrase(Zeroizing::new(line.to_vec()));
    }
    if let Some(text) = std::env::var_os(variable) {
        use std::os::unix::ffi::OsStringExt;
        return passphrase(Zeroizing::new(text.into_vec()));
    }
    if !std::io::stdin().is_terminal() {
        return Err(CliError::Usage(format!(
            "no passphrase given: use --passphrase-file, --key-file or {variable}"
        )));
    }
    ask_passphrase(ask)
}

fn read_file(path: &PathBuf, what: &str) -> Result<Zeroizing<Vec<u8>>, CliError> {
    std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(CliError::io(format!("cannot read {what} {}", path.display())))
}

fn ask_passphrase(ask: Ask) -> Result<UnlockSecret, CliError> {
    let prompt = |text: &str| {
        rpassword::prompt_password(text)
            .map(|line| Zeroizing::new(line.into_bytes()))
            .map_err(CliError::io("cannot ask for the passphrase"))
    };
    let first = prompt("Passphrase: ")?;
    if ask == Ask::Twice && *first != *prompt("Once more: ")? {
        return Err(CliError::Failed("the two passphrases differ".into()));
    }
    passphrase(first)
}

fn passphrase(bytes: Zeroizing<Vec<u8>>) -> Result<UnlockSecret, CliError> {
    if bytes.is_empty() {
        return Err(CliError::Failed("the passphrase is empty".into()));
    }
    Ok(UnlockSecret::Passphrase(bytes))
}
