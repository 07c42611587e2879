//! `many_chunks REPOSITORY COUNT [CHUNKS_A_PACK]`: fills a repository of a test with so many chunks
//! that are not there: their packs are holes of the right length. Everything that names them is
//! real: index segments, the manifest of one volume, its snapshot.
//!
//! `REPOSITORY` is a folder, or `s3:PREFIX` in the bucket that the environment names; there the
//! packs are missing, since a bucket has no holes.
#![expect(clippy::unwrap_used, reason = "a tool of the tests")]

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use repo_format::id::{ChunkId, ClusterId, PackName, SegmentName, SessionId};
use repo_format::key::ObjectKey;
use repo_format::pack::{PackIdentity, PackKind};
use repo_format::segment::{Entry, PackRow};
use repo_format::session::{Commit, SegmentRef};
use repo_format::snapshot::Completeness;
use repo_format::volume::{Page, PageRef, Slot, VolumeRoot};
use repository::Repository;
use repository::chunks::ChunkSink;
use repository::packer::PackOptions;
use repository::segments;
use repository::session::OpenSession;
use repository::store::{FsStore, Store};
use repository::writer::{Writer, WriterOptions};
use tests::support::Rng;
use tests::support::repository::{CHUNK_LOG2, open, record, writer_options};
use tests::support::s3;

const CHUNKS_A_PACK: u32 = 512;
const ENTRIES_A_SEGMENT: usize = 400_000;
const STORED_LEN: u32 = 65_000;

/// The id of chunk `number`.
fn id_of(number: u64) -> ChunkId {
    let mut id = [0; 32];
    id.copy_from_slice(&Rng::new(number).noise(32));
    ChunkId(id)
}

fn main() {
    let mut words = std::env::args().skip(1);
    let (place, count) = (words.next().unwrap(), words.next().unwrap().parse().unwrap());
    let chunks_a_pack = words.next().map_or(CHUNKS_A_PACK, |word| word.parse().unwrap());
    let (store, root): (Arc<dyn Store>, _) = match place.strip_prefix("s3:") {
        Some(prefix) => (Arc::new(s3::bucket().store_at(prefix)), None),
        None => (Arc::new(FsStore::open(Path::new(&place)).unwrap()), Some(PathBuf::from(place))),
    };
    let cache = tempfile::tempdir().unwrap();
    let (repository, index) = open(store, cache.path()).unwrap();
    // Opened before the packs are committed: its index has no need of them.
    let packs = PackOptions::within(40 << 20, 1 << CHUNK_LOG2);
    let options = WriterOptions { packs, ..writer_options() };
    let (writer, _) = Writer::open(&repository, index, &options).unwrap();
    let session = OpenSession::writer(&repository, ClusterId::NONE).unwrap();
    let mut packs = Packs { root, session: session.id(), chunks_a_pack, next: 0 };
    let mut listed = Vec::new();
    let mut chunks = 0..count;
    while !chunks.is_empty() {
        listed.push(packs.put_segment(&repository, &mut chunks, listed.len()));
    }
    let nonce = [5; 16];
    session.commit(&Commit { nonce, segments: listed, snapshot: None, forgets: vec![] }).unwrap();
    let id = put_manifest(&writer, count);
    writer.finish(record("many", id, Completeness::Complete), Vec::new()).unwrap();
}

/// Where packs go, and which comes next.
struct Packs {
    root: Option<PathBuf>,
    session: SessionId,
    chunks_a_pack: u32,
    next: u32,
}

impl Packs {
    /// Makes packs of the next chunks, as many as one segment lists, and the segment.
    fn put_segment(
        &mut self,
        repository: &Repository,
        left: &mut Range<u64>,
        segment: usize,
    ) -> SegmentRef {
        let (mut packs, mut entries) = (Vec::new(), Vec::new());
        while !left.is_empty() && entries.len() < ENTRIES_A_SEGMENT {
            let name = PackName { session: self.session, counter: self.next };
            self.next += 1;
            let identity = PackIdentity { name, kind: PackKind::Data, epoch: 0, salt: [3; 32] };
            let row = u32::try_from(packs.len()).unwrap();
            let mut chunks = 0;
            for number in left.by_ref().take(self.chunks_a_pack as usize) {
                let offset = 4096 + chunks * STORED_LEN;
                entries.push(Entry::new(&id_of(number), row, offset, STORED_LEN, chunks));
                chunks += 1;
            }
            let bytes = self.chunks_a_pack * STORED_LEN + (1 << 20);
            packs.push(PackRow { identity, bytes, chunks });
            if let Some(root) = &self.root {
                let path = root.join(ObjectKey::Pack(name).to_string());
                File::create(path).unwrap().set_len(bytes.into()).unwrap();
            }
        }
        let counter = u32::try_from(segment).unwrap();
        let name = SegmentName { session: self.session, counter };
        segments::write(repository, name, &packs, &mut entries).unwrap()
    }
}

fn put_manifest(sink: &dyn ChunkSink, count: u64) -> ChunkId {
    let mut root = VolumeRoot::new(count << CHUNK_LOG2, CHUNK_LOG2).unwrap();
    let mut numbers = 0..count;
    for place in &mut root.pages {
        let mut page = Page::default();
        for (slot, number) in page.slots.iter_mut().zip(&mut numbers) {
            *slot = Slot::Data(id_of(number));
        }
        *place = PageRef::Page(sink.put(PackKind::Meta, &page.encode()).unwrap());
    }
    sink.put(PackKind::Meta, &root.encode()).unwrap()
}
