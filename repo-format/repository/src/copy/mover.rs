//! Moving chunks: which id a chunk has in the target, and bringing there what it lacks.
//!
//! Chunks are asked for in batches of bounded length. Of those the target does not have for all we
//! know, ranges of the source's packs are planned, and a few threads fetch, decrypt, verify and name
//! them anew, and store the frame as it is, compressed as it was.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use repo_format::id::ChunkId;
use repo_format::pack::PackKind;

use super::dictionary::Dictionary;
use super::{Control, CopyError, Progress};
use crate::chunks::{ChunkSink, ChunkSource};
use crate::packer::lock;
use crate::reader::{Decoder, Range, Reader, Wanted};
use crate::recover::is_lost;
use crate::view::View;
use crate::writer::{Writer, sync_index};
use crate::{Repository, RepositoryError};

/// Ids in the target by ids in the source.
pub(super) type Names = HashMap<ChunkId, ChunkId>;

/// Chunks that a piece of a manifest refers to, and how many bytes of it each stands for.
pub(super) type Wants = HashMap<ChunkId, u64>;

/// What moves chunks for one snapshot.
pub(super) struct Mover<'a> {
    pub(super) source: &'a Reader,
    pub(super) target: &'a Reader,
    pub(super) writer: &'a Writer,
    pub(super) dictionary: &'a Dictionary,
    /// Both repositories give a chunk the same id.
    pub(super) same_ids: bool,
    pub(super) threads: usize,
    pub(super) progress: &'a Progress,
    pub(super) control: &'a dyn Control,
    /// Set when something else failed.
    pub(super) stop: &'a AtomicBool,
}

/// What to do with a chunk that is not where it was planned to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Put it off: a prune may have moved it since the index was brought up to date.
    First,
    /// Try every place that may have it.
    Second,
}

impl Mover<'_> {
    /// Whether to go on.
    pub(super) fn check(&self) -> Result<(), CopyError> {
        if self.stop.load(Ordering::Relaxed) || self.control.is_cancelled() {
            return Err(CopyError::Cancelled);
        }
        Ok(())
    }

    /// Reads a metadata chunk of the source.
    pub(super) fn read_page(&self, id: &ChunkId) -> Result<Vec<u8>, CopyError> {
        self.check()?;
        let mut plain = Vec::new();
        if let Err(error) = self.source.get(PackKind::Meta, id, &mut plain) {
            if !error.is_damage() {
                return Err(CopyError::Source(error));
            }
            self.refresh_source()?;
            self.source.get(PackKind::Meta, id, &mut plain).map_err(CopyError::Source)?;
        }
        Progress::add(&self.progress.manifest_bytes, plain.len() as u64);
        Ok(plain)
    }

    /// Stores a metadata chunk in the target, unless it is there.
    pub(super) fn put_page(&self, plain: &[u8]) -> Result<ChunkId, CopyError> {
        self.writer.put(PackKind::Meta, plain).map_err(CopyError::Target)
    }

    /// Makes sure that the target has all of `wants`, and gives their ids there.
    ///
    /// * `hints`: ids that are known from elsewhere; each is asked of the target's index.
    ///
    /// # Errors
    ///
    /// [`CopyError::Source`] with the first chunk that cannot be had.
    pub(super) fn bring(&self, wants: &Wants, hints: &Names) -> Result<Names, CopyError> {
        self.check()?;
        let mut names = Names::with_capacity(wants.len());
        let missing = self.known(wants, hints, &mut names)?;
        if missing.is_empty() {
            return Ok(names);
        }
        let names = Mutex::new(names);
        let put_off = self.pass(Pass::First, missing, wants, &names)?;
        if !put_off.is_empty() {
            self.refresh_source()?;
            self.pass(Pass::Second, put_off, wants, &names)?;
        }
        Ok(names.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Puts those that the target has into `names`, and returns the others.
    fn known(
        &self,
        wants: &Wants,
        hints: &Names,
        names: &mut Names,
    ) -> Result<Vec<ChunkId>, CopyError> {
        let mut missing = Vec::new();
        let mut note = |id: ChunkId, other: Option<ChunkId>| -> Result<bool, CopyError> {
            let Some(other) = other else { return Ok(false) };
            if !self.writer.knows(&other).map_err(CopyError::Target)? {
                return Ok(false);
            }
            names.insert(id, other);
            let bytes = wants.get(&id).copied().unwrap_or(0);
            Progress::add(&self.progress.present_bytes, bytes);
            Progress::add(&self.progress.done_bytes, bytes);
            Ok(true)
        };
        let mut unknown = Vec::new();
        for id in wants.keys() {
            let hint = if self.same_ids { Some(*id) } else { hints.get(id).copied() };
            if !note(*id, hint)? {
                unknown.push(*id);
            }
        }
        let others = self.dictionary.lookup(&unknown);
        for (id, other) in unknown.into_iter().zip(others) {
            if !note(id, other)? {
                missing.push(id);
            }
        }
        Ok(missing)
    }

    /// A long copy outlives what its index knew: a prune of the source moves chunks.
    fn refresh_source(&self) -> Result<(), CopyError> {
        let repository: &Repository = self.source.repository();
        let view = View::for_reading(repository).map_err(CopyError::Source)?;
        sync_index(repository, self.source.index(), &view).map_err(CopyError::Source)?;
        Ok(())
    }

    /// Fetches `ids` and stores them. Returns those put off.
    fn pass(
        &self,
        pass: Pass,
        ids: Vec<ChunkId>,
        wants: &Wants,
        names: &Mutex<Names>,
    ) -> Result<Vec<ChunkId>, CopyError> {
        let tagged = ids.into_iter().map(|id| (0, id));
        let (ranges, lost) = self.source.plan(tagged).map_err(CopyError::Source)?;
        let lost: Vec<ChunkId> = lost.into_iter().map(|(_, id)| id).collect();
        if let Some(id) = lost.first().filter(|_| pass == Pass::Second) {
            return Err(CopyError::Source(RepositoryError::MissingChunk { id: *id }));
        }
        let work = Work {
            mover: self,
            pass,
            ranges,
            next: AtomicUsize::new(0),
            names,
            wants,
            put_off: Mutex::new(lost),
            failure: Mutex::new(None),
        };
        let threads = self.threads.clamp(1, work.ranges.len().max(1));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| work.run());
            }
        });
        let Work { put_off, failure, .. } = work;
        match failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(failure) => Err(failure),
            None => Ok(put_off.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)),
        }
    }
}

