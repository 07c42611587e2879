//! The manifest of a directory tree: one flat stream of entries in path order, cut into pages.
//!
//! Order is that of a depth-first walk with each directory's names sorted bytewise, which is the
//! bytewise order of paths whose `/` counts as less than any other byte. One order for everything
//! makes change detection, diff, listing and restore single merges over streams, whatever the
//! number of files and however large a directory.
//!
//! Level 0 pages hold entries; a page of level n > 0 holds [`Child`] references to pages of level
//! n − 1. A page ends where the content says so (see [`PageCutter`]), so that an unchanged run of
//! entries gives the same page, stored once.

use std::cmp::Ordering;

use crate::bytes::{Put, Reader, len_u64, to_usize};
use crate::error::{FormatError, check_record_version};
use crate::id::ChunkId;
use crate::limits::{
    ENTRY_SLICES_MAX, EXTENTS_MAX, INDIRECT_MAX, INLINE_BYTES_MAX, LONG_PATH_BYTES, PATH_BYTES_MAX,
    RECORD_VERSION, SLICES_PER_CHUNK, TREE_DEPTH_MAX, TREE_PAGE_BYTES_MAX, TREE_PATHS_BYTES_MAX,
    XATTR_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTRS_BYTES_MAX, XATTRS_MAX,
};

/// One object of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path below the tree's root: raw bytes, `/` between names, neither leading nor trailing.
    /// Empty for the root itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Its attributes.
    pub meta: Meta,
    /// Its bytes, or where they are.
    pub content: Content,
    /// Where the data of a sparse file lies: ascending, not touching, inside `meta.size`.
    /// Empty for a file without holes; the content is then `meta.size` bytes, otherwise the
    /// extents' bytes one after the other. [`Extent`] with `len` 0 at `size` marks all-hole files.
    pub extents: Vec<Extent>,
}

impl Entry {
    /// Whether a page that holds this entry can be read back. A writer asks before it appends an
    /// entry, and names what cannot be stored.
    ///
    /// # Errors
    ///
    /// The first limit exceeded or rule broken.
    pub fn check(&self) -> Result<(), FormatError> {
        match decode_page(&encode_leaf(std::slice::from_ref(self)))? {
            Page::Leaf(read) if read.iter().all(|entry| entry.extents == self.extents) => Ok(()),
            _ => Err(FormatError::Inconsistent { what: "extents of a sparse file" }),
        }
    }
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the kinds of inode that Linux has")]
pub enum EntryKind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// Attributes of an [`Entry`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
    /// Owner, numeric.
    pub uid: u32,
    /// Group, numeric.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of the inode. Never restored; tells a changed file from an unchanged one.
    pub ctime: Time,
    /// Length in bytes of a regular file; 0 for everything else.
    pub size: u64,
    /// Inode number on the source; for change detection only.
    pub ino: u64,
    /// Device number of the source file system; for telling mount points apart only.
    pub dev: u64,
    /// Hard links on the source.
    pub nlink: u32,
    /// Device number of a device node, as `makedev` packs it; 0 for everything else.
    pub rdev: u64,
    /// Extended attributes, ACLs among them, ascending by name.
    pub xattrs: Vec<Xattr>,
}

/// A point in time: `sec` since 1970 (negative before) plus `nsec` below 10^9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
#[expect(missing_docs, reason = "said above")]
pub struct Time {
    pub sec: i64,
    pub nsec: u32,
}

/// One extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "raw bytes as the kernel gives them")]
pub struct Xattr {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

/// Where an entry's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// It has none: not a regular file, or an empty one.
    None,
    /// Here, at most [`INLINE_BYTES_MAX`].
    Inline(Vec<u8>),
    /// In these parts of chunks, one after the other.
    Slices(Vec<Slice>),
    /// As `Slices`, which are listed in these metadata chunks (see [`encode_slices`]).
    Indirect(Vec<ChunkId>),
    /// The target of a symbolic link, raw.
    Symlink(Vec<u8>),
    /// The path of an earlier entry that is the same inode.
    HardLink(Vec<u8>),
}

/// A part of a chunk's plain bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "in bytes")]
pub struct Slice {
    pub chunk: ChunkId,
    pub offset: u32,
    pub len: u32,
}

