//! One database and the view that it answers for.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use repo_format::id::{ChunkId, PackName, RepositoryId};
use repo_format::segment::PackRow;
use repo_format::session::SegmentRef;
use rocksdb::WriteBatch;

use super::backing::{Database, damaged, failed};
use super::load::{Loader, Numbers, each_pack_of, record_of};
use super::records::{self, Prefix};
use super::view::{BAD, COMPLETE, CONDEMNED, DEAD, KNOWN, PackState, View};
use super::{
    BoxError, IndexError, IndexView, Place, SegmentSource, SyncReport, Tuning, home, lock,
};

/// Decoded packs kept, in each of two generations.
const ROWS_KEPT: usize = 512;

/// Packs given up with one write.
const GIVEN_UP_AT_ONCE: usize = 16 << 10;

#[derive(Debug)]
pub(super) struct Cache {
    database: Database,
    repository: RepositoryId,
    tuning: Tuning,
    view: RwLock<Arc<View>>,
    numbers: Mutex<Numbers>,
    rows: Mutex<RecentRows>,
    /// Segments that this process committed since the last sync: any view has them.
    added: Mutex<Vec<SegmentRef>>,
    /// Why this database must not be used any longer.
    trouble: Mutex<Option<String>>,
}

impl Cache {
    /// Opens the database in `folder`. `None`: it was never finished.
    pub(super) fn open(
        folder: &Path,
        repository: &RepositoryId,
        memory_bytes: usize,
        tuning: Tuning,
    ) -> Result<Option<Self>, IndexError> {
        let database = Database::open(folder, memory_bytes).map_err(damaged)?;
        let Some(state) = database.get(records::STATE_KEY)? else { return Ok(None) };
        let next = records::read_state(&state, repository)
            .ok_or_else(|| damaged("it is of another version or another repository"))?;
        let mut numbers = Numbers { flags: vec![0; next as usize] };
        database.each_record(records::SEGMENTS, &mut |_, value| {
            records::each_listed(value, &mut |pack| {
                let complete = if pack.is_complete { COMPLETE } else { 0 };
                numbers.set(pack.number, KNOWN | complete);
            })?;
            Some(ControlFlow::Continue(()))
        })?;
        Ok(Some(Self::with(database, repository, tuning, numbers)))
    }

    /// Starts a database in the empty `folder`, with pack numbers from `first`.
    pub(super) fn create(
        folder: &Path,
        repository: &RepositoryId,
        memory_bytes: usize,
        tuning: Tuning,
        first: u32,
    ) -> Result<Self, IndexError> {
        let database = Database::open(folder, memory_bytes).map_err(failed)?;
        let mut batch = WriteBatch::default();
        batch.put(records::STATE_KEY, records::state_value(repository, first));
        database.write(batch)?;
        database.flush()?;
        let numbers = Numbers { flags: vec![0; first as usize] };
        Ok(Self::with(database, repository, tuning, numbers))
    }

