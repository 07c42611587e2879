//! Counting what a store is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use repo_format::key::{ObjectKey, Prefix};

use crate::store::{
    Listed, Op, Store, StoreError, Strangers, Swept, Traffic, TrafficRow, Versions,
};

/// One row for each prefix, then one for what has none.
const KINDS: usize = Prefix::ALL.len() + 1;

/// Counts requests, by operation and kind of object, and passes them on.
#[derive(Debug)]
pub struct Metered<S> {
    inner: S,
    meter: Arc<Meter>,
}

/// The counters of a [`Metered`]; they only rise.
#[derive(Debug, Default)]
pub struct Meter {
    cells: [[Cell; KINDS]; Op::ALL.len()],
    traffic: Option<Arc<Traffic>>,
}

#[derive(Debug, Default)]
struct Cell {
    requests: AtomicU64,
    failures: AtomicU64,
    objects: AtomicU64,
    bytes: AtomicU64,
    busy_us: AtomicU64,
}

/// A reading of a [`Meter`]. Rows are read one after the other while counting goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Only what was asked at least once.
    pub rows: Vec<UsageRow>,
    /// The requests to a server that this took, if there is one: every try, every part of an
    /// upload, every page of a listing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<TrafficRow>,
}

/// What was asked of one kind of object with one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct UsageRow {
    /// The operation.
    pub op: Op,
    /// The objects' folder; `config` for the config, `-` for the store as a whole.
    pub kind: &'static str,
    /// Calls of the method. A listing is one, however many requests it takes below.
    pub requests: u64,
    /// Those that ended with an error other than "missing" and "exists", which are answers.
    pub failures: u64,
    /// Objects visited by listings, or removed many at once.
    pub objects: u64,
    /// Bytes of contents read or written by calls that succeeded.
    pub bytes: u64,
    /// Time spent in the calls, added up over threads, in microseconds.
    pub busy_us: u64,
}

impl Usage {
    /// Requests with this operation, of all kinds.
    pub fn requests(&self, op: Op) -> u64 {
        self.rows.iter().filter(|row| row.op == op).map(|row| row.requests).sum()
    }

    /// Bytes with this operation, of all kinds.
    pub fn bytes(&self, op: Op) -> u64 {
        self.rows.iter().filter(|row| row.op == op).map(|row| row.bytes).sum()
    }
}

impl Meter {
    /// What was counted so far.
    pub fn read(&self) -> Usage {
        let mut rows = Vec::new();
        for (op, cells) in Op::ALL.iter().zip(&self.cells) {
            for (kind, cell) in cells.iter().enumerate() {
                let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                let row = UsageRow {
                    op: *op,
                    kind: kind_name(*op, kind),
                    requests: read(&cell.requests),
                    failures: read(&cell.failures),
                    objects: read(&cell.objects),
                    bytes: read(&cell.bytes),
                    busy_us: read(&cell.busy_us),
                };
                if row.requests > 0 {
                    rows.push(row);
                }
            }
        }
        let traffic = self.traffic.as_ref().map(|traffic| traffic.read()).unwrap_or_default();
        Usage { rows, traffic }
    }
}

fn kind_name(op: Op, kind: usize) -> &'static str {
    match Prefix::ALL.get(kind) {
        Some(prefix) => prefix.folder(),
        None if op == Op::SweepTemporary => "-",
        None => "config",
    }
}

impl<S: Store> Metered<S> {
    /// Counts requests to `inner`, from nought.
    pub fn new(inner: S) -> Self {
        let meter = Meter { traffic: inner.traffic(), ..Meter::default() };
        Self { inner, meter: Arc::new(meter) }
    }

    /// The counters, which may outlive the store.
    pub fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }

    /// `bytes_of`: the bytes that a success moved.
    fn count<T>(
        &self,
        op: Op,
        prefix: Option<Prefix>,
        bytes_of: impl FnOnce(&T) -> usize,
        request: impl FnOnce(&Cell) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let kind = Prefix::ALL.iter().position(|one| Some(*one) == prefix);
        let cell = &self.meter.cells[op as usize][kind.unwrap_or(KINDS - 1)];
        let add = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Ordering::Relaxed);
        let start = Instant::now();
        let answer = request(cell);
        add(&cell.requests, 1);
        add(&cell.busy_us, u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
        match &answer {
            Ok(value) => add(&cell.bytes, bytes_of(value) as u64),
            Err(StoreError::Missing { .. } | StoreError::Exists { .. }) => 0,
            Err(_) => add(&cell.failures, 1),
        };
        answer
    }
}

fn none<T>(_: &T) -> usize {
    0
}

