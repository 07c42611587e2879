//! The catalog chain: what garbage collection knows and everyone agrees on.
//!
//! Catalog n + 1 is created once, by whoever comes first, and names n by hash. The snapshot list
//! is kept in pages, so that a new version rewrites only what changed.

use crate::bytes::{Put, Reader, len_u64};
use crate::error::{FormatError, check_catalog_version, check_record_version};
use crate::id::{PackName, SessionId, SnapshotId};
use crate::key::ObjectKey;
use crate::limits::{
    CATALOG_PAGE_SNAPSHOTS_MAX, CATALOG_PAGES_MAX, CATALOG_ROWS_MAX, CATALOG_VERSION,
    RECORD_VERSION,
};
use crate::lock::ObjectLock;
use crate::session::{SegmentRef, put_name, read_name};
use crate::snapshot::Snapshot;

/// Bytes of the shortest snapshot with the catalog version beside it.
const ROW_LEN_MIN: usize = 8 + Snapshot::LEN_MIN;

/// Rows that are reserved before they are read: a decoded row is larger than its bytes.
const ROWS_RESERVED: usize = 4096;

/// A page of the snapshot list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRef {
    /// The catalog version whose maker wrote the page.
    pub n: u64,
    /// See [`crate::key::ObjectKey::CatalogPage`].
    pub nonce: u64,
    /// Snapshots on it.
    pub snapshots: u32,
    /// BLAKE3 of its plain bytes: a rewrite with the same content keeps the page.
    pub digest: [u8; 32],
}

impl PageRef {
    /// The objects that hold the page: the same plain bytes twice, for a snapshot's record may be
    /// nowhere else. The second is the one whose nonce differs in the lowest bit.
    pub const fn keys(&self) -> [ObjectKey; 2] {
        let Self { n, nonce, .. } = *self;
        [ObjectKey::CatalogPage { n, nonce }, ObjectKey::CatalogPage { n, nonce: nonce ^ 1 }]
    }
}

/// A snapshot that was forgotten and may still be referenced by who read an older catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dying {
    /// The catalog version that forgot it.
    pub since: u64,
    /// The snapshot.
    pub snapshot: Snapshot,
}

/// A pack that no root needed when it was condemned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Condemned {
    /// The pack.
    pub pack: PackName,
    /// The catalog version that condemned it.
    pub since: u64,
}

/// A session whose register was folded in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Folded {
    /// The session.
    pub session: SessionId,
    /// When, in seconds since 1970. The row is dropped a day after both of its objects are gone,
    /// so that no request still under way can bring one back unnoticed.
    pub at_s: u64,
}

/// One version of the catalog, the snapshot list apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    /// Version, from 0.
    pub n: u64,
    /// BLAKE3 of the sealed object of version n − 1; zeroes for version 0, and for one with which
    /// a repair started the chain anew.
    pub previous: [u8; 32],
    /// Seconds since 1970, for people and for trimming old versions.
    pub created_s: u64,
    /// Index segments.
    pub segments: Vec<SegmentRef>,
    /// Pages of the snapshot list: a power of two of them, the page of a snapshot being the
    /// leading bits of its id. `None`: no snapshots there.
    pub pages: Vec<Option<PageRef>>,
    /// Sessions whose register was folded in and whose objects are not all gone yet.
    pub folded: Vec<Folded>,
    /// Forgotten snapshots.
    pub dying: Vec<Dying>,
    /// Condemned packs.
    pub condemned: Vec<Condemned>,
    /// Packs that may be deleted, and are kept here until no segment mentions them.
    pub dead: Vec<PackName>,
    /// Packs found missing or damaged: deduplication treats their chunks as absent.
    pub bad: Vec<PackName>,
    /// How objects are locked, if they are. A catalog that has it is of a newer layout, so that a
    /// program that does not know of locks stores nothing without.
    pub lock: Option<ObjectLock>,
}

