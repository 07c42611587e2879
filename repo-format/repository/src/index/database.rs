//! `RocksDB` as the cache uses it: what is set, and why.
//!
//! Nothing goes through the write-ahead log. Records are flushed, and entries are ingested as
//! finished tables, so everything on disk is named by the manifest, in the order in which it was
//! made: whatever is lost at the end, what is left is a state that once was.

use std::ffi::CStr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use repo_format::id::CHUNK_PREFIX_LEN;
use rocksdb::compaction_filter::{CompactionFilter, Decision};
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily,
    ColumnFamilyDescriptor, CompactOptions, DB, DBCompactionStyle, DBRawIterator, DBRecoveryMode,
    FlushOptions, IngestExternalFileOptions, LogLevel, Options, ReadOptions, SliceTransform,
    UniversalCompactOptions, WriteBatch, WriteBufferManager, WriteOptions, properties,
};

use super::records::{self, EntryRow, Prefix};
use super::view::View;
use super::{BoxError, IndexError, Place};

const ENTRIES: &str = "entries";
const RECORDS: &str = "default";
/// Of a prefix filter: 1 % of the chunks that are not there cost a look into a block.
const FILTER_BITS: f64 = 10.0;
const BLOCK_BYTES: usize = 4 << 10;
const OPEN_FILES_MAX: i32 = 128;
const SCAN_READAHEAD_BYTES: usize = 1 << 20;

/// An open database. What compactions may drop follows [`Database::publish`].
pub(super) struct Database {
    db: DB,
    tables: Options,
    folder: PathBuf,
    published: Published,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Database({})", self.folder.display())
    }
}

type Published = Arc<Mutex<Arc<View>>>;

/// Takes a key and its value; `None` says that they are malformed.
pub(super) type EachRow<'a> = dyn FnMut(&[u8], &[u8]) -> Option<ControlFlow<()>> + 'a;

impl Database {
    /// Opens or creates the database in `folder`, which exists.
    pub(super) fn open(folder: &Path, memory_bytes: usize) -> Result<Self, rocksdb::Error> {
        let published = Published::default();
        let cache = Cache::new_lru_cache(memory_bytes);
        let buffers_bytes = (memory_bytes / 8).max(256 << 10);
        let options = database_options(&cache, buffers_bytes);
        let entries = entries_options(&cache, &published);
        let records = records_options(&cache, buffers_bytes);
        let families = [
            ColumnFamilyDescriptor::new(ENTRIES, entries.clone()),
            ColumnFamilyDescriptor::new(RECORDS, records),
        ];
        let db = DB::open_cf_descriptors(&options, folder, families)?;
        Ok(Self { db, tables: entries, folder: folder.to_owned(), published })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What [`rocksdb::SstFileWriter`] makes tables with.
    pub(super) const fn table_options(&self) -> &Options {
        &self.tables
    }

    /// From now on compactions drop the entries of packs that `view` has given up.
    pub(super) fn publish(&self, view: Arc<View>) {
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }

    fn entries(&self) -> Result<&ColumnFamily, IndexError> {
        self.db.cf_handle(ENTRIES).ok_or_else(|| damaged("no entries in the database"))
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.db.get(key).map_err(damaged)
    }

    /// Writes records, all or none. They are durable after [`Self::flush`].
    pub(super) fn write(&self, batch: WriteBatch) -> Result<(), IndexError> {
        step();
        let mut options = WriteOptions::new();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(failed)
    }

    /// Makes the records durable that were written so far.
    pub(super) fn flush(&self) -> Result<(), IndexError> {
        step();
        let mut options = FlushOptions::new();
        options.set_wait(true);
        self.db.flush_opt(&options).map_err(failed)
    }

    /// Takes a finished table of entries in. It is durable then.
    pub(super) fn ingest(&self, table: &Path) -> Result<(), IndexError> {
        step();
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.db.ingest_external_file_cf_opts(self.entries()?, &options, vec![table]).map_err(failed)
    }

    /// Estimated number of entries, those of unlisted packs and repeats included.
    pub(super) fn entries_estimate(&self) -> Result<u64, IndexError> {
        let estimate =
            self.db.property_int_value_cf(self.entries()?, properties::ESTIMATE_NUM_KEYS);
        Ok(estimate.map_err(damaged)?.unwrap_or(0))
    }

    /// Rewrites all entries, without those of packs that were given up.
    pub(super) fn compact(&self) -> Result<(), IndexError> {
        step();
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        let none: Option<&[u8]> = None;
        self.db.compact_range_cf_opt(self.entries()?, none, none, &options);
        Ok(())
    }

    /// Looks chunks up, the cheaper the closer a chunk is to the one before.
    pub(super) fn lookup(&self) -> Result<Lookup<'_>, IndexError> {
        let mut options = ReadOptions::default();
        options.set_prefix_same_as_start(true);
        Ok(Lookup { places: self.db.raw_iterator_cf_opt(self.entries()?, options) })
    }

