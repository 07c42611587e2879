//! The local index: which chunk is in which pack, as a cache that may be thrown away at any time.
//!
//! [`Index::sync`] brings it to a view of the repository: the segments that a catalog and its
//! unfolded commits list, and the packs that are condemned, dead or bad. Lookups then answer for
//! that view alone. Before the first sync nothing is found.
//!
//! What keeps a wrong answer out:
//!
//! - A pack counts only if a segment *of the view* names it. What the cache holds beyond that is
//!   never returned, so a pack that was condemned and swept while the cache slept is not found.
//! - Packs are known by local numbers, which are never used twice. A number is on disk before the
//!   first entry with it, and a segment counts as loaded only after all of its entries are, so a
//!   kill at any moment costs at most reading a segment again.
//! - The database is checksummed. Damage found when it is opened leads to an empty one; damage
//!   found later is reported as [`IndexError::Damaged`] and the next sync starts an empty one.
//!
//! Memory does not grow with chunks, and by about two bytes with each pack.

#[cfg(test)]
mod backing;
mod cache;
mod database;
mod filling;
mod home;
mod load;
mod records;
#[cfg(test)]
mod tests;
mod view;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use repo_format::id::{CHUNK_PREFIX_LEN, ChunkId, PackName, RepositoryId};
use repo_format::segment::{Entry, PackRow, Row};
use repo_format::session::SegmentRef;

use cache::Cache;
#[cfg(not(test))]
use database as backing;
pub(crate) use filling::Fill;
use filling::Filling;
use home::Home;

pub use view::PackState;
pub(crate) use view::{PackSet, View as States};

/// What [`Index::open`] is usually given for `memory_bytes`.
pub const MEMORY_BYTES_DEFAULT: usize = 24 << 20;

/// So many chunks are worth one [`Index::locate_sorted`]: 16 MB of ids.
pub(crate) const REFERENCES_MAX: usize = 512 << 10;

/// Notices kept for [`Index::take_notices`].
const NOTICES_MAX: usize = 16;

/// Why the index did not do as asked. None of it says anything about the repository.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its doc")]
pub enum IndexError {
    #[error("no folder for the index cache, neither {} nor a temporary one; make space or name another with --cache-dir", path.display())]
    NoFolder { path: PathBuf, source: std::io::Error },
    #[error("the index cache is damaged; syncing it again rebuilds it")]
    Damaged(#[source] BoxError),
    #[error("the index cache cannot be written")]
    Failed(#[source] BoxError),
}

impl IndexError {
    /// What went wrong underneath, in one line.
    fn reason(&self) -> String {
        match self {
            Self::Damaged(source) | Self::Failed(source) => source.to_string(),
            Self::NoFolder { source, .. } => source.to_string(),
        }
    }
}

/// What went wrong underneath.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the index answers for: a catalog and the valid commits that it has not folded in yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexView {
    /// Segments of the catalog and of the unfolded commits, in any order, repeats allowed.
    pub segments: Vec<SegmentRef>,
    /// Packs that may be declared dead: to be read, not to be referenced anew.
    pub condemned: Vec<PackName>,
    /// Packs that may be gone at any moment.
    pub dead: Vec<PackName>,
    /// Packs found missing or damaged.
    pub bad: Vec<PackName>,
}

/// Where segments are read from.
pub trait SegmentSource {
    /// Announces segments that will be read, in this order. Some may be passed over.
    fn expect(&self, segments: &[SegmentRef]) {
        let _ = segments;
    }

    /// Bytes that were read so far.
    fn bytes_read(&self) -> u64 {
        0
    }