impl Default for Catalog {
    /// Version 0 of an empty repository: one page, which has no snapshots.
    fn default() -> Self {
        Self {
            n: 0,
            previous: [0; 32],
            created_s: 0,
            segments: Vec::new(),
            pages: vec![None],
            folded: Vec::new(),
            dying: Vec::new(),
            condemned: Vec::new(),
            dead: Vec::new(),
            bad: Vec::new(),
            lock: None,
        }
    }
}

impl Catalog {
    /// Whether the session is among those that were folded lately.
    pub fn is_folded(&self, session: &SessionId) -> bool {
        self.folded.iter().any(|folded| folded.session == *session)
    }

    /// The catalog's plain bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![if self.lock.is_some() { CATALOG_VERSION } else { RECORD_VERSION }];
        out.u64(self.n);
        out.raw(&self.previous);
        out.u64(self.created_s);
        out.varint(len_u64(self.segments.len()));
        for segment in &self.segments {
            segment.put(&mut out);
        }
        self.put_pages(&mut out);
        out.varint(len_u64(self.folded.len()));
        for folded in &self.folded {
            out.raw(folded.session.as_bytes());
            out.u64(folded.at_s);
        }
        out.varint(len_u64(self.dying.len()));
        for dying in &self.dying {
            out.u64(dying.since);
            dying.snapshot.put(&mut out);
        }
        out.varint(len_u64(self.condemned.len()));
        for condemned in &self.condemned {
            put_name(&mut out, &condemned.pack);
            out.u64(condemned.since);
        }
        for packs in [&self.dead, &self.bad] {
            out.varint(len_u64(packs.len()));
            for pack in packs {
                put_name(&mut out, pack);
            }
        }
        if let Some(lock) = &self.lock {
            lock.put(&mut out);
        }
        out
    }

    fn put_pages(&self, out: &mut Vec<u8>) {
        out.varint(len_u64(self.pages.len()));
        for page in &self.pages {
            out.u8(page.is_some().into());
            if let Some(page) = page {
                out.u64(page.n);
                out.u64(page.nonce);
                out.u32(page.snapshots);
                out.raw(&page.digest);
            }
        }
    }

    /// Decodes a catalog.
    ///
    /// # Errors
    ///
    /// Any [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes, "catalog");
        let version = reader.u8()?;
        check_catalog_version(version)?;
        let n = reader.u64()?;
        let previous = reader.array()?;
        let created_s = reader.u64()?;
        let segments = read_rows(&mut reader, SegmentRef::LEN, "segments", SegmentRef::read)?;
        let pages = read_pages(&mut reader)?;
        let folded = read_rows(&mut reader, 24, "folded sessions", |reader| {
            Ok(Folded { session: SessionId(reader.array()?), at_s: reader.u64()? })
        })?;
        let dying = read_rows(&mut reader, ROW_LEN_MIN, "forgotten snapshots", |reader| {
            Ok(Dying { since: reader.u64()?, snapshot: Snapshot::read(reader)? })
        })?;
        let condemned = read_rows(&mut reader, 28, "condemned packs", |reader| {
            Ok(Condemned { pack: read_name(reader)?, since: reader.u64()? })
        })?;
        let dead = read_rows(&mut reader, 20, "dead packs", read_name)?;
        let bad = read_rows(&mut reader, 20, "bad packs", read_name)?;
        let lock =
            if version > RECORD_VERSION { Some(ObjectLock::read(&mut reader)?) } else { None };
        reader.finish()?;
        Ok(Self {
            n,
            previous,
            created_s,
            segments,
            pages,
            folded,
            dying,
            condemned,
            dead,
            bad,
            lock,
        })
    }
}

/// The page that a snapshot belongs on when the list has `pages` pages, a power of two.
pub fn page_of(id: &SnapshotId, pages: usize) -> usize {
    let [a, b, ..] = *id.as_bytes();
    let leading = usize::from(u16::from_be_bytes([a, b]));
    (leading * pages.max(1)) >> 16
}