    /// Hands out all entries, ascending.
    pub(super) fn each_entry(
        &self,
        each: &mut dyn FnMut(&Prefix, &Place) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        let rows = self.db.raw_iterator_cf_opt(self.entries()?, scan_options());
        scan(rows, &[], &[], &mut |key, value| {
            let (prefix, place) = records::read_entry(key, value)?;
            Some(each(&prefix, &place))
        })
    }

    /// Hands out the records whose key starts with `tag`, ascending.
    pub(super) fn each_record(&self, tag: u8, each: &mut EachRow<'_>) -> Result<(), IndexError> {
        self.each_record_from(tag, &[tag], each)
    }

    /// As [`Self::each_record`], from the key `start` on.
    pub(super) fn each_record_from(
        &self,
        tag: u8,
        start: &[u8],
        each: &mut EachRow<'_>,
    ) -> Result<(), IndexError> {
        scan(self.db.raw_iterator_opt(scan_options()), start, &[tag], each)
    }
}

/// For reading a column family from end to end, past the cache.
fn scan_options() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_total_order_seek(true);
    options.set_readahead_size(SCAN_READAHEAD_BYTES);
    options.fill_cache(false);
    options
}

fn scan(
    mut rows: DBRawIterator<'_>,
    start: &[u8],
    tag: &[u8],
    each: &mut EachRow<'_>,
) -> Result<(), IndexError> {
    rows.seek(start);
    while let Some((key, value)) = rows.item() {
        if !key.starts_with(tag) {
            return Ok(());
        }
        match each(key, value) {
            Some(ControlFlow::Continue(())) => rows.next(),
            Some(ControlFlow::Break(())) => return Ok(()),
            None => return Err(damaged("a record of the database is malformed")),
        }
    }
    rows.status().map_err(damaged)
}

/// Looks one chunk up after the other.
pub(super) struct Lookup<'a> {
    places: DBRawIterator<'a>,
}

impl Lookup<'_> {
    /// Hands out the places of a chunk, ascending by the pack's number.
    pub(super) fn each(
        &mut self,
        prefix: &Prefix,
        each: &mut dyn FnMut(Place) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        self.places.seek(prefix);
        while let Some((key, value)) = self.places.item() {
            let Some((found, place)) = records::read_entry(key, value) else {
                return Err(damaged("an entry of the database is malformed"));
            };
            // The filter has false positives, and may let the iterator run on.
            if found != *prefix || each(place).is_break() {
                return Ok(());
            }
            self.places.next();
        }
        self.places.status().map_err(damaged)
    }
}

/// Comes before every change of the database: where tests kill the process.
#[cfg(test)]
fn step() {
    super::tests::step();
}

#[cfg(not(test))]
const fn step() {}

pub(super) fn damaged(error: impl Into<BoxError>) -> IndexError {
    IndexError::Damaged(error.into())
}

pub(super) fn failed(error: impl Into<BoxError>) -> IndexError {
    IndexError::Failed(error.into())
}

/// Writes one table of entries, ascending by key.
pub(super) struct TableWriter<'a> {
    writer: rocksdb::SstFileWriter<'a>,
    path: PathBuf,
    last: EntryRow,
}

impl<'a> TableWriter<'a> {
    /// Starts the file `path` with its first entry.
    pub(super) fn start(
        database: &'a Database,
        path: PathBuf,
        first: EntryRow,
    ) -> Result<Self, IndexError> {
        // It may be a second name of a table in use, if a process was killed between two steps of
        // an ingestion: it must be removed, not overwritten.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        let writer = rocksdb::SstFileWriter::create(database.table_options());
        writer.open(&path).map_err(failed)?;
        let mut started = Self { writer, path, last: first };
        started.put(first)?;
        Ok(started)
    }