/// A run of bytes in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "in bytes")]
pub struct Extent {
    pub offset: u64,
    pub len: u64,
}

/// Orders two paths as a depth-first walk meets them.
pub fn cmp_paths(a: &[u8], b: &[u8]) -> Ordering {
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// Whether `path` is `prefix` itself or lies below it. The empty prefix holds everything.
pub fn is_below(path: &[u8], prefix: &[u8]) -> bool {
    match path.strip_prefix(prefix) {
        Some(rest) => prefix.is_empty() || rest.first().is_none_or(|byte| *byte == b'/'),
        None => false,
    }
}

/// Whether a path is one a restore may follow: relative, no empty, `.` or `..` component, no NUL.
pub fn is_safe_path(path: &[u8]) -> bool {
    path.is_empty()
        || (!path.contains(&0)
            && path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b"..")))
}

/// A reference from a page of level n > 0 to one of level n − 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// The page.
    pub page: ChunkId,
    /// Path of the first entry below it.
    pub first_path: Vec<u8>,
    /// Entries below it.
    pub entries: u64,
}

/// A decoded page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// Level 0.
    Leaf(Vec<Entry>),
    /// Level 1 and up.
    Inner {
        /// Above the leaves, at least 1.
        level: u8,
        /// In path order.
        children: Vec<Child>,
    },
}

/// Encodes a page of level 0. Entries must be in path order.
pub fn encode_leaf(entries: &[Entry]) -> Vec<u8> {
    let mut out = vec![RECORD_VERSION, 0];
    out.varint(len_u64(entries.len()));
    let mut previous: &[u8] = &[];
    for entry in entries {
        put_path(&mut out, previous, &entry.path);
        put_entry(&mut out, entry);
        previous = &entry.path;
    }
    out
}

/// Encodes a page of `level` ≥ 1.
pub fn encode_inner(level: u8, children: &[Child]) -> Vec<u8> {
    let mut out = vec![RECORD_VERSION, level];
    out.varint(len_u64(children.len()));
    let mut previous: &[u8] = &[];
    for child in children {
        put_path(&mut out, previous, &child.first_path);
        out.raw(child.page.as_bytes());
        out.varint(child.entries);
        previous = &child.first_path;
    }
    out
}

/// Decodes a page of any level.
///
/// # Errors
///
/// Any [`FormatError`]: paths out of order or unsafe, limits exceeded, bytes missing or left over.
pub fn decode_page(bytes: &[u8]) -> Result<Page, FormatError> {
    if bytes.len() > TREE_PAGE_BYTES_MAX {
        let (found, limit) = (len_u64(bytes.len()), len_u64(TREE_PAGE_BYTES_MAX));
        return Err(FormatError::Limit { what: "tree page", found, limit });
    }
    let mut reader = Reader::new(bytes, "tree page");
    check_record_version(reader.u8()?)?;
    let level = reader.u8()?;
    if level > TREE_DEPTH_MAX {
        return Err(FormatError::Inconsistent { what: "level of a tree page" });
    }
    let page = if level == 0 {
        Page::Leaf(read_entries(&mut reader)?)
    } else {
        Page::Inner { level, children: read_children(&mut reader)? }
    };
    reader.finish()?;
    Ok(page)
}

/// Bytes of the shortest entry and of the shortest child.
const ENTRY_LEN_MIN: usize = 21;
const CHILD_LEN_MIN: usize = 35;

/// Rows that are reserved before they are read: a decoded row is larger than its bytes.
const ROWS_RESERVED: usize = 1024;

fn read_entries(reader: &mut Reader<'_>) -> Result<Vec<Entry>, FormatError> {
    let count = reader.count(u64::MAX, ENTRY_LEN_MIN, "entries of a tree page")?;
    let mut entries: Vec<Entry> = Vec::with_capacity(count.min(ROWS_RESERVED));
    let mut paths = Paths::default();
    for _ in 0..count {
        let path = paths.read(reader, entries.last().map(|entry| entry.path.as_slice()))?;
        entries.push(read_entry(reader, path)?);
    }
    Ok(entries)
}

