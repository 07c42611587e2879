use proptest::prelude::*;

use super::*;
use crate::testing::{self, chunk_id, noise};

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b'a'), Just(b'.'), Just(0x01), Just(0xff), 1u8..=255];
    proptest::collection::vec(byte.prop_filter("no slash", |byte| *byte != b'/'), 1..5)
        .prop_filter("a name", |name| !matches!(name.as_slice(), b"." | b".."))
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(name(), 0..4).prop_map(|names| names.join(&b'/'))
}

fn time() -> impl Strategy<Value = Time> {
    (any::<i64>(), 0u32..1_000_000_000).prop_map(|(sec, nsec)| Time { sec, nsec })
}

fn slice() -> impl Strategy<Value = Slice> {
    (chunk_id(), any::<u32>(), any::<u32>()).prop_map(|(chunk, offset, len)| Slice {
        chunk,
        offset,
        len: len.min(u32::MAX - offset),
    })
}

fn xattrs() -> impl Strategy<Value = Vec<Xattr>> {
    let bytes = || proptest::collection::vec(1u8..=255, 1..6);
    proptest::collection::btree_map(bytes(), bytes(), 0..4)
        .prop_map(|all| all.into_iter().map(|(name, value)| Xattr { name, value }).collect())
}

prop_compose! {
    fn meta()(
        (mode, [uid, gid, nlink], [ino, dev, rdev]) in
            (0u32..=0o7777, any::<[u32; 3]>(), any::<[u64; 3]>()),
        mtime in time(),
        ctime in time(),
        xattrs in xattrs(),
    ) -> Meta {
        Meta { mode, uid, gid, mtime, ctime, size: 0, ino, dev, nlink, rdev, xattrs }
    }
}

/// A kind with content that fits it, the size that goes with both, and extents.
fn body() -> impl Strategy<Value = (EntryKind, Content, u64, Vec<Extent>)> {
    let special = prop_oneof![
        Just(EntryKind::Dir),
        Just(EntryKind::Fifo),
        Just(EntryKind::Socket),
        Just(EntryKind::CharDevice),
        Just(EntryKind::BlockDevice),
    ];
    let slices = || proptest::collection::vec(slice(), 0..5);
    let sum = |slices: &[Slice]| slices.iter().map(|slice| u64::from(slice.len)).sum();
    prop_oneof![
        special.prop_map(|kind| (kind, Content::None, 0, vec![])),
        Just((EntryKind::File, Content::None, 0, vec![])),
        (0u64..1 << 40).prop_map(|size| {
            (EntryKind::File, Content::None, size, vec![Extent { offset: size, len: 0 }])
        }),
        proptest::collection::vec(any::<u8>(), 0..=512).prop_map(|bytes| {
            let size = len_u64(bytes.len());
            (EntryKind::File, Content::Inline(bytes), size, vec![])
        }),
        slices().prop_map(move |slices| {
            let size = sum(&slices);
            (EntryKind::File, Content::Slices(slices), size, vec![])
        }),
        (slices(), 0u64..1 << 30, 0u64..1 << 30).prop_map(move |(slices, gap, tail)| {
            let len: u64 = sum(&slices);
            let first = Extent { offset: gap, len: len / 3 };
            let second = Extent { offset: 2 * gap + len / 3, len: len - len / 3 };
            let size = second.offset + second.len + tail;
            (EntryKind::File, Content::Slices(slices), size, vec![first, second])
        }),
        (proptest::collection::vec(chunk_id(), 0..4), any::<u64>()).prop_map(|(chunks, size)| (
            EntryKind::File,
            Content::Indirect(chunks),
            size,
            vec![]
        )),
        name().prop_map(|target| (EntryKind::Symlink, Content::Symlink(target), 0, vec![])),
    ]
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let entry =
        (path(), meta(), body()).prop_map(|(path, meta, (kind, content, size, extents))| Entry {
            path,
            kind,
            meta: Meta { size, ..meta },
            content,
            extents,
        });
    proptest::collection::vec(entry, 0..20).prop_map(|mut entries| {
        entries.sort_by(|a, b| cmp_paths(&a.path, &b.path));
        entries.dedup_by(|a, b| a.path == b.path);
        entries
    })
}

