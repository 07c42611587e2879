//! What every [`Store`] must do, as checks that any backend can be put through, in tests or
//! against a server that is to be trusted with a repository.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use repo_format::id::{ObjectName, SessionId, SlotId};
use repo_format::key::{ObjectKey, Prefix};

use super::{Store, StoreError};

/// One check: its name is the promise, its argument a store that is empty.
pub type Check = (&'static str, fn(&dyn Store) -> Result<(), Broken>);

/// A promise that was not kept, and how.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(String);

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(below) = cause {
            message = format!("{message}: {below}");
            cause = below.source();
        }
        Self(message)
    }
}

macro_rules! promise {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err(Broken(format!($($message)+)));
        }
    };
}

/// All checks.
pub const CHECKS: &[Check] = &[
    ("an object is read back as it was written", objects_of_every_size),
    ("keys of every kind live side by side", keys_of_every_kind),
    ("of eight creators exactly one wins", one_creator_wins),
    ("an existing object is never replaced", create_once),
    ("only heartbeats are rewritten", only_heartbeats_are_rewritten),
    ("a heartbeat is read whole while it is rewritten", whole_heartbeats),
    ("a range is exact at every edge", range_edges),
    ("a limit is kept", limits),
    ("what is missing is said to be missing", missing),
    ("deleting is final and may be repeated", deletes),
    ("a listing has every object with its size and nothing else", listings),
    ("the newest catalog is the first", newest_catalog),
    ("a visitor's error ends the listing", visitor_errors),
    ("a listing beside writers misses nothing that was there", list_beside_writers),
    ("what one thread has created another one reads", read_after_write),
    ("large aligned objects are stored and read in pieces", large_aligned),
    ("a sweep touches no object", sweeps),
];

/// Runs every check, each on a store of its own.
///
/// * `make`: gives an empty store each time it is called.
///
/// # Panics
///
/// After the last check, if any promise was broken, naming all of them.
pub fn run(make: &dyn Fn() -> Box<dyn Store>) {
    let broken: Vec<String> = CHECKS
        .iter()
        .filter_map(|(name, check)| {
            check(&*make()).err().map(|broken| format!("\n  {name}: {broken}"))
        })
        .collect();
    assert!(broken.is_empty(), "{} promises broken:{}", broken.len(), broken.concat());
}

fn pack(n: u32) -> ObjectKey {
    ObjectKey::Pack(ObjectName { session: SessionId([9; 16]), counter: n })
}

fn segment(n: u32) -> ObjectKey {
    ObjectKey::Segment(ObjectName { session: SessionId([9; 16]), counter: n })
}

fn session(n: u8) -> SessionId {
    SessionId([n; 16])
}

/// Bytes that differ between seeds and within themselves.
fn body(seed: u64, len: usize) -> Vec<u8> {
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A page-aligned buffer, as the pipelines use: room for `len` bytes at an aligned start.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let bytes = vec![0; len + 4096];
        let start = bytes.as_ptr().align_offset(4096).min(4096);
        Self { bytes, start, len }
    }

    fn slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

fn listed(store: &dyn Store, prefix: Prefix) -> Result<BTreeMap<String, u64>, Broken> {
    let mut found = BTreeMap::new();
    let mut twice = None;
    store.list(prefix, &mut |listed| {
        if found.insert(listed.key.to_string(), listed.size_bytes).is_some() {
            twice = Some(listed.key);
        }
        Ok(())
    })?;
    promise!(twice.is_none(), "{twice:?} was listed twice");
    Ok(found)
}

fn objects_of_every_size(store: &dyn Store) -> Result<(), Broken> {
    let sizes = [0, 1, 511, 4095, 4096, 4097, 65_536, 65_537, 1 << 20, (1 << 20) + 1, 3_000_000];
    for (n, size) in (0..).zip(sizes) {
        let body = body(u64::from(n), size);
        store.put_new(&pack(n), &body)?;
        promise!(store.get(&pack(n), size as u64)? == body, "{size} bytes came back otherwise");
        promise!(store.size(&pack(n))? == size as u64, "{size} bytes have another size");
    }
    Ok(())
}

