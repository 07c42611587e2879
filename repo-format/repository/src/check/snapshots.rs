//! Manifests: every page read and verified, every reference looked up; and, when something is
//! wrong, what each snapshot lost.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use repo_format::id::{ChunkId, PackName};
use repo_format::pack::PackKind;
use repo_format::snapshot::Snapshot;

use super::sessions::{EVERYTHING, lost};
use super::{Checker, DamagedSnapshot, PATHS_MAX, Suspects, TRIES};
use crate::RepositoryError;
use crate::chunks::ChunkSource;
use crate::index::{PackSet, PackState, Place, REFERENCES_MAX};
use crate::packer::lock;
use crate::reader::Reader;
use crate::recover::{describe, is_lost};
use crate::rescue::Rescue;
use crate::walk::{self, Context, Seen, Visitor};

/// References looked up together, with where they were met.
const BATCH: usize = 8192;
/// A batch is looked up early when its paths take this much.
const BATCH_PATH_BYTES: usize = 4 << 20;
/// Chunks whose readability is remembered while damage is named.
const ANSWERS_MAX: usize = 256 << 10;

/// Gives manifest chunks and notes the packs that should have given them and did not.
struct Source<'a> {
    reader: &'a Reader,
    suspects: Suspects,
}

impl<'a> Source<'a> {
    fn new(reader: &'a Reader) -> Self {
        Self { reader, suspects: Mutex::default() }
    }
}

