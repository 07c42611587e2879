//! The golden objects, made from fixed keys, salts, names and times. FORMAT.md names the files.

use std::fmt::Write;

use repo_format::catalog::{self, Catalog, Condemned, Dying, Folded, Listed, PageRef};
use repo_format::chunker::{ChunkSizes, Chunker};
use repo_format::config::Config;
use repo_format::frame::{Compression, FrameEncoder};
use repo_format::id::{ChunkId, ClusterId, ObjectName, RepositoryId, SessionId, SlotId};
use repo_format::key::ObjectKey;
use repo_format::keys::{KeyBundle, Keys, Secret};
use repo_format::keyslot::{Kdf, KeySlot};
use repo_format::lock::{LOCK_GROUPS, LockMode, ObjectLock};
use repo_format::pack::{FinishedPack, PackBuffer, PackBuilder, PackIdentity, PackKind};
use repo_format::segment::{Entry as IndexEntry, PackRow, SegmentBuilder};
use repo_format::session::{Commit, Process, SegmentRef, Session, SessionKind};
use repo_format::snapshot::{Completeness, Issue, Sizes, Snapshot, VolumeKind};
use repo_format::tree::{
    self, Child, Content, Entry, EntryKind, Extent, Meta, Slice, Time, TreeRoot, Xattr,
};
use repo_format::volume::{self, Slot, VolumeRoot};
use repo_format::{envelope, limits};

pub mod by_hand;

pub const PASSPHRASE: &[u8] = b"correct horse battery staple";
pub const REPOSITORY: RepositoryId = RepositoryId(ascending(0xa0));
pub const SESSION: SessionId = SessionId(ascending(0xb0));
pub const SLOT: SlotId = SlotId(ascending(0xc0));
pub const CLUSTER: ClusterId = ClusterId(ascending(0xd0));
pub const SALT: [u8; 32] = ascending(0x40);
/// 2026-01-02 03:04:05 UTC.
pub const TIME_S: u64 = 1_767_323_045;
const TIME_NS: i64 = 1_767_323_045_678_901_234;

/// A golden file: its name below `golden/` and its bytes.
pub struct Vector {
    pub file: &'static str,
    pub bytes: Vec<u8>,
}

/// `first`, `first + 1`, and so on.
pub const fn ascending<const N: usize>(first: u8) -> [u8; N] {
    let mut bytes = [first; N];
    let mut at = 1;
    while at < N {
        bytes[at] = bytes[at - 1] + 1;
        at += 1;
    }
    bytes
}

pub fn bundle() -> KeyBundle {
    KeyBundle::new(Secret::new(ascending(0x00)), Secret::new(ascending(0x20)))
}

pub fn keys() -> Keys {
    Keys::new(&bundle())
}