fn keys_of_every_kind(store: &dyn Store) -> Result<(), Broken> {
    let keys = [
        ObjectKey::Config,
        ObjectKey::KeySlot(SlotId([1; 16])),
        ObjectKey::Catalog(1),
        ObjectKey::CatalogPage { n: 1, nonce: u64::MAX },
        ObjectKey::Session(session(1)),
        ObjectKey::Commit(session(1)),
        ObjectKey::Heartbeat(session(1)),
        pack(0),
        segment(0),
    ];
    for key in &keys {
        store.put_new(key, key.to_string().as_bytes())?;
    }
    for key in &keys {
        let bytes = store.get(key, 1000)?;
        promise!(bytes == key.to_string().as_bytes(), "{key} has the bytes of another object");
        if let Some(prefix) = key.prefix() {
            let found = listed(store, prefix)?;
            promise!(found.keys().eq([&key.to_string()]), "{prefix:?} lists {found:?}");
        }
    }
    Ok(())
}

fn one_creator_wins(store: &dyn Store) -> Result<(), Broken> {
    for round in 0..5 {
        let key = ObjectKey::Catalog(round);
        let start = Barrier::new(8);
        // Long enough that all are under way before any is done.
        let bodies: Vec<Vec<u8>> = (0..8).map(|n| body(round * 8 + n, 2 << 20)).collect();
        let answers: Vec<Result<(), StoreError>> = std::thread::scope(|scope| {
            let (start, key) = (&start, &key);
            let create = |body| {
                start.wait();
                store.put_new(key, body)
            };
            let threads: Vec<_> =
                bodies.iter().map(|body| scope.spawn(move || create(body))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        let winners: Vec<&Vec<u8>> = bodies
            .iter()
            .zip(&answers)
            .filter_map(|(body, answer)| answer.is_ok().then_some(body))
            .collect();
        promise!(winners.len() == 1, "{} of 8 creators won", winners.len());
        for answer in answers {
            match answer {
                Ok(()) | Err(StoreError::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        promise!(store.get(&key, 2 << 20)? == *winners[0], "a loser's bytes were stored");
    }
    Ok(())
}

fn create_once(store: &dyn Store) -> Result<(), Broken> {
    for (key, size) in [(ObjectKey::Commit(session(1)), 100), (pack(1), 100_000)] {
        let first = body(1, size);
        store.put_new(&key, &first)?;
        for second in [&first, &body(2, size), &Vec::new()] {
            let answer = store.put_new(&key, second);
            promise!(matches!(answer, Err(StoreError::Exists { .. })), "{key}: {answer:?}");
        }
        promise!(store.get(&key, size as u64)? == first, "{key} was changed");
    }
    Ok(())
}

fn only_heartbeats_are_rewritten(store: &dyn Store) -> Result<(), Broken> {
    let heartbeat = ObjectKey::Heartbeat(session(1));
    for beat in 0..3 {
        store.put(&heartbeat, &body(beat, 20))?;
        promise!(store.get(&heartbeat, 20)? == body(beat, 20), "beat {beat} was not stored");
    }
    for key in [ObjectKey::Config, ObjectKey::Catalog(1), ObjectKey::Commit(session(1)), pack(1)] {
        let answer = store.put(&key, b"x");
        promise!(matches!(answer, Err(StoreError::WriteOnce { .. })), "{key}: {answer:?}");
        promise!(is_missing(&store.size(&key)), "{key} was stored by a refused put");
    }
    Ok(())
}

fn whole_heartbeats(store: &dyn Store) -> Result<(), Broken> {
    let key = ObjectKey::Heartbeat(session(1));
    store.put(&key, &[0; 100])?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let beats = (1..=100u8)
                .try_for_each(|beat| store.put(&key, &vec![beat; 100 + usize::from(beat)]));
            done.store(true, Ordering::Release);
            beats
        });
        while !done.load(Ordering::Acquire) {
            let bytes = store.get(&key, 1000)?;
            let beat = bytes.first().copied().unwrap_or(0);
            promise!(bytes.iter().all(|byte| *byte == beat), "two beats were mixed");
            promise!(bytes.len() == 100 + usize::from(beat), "beat {beat} was cut");
        }
        match writer.join() {
            Ok(beats) => Ok(beats?),
            Err(_) => Err(Broken("the writer panicked".into())),
        }
    })
}

fn range_edges(store: &dyn Store) -> Result<(), Broken> {
    let bytes = body(3, 10_000);
    let key = pack(1);
    store.put_new(&key, &bytes)?;
    for (offset, len) in
        [(0, 10_000), (0, 1), (9_999, 1), (4_096, 4_096), (1, 9_999), (5, 0), (10_000, 0)]
    {
        let mut range = vec![0; len];
        store.get_range(&key, offset as u64, &mut range)?;
        promise!(range == bytes[offset..offset + len], "{len} bytes at {offset} are wrong");
    }
    let beyond: [(u64, usize); 5] =
        [(0, 10_001), (9_999, 2), (10_000, 1), (10_001, 0), (u64::MAX, 8)];
    for (offset, len) in beyond {
        let answer = store.get_range(&key, offset, &mut vec![0; len]);
        let short = matches!(answer, Err(StoreError::Short { size_bytes: 10_000, .. }));
        promise!(short, "{len} bytes at {offset}: {answer:?}");
    }
    Ok(())
}

fn limits(store: &dyn Store) -> Result<(), Broken> {
    store.put_new(&ObjectKey::Config, &body(1, 100))?;
    promise!(store.get(&ObjectKey::Config, 100)?.len() == 100, "the limit itself was refused");
    promise!(store.get(&ObjectKey::Config, u64::MAX)?.len() == 100, "no limit was refused");
    for limit in [0, 99] {
        let answer = store.get(&ObjectKey::Config, limit);
        let refused = matches!(answer, Err(StoreError::TooLarge { size_bytes: 100, .. }));
        promise!(refused, "limit {limit}: {answer:?}");
    }
    Ok(())
}

fn is_missing<T>(answer: &Result<T, StoreError>) -> bool {
    matches!(answer, Err(StoreError::Missing { .. }))
}

fn missing(store: &dyn Store) -> Result<(), Broken> {
    for key in [ObjectKey::Config, ObjectKey::Commit(session(1)), pack(1), segment(1)] {
        promise!(is_missing(&store.get(&key, 10)), "get of {key}");
        promise!(is_missing(&store.get_range(&key, 0, &mut [0; 1])), "get_range of {key}");
        promise!(is_missing(&store.get_range(&key, 0, &mut [])), "empty get_range of {key}");
        promise!(is_missing(&store.size(&key)), "size of {key}");
    }
    for prefix in Prefix::ALL {
        promise!(listed(store, prefix)?.is_empty(), "{prefix:?} is not empty");
        promise!(store.list_first(prefix)?.is_none(), "{prefix:?} has a first");
    }
    Ok(())
}

fn deletes(store: &dyn Store) -> Result<(), Broken> {
    for key in [ObjectKey::Session(session(1)), ObjectKey::KeySlot(SlotId([1; 16])), pack(1)] {
        store.delete(&key)?;
        store.put_new(&key, b"x")?;
        store.delete(&key)?;
        store.delete(&key)?;
        promise!(is_missing(&store.get(&key, 10)), "{key} can still be read");
        promise!(is_missing(&store.size(&key)), "{key} still has a size");
        if let Some(prefix) = key.prefix() {
            promise!(listed(store, prefix)?.is_empty(), "{key} is still listed");
        }
    }
    Ok(())
}

fn listings(store: &dyn Store) -> Result<(), Broken> {
    let mut expected = BTreeMap::new();
    for n in 0..120u16 {
        let key = pack(u32::from(n));
        store.put_new(&key, &vec![1; usize::from(n)])?;
        expected.insert(key.to_string(), u64::from(n));
    }
    store.put_new(&segment(1), b"not a pack")?;
    store.put_new(&ObjectKey::Catalog(1), b"not a pack")?;
    let found = listed(store, Prefix::Packs)?;
    promise!(found == expected, "{} packs were listed, {} put", found.len(), expected.len());
    let first = store.list_first(Prefix::Packs)?.map(|key| key.to_string());
    promise!(first.as_ref() == expected.keys().next(), "{first:?} is not the smallest");
    Ok(())
}

fn newest_catalog(store: &dyn Store) -> Result<(), Broken> {
    for n in [3, 0, 11, 256, 7] {
        store.put_new(&ObjectKey::Catalog(n), b"x")?;
    }
    let first = store.list_first(Prefix::Catalogs)?;
    promise!(first == Some(ObjectKey::Catalog(256)), "{first:?} is not the newest");
    store.delete(&ObjectKey::Catalog(256))?;
    let first = store.list_first(Prefix::Catalogs)?;
    promise!(first == Some(ObjectKey::Catalog(11)), "{first:?} is not the newest now");
    Ok(())
}

fn visitor_errors(store: &dyn Store) -> Result<(), Broken> {
    for n in 0..5 {
        store.put_new(&segment(n), b"x")?;
    }
    let mut visits = 0;
    let answer = store.list(Prefix::Segments, &mut |listed| {
        visits += 1;
        Err(StoreError::WriteOnce { at: listed.key.to_string() })
    });
    promise!(matches!(answer, Err(StoreError::WriteOnce { .. })), "{answer:?}");
    promise!(visits == 1, "{visits} visits after an error");
    Ok(())
}

fn list_beside_writers(store: &dyn Store) -> Result<(), Broken> {
    for n in 0..100 {
        store.put_new(&pack(n), b"before")?;
        store.put_new(&segment(n), b"before")?;
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let write = |from: u32| {
            let done = &done;
            scope.spawn(move || {
                (from..from + 10_000).take_while(|_| !done.load(Ordering::Relaxed)).try_for_each(
                    |n| {
                        store.put_new(&pack(n), b"meanwhile")?;
                        store.put_new(&segment(n), b"meanwhile")?;
                        if n % 3 == 0 { store.delete(&pack(n)) } else { Ok(()) }
                    },
                )
            })
        };
        let writers = [write(1_000), write(20_000)];
        let check = || {
            for round in 0..10 {
                let packs = listed(store, Prefix::Packs)?;
                let segments = listed(store, Prefix::Segments)?;
                for n in 0..100 {
                    let both = packs.contains_key(&pack(n).to_string())
                        && segments.contains_key(&segment(n).to_string());
                    promise!(both, "listing {round} misses object {n}");
                }
            }
            Ok(())
        };
        let checked = check();
        done.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().map_err(|_| Broken("a writer panicked".into()))??;
        }
        checked
    })
}