fn read_pages(reader: &mut Reader<'_>) -> Result<Vec<Option<PageRef>>, FormatError> {
    let count = reader.count(CATALOG_PAGES_MAX, 1, "catalog pages")?;
    if !count.is_power_of_two() {
        return Err(FormatError::Inconsistent { what: "number of catalog pages" });
    }
    let mut pages = Vec::with_capacity(count);
    for _ in 0..count {
        pages.push(if reader.flag()? {
            Some(PageRef {
                n: reader.u64()?,
                nonce: reader.u64()?,
                snapshots: reader.u32()?,
                digest: reader.array()?,
            })
        } else {
            None
        });
    }
    Ok(pages)
}

/// Reads a counted list. Memory follows the bytes that are there, not the count that is claimed.
fn read_rows<T>(
    reader: &mut Reader<'_>,
    row_bytes: usize,
    what: &'static str,
    mut row: impl FnMut(&mut Reader<'_>) -> Result<T, FormatError>,
) -> Result<Vec<T>, FormatError> {
    let count = reader.count(CATALOG_ROWS_MAX, row_bytes, what)?;
    let mut rows = Vec::with_capacity(count.min(ROWS_RESERVED));
    for _ in 0..count {
        rows.push(row(reader)?);
    }
    Ok(rows)
}

/// A snapshot on a page of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The catalog version that folded it in.
    pub since: u64,
    /// The snapshot.
    pub snapshot: Snapshot,
}

/// Encodes a page of the snapshot list, ascending by snapshot id.
pub fn encode_page(rows: &[Listed]) -> Vec<u8> {
    let mut out = vec![RECORD_VERSION];
    out.varint(len_u64(rows.len()));
    for row in rows {
        out.u64(row.since);
        row.snapshot.put(&mut out);
    }
    out
}

