//! Loading segments: from rows in any order to sorted tables that the database takes in.
//!
//! Rows of several segments share a buffer. A full buffer is sorted and goes into the open table
//! if it lies behind it, else into a new one: a large segment, sorted as it is, becomes large
//! tables, and many small ones become few.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use repo_format::segment::{Entry, PackRow, Row};
use repo_format::session::SegmentRef;
use rocksdb::WriteBatch;

use super::backing::{Database, TableWriter, damaged, failed};
use super::records::{self, EntryRow, ListedPack};
use super::view::{COMPLETE, KNOWN};
use super::{BoxError, IndexError, Place, SegmentSource, Tuning};

/// What is known of the packs whatever the view: [`KNOWN`] and [`COMPLETE`], by number.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    pub(super) flags: Vec<u8>,
}

impl Numbers {
    pub(super) fn is_known(&self, number: u32) -> bool {
        self.has(number, KNOWN)
    }

    fn has(&self, number: u32, flag: u8) -> bool {
        self.flags.get(number as usize).is_some_and(|flags| flags & flag != 0)
    }

    pub(super) fn set(&mut self, number: u32, flags: u8) {
        if let Some(known) = self.flags.get_mut(number as usize) {
            *known |= flags;
        }
    }

    /// No pack has this number or a higher one.
    pub(super) fn end(&self) -> u32 {
        u32::try_from(self.flags.len()).unwrap_or(u32::MAX)
    }

    /// A number never used before.
    fn next(&mut self) -> Result<u32, IndexError> {
        let number = self.end();
        if number == u32::MAX {
            return Err(failed("all pack numbers were used"));
        }
        self.flags.push(KNOWN);
        Ok(number)
    }
}

/// A loaded segment whose record is written once its rows are durable.
struct Waiting {
    /// Of the rows taken so far, its last one.
    rows_end: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// Loads segments one after the other. [`Self::finish`] makes them count.
pub(super) struct Loader<'a> {
    database: &'a Database,
    tuning: Tuning,
    state: &'a dyn Fn(u32) -> Vec<u8>,
    numbers: &'a mut Numbers,
    rows: Vec<EntryRow>,
    table: Option<TableWriter<'a>>,
    tables: u32,
    /// Records were written that are not flushed yet.
    is_dirty: bool,
    rows_taken: u64,
    /// Of the rows taken, those that are in a table, open or not.
    rows_spilled: u64,
    rows_durable: u64,
    waiting: VecDeque<Waiting>,
}

impl<'a> Loader<'a> {
    /// `state`: the bytes of the state record for a next number.
    pub(super) fn new(
        database: &'a Database,
        tuning: Tuning,
        numbers: &'a mut Numbers,
        state: &'a dyn Fn(u32) -> Vec<u8>,
    ) -> Self {
        Self {
            database,
            tuning,
            state,
            numbers,
            rows: Vec::new(),
            table: None,
            tables: 0,
            is_dirty: false,
            rows_taken: 0,
            rows_spilled: 0,
            rows_durable: 0,
            waiting: VecDeque::new(),
        }
    }

