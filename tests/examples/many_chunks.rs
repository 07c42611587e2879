//! `many_chunks REPOSITORY COUNT`: fills a repository of a test with so many chunks that are not
//! there: their packs are holes of the right length. Everything that names them is real: index
//! segments, the manifest of one volume, its snapshot.
#![expect(clippy::unwrap_used, reason = "a tool of the tests")]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use repo_format::id::{ChunkId, ClusterId, PackName, SegmentName};
use repo_format::key::ObjectKey;
use repo_format::pack::{PackIdentity, PackKind};
use repo_format::segment::{Entry, PackRow};
use repo_format::session::{Commit, SegmentRef};
use repo_format::snapshot::Completeness;
use repo_format::volume::{Page, PageRef, Slot, VolumeRoot};
use repository::Repository;
use repository::chunks::ChunkSink;
use repository::segments;
use repository::session::OpenSession;
use repository::store::FsStore;
use repository::writer::Writer;
use tests::support::Rng;
use tests::support::repository::{CHUNK_LOG2, open, record, writer_options};

const CHUNKS_A_PACK: u32 = 512;
const PACKS_A_SEGMENT: u32 = 200;
const STORED_LEN: u32 = 65_000;
const PACK_BYTES: u32 = CHUNKS_A_PACK * STORED_LEN + (1 << 20);

/// The id of chunk `number`.
fn id_of(number: u64) -> ChunkId {
    let mut id = [0; 32];
    id.copy_from_slice(&Rng::new(number).noise(32));
    ChunkId(id)
}

fn main() {
    let mut words = std::env::args().skip(1);
    let (root, count) = (words.next().unwrap(), words.next().unwrap().parse().unwrap());
    let root = Path::new(&root);
    let cache = tempfile::tempdir().unwrap();
    let (repository, index) = open(Arc::new(FsStore::open(root).unwrap()), cache.path()).unwrap();
    put_packs(root, &repository, count);
    let (writer, _) = Writer::open(&repository, index, &writer_options()).unwrap();
    let id = put_manifest(&writer, count);
    writer.finish(record("many", id, Completeness::Complete), Vec::new()).unwrap();
}

fn put_packs(root: &Path, repository: &Arc<Repository>, count: u64) {
    let session = OpenSession::writer(repository, ClusterId::NONE).unwrap();
    let (mut next, mut pack, mut listed) = (0, 0, Vec::<SegmentRef>::new());
    while next < count {
        let (mut packs, mut entries) = (Vec::new(), Vec::new());
        while next < count && packs.len() < PACKS_A_SEGMENT as usize {
            let name = PackName { session: session.id(), counter: pack };
            let salt = [3; 32];
            let identity = PackIdentity { name, kind: PackKind::Data, epoch: 0, salt };
            let row = u32::try_from(packs.len()).unwrap();
            let chunks = CHUNKS_A_PACK.min(u32::try_from(count - next).unwrap_or(u32::MAX));
            for slot in 0..chunks {
                let offset = 4096 + slot * STORED_LEN;
                entries.push(Entry::new(&id_of(next), row, offset, STORED_LEN, slot));
                next += 1;
            }
            packs.push(PackRow { identity, bytes: PACK_BYTES, chunks });
            let path = root.join(ObjectKey::Pack(name).to_string());
            File::create(path).unwrap().set_len(PACK_BYTES.into()).unwrap();
            pack += 1;
        }
        let counter = u32::try_from(listed.len()).unwrap();
        let name = SegmentName { session: session.id(), counter };
        listed.push(segments::write(repository, name, &packs, &mut entries).unwrap());
    }
    let nonce = [5; 16];
    let commit = Commit { nonce, segments: listed, snapshot: None, forgets: Vec::new() };
    session.commit(&commit).unwrap();
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