impl ChunkSource for Source<'_> {
    fn get(&self, _: PackKind, id: &ChunkId, plain: &mut Vec<u8>) -> Result<(), RepositoryError> {
        for place in self.reader.locate(id)? {
            match self.reader.fetch_at(id, place, plain) {
                Ok(()) => return Ok(()),
                Err(error) if is_lost(&error) => {
                    if !Rescue::is_number(place.pack) {
                        let pack = self.reader.pack(place.pack)?.identity.name;
                        lock(&self.suspects).insert(pack, *id);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        // Looks where no index points, and words what is wrong.
        self.reader.fetch_one(id, plain)
    }
}

impl Checker<'_> {
    fn reader(&self) -> Reader {
        Reader::new(self.repository, std::sync::Arc::clone(self.index))
    }

    /// Reads all manifests once, each page once.
    pub(super) fn check_manifests(&mut self) -> Result<Needs, RepositoryError> {
        let reader = self.reader();
        let source = Source::new(&reader);
        let mut survey = Survey::new(self);
        let snapshots = self.selected();
        let mut seen = Seen::over(self.index);
        for snapshot in &snapshots {
            walk::walk(&source, snapshot, &mut seen, &mut survey)?;
        }
        survey.flush()?;
        let Survey { needs, pages, references, .. } = survey;
        let checked = &mut self.report.checked;
        checked.snapshots = snapshots.len() as u64;
        (checked.pages, checked.references) = (pages, references);
        let suspects = std::mem::take(&mut *lock(&source.suspects));
        let guilty = self.confirm(suspects.into_iter().collect(), |checker, (pack, id)| {
            checker.test_chunk(pack, id)
        })?;
        for ((pack, _), what) in guilty {
            self.blame_pack(pack, what);
        }
        Ok(needs)
    }

    /// Whether a pack gives a chunk that the index says it has.
    fn test_chunk(&self, pack: &PackName, id: &ChunkId) -> Result<Option<String>, RepositoryError> {
        let Some((number, _)) = self.listed_row(pack)? else { return Ok(None) };
        let mut plain = Vec::new();
        for place in self.index.locate(id)? {
            if place.pack == number {
                return match self.reader().fetch_at(id, place, &mut plain) {
                    Ok(()) => Ok(None),
                    Err(error) if is_lost(&error) => Ok(Some(describe(&error))),
                    Err(error) => Err(error),
                };
            }
        }
        Ok(None)
    }

    /// Packs that are no good for reading from, by number.
    fn doubtful(&self) -> Result<HashSet<u32>, RepositoryError> {
        let mut doubtful = HashSet::new();
        for pack in self.findings.bad_packs().iter().chain(&self.known_bad) {
            doubtful.extend(self.index.pack_number(pack)?);
        }
        Ok(doubtful)
    }

    /// Walks each snapshot on its own if any may be damaged, and names what is.
    pub(super) fn name_damage(&mut self, needs: &Needs) -> Result<(), RepositoryError> {
        let needs_doubtful = self.doubtful()?.iter().any(|pack| needs.packs.contains(*pack));
        if !needs.unmet && !needs_doubtful {
            return Ok(());
        }
        self.step("naming damaged snapshots")?;
        let (mut damaged, mut missing) = (Vec::new(), 0);
        for _ in 0..TRIES {
            self.refresh()?;
            self.needed_bad.clear();
            (damaged, missing) = (Vec::new(), 0);
            for snapshot in self.selected() {
                let (lost, missing_here) = self.damage_of(&snapshot)?;
                missing += missing_here;
                damaged.extend(lost);
            }
            if damaged.is_empty() || self.is_current()? {
                break;
            }
        }
        self.note_missing(missing);
        for lost in damaged {
            self.findings.damaged_snapshot(lost);
        }
        Ok(())
    }

    fn note_missing(&self, missing: u64) {
        if missing > 0 {
            let what = format!("snapshots refer to {missing} chunks that are in no pack");
            self.findings.problem("x/", what);
        }
    }

    /// What one snapshot lost, and how many of its references lead nowhere.
    fn damage_of(
        &mut self,
        snapshot: &Snapshot,
    ) -> Result<(Option<DamagedSnapshot>, u64), RepositoryError> {
        self.check_cancelled()?;
        let reader = self.reader();
        let doubtful = self.doubtful()?;
        let mut namer = Namer {
            checker: self,
            reader: &reader,
            doubtful: &doubtful,
            batch: Vec::new(),
            path_bytes: 0,
            answers: HashMap::new(),
            needed_bad: HashSet::new(),
            missing: 0,
            names: Names::default(),
        };
        walk::walk(&reader, snapshot, &mut Seen::default(), &mut namer)?;
        namer.flush()?;
        let Namer { needed_bad, missing, names, .. } = namer;
        for number in needed_bad {
            let name = self.index.pack(number)?.map(|row| row.identity.name);
            self.needed_bad.extend(name.filter(|name| self.known_bad.contains(name)));
        }
        let (paths, path_count) = names.finish();
        let damaged = (path_count > 0).then(|| DamagedSnapshot {
            paths,
            path_count,
            ..lost(&snapshot.id.to_string(), Some(snapshot))
        });
        Ok((damaged, missing))
    }
}

/// What the walked manifests refer to.
pub(super) struct Needs {
    /// The best pack of each chunk.
    pub(super) packs: PackSet,
    /// Something could not be read, or is in no pack that may be counted on.
    unmet: bool,
}

/// Looks references up and notes which packs are needed.
struct Survey<'a> {
    checker: &'a Checker<'a>,
    batch: Vec<ChunkId>,
    needs: Needs,
    pages: u64,
    references: u64,
}

impl<'a> Survey<'a> {
    fn new(checker: &'a Checker<'a>) -> Self {
        let needs = Needs { packs: PackSet::default(), unmet: false };
        Self { checker, batch: Vec::new(), needs, pages: 0, references: 0 }
    }

    fn flush(&mut self) -> Result<(), RepositoryError> {
        self.checker.check_cancelled()?;
        let index = self.checker.index;
        let states = index.states();
        let needs = &mut self.needs;
        index.locate_sorted(&mut self.batch, &mut |places| match places.first() {
            Some(place) if states.state(place.pack) < PackState::Dead => {
                needs.packs.insert(place.pack);
            }
            _ => needs.unmet = true,
        })?;
        self.references += self.batch.len() as u64;
        self.batch.clear();
        Ok(())
    }
}

impl Visitor for Survey<'_> {
    fn reference(
        &mut self,
        kind: PackKind,
        id: &ChunkId,
        _: &Context,
    ) -> Result<(), RepositoryError> {
        if kind == PackKind::Meta {
            self.pages += 1;
        }
        self.batch.push(*id);
        if self.batch.len() >= REFERENCES_MAX { self.flush() } else { Ok(()) }
    }

    fn unreadable(&mut self, error: RepositoryError, _: &Context) -> Result<(), RepositoryError> {
        if is_lost(&error) {
            self.needs.unmet = true;
            return Ok(());
        }
        Err(error)
    }
}

/// Something to look into, in the order of the walk.
enum Item {
    Chunk(ChunkId, Context),
    /// A path and the earlier one that it is the same file as.
    Link(Vec<u8>, Vec<u8>),
}

/// Names what a snapshot lost.
struct Namer<'a> {
    checker: &'a Checker<'a>,
    reader: &'a Reader,
    doubtful: &'a HashSet<u32>,
    batch: Vec<Item>,
    path_bytes: usize,
    /// Whether a chunk of a doubtful pack could be read.
    answers: HashMap<ChunkId, bool>,
    /// Doubtful packs that no other can stand in for.
    needed_bad: HashSet<u32>,
    /// References to chunks in no pack at all.
    missing: u64,
    names: Names,
}