fn read_after_write(store: &dyn Store) -> Result<(), Broken> {
    let (sender, receiver) = crossbeam_channel::bounded::<u32>(1);
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            (0..100).try_for_each(|n| {
                store.put_new(&segment(n), &body(n.into(), 1000))?;
                // The reader is gone only if it has something to say.
                let _ = sender.send(n);
                Ok::<(), StoreError>(())
            })
        });
        for n in receiver {
            promise!(store.get(&segment(n), 1000)? == body(n.into(), 1000), "{n} is not the same");
            promise!(store.size(&segment(n))? == 1000, "{n} has another size");
            let found = listed(store, Prefix::Segments)?;
            promise!(found.contains_key(&segment(n).to_string()), "{n} is not listed");
        }
        writer.join().map_err(|_| Broken("the writer panicked".into()))?.map_err(Broken::from)
    })
}

fn large_aligned(store: &dyn Store) -> Result<(), Broken> {
    const SIZE: usize = 32 << 20;
    const PIECE: usize = 4 << 20;
    let mut written = Aligned::new(SIZE);
    written.slice().copy_from_slice(&body(1, SIZE));
    store.put_new(&pack(1), written.slice())?;
    promise!(store.size(&pack(1))? == SIZE as u64, "it has another size");
    let mut piece = Aligned::new(PIECE);
    for start in (0..SIZE).step_by(PIECE) {
        store.get_range(&pack(1), start as u64, piece.slice())?;
        let same = piece.slice() == &written.slice()[start..start + PIECE];
        promise!(same, "the piece at {start} is not the same");
    }
    let mut odd = vec![0; PIECE];
    store.get_range(&pack(1), 12_345, &mut odd)?;
    promise!(odd == written.slice()[12_345..12_345 + PIECE], "an unaligned piece is not the same");
    // An aligned request that reaches past an unaligned end.
    let len = (2 << 20) + 5;
    store.put_new(&pack(2), &written.slice()[..len])?;
    let answer = store.get_range(&pack(2), 0, piece.slice());
    let short =
        matches!(answer, Err(StoreError::Short { size_bytes, .. }) if size_bytes == len as u64);
    promise!(short, "past the end: {answer:?}");
    Ok(())
}