    /// Hands out the rows of `segment` in their order, packs first. A break means that no more of
    /// them are wanted, and is no error.
    ///
    /// # Errors
    ///
    /// The segment cannot be read to its end. Rows handed out before stay true.
    fn read(
        &self,
        segment: &SegmentRef,
        each: &mut dyn FnMut(Row) -> ControlFlow<()>,
    ) -> Result<(), BoxError>;
}

/// What a sync did.
#[derive(Debug, Clone, Default)]
pub struct SyncReport {
    /// Segments that were not in the cache and are now.
    pub loaded: usize,
    /// Entries read for that.
    pub entries: u64,
    /// Segments that could not be read, and why. Their packs are as good as unlisted.
    pub unreadable: Vec<(SegmentRef, String)>,
    /// Segments that are still to be loaded: not 0 only while the cache is being filled.
    pub left: usize,
}

/// What was read of the repository's index since this one was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Fetched {
    /// Segments that were not in the cache.
    pub segments: u64,
    /// Entries read of them.
    pub entries: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Whether the cache held nothing before.
    pub was_cold: bool,
    /// Segments that are not in the cache yet.
    pub segments_left: u64,
}

/// Where a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Local number of the pack: of use with the same [`Index`] only, until its cache is replaced.
    pub pack: u32,
    /// Where the sealed frame starts in the pack.
    pub offset: u32,
    /// Length of the sealed frame.
    pub stored_len: u32,
    /// Position among the pack's chunks.
    pub slot: u32,
}

/// Takes the front of a chunk's id, a place of the chunk, and the state of the pack there.
pub type EachEntry<'a> =
    dyn FnMut(&[u8; CHUNK_PREFIX_LEN], &Place, PackState) -> ControlFlow<()> + 'a;

/// Something that a user may want to know and that is no error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its doc")]
pub enum Notice {
    #[error("the index cache was started anew: {why}")]
    Rebuilt { why: String },
    #[error("the index cache is temporary, for this run only: {why}")]
    Private { why: String },
}

/// The index. Any number of threads may use it at once.
#[derive(Debug)]
pub struct Index {
    cache: RwLock<Arc<Cache>>,
    repository: RepositoryId,
    memory_bytes: usize,
    tuning: Tuning,
    notices: Mutex<VecDeque<Notice>>,
    fetched: Mutex<Fetched>,
    filling: Filling,
    /// Last, because a temporary folder is removed when it is dropped.
    home: Mutex<Home>,
}

/// Sizes that tests make small.
#[derive(Debug, Clone, Copy)]
struct Tuning {
    /// Entries sorted in memory before they are written, 40 bytes each.
    rows_sorted_max: usize,
    /// Length at which a table file is closed.
    table_bytes: u64,
    /// Entries of unlisted packs that are put up with however few listed ones there are.
    garbage_entries_min: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { rows_sorted_max: 64 << 10, table_bytes: 64 << 20, garbage_entries_min: 256 << 10 }
    }
}

impl Index {
    /// Opens the cache of one repository, or starts an empty one.
    ///
    /// Each process gets a database of its own: the first of `dir/<repository>/0` to `/15` that no
    /// other process holds. If there is none, or `dir` cannot be written, the index lives in a
    /// temporary folder and is gone with the process; [`Self::take_notices`] tells.
    ///
    /// * `memory_bytes`: for cached blocks and write buffers; see [`MEMORY_BYTES_DEFAULT`].
    ///
    /// # Errors
    ///
    /// [`IndexError::NoFolder`], [`IndexError::Failed`]: not even a temporary folder would do.
    pub fn open(
        dir: &Path,
        repository: &RepositoryId,
        memory_bytes: usize,
    ) -> Result<Self, IndexError> {
        Self::open_tuned(dir, repository, memory_bytes, Tuning::default())
    }

    fn open_tuned(
        dir: &Path,
        repository: &RepositoryId,
        memory_bytes: usize,
        tuning: Tuning,
    ) -> Result<Self, IndexError> {
        let mut notices = VecDeque::new();
        let claimed = Home::claim(&dir.join(repository.to_string()))
            .map_err(|error| error.to_string())
            .and_then(|home| {
                let cache = home.open(repository, memory_bytes, tuning, &mut |why| {
                    notices.push_back(Notice::Rebuilt { why });
                });
                Ok((cache.map_err(|error| error.reason())?, home))
            });
        let (cache, home) = match claimed {
            Ok(opened) => opened,
            Err(why) => {
                notices.push_back(Notice::Private { why });
                open_private(dir, repository, memory_bytes, tuning, 0)?
            }
        };
        Ok(Self {
            cache: RwLock::new(Arc::new(cache)),
            repository: *repository,
            memory_bytes,
            tuning,
            notices: Mutex::new(notices),
            fetched: Mutex::default(),
            filling: Filling::default(),
            home: Mutex::new(home),
        })
    }

