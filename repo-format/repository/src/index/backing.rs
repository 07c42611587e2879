//! What the cache is kept in, in tests: the database of the product, or, in a simulation, maps
//! that stand for one. A simulation opens some hundred thousand caches, and starting a database
//! costs more than all else in it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rocksdb::{WriteBatch, WriteBatchIterator};

use super::database::{self, EachRow};
use super::records::{self, EntryRow, Prefix};
use super::view::View;
use super::{IndexError, Place, lock};

pub(super) use super::database::{damaged, failed};

/// The database of the product, or maps.
pub(super) enum Database {
    Real(database::Database),
    Light(Light),
}

/// Maps that keep of a database what was flushed, as long as the thread lives.
pub(super) struct Light {
    folder: PathBuf,
    disk: Arc<Disk>,
    records: Mutex<Rows>,
    written: Mutex<HashMap<PathBuf, Vec<EntryRow>>>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Database({})", self.folder().display())
    }
}

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Debug, Default)]
struct Disk {
    records: Mutex<Rows>,
    entries: Mutex<Rows>,
}

thread_local! {
    static DISKS: RefCell<HashMap<PathBuf, Arc<Disk>>> = RefCell::default();
}

impl Light {
    fn open(folder: &Path) -> Self {
        let disk =
            DISKS.with_borrow_mut(|disks| Arc::clone(disks.entry(folder.to_owned()).or_default()));
        let records = Mutex::new(lock(&disk.records).clone());
        Self { folder: folder.to_owned(), disk, records, written: Mutex::default() }
    }
}

/// Applies a batch to a map.
struct Apply<'a>(&'a mut Rows);

impl WriteBatchIterator for Apply<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.0.insert(key.to_vec(), value.to_vec());
    }

    fn delete(&mut self, key: &[u8]) {
        self.0.remove(key);
    }
}

impl Database {
    pub(super) fn open(folder: &Path, memory_bytes: usize) -> Result<Self, rocksdb::Error> {
        if crate::sim::here::has_light_index() {
            return Ok(Self::Light(Light::open(folder)));
        }
        database::Database::open(folder, memory_bytes).map(Self::Real)
    }

    pub(super) fn folder(&self) -> &Path {
        match self {
            Self::Real(database) => database.folder(),
            Self::Light(light) => &light.folder,
        }
    }

    pub(super) fn publish(&self, view: Arc<View>) {
        match self {
            Self::Real(database) => database.publish(view),
            Self::Light(_) => {}
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        match self {
            Self::Real(database) => database.get(key),
            Self::Light(light) => Ok(lock(&light.records).get(key).cloned()),
        }
    }

    pub(super) fn write(&self, batch: WriteBatch) -> Result<(), IndexError> {
        match self {
            Self::Real(database) => database.write(batch),
            Self::Light(light) => {
                batch.iterate(&mut Apply(&mut lock(&light.records)));
                Ok(())
            }
        }
    }

    pub(super) fn flush(&self) -> Result<(), IndexError> {
        match self {
            Self::Real(database) => database.flush(),
            Self::Light(light) => {
                lock(&light.disk.records).clone_from(&lock(&light.records));
                Ok(())
            }
        }
    }

    pub(super) fn ingest(&self, table: &Path) -> Result<(), IndexError> {
        match self {
            Self::Real(database) => database.ingest(table),
            Self::Light(light) => {
                let rows = lock(&light.written).remove(table).unwrap_or_default();
                let rows = rows.iter().map(|row| (row.key().to_vec(), row.value().to_vec()));
                lock(&light.disk.entries).extend(rows);
                Ok(())
            }
        }
    }

    pub(super) fn entries_estimate(&self) -> Result<u64, IndexError> {
        match self {
            Self::Real(database) => database.entries_estimate(),
            Self::Light(light) => Ok(lock(&light.disk.entries).len() as u64),
        }
    }

    pub(super) fn compact(&self) -> Result<(), IndexError> {
        match self {
            Self::Real(database) => database.compact(),
            Self::Light(_) => Ok(()),
        }
    }

    pub(super) fn lookup(&self) -> Result<Lookup<'_>, IndexError> {
        Ok(match self {
            Self::Real(database) => Lookup::Real(database.lookup()?),
            Self::Light(light) => Lookup::Light(light),
        })
    }