fn read_children(reader: &mut Reader<'_>) -> Result<Vec<Child>, FormatError> {
    let count = reader.count(u64::MAX, CHILD_LEN_MIN, "entries of a tree page")?;
    let mut children: Vec<Child> = Vec::with_capacity(count.min(ROWS_RESERVED));
    let mut paths = Paths::default();
    for _ in 0..count {
        let last = children.last().map(|child| child.first_path.as_slice());
        let first_path = paths.read(reader, last)?;
        let page = ChunkId(reader.array()?);
        children.push(Child { page, first_path, entries: reader.varint()? });
    }
    Ok(children)
}

fn put_path(out: &mut Vec<u8>, previous: &[u8], path: &[u8]) {
    let shared = previous.iter().zip(path).take_while(|(a, b)| a == b).count();
    out.varint(len_u64(shared));
    out.blob(path.get(shared..).unwrap_or_default());
}

/// Reads a page's paths and keeps count of what they take without their prefixes shared.
#[derive(Default)]
struct Paths {
    total_bytes: u64,
}

impl Paths {
    fn read(
        &mut self,
        reader: &mut Reader<'_>,
        previous: Option<&[u8]>,
    ) -> Result<Vec<u8>, FormatError> {
        let shared = reader.bounded(PATH_BYTES_MAX, "shared part of a path")?;
        let rest = reader.blob(PATH_BYTES_MAX, "path")?;
        let (shared, differing) =
            previous
                .unwrap_or_default()
                .split_at_checked(to_usize(shared))
                .ok_or(FormatError::Inconsistent { what: "shared part of a path" })?;
        let path_bytes = len_u64(shared.len() + rest.len());
        check_limit("path", path_bytes, PATH_BYTES_MAX)?;
        self.total_bytes = self.total_bytes.saturating_add(path_bytes);
        check_limit("paths of a tree page", self.total_bytes, TREE_PATHS_BYTES_MAX)?;
        let path = [shared, rest].concat();
        let ordered = previous.is_none_or(|previous| cmp_paths(previous, &path) == Ordering::Less);
        let shares_all = rest.first().is_none_or(|first| differing.first() != Some(first));
        if !ordered || !shares_all || !is_safe_path(&path) {
            return Err(FormatError::Inconsistent { what: "path in a tree page" });
        }
        Ok(path)
    }
}

fn check_limit(what: &'static str, found: u64, limit: u64) -> Result<(), FormatError> {
    if found > limit {
        return Err(FormatError::Limit { what, found, limit });
    }
    Ok(())
}

const HAS_EXTENTS: u8 = 0x08;
const HAS_XATTRS: u8 = 0x10;
const HAS_CONTENT_SHIFT: u8 = 5;

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    let kind = match entry.kind {
        EntryKind::File => 0,
        EntryKind::Dir => 1,
        EntryKind::Symlink => 2,
        EntryKind::Fifo => 3,
        EntryKind::Socket => 4,
        EntryKind::CharDevice => 5,
        EntryKind::BlockDevice => 6,
    };
    let content: u8 = match entry.content {
        Content::None => 0,
        Content::Inline(_) => 1,
        Content::Slices(_) => 2,
        Content::Indirect(_) => 3,
        Content::Symlink(_) => 4,
        Content::HardLink(_) => 5,
    };
    let extents = if entry.extents.is_empty() { 0 } else { HAS_EXTENTS };
    let xattrs = if entry.meta.xattrs.is_empty() { 0 } else { HAS_XATTRS };
    out.u8(kind | extents | xattrs | content << HAS_CONTENT_SHIFT);
    put_meta(out, &entry.meta);
    put_content(out, &entry.content);
    if !entry.extents.is_empty() {
        put_extents(out, &entry.extents);
    }
}

fn put_meta(out: &mut Vec<u8>, meta: &Meta) {
    for number in [meta.mode, meta.uid, meta.gid, meta.nlink] {
        out.varint(number.into());
    }
    for time in [meta.mtime, meta.ctime] {
        out.signed_varint(time.sec);
        out.u32(time.nsec);
    }
    for number in [meta.size, meta.ino, meta.dev, meta.rdev] {
        out.varint(number);
    }
    if !meta.xattrs.is_empty() {
        let mut xattrs: Vec<&Xattr> = meta.xattrs.iter().collect();
        xattrs.sort_by(|a, b| a.name.cmp(&b.name));
        out.varint(len_u64(xattrs.len()));
        for xattr in xattrs {
            out.blob(&xattr.name);
            out.blob(&xattr.value);
        }
    }
}