/// The stream of BLAKE3 of `seed`.
pub fn noise(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// The three inputs whose ids are golden.
pub fn id_inputs() -> [(&'static str, Vec<u8>); 3] {
    let repeating = (0..1 << 20).map(|at: u32| at.to_le_bytes()[0]).collect();
    [("empty", vec![]), ("a", b"a".to_vec()), ("1 MiB of 00..ff", repeating)]
}

pub fn name(counter: u32) -> ObjectName {
    ObjectName { session: SESSION, counter }
}

pub fn identity(kind: PackKind) -> PackIdentity {
    PackIdentity { name: name(u32::from(kind == PackKind::Meta)), kind, epoch: 0, salt: SALT }
}

/// Plain chunks of the golden pack of `kind`.
pub fn chunks(kind: PackKind) -> Vec<Vec<u8>> {
    match kind {
        PackKind::Data => vec![b"a".to_vec(), noise("one", 1000), noise("two", 20_000)],
        PackKind::Meta => vec![
            volume_page().encode(),
            volume_root().encode(),
            tree::encode_leaf(&entries()),
            tree_root().encode(),
        ],
    }
}

pub fn pack(kind: PackKind) -> FinishedPack {
    let keys = keys();
    let buffer = PackBuffer::new(1 << 20, 1 << 16);
    let mut builder = PackBuilder::new(buffer, &keys, identity(kind)).unwrap();
    let mut encoder = FrameEncoder::new(Compression::Off).unwrap();
    for plain in chunks(kind) {
        builder.push(keys.chunk_id(kind, &plain), encoder.encode(&plain).parts());
    }
    builder.finish()
}

/// Packs and entries of the golden segment.
pub fn index() -> (Vec<PackRow>, Vec<IndexEntry>) {
    let mut rows = Vec::new();
    let mut entries = Vec::new();
    for (row, kind) in (0..).zip([PackKind::Data, PackKind::Meta]) {
        let pack = pack(kind);
        rows.push(PackRow {
            identity: pack.identity,
            bytes: pack.buffer.as_bytes().len().try_into().unwrap(),
            chunks: pack.rows.len().try_into().unwrap(),
        });
        for (slot, chunk) in (0..).zip(&pack.rows) {
            entries.push(IndexEntry::new(&chunk.id, row, chunk.offset, chunk.stored_len, slot));
        }
    }
    entries.sort_by_key(|entry| (entry.prefix, entry.pack));
    (rows, entries)
}

pub fn segment() -> Vec<u8> {
    let keys = keys();
    let (packs, entries) = index();
    let mut builder = SegmentBuilder::new(&keys, name(0), SALT, &packs);
    for entry in &entries {
        builder.push(entry);
    }
    builder.finish().unwrap().0
}

pub fn volume_page() -> volume::Page {
    let mut page = volume::Page::default();
    page.slots[1] = Slot::Zero;
    page.slots[2] = Slot::Data(ChunkId(ascending(0x60)));
    page.slots[3] = Slot::Missing;
    page.slots[1023] = Slot::Data(ChunkId(ascending(0x80)));
    page
}

pub fn volume_root() -> VolumeRoot {
    let id = keys().chunk_id(PackKind::Meta, &volume_page().encode());
    let page = volume::PageRef::Page(id);
    let pages = vec![volume::PageRef::Hole, volume::PageRef::Hole, page, volume::PageRef::Missing];
    VolumeRoot { size_bytes: (3 << 30) + 4096, chunk_log2: 20, pages }
}

pub fn entries() -> Vec<Entry> {
    let meta = Meta {
        mode: 0o640,
        uid: 1000,
        gid: 100,
        mtime: Time { sec: -1, nsec: 999_999_999 },
        ctime: Time { sec: TIME_NS / 1_000_000_000, nsec: 678_901_234 },
        size: 0,
        ino: 12_345,
        dev: 2049,
        nlink: 1,
        rdev: 0,
        xattrs: Vec::new(),
    };
    let entry = |path: &[u8], kind, size, content| Entry {
        path: path.to_vec(),
        kind,
        meta: Meta { size, ..meta.clone() },
        content,
        extents: Vec::new(),
    };
    let slice = |offset, len| Slice { chunk: ChunkId(ascending(0x60)), offset, len };
    let mut sparse = entry(b"d/sparse", EntryKind::File, 1 << 20, Content::None);
    sparse.content = Content::Slices(vec![slice(0, 4096), slice(8192, 100)]);
    sparse.extents = vec![Extent { offset: 0, len: 4096 }, Extent { offset: 65_536, len: 100 }];
    let mut inline = entry(b"d/\xffinline", EntryKind::File, 5, Content::Inline(b"hello".to_vec()));
    inline.meta.xattrs = vec![Xattr { name: b"user.k".to_vec(), value: b"v\0".to_vec() }];
    let mut device = entry(b"disk", EntryKind::BlockDevice, 0, Content::None);
    device.meta.rdev = 0x0801;
    vec![
        entry(b"", EntryKind::Dir, 0, Content::None),
        entry(b"d", EntryKind::Dir, 0, Content::None),
        sparse,
        inline,
        entry(b"d.x", EntryKind::File, 0, Content::None),
        device,
        entry(b"huge", EntryKind::File, 1 << 40, Content::Indirect(vec![ChunkId(ascending(0x80))])),
        entry(b"link", EntryKind::File, 5, Content::HardLink(b"d/\xffinline".to_vec())),
        entry(b"symlink", EntryKind::Symlink, 0, Content::Symlink(b"../d".to_vec())),
    ]
}

pub fn children() -> Vec<Child> {
    let leaf = keys().chunk_id(PackKind::Meta, &tree::encode_leaf(&entries()));
    let child = |path: &[u8], page| Child { page, first_path: path.to_vec(), entries: 9 };
    vec![child(b"", leaf), child(b"x/y", ChunkId(ascending(0x60))), child(b"x/z", leaf)]
}

pub fn tree_root() -> TreeRoot {
    let page = keys().chunk_id(PackKind::Meta, &tree::encode_inner(1, &children()));
    TreeRoot { page: Some(page), level: 1, entries: 27, files: 15, bytes: 1 << 41 }
}

pub fn slices() -> Vec<Slice> {
    let slice = |first, offset, len| Slice { chunk: ChunkId(ascending(first)), offset, len };
    vec![slice(0x60, 0, 1 << 20), slice(0x80, 127, 128)]
}

pub fn snapshot() -> Snapshot {
    Snapshot {
        id: SESSION,
        cluster: CLUSTER,
        kind: VolumeKind::Tree,
        completeness: Completeness::Incomplete,
        name: "db".into(),
        host: "node-1".into(),
        source: "/srv/db".into(),
        tags: vec![("app".into(), "shop".into())],
        started_ns: TIME_NS,
        finished_ns: TIME_NS + 1_000_000_000,
        root: keys().chunk_id(PackKind::Meta, &tree_root().encode()),
        holds: None,
        parent: Some(SessionId(ascending(0xe0))),
        sizes: Sizes {
            logical: 1 << 41,
            allocated: 1 << 40,
            read: 300,
            new_plain: 200,
            new_stored: 100,
            entries: 27,
        },
        issue_count: 1,
        issues: vec![Issue { what: "d/secret".into(), why: "Permission denied".into() }],
        program: "0.1.0".into(),
    }
}

pub fn session() -> Session {
    Session {
        kind: SessionKind::Writer,
        base: 7,
        pinned: None,
        part_of: None,
        cluster: CLUSTER,
        process: Process {
            host: "node-1".into(),
            boot_id: "8a6c2f0e-0000-4000-8000-000000000000".into(),
            pid_namespace: 4_026_531_836,
            pid: 4242,
            start_ticks: 123_456,
        },
        opened_s: TIME_S,
    }
}

fn segment_ref() -> SegmentRef {
    SegmentRef { name: name(0), entries: 7, packs: 2, bytes: segment().len().try_into().unwrap() }
}

pub fn commit() -> Commit {
    Commit {
        nonce: ascending(0x10),
        segments: vec![segment_ref()],
        snapshot: Some(snapshot()),
        forgets: vec![SessionId(ascending(0xe0))],
    }
}

pub fn catalog() -> Catalog {
    let digest = *blake3::hash(&catalog::encode_page(&listed())).as_bytes();
    let page = PageRef { n: 7, nonce: 0x0102_0304_0506_0708, snapshots: 1, digest };
    // A forgotten snapshot as short as one can be: the record stays below what is compressed.
    let forgotten = Snapshot {
        id: SessionId(ascending(0xe0)),
        completeness: Completeness::Checkpoint,
        holds: Some(SessionId(ascending(0xe0))),
        tags: Vec::new(),
        issues: Vec::new(),
        parent: None,
        ..snapshot()
    };
    Catalog {
        n: 8,
        previous: ascending(0x60),
        created_s: TIME_S,
        segments: vec![segment_ref()],
        pages: vec![None, Some(page)],
        folded: vec![Folded { session: SESSION, at_s: TIME_S }],
        dying: vec![Dying { since: 8, snapshot: forgotten }],
        condemned: vec![Condemned { pack: name(2), since: 8 }],
        dead: vec![],
        bad: vec![name(3)],
        lock: None,
    }
}

/// The same in a repository whose objects are locked.
pub fn locked_catalog() -> Catalog {
    let lock = ObjectLock {
        mode: LockMode::Compliance,
        period_s: 2_592_000,
        slack_s: 1_296_000,
        since: 3,
        settled_s: Some(TIME_S),
        rounds_s: (0..).take(LOCK_GROUPS).map(|group| TIME_S + group).collect(),
    };
    Catalog { lock: Some(lock), ..catalog() }
}

pub fn listed() -> Vec<Listed> {
    vec![Listed { since: 7, snapshot: snapshot() }]
}

/// Small objects: file of the plain bytes, file of the sealed object, its key, plain bytes.
pub fn records() -> [(&'static str, &'static str, ObjectKey, Vec<u8>); 4] {
    let page = ObjectKey::CatalogPage { n: 7, nonce: 0x0102_0304_0506_0708 };
    [
        ("session.hex", "session-sealed.hex", ObjectKey::Session(SESSION), session().encode()),
        ("commit.hex", "commit-sealed.hex", ObjectKey::Commit(SESSION), commit().encode()),
        ("catalog.hex", "catalog-sealed.hex", ObjectKey::Catalog(8), catalog().encode()),
        ("catalog-page.hex", "catalog-page-sealed.hex", page, catalog::encode_page(&listed())),
    ]
}

pub fn slot(kdf: Kdf) -> KeySlot {
    let label = ("golden".to_owned(), TIME_S);
    KeySlot::wrap(&bundle(), (&REPOSITORY, &SLOT), PASSPHRASE, kdf, SALT, label).unwrap()
}

pub fn object_keys() -> Vec<ObjectKey> {
    vec![
        ObjectKey::Config,
        ObjectKey::KeySlot(SLOT),
        ObjectKey::Catalog(0),
        ObjectKey::Catalog(8),
        ObjectKey::CatalogPage { n: 7, nonce: 0x0102_0304_0506_0708 },
        ObjectKey::Session(SESSION),
        ObjectKey::Commit(SESSION),
        ObjectKey::Heartbeat(SESSION),
        ObjectKey::Pack(name(0)),
        ObjectKey::Pack(name(1)),
        ObjectKey::Segment(name(0)),
    ]
}

fn cuts(sizes: ChunkSizes, bytes: &[u8], text: &mut String) {
    let chunker = Chunker::new(keys().gear(), sizes);
    writeln!(text, "min {} avg {} max {}", sizes.min, sizes.avg, sizes.max).unwrap();
    let mut end = 0;
    while let Some(len) = chunker.next_cut(&bytes[end..], true) {
        end += len;
        writeln!(text, "{end}").unwrap();
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// 32 bytes a line.
fn hex_lines(bytes: &[u8]) -> Vec<u8> {
    let lines: Vec<String> = bytes.chunks(32).map(|line| hex(line) + "\n").collect();
    lines.concat().into_bytes()
}

fn texts() -> Vec<Vector> {
    let keys = keys();
    let mut ids = String::new();
    for (what, plain) in id_inputs() {
        writeln!(ids, "data {} {what}", keys.chunk_id(PackKind::Data, &plain)).unwrap();
        writeln!(ids, "meta {} {what}", keys.chunk_id(PackKind::Meta, &plain)).unwrap();
    }
    let paths: Vec<String> = object_keys().iter().map(|key| format!("{key}\n")).collect();
    let stream = noise("salvor golden stream", 64 << 20);
    let mut default = String::new();
    cuts(ChunkSizes::default(), &stream, &mut default);
    let mut small = String::new();
    let sizes = ChunkSizes { min: 2048, avg: 8192, max: 65_536 };
    cuts(sizes, &stream[..1_048_577], &mut small);
    [
        ("chunk-ids.txt", ids),
        ("object-names.txt", paths.concat()),
        ("keys.txt", by_hand::keys_text()),
        ("cuts-default.txt", default),
        ("cuts-small.txt", small),
    ]
    .map(|(file, text)| Vector { file, bytes: text.into_bytes() })
    .into()
}

/// Every golden file whose bytes the format determines.
pub fn all() -> Vec<Vector> {
    let keys = keys();
    let mut vectors = texts();
    let config = Config::new(REPOSITORY, TIME_S).encode(&keys);
    let mut hexes = vec![
        ("config.hex", config),
        ("slot-key-file.hex", slot(Kdf::KeyFile).encode()),
        ("slot-argon2id.hex", slot(Kdf::default()).encode()),
        ("segment.hex", segment()),
        ("volume-page.hex", volume_page().encode()),
        ("volume-root.hex", volume_root().encode()),
        ("tree-leaf.hex", tree::encode_leaf(&entries())),
        ("tree-inner.hex", tree::encode_inner(1, &children())),
        ("tree-root.hex", tree_root().encode()),
        ("slices.hex", tree::encode_slices(&slices())),
        ("catalog-locked.hex", locked_catalog().encode()),
    ];
    for (plain_file, sealed_file, key, plain) in records() {
        assert!(plain.len() < 512, "{plain_file} would be compressed, which is not golden");
        hexes.push((sealed_file, envelope::seal(&keys, &REPOSITORY, &key, SALT, &plain).unwrap()));
        hexes.push((plain_file, plain));
    }
    vectors.extend(hexes.iter().map(|(file, bytes)| Vector { file, bytes: hex_lines(bytes) }));
    for (file, kind) in [("pack-data.bin", PackKind::Data), ("pack-meta.bin", PackKind::Meta)] {
        let bytes = pack(kind).buffer.as_bytes().to_vec();
        assert!(bytes.len() <= limits::PACK_BYTES_MAX);
        vectors.push(Vector { file, bytes });
    }
    vectors
}

/// What the frame in `frame-zstd.hex` holds. The frame itself is not golden: compressors differ.
pub fn zstd_plain() -> Vec<u8> {
    b"salvor ".repeat(1000)
}

/// The file that is made once and then only read.
pub fn zstd_frame() -> Vector {
    let frame = FrameEncoder::new(Compression::default()).unwrap().encode(&zstd_plain()).to_vec();
    Vector { file: "frame-zstd.hex", bytes: hex_lines(&frame) }
}