fn sweeps(store: &dyn Store) -> Result<(), Broken> {
    store.put_new(&pack(1), b"pack")?;
    store.put(&ObjectKey::Heartbeat(session(1)), b"beat")?;
    let swept = store.sweep_temporary()?;
    promise!(swept.count == 0, "{swept:?}, although nothing was left");
    promise!(store.get(&pack(1), 10)? == b"pack", "a pack was changed");
    promise!(
        store.get(&ObjectKey::Heartbeat(session(1)), 10)? == b"beat",
        "a heartbeat was changed"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Listed, Memory, Strangers, Swept};
    use super::*;

    /// How a store may be wrong; each was seen in some server or file system.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Lie {
        ChecksBeforeItWrites,
        Replaces,
        ListsLate,
        CutsRanges,
        KeepsDeleted,
        IgnoresLimits,
        RewritesAnything,
    }

    #[derive(Debug)]
    struct Liar(Memory, Lie);

    impl Store for Liar {
        fn get(&self, key: &ObjectKey, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
            let limited = self.1 != Lie::IgnoresLimits;
            self.0.get(key, if limited { limit_bytes } else { u64::MAX })
        }

        fn get_range(
            &self,
            key: &ObjectKey,
            offset_bytes: u64,
            buf: &mut [u8],
        ) -> Result<(), StoreError> {
            match self.0.get_range(key, offset_bytes, buf) {
                Err(StoreError::Short { .. }) if self.1 == Lie::CutsRanges => Ok(()),
                answer => answer,
            }
        }

        fn put_new(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
            if self.1 == Lie::ChecksBeforeItWrites {
                if self.0.size(key).is_ok() {
                    return Err(StoreError::Exists { at: key.to_string() });
                }
                std::thread::sleep(std::time::Duration::from_millis(body.len() as u64 >> 16));
            }
            if matches!(self.1, Lie::ChecksBeforeItWrites | Lie::Replaces) {
                self.0.delete(key)?;
            }
            self.0.put_new(key, body)
        }

        fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
            match self.0.put(key, body) {
                Err(StoreError::WriteOnce { .. }) if self.1 == Lie::RewritesAnything => Ok(()),
                answer => answer,
            }
        }

        fn list(
            &self,
            prefix: Prefix,
            visit: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
        ) -> Result<Strangers, StoreError> {
            let mut all = Vec::new();
            let strangers = self.0.list(prefix, &mut |listed| {
                all.push(listed);
                Ok(())
            })?;
            if self.1 == Lie::ListsLate {
                all.pop();
            }
            all.into_iter().try_for_each(visit)?;
            Ok(strangers)
        }

        fn list_first(&self, prefix: Prefix) -> Result<Option<ObjectKey>, StoreError> {
            self.0.list_first(prefix)
        }

        fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
            if self.1 == Lie::KeepsDeleted { Ok(()) } else { self.0.delete(key) }
        }

        fn size(&self, key: &ObjectKey) -> Result<u64, StoreError> {
            self.0.size(key)
        }

        fn sweep_temporary(&self) -> Result<Swept, StoreError> {
            self.0.sweep_temporary()
        }

        fn describe(&self) -> String {
            format!("{self:?}")
        }
    }

    fn broken_by(lie: Lie) -> Vec<&'static str> {
        let broken = |(_, check): &&Check| check(&Liar(Memory::default(), lie)).is_err();
        CHECKS.iter().filter(broken).map(|(name, _)| *name).collect()
    }

    #[test]
    fn every_lie_is_found_out() {
        for (lie, promise) in [
            (Lie::ChecksBeforeItWrites, "of eight creators exactly one wins"),
            (Lie::Replaces, "an existing object is never replaced"),
            (Lie::ListsLate, "a listing has every object with its size and nothing else"),
            (Lie::CutsRanges, "a range is exact at every edge"),
            (Lie::KeepsDeleted, "deleting is final and may be repeated"),
            (Lie::IgnoresLimits, "a limit is kept"),
            (Lie::RewritesAnything, "only heartbeats are rewritten"),
        ] {
            let broken = broken_by(lie);
            assert!(broken.contains(&promise), "{lie:?} was found by {broken:?} only");
        }
    }
}