proptest! {
    #[test]
    fn a_leaf_is_read_back_as_it_was(entries in entries()) {
        let bytes = encode_leaf(&entries);
        for entry in &entries {
            entry.check().unwrap();
        }
        prop_assert_eq!(decode_page(&bytes).unwrap(), Page::Leaf(entries));
    }

    #[test]
    fn an_inner_page_is_read_back_as_it_was(
        paths in proptest::collection::vec((path(), chunk_id(), any::<u64>()), 0..20),
        level in 1..=TREE_DEPTH_MAX,
    ) {
        let mut children: Vec<Child> = paths
            .into_iter()
            .map(|(first_path, page, entries)| Child { page, first_path, entries })
            .collect();
        children.sort_by(|a, b| cmp_paths(&a.first_path, &b.first_path));
        children.dedup_by(|a, b| a.first_path == b.first_path);
        let bytes = encode_inner(level, &children);
        prop_assert_eq!(decode_page(&bytes).unwrap(), Page::Inner { level, children });
    }

    #[test]
    fn slices_are_read_back_as_they_were(slices in proptest::collection::vec(slice(), 0..50)) {
        prop_assert_eq!(decode_slices(&encode_slices(&slices)).unwrap(), slices);
    }

    #[test]
    fn a_directory_comes_right_before_what_is_below_it(a in path(), b in path()) {
        prop_assert_eq!(cmp_paths(&a, &b), cmp_paths(&b, &a).reverse());
        if is_below(&a, &b) && a != b {
            prop_assert_eq!(cmp_paths(&b, &a), Ordering::Less);
        }
    }

    #[test]
    fn what_lies_below_one_directory_is_one_run(
        mut paths in proptest::collection::vec(path(), 1..40),
        dir in path(),
    ) {
        paths.sort_by(|a, b| cmp_paths(a, b));
        let runs = paths.chunk_by(|a, b| is_below(a, &dir) == is_below(b, &dir));
        prop_assert!(runs.filter(|run| is_below(&run[0], &dir)).count() <= 1);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_page(&bytes);
        let _ = decode_page(&[&[1, 0], bytes.as_slice()].concat());
        let _ = TreeRoot::decode(&bytes);
        let _ = decode_slices(&bytes);
    }
}

fn file(path: &[u8]) -> Entry {
    let content = Content::None;
    let meta = Meta { mode: 0o644, ..Meta::default() };
    Entry { path: path.to_vec(), kind: EntryKind::File, meta, content, extents: vec![] }
}

fn encode(page: &Page) -> Vec<u8> {
    match page {
        Page::Leaf(entries) => encode_leaf(entries),
        Page::Inner { level, children } => encode_inner(*level, children),
    }
}

fn samples() -> Vec<Entry> {
    let chunk = ChunkId([3; 32]);
    let sparse = Entry {
        content: Content::Slices(vec![Slice { chunk, offset: 1, len: 300 }]),
        extents: vec![Extent { offset: 0, len: 100 }, Extent { offset: 4096, len: 200 }],
        meta: Meta {
            size: 8192,
            xattrs: vec![
                Xattr { name: b"user.a".to_vec(), value: b"1".to_vec() },
                Xattr { name: b"user.b".to_vec(), value: vec![] },
            ],
            ..Meta::default()
        },
        ..file(b"d/sparse")
    };
    let link = Entry { content: Content::HardLink(b"d/sparse".to_vec()), ..file(b"e") };
    let symlink = Entry {
        kind: EntryKind::Symlink,
        content: Content::Symlink(b"../x".to_vec()),
        ..file(b"f")
    };
    let dir = |path| Entry { kind: EntryKind::Dir, ..file(path) };
    vec![dir(b""), dir(b"d"), sparse, link, symlink]
}

#[test]
fn a_damaged_page_is_refused_or_another_page() {
    let leaf = encode_leaf(&samples());
    testing::refuses_damage_or_is_canonical(&leaf, decode_page, encode);
    let child =
        |path: &[u8]| Child { page: ChunkId([9; 32]), first_path: path.to_vec(), entries: 3 };
    let inner = encode_inner(2, &[child(b""), child(b"a/b"), child(b"a/c")]);
    testing::refuses_damage_or_is_canonical(&inner, decode_page, encode);
}

#[test]
fn a_damaged_root_or_list_of_slices_is_refused_or_another() {
    let root = TreeRoot { page: Some(ChunkId([1; 32])), level: 2, entries: 3, files: 2, bytes: 9 };
    for root in [TreeRoot { page: None, level: 0, ..root.clone() }, root] {
        assert_eq!(TreeRoot::decode(&root.encode()).unwrap(), root);
        let decode = |bytes: &[u8]| TreeRoot::decode(bytes);
        testing::refuses_damage_or_is_canonical(&root.encode(), decode, TreeRoot::encode);
    }
    let slices = encode_slices(&[Slice { chunk: ChunkId([1; 32]), offset: 200, len: 300 }]);
    testing::refuses_damage_or_is_canonical(&slices, decode_slices, |slices| encode_slices(slices));
}