/// Ranges that threads share out among themselves.
struct Work<'a> {
    mover: &'a Mover<'a>,
    pass: Pass,
    ranges: Vec<Range>,
    next: AtomicUsize,
    names: &'a Mutex<Names>,
    wants: &'a Wants,
    put_off: Mutex<Vec<ChunkId>>,
    failure: Mutex<Option<CopyError>>,
}

/// What a thread holds: a range as it was fetched, a chunk of it, tables.
struct Hands {
    bytes: Vec<u8>,
    plain: Vec<u8>,
    decoder: Decoder,
    /// Pairs of ids of the range at hand.
    named: Vec<(ChunkId, ChunkId)>,
}

impl Work<'_> {
    fn run(&self) {
        if let Err(error) = self.share() {
            let mut failure = lock(&self.failure);
            if failure.as_ref().is_none_or(CopyError::is_echo) {
                *failure = Some(error);
            }
            // The others find nothing more to do.
            self.next.store(self.ranges.len(), Ordering::Relaxed);
        }
    }

    fn share(&self) -> Result<(), CopyError> {
        let decoder = Decoder::new().map_err(CopyError::Source)?;
        let (bytes, plain, named) = (Vec::new(), Vec::new(), Vec::new());
        let mut hands = Hands { bytes, plain, decoder, named };
        while let Some(range) = self.ranges.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            self.mover.check()?;
            self.mover.control.pace(range.len as u64);
            self.mover.check()?;
            self.range(range, &mut hands)?;
        }
        Ok(())
    }

    fn range(&self, range: &Range, hands: &mut Hands) -> Result<(), CopyError> {
        let mover = self.mover;
        match mover.source.fetch(range, &mut hands.bytes) {
            Ok(()) => Progress::add(&mover.progress.fetched_bytes, range.len as u64),
            Err(error) if is_lost(&error) => hands.bytes.clear(),
            Err(error) => return Err(CopyError::Source(error)),
        }
        let cipher = mover.source.cipher(&range.pack).map_err(CopyError::Source)?;
        for wanted in &range.chunks {
            let Hands { bytes, plain, decoder, .. } = hands;
            let opened = mover.source.open_frame(range, bytes, &cipher, wanted, decoder, plain);
            let name = match opened {
                Ok(frame) => Some(self.store_frame(wanted, frame, plain)?),
                Err(_) if self.pass == Pass::First => None,
                Err(_) => Some(self.store_from_elsewhere(wanted, plain)?),
            };
            match name {
                Some(name) => hands.named.push((wanted.id, name)),
                None => lock(&self.put_off).push(wanted.id),
            }
        }
        mover.dictionary.add(&hands.named);
        lock(self.names).extend(hands.named.drain(..));
        Ok(())
    }

    /// What the chunk is called in the target.
    fn name(&self, id: &ChunkId, plain: &[u8]) -> ChunkId {
        if self.mover.same_ids {
            return *id;
        }
        self.mover.writer.repository().keys().chunk_id(PackKind::Data, plain)
    }

    fn store_frame(
        &self,
        wanted: &Wanted,
        frame: &[u8],
        plain: &[u8],
    ) -> Result<ChunkId, CopyError> {
        let name = self.name(&wanted.id, plain);
        let is_new = self
            .mover
            .writer
            .put_frame(PackKind::Data, &name, frame, plain.len())
            .map_err(CopyError::Target)?;
        self.count(&wanted.id, is_new);
        Ok(name)
    }

    /// Any other copy of the chunk will do; it is compressed anew.
    fn store_from_elsewhere(
        &self,
        wanted: &Wanted,
        plain: &mut Vec<u8>,
    ) -> Result<ChunkId, CopyError> {
        self.mover.source.fetch_one(&wanted.id, plain).map_err(CopyError::Source)?;
        Progress::add(&self.mover.progress.fetched_bytes, wanted.place.stored_len.into());
        let name = self.name(&wanted.id, plain);
        let is_new = self
            .mover
            .writer
            .put_identified(PackKind::Data, &name, plain)
            .map_err(CopyError::Target)?;
        self.count(&wanted.id, is_new);
        Ok(name)
    }

    fn count(&self, id: &ChunkId, is_new: bool) {
        let bytes = self.wants.get(id).copied().unwrap_or(0);
        let progress = self.mover.progress;
        Progress::add(&progress.done_bytes, bytes);
        if !is_new {
            Progress::add(&progress.present_bytes, bytes);
        }
    }
}