    /// Brings the index to `view`, reading the segments that it does not hold yet.
    ///
    /// A segment that cannot be read is reported and left out, and tried again next time. If the
    /// cache turns out damaged or its disk full, an empty one takes its place and is filled.
    ///
    /// # Errors
    ///
    /// [`IndexError::Failed`], [`IndexError::NoFolder`]: the empty one failed as well.
    pub fn sync(
        &self,
        view: &IndexView,
        source: &dyn SegmentSource,
    ) -> Result<SyncReport, IndexError> {
        let mut home = lock(&self.home);
        self.filling.end();
        self.count_reading(source, || {
            self.with_cache(&mut home, &mut |cache| cache.sync(view, source))
        })
    }

    /// As [`Self::sync`], but stops before the next segment when `goes_on` says no. What was loaded
    /// until then is found; [`SyncReport::left`] tells what is missing. To be gone on with
    /// [`Self::fill`].
    ///
    /// # Errors
    ///
    /// As [`Self::sync`].
    pub(crate) fn begin(
        &self,
        view: &IndexView,
        source: &dyn SegmentSource,
        goes_on: &mut dyn FnMut(&SyncReport) -> bool,
    ) -> Result<(SyncReport, Option<Fill>), IndexError> {
        let mut home = lock(&self.home);
        self.filling.end();
        let report = self.count_reading(source, || {
            self.with_cache(&mut home, &mut |cache| {
                cache.forget_added();
                cache.sync_some(view, source, goes_on)
            })
        })?;
        let fill = (report.left > 0).then(|| self.filling.begin());
        Ok((report, fill))
    }

    /// Loads some more of the segments of `view`. Returns `None` if nothing is left, or a later
    /// sync took over.
    ///
    /// # Errors
    ///
    /// As [`Self::sync`].
    pub(crate) fn fill(
        &self,
        fill: Fill,
        view: &IndexView,
        source: &dyn SegmentSource,
        goes_on: &mut dyn FnMut(&SyncReport) -> bool,
    ) -> Result<Option<SyncReport>, IndexError> {
        let mut home = lock(&self.home);
        if !self.filling.is_current(fill) {
            return Ok(None);
        }
        let report = self.count_reading(source, || {
            self.with_cache(&mut home, &mut |cache| cache.sync_some(view, source, goes_on))
        })?;
        self.filling.step();
        if report.left == 0 {
            self.filling.end();
        }
        Ok(Some(report))
    }

    /// Nobody goes on with it: what is missing is not waited for any more.
    pub(crate) fn end_fill(&self, fill: Fill) {
        if self.filling.is_current(fill) {
            self.filling.end();
        }
    }

    /// What was read of the repository's index.
    pub fn fetched(&self) -> Fetched {
        *lock(&self.fetched)
    }

    fn count_reading(
        &self,
        source: &dyn SegmentSource,
        sync: impl FnOnce() -> Result<SyncReport, IndexError>,
    ) -> Result<SyncReport, IndexError> {
        let (was_empty, before) = (self.cache().next_number() == 0, source.bytes_read());
        let report = sync()?;
        let mut fetched = lock(&self.fetched);
        fetched.was_cold |= was_empty && report.loaded > 0;
        fetched.segments += report.loaded as u64;
        fetched.entries += report.entries;
        fetched.bytes += source.bytes_read() - before;
        fetched.segments_left = report.left as u64;
        Ok(report)
    }

    /// Does something with the cache, and again with an empty one if it turns out damaged.
    fn with_cache<T>(
        &self,
        home: &mut Home,
        work: &mut dyn FnMut(&Cache) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let cache = self.cache();
        let trouble = match cache.trouble() {
            Some(trouble) => trouble,
            None => match work(&cache) {
                Err(IndexError::Damaged(error) | IndexError::Failed(error)) => error,
                done => return done,
            },
        };
        drop(cache);
        self.restart(home, &trouble)?;
        work(&self.cache())
    }