impl<S: Store> Store for Metered<S> {
    fn get(&self, key: &ObjectKey, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.count(Op::Get, key.prefix(), Vec::len, |_| self.inner.get(key, limit_bytes))
    }

    fn get_range(
        &self,
        key: &ObjectKey,
        offset_bytes: u64,
        buf: &mut [u8],
    ) -> Result<(), StoreError> {
        let len_bytes = buf.len();
        let request = |_: &Cell| self.inner.get_range(key, offset_bytes, buf);
        self.count(Op::GetRange, key.prefix(), |()| len_bytes, request)
    }

    fn put_new(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        let request = |_: &Cell| self.inner.put_new(key, body);
        self.count(Op::PutNew, key.prefix(), |()| body.len(), request)
    }

    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        self.count(Op::Put, key.prefix(), |()| body.len(), |_| self.inner.put(key, body))
    }

    fn list(
        &self,
        prefix: Prefix,
        visit: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
    ) -> Result<Strangers, StoreError> {
        self.count(Op::List, Some(prefix), none, |cell| {
            self.inner.list(prefix, &mut |listed| {
                cell.objects.fetch_add(1, Ordering::Relaxed);
                visit(listed)
            })
        })
    }

    fn list_first(&self, prefix: Prefix) -> Result<Option<ObjectKey>, StoreError> {
        self.count(Op::ListFirst, Some(prefix), none, |_| self.inner.list_first(prefix))
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.count(Op::Delete, key.prefix(), none, |_| self.inner.delete(key))
    }

    fn delete_many(&self, keys: &[ObjectKey]) -> Result<(), StoreError> {
        let kind = keys.first().and_then(ObjectKey::prefix);
        self.count(Op::Delete, kind, none, |cell| {
            self.inner.delete_many(keys)?;
            cell.objects.fetch_add(keys.len() as u64, Ordering::Relaxed);
            Ok(())
        })
    }

    fn traffic(&self) -> Option<Arc<Traffic>> {
        self.inner.traffic()
    }

    fn is_split(&self) -> bool {
        self.inner.is_split()
    }

    fn versions(&self) -> Option<&dyn Versions> {
        self.inner.versions()
    }

    fn size(&self, key: &ObjectKey) -> Result<u64, StoreError> {
        self.count(Op::Size, key.prefix(), none, |_| self.inner.size(key))
    }

    fn prepare(&self) {
        self.inner.prepare();
    }

    fn sweep_temporary(&self) -> Result<Swept, StoreError> {
        self.count(Op::SweepTemporary, None, none, |_| self.inner.sweep_temporary())
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use repo_format::id::SessionId;

    use super::*;
    use crate::store::Memory;

    #[test]
    fn every_operation_has_the_cell_of_its_place() {
        for (place, op) in Op::ALL.iter().enumerate() {
            assert_eq!(*op as usize, place);
        }
    }

    #[test]
    fn requests_bytes_and_failures_are_counted_by_operation_and_kind() {
        let store = Metered::new(Memory::default());
        let meter = store.meter();
        let session = ObjectKey::Session(SessionId([1; 16]));
        store.put_new(&ObjectKey::Config, b"four").unwrap();
        store.put_new(&session, b"seven b").unwrap();
        assert!(store.put_new(&session, b"again").is_err());
        store.get(&session, 100).unwrap();
        assert!(store.get(&session, 1).is_err());
        store.get_range(&session, 1, &mut [0; 3]).unwrap();
        store.list(Prefix::Sessions, &mut |_| Ok(())).unwrap();
        drop(store);

        let usage = meter.read();
        let row = |op, kind| *usage.rows.iter().find(|r| r.op == op && r.kind == kind).unwrap();
        let put = row(Op::PutNew, "ses");
        assert_eq!((put.requests, put.failures, put.bytes), (2, 0, 7));
        assert_eq!(row(Op::PutNew, "config").bytes, 4);
        let get = row(Op::Get, "ses");
        assert_eq!((get.requests, get.failures, get.bytes), (2, 1, 7));
        assert_eq!(row(Op::GetRange, "ses").bytes, 3);
        assert_eq!(row(Op::List, "ses").objects, 1);
        assert_eq!(usage.requests(Op::PutNew), 3);
        assert_eq!(usage.bytes(Op::PutNew), 11);
        assert_eq!(usage.rows.len(), 5, "{usage:?}");
    }

    #[test]
    fn a_reading_is_written_with_plain_names() {
        let store = Metered::new(Memory::default());
        store.put_new(&ObjectKey::Config, b"x").unwrap();
        let json = serde_json::to_string(&store.meter().read()).unwrap();
        assert!(
            json.starts_with(r#"{"rows":[{"op":"put_new","kind":"config","requests":1"#),
            "{json}"
        );
    }
}