    /// Loads one segment and returns the number of entries read. Of packs whose entries are all
    /// there already, none are; a segment of such packs only is not read beyond its packs.
    ///
    /// # Errors
    ///
    /// Outer: the database. Inner: the segment, which is left out then.
    pub(super) fn load(
        &mut self,
        segment: &SegmentRef,
        source: &dyn SegmentSource,
    ) -> Result<Result<u64, BoxError>, IndexError> {
        let mut reading = Reading::new(segment);
        let mut trouble = None;
        let read = source.read(segment, &mut |row| {
            if trouble.is_some() || reading.needs_no_more {
                return ControlFlow::Break(());
            }
            match self.take(&mut reading, row) {
                Ok(()) if reading.needs_no_more => ControlFlow::Break(()),
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    trouble = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        match trouble {
            Some(Trouble::Database(error)) => return Err(error),
            Some(Trouble::Segment(what)) => return Ok(Err(what.into())),
            None => {}
        }
        if let Err(error) = read {
            return Ok(Err(error));
        }
        if !reading.is_whole() {
            return Ok(Err("it is not the segment that the catalog lists".into()));
        }
        self.wait_for(segment, &reading);
        Ok(Ok(reading.entries))
    }

    fn take(&mut self, reading: &mut Reading, row: Row) -> Result<(), Trouble> {
        match row {
            Row::Pack(pack) => self.take_pack(reading, &pack),
            Row::Entry(entry) => self.take_entry(reading, &entry),
        }
    }

    fn take_pack(&mut self, reading: &mut Reading, pack: &PackRow) -> Result<(), Trouble> {
        if reading.packs.len() >= reading.segment.packs as usize {
            return Err(Trouble::Segment("it has more packs than the catalog says"));
        }
        let number = self.number_of(reading, pack)?;
        let is_complete = self.numbers.has(number, COMPLETE);
        reading.packs.push(Loaded {
            number,
            chunks: pack.chunks,
            entries: 0,
            was_complete: is_complete,
        });
        reading.needs_entries |= !is_complete;
        if reading.packs.len() == reading.segment.packs as usize {
            self.write_records(std::mem::take(&mut reading.records))?;
            reading.needs_no_more = !reading.needs_entries;
        }
        Ok(())
    }

    /// The pack's number. A name is believed only if its number is known from a segment that was
    /// loaded to its end, or was given out by this process.
    fn number_of(&mut self, reading: &mut Reading, pack: &PackRow) -> Result<u32, Trouble> {
        let name = records::name_key(&pack.identity.name);
        if let Some(value) = self.database.get(&name)? {
            let number =
                records::read_number(&value).filter(|number| self.numbers.is_known(*number));
            if let Some(number) = number {
                let known = self.database.get(&records::pack_key(number))?;
                if known != Some(records::pack_value(pack)) {
                    return Err(Trouble::Segment("it describes a pack as no other segment does"));
                }
                return Ok(number);
            }
        }
        let number = self.numbers.next()?;
        reading.records.put(name, number.to_be_bytes());
        reading.records.put(records::pack_key(number), records::pack_value(pack));
        if reading.records.len() >= 1024 {
            self.write_records(std::mem::take(&mut reading.records))?;
        }
        Ok(number)
    }

    /// Writes the records of packs, together with the next number.
    fn write_records(&mut self, mut batch: WriteBatch) -> Result<(), IndexError> {
        if batch.is_empty() {
            return Ok(());
        }
        batch.put(records::STATE_KEY, (self.state)(self.numbers.end()));
        self.is_dirty = true;
        self.database.write(batch)
    }

    fn take_entry(&mut self, reading: &mut Reading, entry: &Entry) -> Result<(), Trouble> {
        let pack = match reading.packs.get_mut(entry.pack as usize) {
            Some(pack) if entry.slot < pack.chunks => pack,
            _ => return Err(Trouble::Segment("an entry is of no pack or beyond its chunks")),
        };
        reading.entries += 1;
        pack.entries += 1;
        if pack.was_complete {
            return Ok(());
        }
        let place = Place {
            pack: pack.number,
            offset: entry.offset,
            stored_len: entry.stored_len,
            slot: entry.slot,
        };
        let row = EntryRow::new(&entry.prefix, &place);
        let is_run = self.rows.last().is_some_and(|last| last.prefix() == row.prefix());
        if self.rows.len() >= self.tuning.rows_sorted_max && !is_run {
            self.spill()?;
        }
        self.rows.push(row);
        self.rows_taken += 1;
        Ok(())
    }

    /// Queues the record of a segment that was read to its end.
    fn wait_for(&mut self, segment: &SegmentRef, reading: &Reading) {
        let mut packs: Vec<ListedPack> = reading.packs.iter().map(Loaded::listed).collect();
        packs.sort_unstable();
        packs.dedup_by_key(|pack| pack.number);
        for pack in packs.iter().filter(|pack| pack.is_complete) {
            self.numbers.set(pack.number, COMPLETE);
        }
        self.waiting.push_back(Waiting {
            rows_end: self.rows_taken,
            key: records::segment_key(&segment.name),
            value: records::segment_value(segment, &packs),
        });
    }

    /// Sorts the buffered rows and writes them to tables.
    fn spill(&mut self) -> Result<(), IndexError> {
        let mut rows = std::mem::take(&mut self.rows);
        rows.sort_unstable();
        rows.dedup_by(|later, earlier| later.key() == earlier.key());
        for row in rows.drain(..) {
            self.put(row)?;
        }
        self.rows = rows;
        self.rows_spilled = self.rows_taken;
        Ok(())
    }

    fn put(&mut self, row: EntryRow) -> Result<(), IndexError> {
        let table = self.table.take();
        let is_fit = table.as_ref().is_some_and(|table| {
            let is_full = table.bytes() >= self.tuning.table_bytes;
            table.last().key() < row.key() && !(is_full && table.last().prefix() != row.prefix())
        });
        self.table = match table {
            Some(mut table) if is_fit => {
                table.put(row)?;
                Some(table)
            }
            full => {
                self.close(full)?;
                let path = self.database.folder().join(format!("load-{}", self.tables));
                self.tables += 1;
                Some(TableWriter::start(self.database, path, row)?)
            }
        };
        Ok(())
    }

    /// Gives a table to the database, after the numbers in it are durable, and then counts the
    /// segments as loaded of which all rows are durable.
    fn close(&mut self, table: Option<TableWriter<'_>>) -> Result<(), IndexError> {
        let Some(table) = table else { return Ok(()) };
        let path = table.finish()?;
        if std::mem::take(&mut self.is_dirty) {
            self.database.flush()?;
        }
        self.database.ingest(&path)?;
        // Rows of the spill that is under way may still be to come.
        self.rows_durable = self.rows_spilled;
        self.settle()
    }

    fn settle(&mut self) -> Result<(), IndexError> {
        let mut batch = WriteBatch::default();
        while let Some(front) = self.waiting.front()
            && front.rows_end <= self.rows_durable
        {
            batch.put(&front.key, &front.value);
            self.waiting.pop_front();
        }
        self.write_records(batch)
    }

    /// Writes what is left. Every segment that was loaded counts then; [`Database::flush`] makes
    /// that durable.
    pub(super) fn finish(mut self) -> Result<(), IndexError> {
        self.spill()?;
        let table = self.table.take();
        self.close(table)?;
        self.rows_durable = self.rows_taken;
        self.settle()
    }
}

/// A pack of the segment that is being read.
struct Loaded {
    number: u32,
    chunks: u32,
    entries: u32,
    was_complete: bool,
}

impl Loaded {
    fn listed(&self) -> ListedPack {
        let is_complete = self.was_complete || self.entries == self.chunks;
        ListedPack { number: self.number, chunks: self.chunks, is_complete }
    }
}

/// The segment that is being read.
struct Reading {
    segment: SegmentRef,
    packs: Vec<Loaded>,
    records: WriteBatch,
    entries: u64,
    needs_entries: bool,
    needs_no_more: bool,
}

impl Reading {
    fn new(segment: &SegmentRef) -> Self {
        Self {
            segment: *segment,
            packs: Vec::new(),
            records: WriteBatch::default(),
            entries: 0,
            needs_entries: false,
            needs_no_more: false,
        }
    }

    fn is_whole(&self) -> bool {
        self.packs.len() == self.segment.packs as usize
            && (self.needs_no_more || self.entries == self.segment.entries)
    }
}

enum Trouble {
    Database(IndexError),
    Segment(&'static str),
}

impl From<IndexError> for Trouble {
    fn from(error: IndexError) -> Self {
        Self::Database(error)
    }
}

/// A segment's record, if it was loaded to its end.
pub(super) fn record_of(
    database: &Database,
    segment: &SegmentRef,
) -> Result<Option<Vec<u8>>, IndexError> {
    let value = database.get(&records::segment_key(&segment.name))?;
    Ok(value.filter(|value| records::is_record_of(value, segment)))
}

/// Hands out the packs of a segment's record.
pub(super) fn each_pack_of(
    value: &[u8],
    each: &mut dyn FnMut(ListedPack),
) -> Result<(), IndexError> {
    records::each_listed(value, each).ok_or_else(|| damaged("the record of a segment is malformed"))
}