    /// Adds a segment that this process just committed, without reading it back.
    ///
    /// # Errors
    ///
    /// [`IndexError::Failed`]: nothing was added; the next [`Self::sync`] repairs the cache.
    pub fn add_segment(
        &self,
        segment: &SegmentRef,
        packs: &[PackRow],
        entries: &[Entry],
    ) -> Result<(), IndexError> {
        let _home = lock(&self.home);
        self.cache().add(segment, &Own { packs, entries })
    }

    /// Puts an empty database in the place of the current one.
    fn restart(&self, home: &mut Home, trouble: &BoxError) -> Result<(), IndexError> {
        let why = trouble.to_string();
        // A place from before the restart must not point into another pack.
        let first = self.cache().next_number();
        let in_place = (!home.is_private() && !is_no_space(&why))
            .then(|| home.create(&self.repository, self.memory_bytes, self.tuning, first).ok())
            .flatten();
        let (cache, notice) = if let Some(cache) = in_place {
            (cache, Notice::Rebuilt { why })
        } else {
            let (cache, private) =
                open_private(home.path(), &self.repository, self.memory_bytes, self.tuning, first)?;
            // Whoever fills the disk may need the space more.
            let _ = home.clear();
            *home = private;
            (cache, Notice::Private { why })
        };
        *self.cache.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(cache);
        let mut notices = lock(&self.notices);
        notices.push_back(notice);
        while notices.len() > NOTICES_MAX {
            notices.pop_front();
        }
        Ok(())
    }