impl Namer<'_> {
    fn push(&mut self, item: Item) -> Result<(), RepositoryError> {
        self.path_bytes += match &item {
            Item::Chunk(_, Context::File(path)) => path.len(),
            Item::Link(path, target) => path.len() + target.len(),
            Item::Chunk(..) => 0,
        };
        self.batch.push(item);
        if self.batch.len() >= BATCH || self.path_bytes >= BATCH_PATH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), RepositoryError> {
        self.checker.check_cancelled()?;
        let batch = std::mem::take(&mut self.batch);
        self.path_bytes = 0;
        let chunk = |item: &Item| match item {
            Item::Chunk(id, _) => Some(*id),
            Item::Link(..) => None,
        };
        let ids: Vec<ChunkId> = batch.iter().filter_map(chunk).collect();
        let mut found = self.checker.index.locate_many(&ids)?.into_iter();
        for item in batch {
            match item {
                Item::Chunk(id, context) => {
                    let places = found.next().unwrap_or_default();
                    if !self.is_sound(&places) && !self.is_readable(&id, &places)? {
                        self.names.add(&context);
                    }
                }
                Item::Link(path, target) => self.names.link(&path, &target),
            }
        }
        Ok(())
    }

    fn is_sound(&self, places: &[Place]) -> bool {
        let index = self.checker.index;
        places.iter().any(|place| {
            index.pack_state(place.pack) < PackState::Bad && !self.doubtful.contains(&place.pack)
        })
    }

    fn is_readable(&mut self, id: &ChunkId, places: &[Place]) -> Result<bool, RepositoryError> {
        self.needed_bad.extend(places.iter().map(|place| place.pack));
        if let Some(known) = self.answers.get(id) {
            return Ok(*known);
        }
        let mut plain = Vec::new();
        let answer = match self.reader.fetch_one(id, &mut plain) {
            Ok(()) => true,
            Err(error) if is_lost(&error) => {
                self.missing += u64::from(places.is_empty());
                false
            }
            Err(error) => return Err(error),
        };
        if self.answers.len() < ANSWERS_MAX {
            self.answers.insert(*id, answer);
        }
        Ok(answer)
    }
}

impl Visitor for Namer<'_> {
    fn reference(
        &mut self,
        kind: PackKind,
        id: &ChunkId,
        context: &Context,
    ) -> Result<(), RepositoryError> {
        match kind {
            PackKind::Data => self.push(Item::Chunk(*id, context.clone())),
            // Its reading tells, but which packs it depends on is to be known.
            PackKind::Meta => {
                let places = self.checker.index.locate(id)?;
                if !self.is_sound(&places) {
                    self.needed_bad.extend(places.iter().map(|place| place.pack));
                }
                Ok(())
            }
        }
    }

    fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), RepositoryError> {
        self.push(Item::Link(path.to_vec(), target.to_vec()))
    }

    fn unreadable(
        &mut self,
        error: RepositoryError,
        context: &Context,
    ) -> Result<(), RepositoryError> {
        if !is_lost(&error) {
            return Err(error);
        }
        self.flush()?;
        self.missing += u64::from(matches!(error, RepositoryError::MissingChunk { .. }));
        self.names.add(context);
        Ok(())
    }
}

/// Names of what is damaged, in the order of the walk, neighbours joined.
#[derive(Default)]
struct Names {
    paths: Vec<String>,
    count: u64,
    last_file: Option<Vec<u8>>,
    /// Damaged files by path, for hard links to them.
    files: HashSet<Vec<u8>>,
    /// The run of damaged bytes of a volume that is not in `paths` yet.
    run: Option<(u64, u64)>,
}

impl Names {
    fn add(&mut self, context: &Context) {
        match context {
            Context::Manifest => self.push(EVERYTHING.to_owned()),
            Context::Entries { from, to: None } if from.is_empty() => {
                self.push(EVERYTHING.to_owned());
            }
            Context::Entries { from, to: None } => {
                self.push(format!("everything from {} on", printable(from)));
            }
            Context::Entries { from, to: Some(to) } => {
                self.push(format!("everything from {} to {}", printable(from), printable(to)));
            }
            Context::File(path) => self.file(path),
            Context::Volume { offset_bytes, len_bytes } => {
                let end = offset_bytes + len_bytes;
                match &mut self.run {
                    Some((_, run_end)) if *run_end == *offset_bytes => *run_end = end,
                    _ => {
                        self.end_run();
                        self.run = Some((*offset_bytes, end));
                    }
                }
            }
        }
    }

    fn file(&mut self, path: &[u8]) {
        if self.last_file.as_deref() == Some(path) {
            return;
        }
        self.last_file = Some(path.to_vec());
        self.push(printable(path));
        if self.files.len() < ANSWERS_MAX {
            self.files.insert(path.to_vec());
        }
    }

    fn link(&mut self, path: &[u8], target: &[u8]) {
        if self.files.contains(target) {
            self.push(printable(path));
        }
    }

    fn end_run(&mut self) {
        if let Some((start, end)) = self.run.take() {
            self.push(format!("bytes {start}..{end}"));
        }
    }

    fn push(&mut self, name: String) {
        self.count += 1;
        if self.paths.len() < PATHS_MAX {
            self.paths.push(name);
        }
    }

    fn finish(mut self) -> (Vec<String>, u64) {
        self.end_run();
        (self.paths, self.count)
    }
}

/// A path as text: what is no UTF-8 is escaped, byte by byte.
fn printable(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for part in path.utf8_chunks() {
        text.push_str(part.valid());
        text.extend(part.invalid().escape_ascii().map(char::from));
    }
    text
}