fn put_content(out: &mut Vec<u8>, content: &Content) {
    match content {
        Content::None => {}
        Content::Inline(bytes) | Content::Symlink(bytes) | Content::HardLink(bytes) => {
            out.blob(bytes);
        }
        Content::Slices(slices) => put_slices(out, slices),
        Content::Indirect(chunks) => {
            out.varint(len_u64(chunks.len()));
            for chunk in chunks {
                out.raw(chunk.as_bytes());
            }
        }
    }
}

fn put_slices(out: &mut Vec<u8>, slices: &[Slice]) {
    out.varint(len_u64(slices.len()));
    for slice in slices {
        out.raw(slice.chunk.as_bytes());
        out.varint(slice.offset.into());
        out.varint(slice.len.into());
    }
}

fn put_extents(out: &mut Vec<u8>, extents: &[Extent]) {
    out.varint(len_u64(extents.len()));
    let mut end = 0;
    for extent in extents {
        out.varint(extent.offset.saturating_sub(end));
        out.varint(extent.len);
        end = extent.offset.saturating_add(extent.len);
    }
}

fn read_entry(reader: &mut Reader<'_>, path: Vec<u8>) -> Result<Entry, FormatError> {
    let head = reader.u8()?;
    let kind = match head & 0x07 {
        0 => EntryKind::File,
        1 => EntryKind::Dir,
        2 => EntryKind::Symlink,
        3 => EntryKind::Fifo,
        4 => EntryKind::Socket,
        5 => EntryKind::CharDevice,
        6 => EntryKind::BlockDevice,
        _ => return Err(FormatError::Inconsistent { what: "kind of a tree entry" }),
    };
    let meta = read_meta(reader, head & HAS_XATTRS != 0)?;
    let content = read_content(reader, head >> HAS_CONTENT_SHIFT)?;
    let extents =
        if head & HAS_EXTENTS == 0 { Vec::new() } else { read_extents(reader, meta.size)? };
    let entry = Entry { path, kind, meta, content, extents };
    check_content(&entry)?;
    Ok(entry)
}

/// The rules that tie an entry's fields together, so that a restore need not ask again.
fn check_content(entry: &Entry) -> Result<(), FormatError> {
    let content_fits = match (&entry.content, entry.kind) {
        (Content::Symlink(target), kind) => {
            kind == EntryKind::Symlink && !target.is_empty() && !target.contains(&0)
        }
        (Content::HardLink(path), kind) => {
            kind != EntryKind::Dir
                && is_safe_path(path)
                && cmp_paths(path, &entry.path) == Ordering::Less
        }
        (Content::None, EntryKind::Symlink) => false,
        (Content::None, _) => true,
        (_, kind) => kind == EntryKind::File,
    };
    if !content_fits || (!entry.extents.is_empty() && entry.kind != EntryKind::File) {
        return Err(FormatError::Inconsistent { what: "content of a tree entry" });
    }
    // Extents do not overlap and lie inside the file: their sum cannot overflow.
    let data_bytes = if entry.extents.is_empty() {
        entry.meta.size
    } else {
        entry.extents.iter().fold(0u64, |sum, extent| sum.saturating_add(extent.len))
    };
    let stored = match &entry.content {
        Content::None if entry.kind == EntryKind::File => Some(0),
        Content::Inline(bytes) => Some(len_u64(bytes.len())),
        Content::Slices(slices) => Some(slices.iter().map(|slice| u64::from(slice.len)).sum()),
        _ => None,
    };
    if stored.is_some_and(|stored| stored != data_bytes) {
        return Err(FormatError::Inconsistent { what: "length of a tree entry" });
    }
    Ok(())
}

fn read_u32(reader: &mut Reader<'_>, what: &'static str) -> Result<u32, FormatError> {
    reader
        .varint()
        .and_then(|value| u32::try_from(value).map_err(|_| FormatError::Inconsistent { what }))
}

fn read_time(reader: &mut Reader<'_>) -> Result<Time, FormatError> {
    let time = Time { sec: reader.signed_varint()?, nsec: reader.u32()? };
    if time.nsec >= 1_000_000_000 {
        return Err(FormatError::Inconsistent { what: "time of a tree entry" });
    }
    Ok(time)
}