/// The source's half and the target's half of something that both have.
pub(super) type Halves = (ChunkId, ChunkId);

/// The bytes of both.
pub(super) type Pages = (Vec<u8>, Vec<u8>);

impl Mover<'_> {
    /// Reads a page that both repositories have, one for each. `None`: one of them is lost, which
    /// costs no more than the help it would have been.
    pub(super) fn read_pair(&self, pair: Halves) -> Result<Option<Pages>, CopyError> {
        self.check()?;
        let (mut source, mut target) = (Vec::new(), Vec::new());
        let read = self
            .source
            .get(PackKind::Meta, &pair.0, &mut source)
            .map_err(|error| (error, true))
            .and_then(|()| {
                self.target
                    .get(PackKind::Meta, &pair.1, &mut target)
                    .map_err(|error| (error, false))
            });
        match read {
            Ok(()) => {
                Progress::add(&self.progress.manifest_bytes, source.len() as u64);
                Ok(Some((source, target)))
            }
            Err((error, _)) if error.is_damage() => Ok(None),
            Err((error, true)) => Err(CopyError::Source(error)),
            Err((error, false)) => Err(CopyError::Target(error)),
        }
    }
}

/// Names the manifest that a page belongs to, should it not be what it must be.
pub(super) fn decoded<T>(
    id: &ChunkId,
    result: Result<T, repo_format::error::FormatError>,
) -> Result<T, CopyError> {
    result.map_err(|error| {
        CopyError::Source(RepositoryError::format(format!("manifest page {id}"), error))
    })
}

/// Reads chunks of both repositories, each over its own index.
pub(super) fn reader(endpoint: &super::Endpoint) -> Reader {
    Reader::new(&endpoint.repository, Arc::clone(&endpoint.index))
}
