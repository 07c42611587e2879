//! Which chunk of one repository is which of another: remembered on local disk, so that a chunk
//! that was copied once need not be read again to learn its other name.
//!
//! It is a cache and never asked for permission: a chunk found here is referred to only if the
//! target's index has it. Losing it costs reading, not storing. An entry never becomes wrong, since
//! both ids are functions of the chunk's bytes; what both repositories have forgotten stays until
//! there is too much of it, and then all is forgotten.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use repo_format::id::{ChunkId, RepositoryId};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, FlushOptions, LogLevel, Options, WriteBatch,
    WriteBufferManager, WriteOptions, properties,
};

/// Another layout would go to another folder.
const FOLDER: &str = "copies-1";
/// Of a filter: 1 % of the chunks that are not there cost a look into a block.
const FILTER_BITS: f64 = 10.0;
const BLOCK_BYTES: usize = 4 << 10;
const OPEN_FILES_MAX: i32 = 64;
/// Entries that are put up with, however few chunks the target has: about 70 MB.
const ENTRIES_MIN: u64 = 1 << 20;

/// Ids of chunks in one repository by their ids in another. Any number of threads may use it.
pub(super) struct Dictionary {
    /// `None`: nothing is remembered.
    db: Option<DB>,
    /// Set once the database fails: from then on nothing is found and nothing kept.
    broken: AtomicBool,
}

impl std::fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dictionary({:?})", self.db.as_ref().map(DB::path))
    }
}

impl Dictionary {
    /// One that remembers nothing: for repositories that give a chunk the same id.
    pub(super) const fn none() -> Self {
        Self { db: None, broken: AtomicBool::new(false) }
    }

    /// Opens the dictionary of two repositories, or starts an empty one. Whatever is wrong with it
    /// is returned as a notice: copying goes on, and reads more.
    ///
    /// * `memory_bytes`: for cached blocks and write buffers.
    pub(super) fn open(
        cache_dir: &Path,
        (source, target): (&RepositoryId, &RepositoryId),
        memory_bytes: usize,
    ) -> (Self, Option<String>) {
        let folder = cache_dir.join(FOLDER).join(format!("{source}-{target}"));
        match open_or_renew(&folder, memory_bytes) {
            Ok((db, notice)) => (Self { db: Some(db), ..Self::none() }, notice),
            Err(why) => {
                let notice = format!(
                    "no memory of earlier copies ({why}): chunks that the target has already are \
                     read again, and not stored again"
                );
                (Self::none(), Some(notice))
            }
        }
    }

    fn db(&self) -> Option<&DB> {
        self.db.as_ref().filter(|_| !self.broken.load(Ordering::Relaxed))
    }

    /// The other ids of chunks, in their order.
    pub(super) fn lookup(&self, ids: &[ChunkId]) -> Vec<Option<ChunkId>> {
        let Some(db) = self.db() else { return vec![None; ids.len()] };
        db.multi_get(ids.iter().map(ChunkId::as_bytes))
            .into_iter()
            .map(|found| {
                // A block that fails its checksum says nothing.
                let value = found.inspect_err(|_| self.broken.store(true, Ordering::Relaxed));
                Some(ChunkId(value.ok()??.try_into().ok()?))
            })
            .collect()
    }

    /// Remembers pairs of ids. They outlive a kill after the next [`Self::flush`].
    pub(super) fn add(&self, pairs: &[(ChunkId, ChunkId)]) {
        let Some(db) = self.db() else { return };
        let mut batch = WriteBatch::default();
        for (source, target) in pairs {
            batch.put(source.as_bytes(), target.as_bytes());
        }
        let mut options = WriteOptions::new();
        options.disable_wal(true);
        if db.write_opt(batch, &options).is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
    }

    /// Forgets everything if most of it must be of chunks that the target has lost.
    ///
    /// * `chunks`: how many the target has.
    pub(super) fn trim(&self, chunks: u64) {
        self.trim_to((2 * chunks).max(ENTRIES_MIN));
    }

    fn trim_to(&self, entries_max: u64) {
        let Some(db) = self.db() else { return };
        let entries = db.property_int_value(properties::ESTIMATE_NUM_KEYS).ok().flatten();
        if entries.is_none_or(|entries| entries <= entries_max) {
            return;
        }
        let mut batch = WriteBatch::default();
        // A key is 32 bytes: every one is below this.
        batch.delete_range([0u8; 1].as_slice(), [0xff; 33].as_slice());
        let mut options = WriteOptions::new();
        options.disable_wal(true);
        if db.write_opt(batch, &options).is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
        let none: Option<&[u8]> = None;
        db.compact_range(none, none);
    }

    /// Makes what was added durable.
    pub(super) fn flush(&self) {
        let Some(db) = self.db() else { return };
        let mut options = FlushOptions::new();
        options.set_wait(true);
        if db.flush_opt(&options).is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
    }
}