fn read_meta(reader: &mut Reader<'_>, has_xattrs: bool) -> Result<Meta, FormatError> {
    let mut meta = Meta {
        mode: read_u32(reader, "mode")?,
        uid: read_u32(reader, "uid")?,
        gid: read_u32(reader, "gid")?,
        nlink: read_u32(reader, "nlink")?,
        mtime: read_time(reader)?,
        ctime: read_time(reader)?,
        size: reader.varint()?,
        ino: reader.varint()?,
        dev: reader.varint()?,
        rdev: reader.varint()?,
        xattrs: Vec::new(),
    };
    if meta.mode > 0o7777 {
        return Err(FormatError::Inconsistent { what: "mode" });
    }
    if has_xattrs {
        meta.xattrs = read_xattrs(reader)?;
    }
    Ok(meta)
}

fn read_xattrs(reader: &mut Reader<'_>) -> Result<Vec<Xattr>, FormatError> {
    let broken = FormatError::Inconsistent { what: "extended attributes" };
    let count = reader.count(XATTRS_MAX, 3, "extended attributes")?;
    let mut xattrs: Vec<Xattr> = Vec::new();
    let mut total_bytes = 0u64;
    for _ in 0..count {
        let name = reader.blob(XATTR_NAME_BYTES_MAX, "name of an extended attribute")?;
        let value = reader.blob(XATTR_BYTES_MAX, "extended attribute")?;
        total_bytes = total_bytes.saturating_add(len_u64(name.len() + value.len()));
        check_limit("extended attributes of a file", total_bytes, XATTRS_BYTES_MAX)?;
        let ascending = xattrs.last().is_none_or(|last| last.name.as_slice() < name);
        if !ascending || name.is_empty() || name.contains(&0) {
            return Err(broken);
        }
        xattrs.push(Xattr { name: name.to_vec(), value: value.to_vec() });
    }
    if xattrs.is_empty() { Err(broken) } else { Ok(xattrs) }
}

fn read_content(reader: &mut Reader<'_>, tag: u8) -> Result<Content, FormatError> {
    Ok(match tag {
        0 => Content::None,
        1 => Content::Inline(reader.blob(INLINE_BYTES_MAX, "inline content")?.to_vec()),
        2 => Content::Slices(read_slices(reader, ENTRY_SLICES_MAX)?),
        3 => {
            let count = reader.count(INDIRECT_MAX, ChunkId::LEN, "chunks of slices")?;
            Content::Indirect(
                (0..count).map(|_| reader.array().map(ChunkId)).collect::<Result<_, _>>()?,
            )
        }
        4 => Content::Symlink(reader.blob(PATH_BYTES_MAX, "symlink target")?.to_vec()),
        5 => Content::HardLink(reader.blob(PATH_BYTES_MAX, "hard link target")?.to_vec()),
        _ => return Err(FormatError::Inconsistent { what: "content of a tree entry" }),
    })
}

fn read_slices(reader: &mut Reader<'_>, limit: u64) -> Result<Vec<Slice>, FormatError> {
    let count = reader.count(limit, ChunkId::LEN + 2, "slices")?;
    let mut slices = Vec::with_capacity(count);
    for _ in 0..count {
        let chunk = ChunkId(reader.array()?);
        let slice = Slice {
            chunk,
            offset: read_u32(reader, "offset of a slice")?,
            len: read_u32(reader, "length of a slice")?,
        };
        if slice.offset.checked_add(slice.len).is_none() {
            return Err(FormatError::Inconsistent { what: "slice" });
        }
        slices.push(slice);
    }
    Ok(slices)
}

fn read_extents(reader: &mut Reader<'_>, size: u64) -> Result<Vec<Extent>, FormatError> {
    let broken = FormatError::Inconsistent { what: "extents of a sparse file" };
    let count = reader.count(EXTENTS_MAX, 2, "extents of a sparse file")?;
    let mut extents = Vec::with_capacity(count);
    let mut end = 0u64;
    for _ in 0..count {
        let offset = end.checked_add(reader.varint()?).ok_or(broken.clone())?;
        let len = reader.varint()?;
        end = offset.checked_add(len).filter(|end| *end <= size).ok_or(broken.clone())?;
        extents.push(Extent { offset, len });
    }
    if extents.is_empty() { Err(broken) } else { Ok(extents) }
}

