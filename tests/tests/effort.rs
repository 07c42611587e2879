//! Effort that pays: how hard data is compressed, and that what is done is not done again.
#![expect(clippy::unwrap_used, reason = "a failure is a panic")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use repo_format::frame::Compression;
use repo_format::key::{ObjectKey, Prefix};
use repo_format::pack::PackKind;
use repository::chunks::ChunkSink;
use repository::effort::Effort;
use repository::packer::PackOptions;
use repository::store::{Listed, Memory, Store, StoreError, Strangers, Swept};
use repository::writer::{Writer, WriterOptions};
use tests::support::{Lab, MIB, Rng, make_image, noise_file, repository as lib, scratch, seed};

/// A store at the end of a thin line: each pack takes its time.
#[derive(Debug)]
struct Distant(Memory, Duration);

impl Store for Distant {
    fn get(&self, key: &ObjectKey, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        self.0.get(key, limit_bytes)
    }

    fn get_range(&self, key: &ObjectKey, offset: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        self.0.get_range(key, offset, buf)
    }

    fn put_new(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        if matches!(key, ObjectKey::Pack(_)) {
            std::thread::sleep(self.1);
        }
        self.0.put_new(key, body)
    }

    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        self.0.put(key, body)
    }

    fn list(
        &self,
        prefix: Prefix,
        visit: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
    ) -> Result<Strangers, StoreError> {
        self.0.list(prefix, visit)
    }

    fn list_first(&self, prefix: Prefix) -> Result<Option<ObjectKey>, StoreError> {
        self.0.list_first(prefix)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.0.delete(key)
    }

    fn size(&self, key: &ObjectKey) -> Result<u64, StoreError> {
        self.0.size(key)
    }

    fn sweep_temporary(&self) -> Result<Swept, StoreError> {
        self.0.sweep_temporary()
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

/// The level at the end of a run that stores 192 MiB, half of them noise.
fn level_after(per_pack: Duration, effort: Effort) -> Compression {
    let folder = scratch();
    let store: Arc<dyn Store> = Arc::new(Distant(Memory::default(), per_pack));
    lib::init(Arc::clone(&store));
    let (repository, index) = lib::open(store, folder.path()).unwrap();
    let packs = PackOptions::within(20 << 20, 1 << 20);
    let options = WriterOptions { effort, packs, ..lib::writer_options() };
    let (writer, _) = Writer::open(&repository, index, &options).unwrap();
    let mut rng = Rng::new(seed("effort"));
    for _ in 0..192 * MIB / (256 << 10) {
        let mut chunk = rng.noise(128 << 10);
        chunk.resize(256 << 10, 7);
        writer.put(PackKind::Data, &chunk).unwrap();
    }
    writer.compression()
}

#[test]
fn auto_compresses_harder_while_the_store_is_what_the_run_waits_for() {
    let slow = Duration::from_millis(300);
    assert_eq!(level_after(Duration::ZERO, Effort::Auto), Compression::Zstd(1));
    let Compression::Zstd(level) = level_after(slow, Effort::Auto) else { unreachable!() };
    assert!(level > 1, "level {level}");
    let told = Effort::Fixed(Compression::Zstd(1));
    assert_eq!(level_after(slow, told), Compression::Zstd(1));
}

#[test]
fn a_repack_keeps_what_was_compressed_hard_as_small_as_it_was() {
    const CHUNK: u64 = 64 << 10;
    let lab = Lab::new();
    let disk = lab.path("disk");
    // Short words: zstd 15 finds them, zstd 1 does not and takes a third more.
    let mut rng = Rng::new(seed("repack"));
    let words: Vec<String> = (0..500).map(|_| format!("{:04x} ", rng.below(65536))).collect();
    let text: String = (0..(16 << 20) / 5).map(|_| rng.pick(&words).as_str()).collect();
    fs::write(&disk, &text).unwrap();
    let line = ["backup", "disk", "--name", "disk", "--compression", "15", "--json"];
    lab.ok(&line);
    let all = lab.pack_bytes();
    let zeroes = vec![0; 64 << 10];
    let file = fs::OpenOptions::new().write(true).open(&disk).unwrap();
    for chunk in (0..16 * MIB / CHUNK).filter(|chunk| chunk % 4 > 0) {
        file.write_all_at(&zeroes, chunk * CHUNK).unwrap();
    }
    lab.ok(&line);
    lab.ok(&["forget", "--keep-last", "1"]);
    let pruned = lab.json(&["prune", "--max-repack", "100%"]);
    assert!(pruned["repacked_bytes"].as_u64().unwrap() > 0, "{pruned}");
    lab.assert_tidy();
    lab.verify();
    let quarter = lab.pack_bytes();
    assert!(quarter < all * 3 / 10, "{quarter} of {all} bytes for a quarter of the data");
}

#[test]
fn a_prune_that_has_nothing_to_do_writes_nothing() {
    let lab = Lab::new();
    make_image(&lab.path("disk"), 9, 32 * MIB);
    lab.ok(&[
        "backup",
        "disk",
        "--name",
        "disk",
        "--bandwidth",
        "24M",
        "--checkpoint-seconds",
        "0",
    ]);
    for _ in 0..2 {
        lab.json(&["prune"]);
    }
    let packs_and_segments = || {
        let stored = lab.stored();
        ["p", "x"].map(|folder| stored.get(folder).cloned().unwrap_or_default())
    };
    let settled = packs_and_segments();
    let again = lab.json(&["prune"]);
    assert_eq!(again["repacked_packs"], 0, "{again}");
    assert_eq!(packs_and_segments(), settled);
}

#[test]
fn two_prunes_do_however_many_index_segments_have_piled_up() {
    let lab = Lab::new();
    // More than one merge takes.
    for round in 0..80u8 {
        fs::write(lab.path("file"), vec![round + 1; 5000]).unwrap();
        lab.ok(&["backup", "file", "--name", "file"]);
    }
    let segments = || lab.stored().get("x").map_or(0, BTreeMap::len);
    assert!(segments() > 64, "{} segments", segments());
    for id in lab.snapshots() {
        lab.ok(&["forget", &id]);
    }
    for _ in 0..2 {
        println!("{}", lab.json(&["prune"]));
    }
    assert_eq!(segments(), 0);
    lab.assert_tidy();
}

#[test]
fn a_dry_run_says_what_a_prune_then_does() {
    let lab = Lab::new();
    for (number, mib) in [(1, 24), (2, 8), (3, 8)] {
        noise_file(&lab.path("disk"), number, mib * MIB);
        lab.ok(&["backup", "disk", "--name", "disk"]);
        noise_file(&lab.path("other"), 10 + number, MIB);
        lab.ok(&["backup", "other", "--name", "other"]);
    }
    lab.ok(&["forget", "--keep-last", "1", "--name", "disk"]);
    let options = ["prune", "--max-repack", "50%"];
    let dry = lab.json(&[&options[..], &["--dry-run"]].concat());
    let wet = lab.json(&options);
    let names = [
        "packs",
        "bytes",
        "needed_bytes",
        "unneeded_packs",
        "unneeded_bytes",
        "repacked_packs",
        "repacked_bytes",
        "leftover_packs",
        "leftover_bytes",
        "left_bytes",
        "missing_chunks",
    ];
    for name in names {
        assert_eq!(dry[name], wet[name], "{name}");
    }
    let of = |name: &str| wet[name].as_u64().unwrap();
    assert!(of("unneeded_packs") > 0);
    let deleted = of("unneeded_packs") + of("repacked_packs") + of("leftover_packs");
    assert_eq!(of("deleted_packs"), deleted, "{wet}");
    let again = lab.json(&[&options[..], &["--dry-run"]].concat());
    assert_eq!(again["unneeded_packs"], 0);
}
