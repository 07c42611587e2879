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

#[derive(Debug)]
pub(super) struct Cache {
    database: Database,
    repository: RepositoryId,
    tuning: Tuning,
    view: RwLock<Arc<View>>,
    numbers: Mutex<Numbers>,
    rows: Mutex<RecentRows>,
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
        let mut numbers = lock(&self.numbers);
        self.watch(self.sync_locked(view, source, &mut numbers))
    }

    fn sync_locked(
        &self,
        view: &IndexView,
        source: &dyn SegmentSource,
        numbers: &mut Numbers,
    ) -> Result<SyncReport, IndexError> {
        let report = self.load(&view.segments, source, numbers)?;
        if report.loaded > 0 {
            self.database.flush()?;
        }
        let listed = self.judge(view, numbers)?;
        self.publish(listed);
        self.tidy(numbers)?;
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
        let report = self.load(&[*segment], source, numbers)?;
        if let Some((_, why)) = report.unreadable.into_iter().next() {
            return Err(failed(why));
        }
        let mut view = View::clone(&self.view());
        view.learn(&numbers.flags);
        self.list(&mut view, segment)?;
        self.publish(view);
        Ok(())
    }

    fn load(
        &self,
        segments: &[SegmentRef],
        source: &dyn SegmentSource,
        numbers: &mut Numbers,
    ) -> Result<SyncReport, IndexError> {
        let mut report = SyncReport::default();
        let mut seen = HashSet::new();
        let state = |next| records::state_value(&self.repository, next);
        let mut lacking = Vec::new();
        for segment in segments.iter().filter(|segment| seen.insert(segment.name)) {
            if record_of(&self.database, segment)?.is_none() {
                lacking.push(*segment);
            }
        }
        source.expect(&lacking);
        let mut loader = Loader::new(&self.database, self.tuning, numbers, &state);
        for segment in &lacking {
            match loader.load(segment, source)? {
                Ok(entries) => {
                    report.loaded += 1;
                    report.entries += entries;
                }
                Err(error) => report.unreadable.push((*segment, error.to_string())),
            }
        }
        loader.finish()?;
        Ok(report)
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
        let mut given_up = Vec::new();
        self.database.each_record(records::PACKS, &mut |key, value| {
            let number = records::read_pack_key(key)?;
            if view.state(number) == PackState::Unlisted {
                given_up.push((number, records::read_pack(value)?.identity.name));
                batch.delete(key);
            }
            Some(ControlFlow::Continue(()))
        })?;
        for (number, pack) in &given_up {
            let name = records::name_key(pack);
            // The name may stand for a newer number by now.
            if self.database.get(&name)?.as_deref() == Some(&number.to_be_bytes()) {
                batch.delete(name);
            }
        }
        self.database.write(batch)?;
        self.database.flush()?;
        let mut kept = View::clone(&view);
        for (number, _) in given_up {
            *kept.flags_mut(number) = 0;
            if let Some(flags) = numbers.flags.get_mut(number as usize) {
                *flags = 0;
            }
        }
        self.publish(kept);
        self.database.compact()
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

    pub(super) fn once_listed(&self, each: &mut dyn FnMut(&PackName)) -> Result<(), IndexError> {
        let view = self.view();
        self.watch(self.database.each_record(records::PACKS, &mut |key, value| {
            let number = records::read_pack_key(key)?;
            if view.state(number) == PackState::Unlisted && view.flags(number) & COMPLETE != 0 {
                each(&records::read_pack(value)?.identity.name);
            }
            Some(ControlFlow::Continue(()))
        }))
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