#[test]
fn a_path_that_leaves_the_tree_is_refused() {
    for path in
        [&b".."[..], b".", b"a/..", b"../a", b"a/./b", b"/", b"/etc", b"a/", b"a//b", b"a\0b"]
    {
        assert!(!is_safe_path(path), "{path:?}");
        assert!(decode_page(&encode_leaf(&[file(path)])).is_err(), "{path:?}");
        let link = Entry { content: Content::HardLink(path.to_vec()), ..file(b"zz") };
        assert!(link.check().is_err(), "{path:?}");
    }
    for path in [&b""[..], b"a", b"...", b"..a", b"a/b", b"a\xff\n", b".a/.b"] {
        assert!(is_safe_path(path), "{path:?}");
    }
}

#[test]
fn paths_out_of_order_or_twice_are_refused() {
    for (first, second) in [(&b"b"[..], &b"a"[..]), (b"a", b"a"), (b"a.b", b"a/b"), (b"a", b"")] {
        let page = encode_leaf(&[file(first), file(second)]);
        assert!(decode_page(&page).is_err(), "{first:?} {second:?}");
    }
    assert!(decode_page(&encode_leaf(&[file(b"a/b"), file(b"a.b")])).is_ok());
}

#[test]
fn a_hard_link_points_back_to_an_earlier_path() {
    let link =
        |target: &[u8]| Entry { content: Content::HardLink(target.to_vec()), ..file(b"m") }.check();
    assert!(link(b"a").is_ok());
    assert!(link(b"m").is_err());
    assert!(link(b"z").is_err());
    let dir =
        Entry { kind: EntryKind::Dir, content: Content::HardLink(b"a".to_vec()), ..file(b"m") };
    assert!(dir.check().is_err());
}

#[test]
fn content_that_does_not_fit_its_kind_or_length_is_refused() {
    let slices = |len| Content::Slices(vec![Slice { chunk: ChunkId([1; 32]), offset: 0, len }]);
    let sized = |size, content, extents: &[Extent]| Entry {
        content,
        meta: Meta { size, ..Meta::default() },
        extents: extents.to_vec(),
        ..file(b"a")
    };
    let all = Extent { offset: 0, len: 10 };
    let rest = Extent { offset: 5, len: 10 };
    for entry in [
        Entry { kind: EntryKind::Dir, ..sized(1, Content::Inline(vec![0]), &[]) },
        Entry { kind: EntryKind::Symlink, ..file(b"a") },
        Entry { kind: EntryKind::Symlink, content: Content::Symlink(vec![]), ..file(b"a") },
        Entry { kind: EntryKind::Symlink, content: Content::Symlink(vec![0]), ..file(b"a") },
        Entry { content: Content::Symlink(b"b".to_vec()), ..file(b"a") },
        Entry { kind: EntryKind::Fifo, ..sized(10, Content::None, &[all]) },
        sized(1, Content::None, &[]),
        sized(9, slices(10), &[]),
        sized(9, Content::Inline(vec![0; 10]), &[]),
        sized(513, Content::Inline(vec![0; 513]), &[]),
        sized(20, slices(9), &[all]),
        sized(9, slices(10), &[all]),
        sized(20, slices(20), &[all, rest]),
        sized(u64::MAX, slices(10), &[Extent { offset: u64::MAX, len: 10 }]),
        Entry { meta: Meta { mode: 0o10000, ..Meta::default() }, ..file(b"a") },
        Entry {
            meta: Meta { mtime: Time { sec: 0, nsec: 1_000_000_000 }, ..Meta::default() },
            ..file(b"a")
        },
    ] {
        assert!(entry.check().is_err(), "{entry:?}");
    }
    sized(20, slices(10), &[all]).check().unwrap();
}

#[test]
fn lengths_that_overflow_are_an_error() {
    // Extents: a gap of 2^63 twice.
    let mut page = encode_leaf(&[file(b"a")]);
    page[6] |= HAS_EXTENTS;
    page.varint(2);
    for _ in 0..2 {
        page.varint(1 << 63);
        page.varint(1);
    }
    assert!(decode_page(&page).is_err());
    let mut slices = vec![RECORD_VERSION, 1];
    slices.raw(&[0; 32]);
    slices.varint(u32::MAX.into());
    slices.varint(1);
    assert!(decode_slices(&slices).is_err());
}