/// Encodes at most [`SLICES_PER_CHUNK`] slices as the plain bytes of a metadata chunk.
pub fn encode_slices(slices: &[Slice]) -> Vec<u8> {
    let mut out = vec![RECORD_VERSION];
    put_slices(&mut out, slices);
    out
}

/// Decodes what [`encode_slices`] made.
///
/// # Errors
///
/// Any [`FormatError`].
pub fn decode_slices(bytes: &[u8]) -> Result<Vec<Slice>, FormatError> {
    let mut reader = Reader::new(bytes, "chunk of slices");
    check_record_version(reader.u8()?)?;
    let slices = read_slices(&mut reader, len_u64(SLICES_PER_CHUNK))?;
    reader.finish()?;
    Ok(slices)
}

/// The root of a tree manifest, a metadata chunk named by the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeRoot {
    /// The topmost page; `None` for a tree of which nothing was covered yet (a checkpoint).
    pub page: Option<ChunkId>,
    /// Level of that page.
    pub level: u8,
    /// Entries in all.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Sum of the sizes of regular files, hard links once.
    pub bytes: u64,
}

impl TreeRoot {
    /// The root's plain bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![RECORD_VERSION, self.level];
        out.optional(self.page.as_ref().map(ChunkId::as_bytes));
        for number in [self.entries, self.files, self.bytes] {
            out.u64(number);
        }
        out
    }

    /// Decodes a root.
    ///
    /// # Errors
    ///
    /// Any [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes, "tree root");
        check_record_version(reader.u8()?)?;
        let level = reader.u8()?;
        let root = Self {
            page: reader.optional()?.map(ChunkId),
            level,
            entries: reader.u64()?,
            files: reader.u64()?,
            bytes: reader.u64()?,
        };
        if level > TREE_DEPTH_MAX {
            return Err(FormatError::Inconsistent { what: "depth of a tree" });
        }
        reader.finish()?;
        Ok(root)
    }
}

/// Decides where pages end.
///
/// A leaf ends after an entry whose keyed name hash says so (on average every 64 entries), once
/// the page holds [`Self::MIN_BYTES`], and always at [`Self::TARGET_MAX_BYTES`] or after a path
/// longer than [`LONG_PATH_BYTES`]. An inner page ends
/// likewise after a child whose page id says so. Both depend on names and ids only, so an
/// unchanged run of entries meets the same ends whatever happened before it.
#[derive(Clone, Copy)]
pub struct PageCutter {
    key: [u8; 32],
}

impl std::fmt::Debug for PageCutter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageCutter(…)")
    }
}

impl PageCutter {
    /// A leaf is not ended below this size.
    pub const MIN_BYTES: usize = 16 << 10;
    /// A page is ended at this size whatever the content says.
    pub const TARGET_MAX_BYTES: usize = 256 << 10;
    /// An inner page is not ended below this many children.
    pub const MIN_CHILDREN: usize = 16;
    /// An inner page is ended at this many children.
    pub const MAX_CHILDREN: usize = 1024;

    /// `key` is secret and per repository: page sizes then tell nothing about names.
    pub const fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// Whether a leaf of `page_bytes` that has just taken the entry at `path` ends here.
    pub fn ends_leaf(&self, path: &[u8], page_bytes: usize) -> bool {
        page_bytes >= Self::TARGET_MAX_BYTES
            || path.len() > LONG_PATH_BYTES
            || (page_bytes >= Self::MIN_BYTES
                && one_in_64(blake3::keyed_hash(&self.key, path).as_bytes()))
    }

    /// Whether an inner page of `children` that has just taken the page `last` ends here.
    pub fn ends_inner(last: &ChunkId, children: usize) -> bool {
        children >= Self::MAX_CHILDREN
            || (children >= Self::MIN_CHILDREN && one_in_64(last.as_bytes()))
    }
}

fn one_in_64(hash: &[u8; 32]) -> bool {
    let [first, ..] = hash;
    first.trailing_zeros() >= 6
}

#[cfg(test)]
mod tests;
