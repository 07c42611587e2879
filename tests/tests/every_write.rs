//! A process that dies after any one of its writes: all of them, one by one, over the life of a
//! small repository.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use repo_format::id::{ChunkId, SnapshotId};
use repo_format::key::ObjectKey;
use repo_format::pack::PackKind;
use repo_format::snapshot::Completeness;
use repo_format::volume::Slot;
use repository::check::{self, VerifyOptions};
use repository::chunks::ChunkSink;
use repository::gc::{self, Unwatched};
use repository::index::Index;
use repository::reader::Reader;
use repository::store::wrap::{Fault, Faulty};
use repository::store::{Memory, Op, Store};
use repository::view::{View, list_registers, list_sessions};
use repository::writer::{Writer, sync_index};
use repository::{Repository, RepositoryError, session};
use tempfile::TempDir;
use tests::support::repository::{
    CHUNK_LOG2, get_volume, init, open, prune_options, put_manifest, record, writer_options,
};
use tests::support::{Rng, soak};

const CHUNK: usize = 1 << CHUNK_LOG2;
const CHUNKS: usize = 10;

/// A version of the volume: each differs from the one before in three chunks.
fn version(number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in 0..CHUNKS as u64 {
        let changed_in = (1..=number).rev().find(|version| version * 3 % CHUNKS as u64 == chunk);
        let seed = changed_in.unwrap_or(0) * 1000 + chunk;
        bytes.extend(Rng::new(seed).noise(CHUNK));
    }
    bytes
}

/// A place for an index, in memory if there is one: it is a cache, and written to a lot.
fn cache() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Snapshots that were reported as saved, and which version each is of.
#[derive(Debug, Clone, Default)]
struct Reported {
    saved: BTreeMap<SnapshotId, u64>,
    /// May be forgotten already: somebody began to.
    doomed: Vec<SnapshotId>,
}

type Opened = (Arc<Repository>, Arc<Index>);

fn back_up(
    (repository, index): &Opened,
    number: u64,
    reported: &mut Reported,
) -> Result<(), RepositoryError> {
    let (writer, _) = Writer::open(repository, Arc::clone(index), &writer_options())?;
    let old: Vec<SnapshotId> =
        writer.view().checkpoints("disk", "/disk").map(|snapshot| snapshot.id).collect();
    let bytes = version(number);
    let mut slots = Vec::new();
    for (at, chunk) in bytes.chunks(CHUNK).enumerate() {
        slots.push(Slot::Data(writer.put(PackKind::Data, chunk)?));
        if at % 4 == 2 {
            writer.checkpoint(record("disk", ChunkId::NONE, Completeness::Checkpoint))?;
        }
    }
    let root = put_manifest(&writer, bytes.len() as u64, &slots)?;
    let snapshot = writer.finish(record("disk", root, Completeness::Complete), old)?;
    reported.saved.insert(snapshot.id, number);
    Ok(())
}

fn forget((repository, _): &Opened, reported: &mut Reported) -> Result<(), RepositoryError> {
    let Some((&oldest, _)) = reported.saved.iter().min_by_key(|(_, number)| **number) else {
        return Ok(());
    };
    reported.saved.remove(&oldest);
    reported.doomed.push(oldest);
    gc::forget(repository, &[oldest], None).map(drop)
}

fn prune((repository, index): &Opened) -> Result<(), RepositoryError> {
    gc::prune(repository, index, &prune_options(), &Unwatched).map(drop)
}

/// What is done until something fails.
fn live(
    store: Arc<dyn Store>,
    cache: &Path,
    reported: &mut Reported,
) -> Result<(), RepositoryError> {
    let opened = open(store, cache)?;
    back_up(&opened, 1, reported)?;
    forget(&opened, reported)?;
    prune(&opened)?;
    back_up(&opened, 2, reported)?;
    forget(&opened, reported)?;
    prune(&opened)?;
    prune(&opened)
}

/// As a maintainer does once it knows that a process is gone; this one is not.
fn fence_all(repository: &Repository) {
    let ended = list_registers(repository).unwrap();
    for id in list_sessions(repository).unwrap().difference(&ended) {
        session::fence(repository, id).unwrap();
    }
}

#[track_caller]
fn assert_gives_all((repository, index): &Opened, reported: &Reported, when: &str) {
    let view = View::for_reading(repository).unwrap();
    sync_index(repository, index, &view).unwrap();
    let reader = Reader::new(repository, Arc::clone(index));
    for (id, number) in &reported.saved {
        let all = view.all_snapshots();
        let snapshot = all.get(id).unwrap_or_else(|| panic!("{when}: version {number} is gone"));
        let bytes = get_volume(&reader, &snapshot.root);
        assert!(bytes.unwrap() == version(*number), "{when}: version {number} is another");
    }
}