    fn with(
        database: Database,
        repository: &RepositoryId,
        tuning: Tuning,
        numbers: Numbers,
    ) -> Self {
        let view = Arc::new(View::new(&numbers.flags));
        database.publish(Arc::clone(&view));
        Self {
            database,
            repository: *repository,
            tuning,
            view: RwLock::new(view),
            numbers: Mutex::new(numbers),
            rows: Mutex::default(),
            added: Mutex::default(),
            trouble: Mutex::default(),
        }
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// No pack has this number or a higher one.
    pub(super) fn next_number(&self) -> u32 {
        lock(&self.numbers).end()
    }

    /// Why the database must be replaced, if it must.
    pub(super) fn trouble(&self) -> Option<BoxError> {
        lock(&self.trouble).clone().map(BoxError::from)
    }

    /// Remembers that an error showed the database to be unfit.
    fn watch<T>(&self, result: Result<T, IndexError>) -> Result<T, IndexError> {
        if let Err(IndexError::Damaged(error) | IndexError::Failed(error)) = &result {
            *lock(&self.trouble) = Some(error.to_string());
            if matches!(result, Err(IndexError::Damaged(_))) {
                home::mark_damaged(self.database.folder());
            }
        }
        result
    }

    pub(super) fn sync(
        &self,
        view: &IndexView,
        source: &dyn SegmentSource,
    ) -> Result<SyncReport, IndexError> {
        self.forget_added();
        self.sync_some(view, source, &mut |_| true)
    }

    /// A newer view has them, or does without.
    pub(super) fn forget_added(&self) {
        lock(&self.added).clear();
    }

    /// As [`Self::sync`], but loads another segment only if `goes_on` says so. What was loaded
    /// counts; what was not is as good as unlisted.
    pub(super) fn sync_some(
        &self,
        view: &IndexView,
        source: &dyn SegmentSource,
        goes_on: &mut dyn FnMut(&SyncReport) -> bool,
    ) -> Result<SyncReport, IndexError> {
        let mut numbers = lock(&self.numbers);
        self.watch(self.sync_locked(view, source, goes_on, &mut numbers))
    }

    fn sync_locked(
        &self,
        view: &IndexView,
        source: &dyn SegmentSource,
        goes_on: &mut dyn FnMut(&SyncReport) -> bool,
        numbers: &mut Numbers,
    ) -> Result<SyncReport, IndexError> {
        let report = self.load(&view.segments, source, goes_on, numbers)?;
        if report.loaded > 0 {
            self.database.flush()?;
        }
        let mut listed = self.judge(view, numbers)?;
        for segment in lock(&self.added).iter() {
            self.list(&mut listed, segment)?;
        }
        self.publish(listed);
        // Before all is loaded, what is to be kept is not known.
        if report.left == 0 {
            self.tidy(numbers)?;
        }
        Ok(report)
    }

    /// Adds a segment that is not stored elsewhere for all we know. It becomes durable with the
    /// next flush; until then a crash costs reading it back.
    pub(super) fn add(
        &self,
        segment: &SegmentRef,
        source: &dyn SegmentSource,
    ) -> Result<(), IndexError> {
        let mut numbers = lock(&self.numbers);
        self.watch(self.add_locked(segment, source, &mut numbers))
    }

    fn add_locked(
        &self,
        segment: &SegmentRef,
        source: &dyn SegmentSource,
        numbers: &mut Numbers,
    ) -> Result<(), IndexError> {
        let report = self.load(&[*segment], source, &mut |_| true, numbers)?;
        if let Some((_, why)) = report.unreadable.into_iter().next() {
            return Err(failed(why));
        }
        let mut view = View::clone(&self.view());
        view.learn(&numbers.flags);
        self.list(&mut view, segment)?;
        self.publish(view);
        lock(&self.added).push(*segment);
        Ok(())
    }

    fn load(
        &self,
        segments: &[SegmentRef],
        source: &dyn SegmentSource,
        goes_on: &mut dyn FnMut(&SyncReport) -> bool,
        numbers: &mut Numbers,
    ) -> Result<SyncReport, IndexError> {
        let missing = self.missing(segments)?;
        let mut report = SyncReport { left: missing.len(), ..SyncReport::default() };
        source.expect(&missing);
        let state = |next| records::state_value(&self.repository, next);
        let mut loader = Loader::new(&self.database, self.tuning, numbers, &state);
        for segment in missing {
            if !goes_on(&report) {
                break;
            }
            report.left -= 1;
            match loader.load(&segment, source)? {
                Ok(entries) => {
                    report.loaded += 1;
                    report.entries += entries;
                }
                Err(error) => report.unreadable.push((segment, error.to_string())),
            }
        }
        loader.finish()?;
        Ok(report)
    }

    /// Those of the segments that were not loaded yet, each once.
    fn missing(&self, segments: &[SegmentRef]) -> Result<Vec<SegmentRef>, IndexError> {
        let mut seen = HashSet::new();
        let mut missing = Vec::new();
        for segment in segments.iter().filter(|segment| seen.insert(segment.name)) {
            if record_of(&self.database, segment)?.is_none() {
                missing.push(*segment);
            }
        }
        Ok(missing)
    }

    /// The state of every pack in `view`, from nothing but what `view` lists.
    fn judge(&self, view: &IndexView, numbers: &Numbers) -> Result<View, IndexError> {
        let mut judged = View::new(&numbers.flags);
        let mut seen = HashSet::new();
        for segment in view.segments.iter().filter(|segment| seen.insert(segment.name)) {
            self.list(&mut judged, segment)?;
        }
        for (packs, flag) in [(&view.condemned, CONDEMNED), (&view.dead, DEAD), (&view.bad, BAD)] {
            for name in packs {
                if let Some(number) = self.number_of(name, &judged)? {
                    *judged.flags_mut(number) |= flag;
                }
            }
        }
        Ok(judged)
    }

    /// Takes the packs of a segment in, if it was loaded.
    fn list(&self, view: &mut View, segment: &SegmentRef) -> Result<(), IndexError> {
        let Some(record) = record_of(&self.database, segment)? else { return Ok(()) };
        view.segments.push(segment.name);
        each_pack_of(&record, &mut |pack| view.list(&pack))
    }

    fn publish(&self, view: View) {
        let view = Arc::new(view);
        self.database.publish(Arc::clone(&view));
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
    }

    /// Once less than half of the entries are of listed packs, gives the other packs up and
    /// rewrites the entries without theirs.
    fn tidy(&self, numbers: &mut Numbers) -> Result<(), IndexError> {
        let view = self.view();
        let entries = self.database.entries_estimate()?;
        if entries < 2 * view.chunks + self.tuning.garbage_entries_min {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        let listed: HashSet<Vec<u8>> = view.segments.iter().map(records::segment_key).collect();
        self.database.each_record(records::SEGMENTS, &mut |key, _| {
            if !listed.contains(key) {
                batch.delete(key);
            }
            Some(ControlFlow::Continue(()))
        })?;
        self.database.write(batch)?;
        let mut kept = View::clone(&view);
        let mut first = Some(0);
        while let Some(number) = first {
            first = self.give_up(number, &mut kept, numbers)?;
        }
        self.database.flush()?;
        self.publish(kept);
        self.database.compact()
    }

    /// Gives up some of the unlisted packs with numbers from `first` on. Returns where to go on.
    fn give_up(
        &self,
        first: u32,
        view: &mut View,
        numbers: &mut Numbers,
    ) -> Result<Option<u32>, IndexError> {
        let mut given_up = Vec::new();
        let start = records::pack_key(first);
        self.database.each_record_from(records::PACKS, &start, &mut |key, value| {
            let number = records::read_pack_key(key)?;
            if view.state(number) == PackState::Unlisted {
                given_up.push((number, records::read_pack(value)?.identity.name));
            }
            let is_full = given_up.len() >= GIVEN_UP_AT_ONCE;
            Some(if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        let mut batch = WriteBatch::default();
        for (number, pack) in &given_up {
            batch.delete(records::pack_key(*number));
            let name = records::name_key(pack);
            // The name may stand for a newer number by now.
            if self.database.get(&name)?.as_deref() == Some(&number.to_be_bytes()) {
                batch.delete(name);
            }
            *view.flags_mut(*number) = 0;
            if let Some(flags) = numbers.flags.get_mut(*number as usize) {
                *flags = 0;
            }
        }
        self.database.write(batch)?;
        let is_full = given_up.len() >= GIVEN_UP_AT_ONCE;
        Ok(given_up.last().filter(|_| is_full).map(|(number, _)| number + 1))
    }

    fn number_of(&self, name: &PackName, view: &View) -> Result<Option<u32>, IndexError> {
        let value = self.database.get(&records::name_key(name))?;
        let number = value.as_deref().and_then(records::read_number);
        Ok(number.filter(|number| view.state(*number) != PackState::Unlisted))
    }

    pub(super) fn pack_number(&self, name: &PackName) -> Result<Option<u32>, IndexError> {
        self.watch(self.number_of(name, &self.view()))
    }

    pub(super) fn usable(&self, prefix: &Prefix) -> Result<Option<Place>, IndexError> {
        let view = self.view();
        let mut found = None;
        let done = self.database.lookup().and_then(|mut lookup| {
            lookup.each(prefix, &mut |place| {
                if view.state(place.pack).is_usable() {
                    found = Some(place);
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })
        });
        self.watch(done.map(|()| found))
    }

    pub(super) fn locate(&self, prefix: &Prefix) -> Result<Vec<Place>, IndexError> {
        let view = self.view();
        let mut places = Vec::new();
        let done = self.database.lookup().and_then(|mut lookup| {
            lookup.each(prefix, &mut |place| {
                if view.state(place.pack) != PackState::Unlisted {
                    places.push(place);
                }
                ControlFlow::Continue(())
            })
        });
        places.sort_by_key(|place| view.state(place.pack));
        self.watch(done.map(|()| places))
    }

    /// The places of many chunks, those in packs of a wanted state only, the best first. Sorted
    /// lookups with one iterator find most blocks in the processor's cache.
    pub(super) fn many(
        &self,
        ids: &[ChunkId],
        wanted: &dyn Fn(PackState) -> bool,
    ) -> Result<Vec<Vec<Place>>, IndexError> {
        let view = self.view();
        let mut found = vec![Vec::new(); ids.len()];
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_unstable_by_key(|at| ids[*at]);
        let done = self.database.lookup().and_then(|mut lookup| {
            for at in order {
                let places: &mut Vec<Place> = &mut found[at];
                lookup.each(&ids[at].prefix(), &mut |place| {
                    if wanted(view.state(place.pack)) {
                        places.push(place);
                    }
                    ControlFlow::Continue(())
                })?;
                places.sort_by_key(|place| view.state(place.pack));
            }
            Ok(())
        });
        self.watch(done.map(|()| found))
    }

    /// Hands out the places of each of `ids`, which ascend, the best first.
    pub(super) fn each_of(
        &self,
        ids: &[ChunkId],
        each: &mut dyn FnMut(&[Place]),
    ) -> Result<(), IndexError> {
        let view = self.view();
        let mut places = Vec::new();
        let done = self.database.lookup().and_then(|mut lookup| {
            for id in ids {
                places.clear();
                lookup.each(&id.prefix(), &mut |place| {
                    if view.state(place.pack) != PackState::Unlisted {
                        places.push(place);
                    }
                    ControlFlow::Continue(())
                })?;
                places.sort_by_key(|place| view.state(place.pack));
                each(&places);
            }
            Ok(())
        });
        self.watch(done)
    }

    pub(super) fn pack(&self, number: u32) -> Result<Option<Arc<PackRow>>, IndexError> {
        if let Some(row) = lock(&self.rows).get(number) {
            return Ok(Some(row));
        }
        let Some(value) = self.watch(self.database.get(&records::pack_key(number)))? else {
            return Ok(None);
        };
        let row =
            records::read_pack(&value).ok_or_else(|| damaged("the record of a pack is malformed"));
        let row = Arc::new(self.watch(row)?);
        lock(&self.rows).put(number, Arc::clone(&row));
        Ok(Some(row))
    }

    pub(super) fn packs(
        &self,
        each: &mut dyn FnMut(u32, &PackRow, PackState) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        let view = self.view();
        self.watch(self.database.each_record(records::PACKS, &mut |key, value| {
            let number = records::read_pack_key(key)?;
            match view.state(number) {
                PackState::Unlisted => Some(ControlFlow::Continue(())),
                state => Some(each(number, &records::read_pack(value)?, state)),
            }
        }))
    }

    pub(super) fn known_packs(
        &self,
        first: u32,
        each: &mut dyn FnMut(u32, &PackRow),
    ) -> Result<u32, IndexError> {
        // Not while numbers are given out: those without a record yet would be passed over.
        let numbers = lock(&self.numbers);
        let start = records::pack_key(first);
        self.watch(self.database.each_record_from(records::PACKS, &start, &mut |key, value| {
            each(records::read_pack_key(key)?, &records::read_pack(value)?);
            Some(ControlFlow::Continue(()))
        }))?;
        Ok(numbers.end())
    }

    pub(super) fn was_listed(&self, name: &PackName) -> Result<bool, IndexError> {
        let view = self.view();
        let value = self.watch(self.database.get(&records::name_key(name)))?;
        let number = value.as_deref().and_then(records::read_number);
        Ok(number.is_some_and(|number| {
            view.state(number) == PackState::Unlisted && view.flags(number) & COMPLETE != 0
        }))
    }

    pub(super) fn once_listed(&self) -> usize {
        self.view().once_listed()
    }

    pub(super) fn dead_of(&self, segment: &SegmentRef) -> Result<u32, IndexError> {
        let view = self.view();
        let record = self.watch(record_of(&self.database, segment))?;
        let mut dead = 0;
        if let Some(record) = record {
            self.watch(each_pack_of(&record, &mut |pack| {
                dead += u32::from(view.state(pack.number) == PackState::Dead);
            }))?;
        }
        Ok(dead)
    }

    pub(super) fn entries(
        &self,
        each: &mut dyn FnMut(&Prefix, &Place, PackState) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        let view = self.view();
        self.watch(self.database.each_entry(&mut |prefix, place| match view.state(place.pack) {
            PackState::Unlisted => ControlFlow::Continue(()),
            state => each(prefix, place, state),
        }))
    }

    /// Entries in the database, whether or not they count.
    #[cfg(test)]
    pub(super) fn stored_entries(&self) -> Result<usize, IndexError> {
        let mut count = 0;
        self.database.each_entry(&mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }
}

/// The packs looked up last: a full generation becomes the old one, and the older one goes.
#[derive(Debug, Default)]
struct RecentRows {
    young: HashMap<u32, Arc<PackRow>>,
    old: HashMap<u32, Arc<PackRow>>,
}

impl RecentRows {
    fn get(&mut self, number: u32) -> Option<Arc<PackRow>> {
        if let Some(row) = self.young.get(&number) {
            return Some(Arc::clone(row));
        }
        let row = self.old.remove(&number)?;
        self.put(number, Arc::clone(&row));
        Some(row)
    }

    fn put(&mut self, number: u32, row: Arc<PackRow>) {
        if self.young.len() >= ROWS_KEPT {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(number, row);
    }
}