#[test]
fn attributes_out_of_order_twice_or_without_a_name_are_refused() {
    let with = |names: [&[u8]; 2]| {
        let mut page = encode_leaf(&[file(b"a")]);
        page[6] |= HAS_XATTRS;
        page.varint(2);
        for name in names {
            page.blob(name);
            page.blob(b"value");
        }
        decode_page(&page)
    };
    assert!(with([b"a", b"b"]).is_ok());
    assert!(with([b"b", b"a"]).is_err());
    assert!(with([b"a", b"a"]).is_err());
    assert!(with([b"", b"a"]).is_err());
    assert!(with([b"a", b"a\0"]).is_err());
}

#[test]
fn attributes_are_stored_in_order_however_they_come() {
    let xattr = |name: &[u8]| Xattr { name: name.to_vec(), value: vec![] };
    let meta = Meta { xattrs: vec![xattr(b"b"), xattr(b"a")], ..Meta::default() };
    let Page::Leaf(entries) = decode_page(&encode_leaf(&[Entry { meta, ..file(b"f") }])).unwrap()
    else {
        panic!("not a leaf")
    };
    assert_eq!(entries[0].meta.xattrs, [xattr(b"a"), xattr(b"b")]);
}

#[test]
fn a_flag_without_what_it_announces_is_refused() {
    for flag in [HAS_EXTENTS, HAS_XATTRS] {
        let mut page = encode_leaf(&[file(b"a")]);
        page[6] |= flag;
        page.varint(0);
        assert!(decode_page(&page).is_err());
    }
}

#[test]
fn a_prefix_is_shared_in_full() {
    let mut page = vec![RECORD_VERSION, 0];
    page.varint(2);
    put_path(&mut page, b"", b"abc");
    put_entry(&mut page, &file(b"abc"));
    page.varint(1);
    page.blob(b"bd");
    put_entry(&mut page, &file(b"abd"));
    assert!(decode_page(&page).is_err());
}

#[test]
fn paths_cannot_be_blown_up_by_their_shared_prefixes() {
    let long = noise(1, to_usize(PATH_BYTES_MAX) - 8).iter().map(|byte| byte | 0x80).collect();
    let long: Vec<u8> = long;
    let children: Vec<Child> = (0..2000u32)
        .map(|n| Child {
            page: ChunkId([0; 32]),
            first_path: [long.as_slice(), format!("{n:08}").as_bytes()].concat(),
            entries: 1,
        })
        .collect();
    let page = encode_inner(1, &children);
    assert!(page.len() < 200_000);
    assert!(matches!(decode_page(&page), Err(FormatError::Limit { .. })));
    assert!(decode_page(&encode_inner(1, &children[..PageCutter::MAX_CHILDREN])).is_ok());
}

#[test]
fn what_is_over_a_limit_is_refused() {
    let path = |len: u64| file(&vec![b'a'; to_usize(len)]);
    path(PATH_BYTES_MAX).check().unwrap();
    assert!(matches!(path(PATH_BYTES_MAX + 1).check(), Err(FormatError::Limit { .. })));
    let xattrs = |count: u64, bytes: u64| {
        let xattr = |n| Xattr { name: format!("{n:08}").into(), value: vec![0; to_usize(bytes)] };
        let meta = Meta { xattrs: (0..count).map(xattr).collect(), ..Meta::default() };
        Entry { meta, ..file(b"a") }.check()
    };
    xattrs(1, XATTR_BYTES_MAX).unwrap();
    assert!(xattrs(1, XATTR_BYTES_MAX + 1).is_err());
    xattrs(XATTRS_MAX, 0).unwrap();
    assert!(xattrs(XATTRS_MAX + 1, 0).is_err());
    assert!(xattrs(64, XATTR_BYTES_MAX).is_err());
    let slices = |count: u64| {
        let slice = Slice { chunk: ChunkId([1; 32]), offset: 0, len: 1 };
        let content = Content::Slices(vec![slice; to_usize(count)]);
        Entry { content, meta: Meta { size: count, ..Meta::default() }, ..file(b"a") }.check()
    };
    slices(ENTRY_SLICES_MAX).unwrap();
    assert!(slices(ENTRY_SLICES_MAX + 1).is_err());
    let chunks = |count: u64| {
        Entry { content: Content::Indirect(vec![ChunkId([1; 32]); to_usize(count)]), ..file(b"a") }
            .check()
    };
    chunks(INDIRECT_MAX).unwrap();
    assert!(chunks(INDIRECT_MAX + 1).is_err());
    assert!(decode_page(&vec![1; TREE_PAGE_BYTES_MAX + 1]).is_err());
    assert!(decode_page(&encode_inner(TREE_DEPTH_MAX + 1, &[])).is_err());
    let slice = Slice { chunk: ChunkId([1; 32]), offset: 0, len: 1 };
    let full = encode_slices(&vec![slice; SLICES_PER_CHUNK]);
    assert!(decode_slices(&full).is_ok());
    assert!(full.len() <= crate::limits::CHUNK_BYTES_MAX);
    assert!(decode_slices(&encode_slices(&vec![slice; SLICES_PER_CHUNK + 1])).is_err());
}