    /// The entry that was written last.
    pub(super) const fn last(&self) -> &EntryRow {
        &self.last
    }

    /// Adds an entry behind [`Self::last`].
    pub(super) fn put(&mut self, row: EntryRow) -> Result<(), IndexError> {
        self.last = row;
        self.writer.put(row.key(), row.value()).map_err(failed)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.writer.file_size()
    }

    /// Closes the file and gives its path.
    pub(super) fn finish(mut self) -> Result<PathBuf, IndexError> {
        self.writer.finish().map_err(failed)?;
        Ok(self.path)
    }
}

fn database_options(cache: &Cache, buffers_bytes: usize) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_wal_recovery_mode(DBRecoveryMode::AbsoluteConsistency);
    let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
        buffers_bytes,
        false,
        cache.clone(),
    );
    options.set_write_buffer_manager(&buffers);
    options.set_max_background_jobs(2);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_file_opening_threads(1);
    options.set_compaction_readahead_size(256 << 10);
    options.set_writable_file_max_buffer_size(256 << 10);
    options.set_manifest_preallocation_size(16 << 10);
    options.set_log_level(LogLevel::Error);
    options.set_keep_log_file_num(1);
    options.set_max_log_file_size(64 << 10);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_skip_stats_update_on_db_open(true);
    options
}

/// Index and filter are cut into partitions that live in the cache like any block, so that memory
/// is bounded by the cache whatever the number of chunks.
fn table_options(cache: &Cache) -> BlockBasedOptions {
    let mut options = BlockBasedOptions::default();
    options.set_block_cache(cache);
    options.set_block_size(BLOCK_BYTES);
    options.set_cache_index_and_filter_blocks(true);
    options.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    options.set_partition_filters(true);
    options.set_metadata_block_size(BLOCK_BYTES);
    options.set_ribbon_filter(FILTER_BITS);
    options
}

fn entries_options(cache: &Cache, published: &Published) -> Options {
    let mut table = table_options(cache);
    // A lookup knows the chunk and not the pack: only the chunk goes into the filter.
    table.set_whole_key_filtering(false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_prefix_extractor(SliceTransform::create_fixed_prefix(CHUNK_PREFIX_LEN));
    options.set_compaction_filter_factory(GivenUpFactory { published: Arc::clone(published) });
    // Every load is a sorted run over the whole range of keys. Runs of like size are merged, so
    // that an entry is rewritten a logarithmic number of times.
    options.set_compaction_style(DBCompactionStyle::Universal);
    let mut universal = UniversalCompactOptions::default();
    universal.set_max_size_amplification_percent(100);
    options.set_universal_compaction_options(&universal);
    options.set_level_zero_file_num_compaction_trigger(6);
    // A reader is better off with many runs than with a load that waits.
    options.set_level_zero_slowdown_writes_trigger(1 << 20);
    options.set_level_zero_stop_writes_trigger(1 << 20);
    // Entries never go through this: they are ingested.
    options.set_write_buffer_size(64 << 10);
    options.set_target_file_size_base(64 << 20);
    options
}

fn records_options(cache: &Cache, buffers_bytes: usize) -> Options {
    let mut options = Options::default();
    options.set_block_based_table_factory(&table_options(cache));
    options.set_write_buffer_size(buffers_bytes / 2);
    options.set_target_file_size_base(8 << 20);
    options
}

/// Makes compactions drop the entries of packs whose number was given up.
struct GivenUpFactory {
    published: Published,
}

impl CompactionFilterFactory for GivenUpFactory {
    type Filter = GivenUp;

    fn create(&mut self, _: CompactionFilterContext) -> GivenUp {
        GivenUp { view: self.published.lock().unwrap_or_else(PoisonError::into_inner).clone() }
    }

    fn name(&self) -> &CStr {
        c"salvor.given-up"
    }
}

struct GivenUp {
    view: Arc<View>,
}

impl CompactionFilter for GivenUp {
    fn filter(&mut self, _: u32, key: &[u8], _: &[u8]) -> Decision {
        match records::pack_of_key(key) {
            Some(number) if self.view.is_given_up(number) => Decision::Remove,
            _ => Decision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        c"salvor.given-up"
    }
}