    pub(super) fn each_entry(
        &self,
        each: &mut dyn FnMut(&Prefix, &Place) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        match self {
            Self::Real(database) => database.each_entry(each),
            Self::Light(light) => scan(&light.disk.entries, &[], &[], &mut |key, value| {
                let (prefix, place) = records::read_entry(key, value)?;
                Some(each(&prefix, &place))
            }),
        }
    }

    pub(super) fn each_record(&self, tag: u8, each: &mut EachRow<'_>) -> Result<(), IndexError> {
        match self {
            Self::Real(database) => database.each_record(tag, each),
            Self::Light(light) => scan(&light.records, &[tag], &[tag], each),
        }
    }

    pub(super) fn each_record_from(
        &self,
        tag: u8,
        start: &[u8],
        each: &mut EachRow<'_>,
    ) -> Result<(), IndexError> {
        match self {
            Self::Real(database) => database.each_record_from(tag, start, each),
            Self::Light(light) => scan(&light.records, start, &[tag], each),
        }
    }
}

fn scan(
    rows: &Mutex<Rows>,
    start: &[u8],
    tag: &[u8],
    each: &mut EachRow<'_>,
) -> Result<(), IndexError> {
    let rows = lock(rows);
    let from = (Bound::Included(start.to_vec()), Bound::Unbounded);
    for (key, value) in rows.range(from).take_while(|(key, _)| key.starts_with(tag)) {
        match each(key, value) {
            Some(ControlFlow::Continue(())) => {}
            Some(ControlFlow::Break(())) => break,
            None => return Err(damaged("a record is malformed")),
        }
    }
    Ok(())
}

/// Looks one chunk up after the other.
pub(super) enum Lookup<'a> {
    Real(database::Lookup<'a>),
    Light(&'a Light),
}

impl Lookup<'_> {
    pub(super) fn each(
        &mut self,
        prefix: &Prefix,
        each: &mut dyn FnMut(Place) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        match self {
            Self::Real(lookup) => lookup.each(prefix, each),
            Self::Light(light) => scan(&light.disk.entries, prefix, prefix, &mut |key, value| {
                Some(each(records::read_entry(key, value)?.1))
            }),
        }
    }
}

/// Writes one table of entries.
pub(super) enum TableWriter<'a> {
    Real(database::TableWriter<'a>),
    Light { light: &'a Light, path: PathBuf, rows: Vec<EntryRow> },
}

impl<'a> TableWriter<'a> {
    pub(super) fn start(
        database: &'a Database,
        path: PathBuf,
        first: EntryRow,
    ) -> Result<Self, IndexError> {
        match database {
            Database::Real(database) => {
                database::TableWriter::start(database, path, first).map(Self::Real)
            }
            Database::Light(light) => Ok(Self::Light { light, path, rows: vec![first] }),
        }
    }

    pub(super) fn last(&self) -> &EntryRow {
        match self {
            Self::Real(writer) => writer.last(),
            Self::Light { rows, .. } => rows.last().unwrap(),
        }
    }

    pub(super) fn put(&mut self, row: EntryRow) -> Result<(), IndexError> {
        match self {
            Self::Real(writer) => writer.put(row),
            Self::Light { rows, .. } => {
                rows.push(row);
                Ok(())
            }
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Real(writer) => writer.bytes(),
            Self::Light { rows, .. } => 40 * rows.len() as u64,
        }
    }

    pub(super) fn finish(self) -> Result<PathBuf, IndexError> {
        match self {
            Self::Real(writer) => writer.finish(),
            Self::Light { light, path, rows } => {
                lock(&light.written).insert(path.clone(), rows);
                Ok(path)
            }
        }
    }
}