#[test]
fn the_largest_of_everything_fits_a_page() {
    let xattr = |n| Xattr { name: format!("{n:08}").into(), value: vec![0; 200] };
    let extent = |n: u64| Extent { offset: n << 40, len: 1 << 39 };
    let entry = Entry {
        meta: Meta {
            size: u64::MAX,
            xattrs: (0..XATTRS_MAX).map(xattr).collect(),
            ..Meta::default()
        },
        content: Content::Indirect(vec![ChunkId([1; 32]); to_usize(INDIRECT_MAX)]),
        extents: (0..EXTENTS_MAX).map(extent).collect(),
        ..file(&vec![b'a'; to_usize(PATH_BYTES_MAX)])
    };
    entry.check().unwrap();
}

#[test]
fn the_shortest_rows_are_as_short_as_their_counts_assume() {
    let empty = encode_leaf(&[]).len();
    let root = Entry { meta: Meta::default(), ..file(b"") };
    assert_eq!(encode_leaf(&[root]).len() - empty, ENTRY_LEN_MIN);
    let child = Child { page: ChunkId([0; 32]), first_path: vec![], entries: 0 };
    assert_eq!(encode_inner(1, &[child]).len() - empty, CHILD_LEN_MIN);
}

#[test]
fn a_page_of_a_newer_layout_is_told_from_damage() {
    let expected = Err(FormatError::NewerVersion { found: 2, supported: 1 });
    assert_eq!(decode_page(&[2, 0, 0]), expected);
}

#[test]
fn pages_end_where_names_say_and_never_far_away() {
    let cutter = PageCutter::new([7; 32]);
    let names: Vec<Vec<u8>> = (0..10_000u32).map(|n| n.to_string().into()).collect();
    assert!(names.iter().all(|name| !cutter.ends_leaf(name, PageCutter::MIN_BYTES - 1)));
    assert!(names.iter().all(|name| cutter.ends_leaf(name, PageCutter::TARGET_MAX_BYTES)));
    let ends = names.iter().filter(|name| cutter.ends_leaf(name, PageCutter::MIN_BYTES)).count();
    assert!((100..220).contains(&ends), "{ends} of 10000");
    assert!(cutter.ends_leaf(&[b'a'; LONG_PATH_BYTES + 1], 1));
    let other = PageCutter::new([8; 32]);
    let differ = |name: &&Vec<u8>| {
        cutter.ends_leaf(name, PageCutter::MIN_BYTES)
            != other.ends_leaf(name, PageCutter::MIN_BYTES)
    };
    assert!(names.iter().any(|name| differ(&name)), "the key does not matter");
    assert!(PageCutter::ends_inner(&ChunkId([0x40; 32]), PageCutter::MIN_CHILDREN));
    assert!(!PageCutter::ends_inner(&ChunkId([0x40; 32]), PageCutter::MIN_CHILDREN - 1));
    assert!(!PageCutter::ends_inner(&ChunkId([0x41; 32]), PageCutter::MAX_CHILDREN - 1));
    assert!(PageCutter::ends_inner(&ChunkId([0x41; 32]), PageCutter::MAX_CHILDREN));
}

#[test]
fn below_means_the_same_or_a_part_of_it() {
    assert!(is_below(b"a/b", b"a") && is_below(b"a", b"a") && is_below(b"a", b""));
    assert!(!is_below(b"ab", b"a") && !is_below(b"a", b"a/b") && !is_below(b"b", b"a"));
}