/// The next machine comes along: everything reported is there, what was begun can be done, and
/// nothing is left over.
fn assert_sound(memory: &Arc<Memory>, mut reported: Reported, when: &str) {
    let folder = cache();
    let opened = open(memory.clone(), folder.path()).unwrap();
    assert_gives_all(&opened, &reported, when);
    let (repository, index) = &opened;
    // Whatever else is listed is whole, too: a commit whose reply was lost, say.
    let options = VerifyOptions { read_data: Some(1.0), ..VerifyOptions::default() };
    let found = check::verify(repository, index, &options, &Unwatched).unwrap();
    assert!(found.is_clean(), "{when}: {:?}", found.problems);
    fence_all(repository);
    back_up(&opened, 3, &mut reported).unwrap();
    for _ in 0..2 {
        prune(&opened).unwrap();
    }
    assert_gives_all(&opened, &reported, when);
    let found = check::verify(repository, index, &options, &Unwatched).unwrap();
    assert!(found.is_clean(), "{when}: {:?}", found.problems);
    let left = found.leftover;
    assert_eq!((left.packs, left.segments), (0, 0), "{when}: {left:?}");
    let sessions: Vec<ObjectKey> = memory
        .keys()
        .into_iter()
        .filter(|key| {
            matches!(key, ObjectKey::Session(_) | ObjectKey::Commit(_) | ObjectKey::Heartbeat(_))
        })
        .collect();
    assert!(sessions.is_empty(), "{when}: {sessions:?}");
    let checkpoints = View::for_reading(repository).unwrap();
    let checkpoints = checkpoints.checkpoints("disk", "/disk").count();
    assert_eq!(checkpoints, 0, "{when}: checkpoints are left");
}

/// A repository with one snapshot.
fn base() -> (Memory, Reported) {
    let memory = Arc::new(Memory::default());
    drop(init(memory.clone()));
    let folder = cache();
    let opened = open(memory.clone(), folder.path()).unwrap();
    let mut reported = Reported::default();
    back_up(&opened, 0, &mut reported).unwrap();
    drop(opened);
    (memory.fork(), reported)
}

/// Runs the life with a store that `spoil` makes out of a fresh copy. Whether it came to its end.
fn run(
    base: &(Memory, Reported),
    when: &str,
    spoil: impl FnOnce(Faulty<Arc<Memory>>) -> Faulty<Arc<Memory>>,
) -> bool {
    let memory = Arc::new(base.0.fork());
    let store = Arc::new(spoil(Faulty::new(memory.clone())));
    let mut reported = base.1.clone();
    let folder = cache();
    let ended = live(store.clone(), folder.path(), &mut reported);
    let spoilt = store.injected() > 0;
    assert_sound(&memory, reported, when);
    assert!(spoilt || ended.is_ok(), "{when}: {ended:?}");
    !spoilt
}

#[test]
fn a_process_that_dies_after_any_write_leaves_all_that_it_reported_and_nothing_for_ever() {
    let base = base();
    let mut cut = 0;
    while !run(&base, &format!("cut after write {cut}"), |store| store.cut_after(cut)) {
        cut += 1;
    }
    println!("{cut} writes");
    assert!(cut > 40, "the scene has shrunk to {cut} writes");
}

#[test]
fn a_write_that_fails_or_whose_reply_is_lost_leaves_the_repository_sound() {
    let base = base();
    let step = if soak() { 1 } else { 3 };
    for op in [Op::PutNew, Op::Delete] {
        for fault in [Fault::LostReply, Fault::Io, Fault::Full] {
            let mut nth = 1;
            while !run(&base, &format!("{fault:?} at {op:?} {nth}"), |store| {
                store.fail_nth(op, nth, fault)
            }) {
                nth += step;
            }
        }
    }
}

#[test]
fn a_read_that_fails_leaves_the_repository_sound() {
    let base = base();
    let step = if soak() { 1 } else { 11 };
    for op in [Op::Get, Op::GetRange, Op::List, Op::ListFirst, Op::Size] {
        let mut nth = 1;
        while !run(&base, &format!("error at {op:?} {nth}"), |store| {
            store.fail_nth(op, nth, Fault::Io)
        }) {
            nth += step;
        }
    }
}