/// A database that cannot be opened is replaced by an empty one, unless another process has it.
fn open_or_renew(folder: &PathBuf, memory_bytes: usize) -> Result<(DB, Option<String>), String> {
    std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let options = options(memory_bytes);
    let error = match DB::open(&options, folder) {
        Ok(db) => return Ok((db, None)),
        Err(error) => error.to_string(),
    };
    if error.to_lowercase().contains("lock") {
        return Err("another copy between these two repositories is running here".to_owned());
    }
    std::fs::remove_dir_all(folder)
        .and_then(|()| std::fs::create_dir_all(folder))
        .map_err(|error| error.to_string())?;
    let db = DB::open(&options, folder).map_err(|error| error.to_string())?;
    Ok((db, Some(format!("the memory of earlier copies was started anew: {error}"))))
}

/// Index and filter live in the cache like any block, so that memory is bounded by it whatever the
/// number of chunks.
fn options(memory_bytes: usize) -> Options {
    let cache = Cache::new_lru_cache(memory_bytes);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&cache);
    table.set_block_size(BLOCK_BYTES);
    table.set_cache_index_and_filter_blocks(true);
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(BLOCK_BYTES);
    table.set_ribbon_filter(FILTER_BITS);
    let buffers_bytes = (memory_bytes / 4).max(512 << 10);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_paranoid_checks(true);
    options.set_block_based_table_factory(&table);
    let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
        buffers_bytes,
        false,
        cache.clone(),
    );
    options.set_write_buffer_manager(&buffers);
    options.set_write_buffer_size(buffers_bytes / 2);
    options.set_target_file_size_base(16 << 20);
    options.set_max_background_jobs(2);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_file_opening_threads(1);
    options.set_compaction_readahead_size(256 << 10);
    options.set_writable_file_max_buffer_size(256 << 10);
    options.set_log_level(LogLevel::Error);
    options.set_keep_log_file_num(1);
    options.set_max_log_file_size(64 << 10);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_skip_stats_update_on_db_open(true);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> ChunkId {
        ChunkId([byte; 32])
    }

    const IDS: (&RepositoryId, &RepositoryId) = (&RepositoryId([1; 16]), &RepositoryId([2; 16]));

    fn open(folder: &Path) -> (Dictionary, Option<String>) {
        Dictionary::open(folder, IDS, 1 << 20)
    }

    #[test]
    fn what_was_flushed_is_found_by_the_next_process_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let (dictionary, notice) = open(folder.path());
        assert_eq!(notice, None);
        dictionary.add(&[(id(1), id(11)), (id(2), id(22))]);
        dictionary.flush();
        drop(dictionary);
        let (dictionary, notice) = open(folder.path());
        assert_eq!(notice, None);
        assert_eq!(dictionary.lookup(&[id(2), id(3), id(1)]), [Some(id(22)), None, Some(id(11))]);
    }

    #[test]
    fn a_second_process_goes_on_without() {
        let folder = tempfile::tempdir().unwrap();
        let (first, _) = open(folder.path());
        first.add(&[(id(1), id(11))]);
        let (second, notice) = open(folder.path());
        assert!(notice.unwrap().contains("another copy"));
        second.add(&[(id(2), id(22))]);
        assert_eq!(second.lookup(&[id(1), id(2)]), [None, None]);
        assert_eq!(first.lookup(&[id(1), id(2)]), [Some(id(11)), None]);
    }

    #[test]
    fn it_is_emptied_when_it_has_grown_too_large_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let (dictionary, _) = open(folder.path());
        let pairs: Vec<_> = (0..=255).map(|byte| (id(byte), id(!byte))).collect();
        dictionary.add(&pairs);
        dictionary.flush();
        dictionary.trim_to(300);
        assert_eq!(dictionary.lookup(&[id(0), id(255)]), [Some(id(255)), Some(id(0))]);
        dictionary.trim_to(200);
        let all: Vec<_> = (0..=255).map(id).collect();
        assert!(dictionary.lookup(&all).iter().all(Option::is_none));
        dictionary.add(&pairs[..1]);
        dictionary.trim_to(200);
        assert_eq!(dictionary.lookup(&[id(0), id(255)]), [Some(id(255)), None]);
    }

    #[test]
    fn a_damaged_one_is_started_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (dictionary, _) = open(folder.path());
        dictionary.add(&[(id(1), id(11))]);
        dictionary.flush();
        let path = dictionary.db.as_ref().unwrap().path().to_owned();
        drop(dictionary);
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with("MANIFEST") {
                std::fs::write(path, "nonsense").unwrap();
            }
        }
        let (dictionary, notice) = open(folder.path());
        assert!(notice.unwrap().contains("anew"));
        assert_eq!(dictionary.lookup(&[id(1)]), [None]);
        dictionary.add(&[(id(1), id(11))]);
        assert_eq!(dictionary.lookup(&[id(1)]), [Some(id(11))]);
    }
}