    fn cache(&self) -> Arc<Cache> {
        self.cache.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A place of the chunk that a new snapshot may refer to: in a live pack.
    ///
    /// # Errors
    ///
    /// [`IndexError::Damaged`]. The caller may go on as if the chunk were absent.
    pub fn usable(&self, id: &ChunkId) -> Result<Option<Place>, IndexError> {
        self.cache().usable(&id.prefix())
    }

    /// [`Self::usable`] of many chunks, in their order.
    ///
    /// # Errors
    ///
    /// As [`Self::usable`].
    pub fn usable_many(&self, ids: &[ChunkId]) -> Result<Vec<Option<Place>>, IndexError> {
        let places = self.cache().many(ids, &|state| state == PackState::Live)?;
        Ok(places.into_iter().map(|places| places.first().copied()).collect())
    }

    /// Every place to read the chunk from, the best first: live, condemned, bad, dead. While the
    /// cache is being filled, a chunk that is not found is waited for.
    ///
    /// # Errors
    ///
    /// [`IndexError::Damaged`]. After a [`Self::sync`] with the same view, ask again.
    pub fn locate(&self, id: &ChunkId) -> Result<Vec<Place>, IndexError> {
        loop {
            let step = self.filling.now();
            let places = self.cache().locate(&id.prefix())?;
            match step {
                Some(step) if places.is_empty() => self.filling.wait_beyond(step),
                _ => return Ok(places),
            }
        }
    }

    /// [`Self::locate`] of many chunks, in their order.
    ///
    /// # Errors
    ///
    /// As [`Self::locate`].
    pub fn locate_many(&self, ids: &[ChunkId]) -> Result<Vec<Vec<Place>>, IndexError> {
        loop {
            let step = self.filling.now();
            let places = self.cache().many(ids, &|state| state != PackState::Unlisted)?;
            match step {
                Some(step) if places.iter().any(Vec::is_empty) => self.filling.wait_beyond(step),
                _ => return Ok(places),
            }
        }
    }

    /// As [`Self::locate`] for each of many chunks, in the order of their ids: neighbours share
    /// the blocks that they are found in, which makes a lookup a tenth as dear as one by itself.
    ///
    /// # Errors
    ///
    /// As [`Self::locate`]; some chunks may have been handed out by then.
    pub fn locate_sorted(
        &self,
        ids: &mut [ChunkId],
        each: &mut dyn FnMut(&[Place]),
    ) -> Result<(), IndexError> {
        ids.sort_unstable();
        while let Some(step) = self.filling.now() {
            self.filling.wait_beyond(step);
        }
        self.cache().each_of(ids, each)
    }

    /// What opens the pack of a [`Place`]. `None`: the cache was replaced since; locate the chunk
    /// again.
    ///
    /// # Errors
    ///
    /// [`IndexError::Damaged`].
    pub fn pack(&self, number: u32) -> Result<Option<Arc<PackRow>>, IndexError> {
        self.cache().pack(number)
    }

    /// The state of a pack in the current view.
    pub fn pack_state(&self, number: u32) -> PackState {
        self.cache().view().state(number)
    }

    /// The number of a pack, if the current view lists it.
    ///
    /// # Errors
    ///
    /// [`IndexError::Damaged`].
    pub fn pack_number(&self, name: &PackName) -> Result<Option<u32>, IndexError> {
        self.cache().pack_number(name)
    }

    /// Hands out the packs that the current view lists, by number.
    ///
    /// # Errors
    ///
    /// [`IndexError::Damaged`].
    pub fn packs(
        &self,
        each: &mut dyn FnMut(u32, &PackRow, PackState) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        self.cache().packs(each)
    }

    /// The states of all packs in the current view, for who asks often.
    pub(crate) fn states(&self) -> Arc<States> {
        self.cache().view()
    }

    /// Hands out the packs with a number from `first` on, listed or not, by number. Returns a
    /// number that is higher than every one given out so far.
    ///
    /// # Errors
    ///
    /// [`IndexError::Damaged`].
    pub(crate) fn known_packs(
        &self,
        first: u32,
        each: &mut dyn FnMut(u32, &PackRow),
    ) -> Result<u32, IndexError> {
        self.cache().known_packs(first, each)
    }

    /// Whether a view listed the pack once, in full, and the current one does not. Only a hint:
    /// the cache forgets such packs when they are many, and when it is rebuilt.
    ///
    /// # Errors
    ///
    /// [`IndexError::Damaged`].
    pub fn was_listed(&self, name: &PackName) -> Result<bool, IndexError> {
        self.cache().was_listed(name)
    }

    /// For how many packs [`Self::was_listed`] holds.
    pub fn once_listed(&self) -> usize {
        self.cache().once_listed()
    }

    /// How many packs of a loaded segment are dead in the current view.
    ///
    /// # Errors
    ///
    /// [`IndexError::Damaged`].
    pub(crate) fn dead_of(&self, segment: &SegmentRef) -> Result<u32, IndexError> {
        self.cache().dead_of(segment)
    }

    /// Hands out the entries of all listed packs, ascending by chunk.
    ///
    /// # Errors
    ///
    /// [`IndexError::Damaged`].
    pub fn entries(&self, each: &mut EachEntry<'_>) -> Result<(), IndexError> {
        self.cache().entries(each)
    }

    /// What happened to the cache since the last call, for the user.
    pub fn take_notices(&self) -> Vec<Notice> {
        lock(&self.notices).drain(..).collect()
    }
}

fn open_private(
    dir: &Path,
    repository: &RepositoryId,
    memory_bytes: usize,
    tuning: Tuning,
    first: u32,
) -> Result<(Cache, Home), IndexError> {
    let home =
        Home::private().map_err(|source| IndexError::NoFolder { path: dir.to_owned(), source })?;
    let cache = home.create(repository, memory_bytes, tuning, first)?;
    Ok((cache, home))
}

/// `RocksDB` hands errors on as text only.
fn is_no_space(text: &str) -> bool {
    text.contains("No space left") || text.contains("quota exceeded")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A segment that is still in memory.
struct Own<'a> {
    packs: &'a [PackRow],
    entries: &'a [Entry],
}

impl SegmentSource for Own<'_> {
    fn read(
        &self,
        _: &SegmentRef,
        each: &mut dyn FnMut(Row) -> ControlFlow<()>,
    ) -> Result<(), BoxError> {
        let packs = self.packs.iter().map(|pack| Row::Pack(*pack));
        for row in packs.chain(self.entries.iter().map(|entry| Row::Entry(*entry))) {
            if each(row).is_break() {
                break;
            }
        }
        Ok(())
    }
}