/// Decodes a page of the snapshot list.
///
/// # Errors
///
/// Any [`FormatError`].
pub fn decode_page(bytes: &[u8]) -> Result<Vec<Listed>, FormatError> {
    let mut reader = Reader::new(bytes, "catalog page");
    check_record_version(reader.u8()?)?;
    let count =
        reader.count(CATALOG_PAGE_SNAPSHOTS_MAX, ROW_LEN_MIN, "snapshots of a catalog page")?;
    let mut rows: Vec<Listed> = Vec::with_capacity(count.min(ROWS_RESERVED));
    for _ in 0..count {
        let row = Listed { since: reader.u64()?, snapshot: Snapshot::read(&mut reader)? };
        if rows.last().is_some_and(|last| last.snapshot.id >= row.snapshot.id) {
            return Err(FormatError::Inconsistent { what: "order of a catalog page" });
        }
        rows.push(row);
    }
    reader.finish()?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lock::{LOCK_GROUPS, LockMode};
    use crate::testing;

    fn page_ref() -> impl Strategy<Value = PageRef> {
        (any::<u64>(), any::<u64>(), any::<u32>(), any::<[u8; 32]>())
            .prop_map(|(n, nonce, snapshots, digest)| PageRef { n, nonce, snapshots, digest })
    }

    prop_compose! {
        fn lock()(
            compliance in any::<bool>(),
            (period_s, slack_s, since) in any::<(u64, u64, u64)>(),
            settled_s in any::<Option<u64>>(),
            rounds_s in proptest::collection::vec(any::<u64>(), LOCK_GROUPS),
        ) -> ObjectLock {
            let mode = if compliance { LockMode::Compliance } else { LockMode::Governance };
            ObjectLock { mode, period_s, slack_s, since, settled_s, rounds_s }
        }
    }

    prop_compose! {
        fn catalog()(
            (n, previous, created_s) in any::<(u64, [u8; 32], u64)>(),
            segments in proptest::collection::vec(testing::segment_ref(), 0..3),
            pages in (0u32..4).prop_flat_map(|log2| {
                proptest::collection::vec(proptest::option::of(page_ref()), 1 << log2)
            }),
            folded in proptest::collection::vec((testing::session_id(), any::<u64>()), 0..3),
            dying in proptest::collection::vec((any::<u64>(), testing::snapshot()), 0..3),
            condemned in proptest::collection::vec((testing::object_name(), any::<u64>()), 0..3),
            dead in proptest::collection::vec(testing::object_name(), 0..3),
            bad in proptest::collection::vec(testing::object_name(), 0..3),
            lock in proptest::option::of(lock()),
        ) -> Catalog {
            let folded = folded.into_iter().map(|(session, at_s)| Folded { session, at_s });
            let dying = dying.into_iter().map(|(since, snapshot)| Dying { since, snapshot });
            let condemned = condemned.into_iter().map(|(pack, since)| Condemned { pack, since });
            Catalog {
                n, previous, created_s, segments, pages, folded: folded.collect(),
                dying: dying.collect(), condemned: condemned.collect(), dead, bad, lock,
            }
        }
    }

    proptest! {
        #[test]
        fn a_catalog_is_read_back_as_it_was(catalog in catalog()) {
            prop_assert_eq!(Catalog::decode(&catalog.encode()).unwrap(), catalog);
        }

        #[test]
        fn a_page_is_read_back_as_it_was(
            rows in proptest::collection::vec((any::<u64>(), testing::snapshot()), 0..4),
        ) {
            let mut rows: Vec<Listed> =
                rows.into_iter().map(|(since, snapshot)| Listed { since, snapshot }).collect();
            rows.sort_by_key(|row| row.snapshot.id);
            rows.dedup_by_key(|row| row.snapshot.id);
            prop_assert_eq!(decode_page(&encode_page(&rows)).unwrap(), rows);
        }

        #[test]
        fn a_page_holds_one_run_of_ids(a in any::<[u8; 16]>(), b in any::<[u8; 16]>(), log2 in 0..13) {
            let (low, high) = (SessionId(a.min(b)), SessionId(a.max(b)));
            let pages = 1usize << log2;
            prop_assert!(page_of(&low, pages) <= page_of(&high, pages));
            prop_assert!(page_of(&high, pages) < pages);
        }
    }

    #[test]
    fn the_first_catalog_is_read_back() {
        let first = Catalog::default();
        assert_eq!(Catalog::decode(&first.encode()).unwrap(), first);
    }

    #[test]
    fn a_damaged_catalog_is_refused_or_another_catalog() {
        let page = PageRef { n: 4, nonce: 5, snapshots: 6, digest: [7; 32] };
        let catalog = Catalog {
            n: 5,
            pages: vec![None, Some(page)],
            folded: vec![Folded { session: SessionId([1; 16]), at_s: 9 }],
            condemned: vec![Condemned { pack: testing::name(1), since: 3 }],
            dead: vec![testing::name(2)],
            ..Catalog::default()
        };
        let decode = |bytes: &[u8]| Catalog::decode(bytes);
        testing::refuses_damage_or_is_canonical(&catalog.encode(), decode, Catalog::encode);
    }

    #[test]
    fn only_a_catalog_with_a_lock_is_of_the_newer_layout() {
        let plain = Catalog::default();
        let lock = ObjectLock::new(LockMode::Compliance, 30, 15, 4);
        let locked = Catalog { lock: Some(lock), ..Catalog::default() };
        assert_eq!((plain.encode()[0], locked.encode()[0]), (1, 2));
        assert_eq!(Catalog::decode(&locked.encode()).unwrap(), locked);
        let decode = |bytes: &[u8]| Catalog::decode(bytes);
        testing::refuses_damage_or_is_canonical(&locked.encode(), decode, Catalog::encode);
        let mut newer = locked.encode();
        newer[0] = 3;
        let expected = FormatError::NewerVersion { found: 3, supported: 2 };
        assert_eq!(Catalog::decode(&newer), Err(expected));
    }

    #[test]
    fn a_page_list_that_is_no_power_of_two_is_refused() {
        for pages in [0, 3, 5, 4095] {
            let catalog = Catalog { pages: vec![None; pages], ..Catalog::default() };
            assert!(Catalog::decode(&catalog.encode()).is_err(), "{pages} pages");
        }
    }

    #[test]
    fn the_ends_of_the_id_space_are_on_the_first_and_last_page() {
        for pages in [1, 2, 4096] {
            assert_eq!(page_of(&SessionId([0; 16]), pages), 0);
            assert_eq!(page_of(&SessionId([0xff; 16]), pages), pages - 1);
        }
    }
}
