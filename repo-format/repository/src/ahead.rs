//! Fetching the pieces of objects that will be read one after the other, a few ahead of the reader
//! and several at once: with a server that is far away, the wait for one hides behind others.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use repo_format::key::ObjectKey;

use crate::packer::lock;
use crate::store::{Store, StoreError};

/// A run of bytes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) key: ObjectKey,
    pub(crate) offset: u64,
    pub(crate) len: usize,
}

/// Which pieces there are, by number from 0 on.
pub(crate) type Plan = dyn Fn(usize) -> Option<Piece> + Send + Sync;

/// Fetches pieces in the background, in their order.
#[derive(Debug)]
pub(crate) struct Ahead {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    store: Arc<dyn Store>,
    plan: Box<Plan>,
    /// Pieces that are held or under way at most.
    window: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({:?})", self.state)
    }
}

#[derive(Debug, Default)]
struct State {
    /// The next one to fetch.
    next: usize,
    /// Those before it were taken or passed over.
    taken: usize,
    ready: BTreeMap<usize, Result<Vec<u8>, StoreError>>,
    ended: bool,
}

impl Ahead {
    /// Starts fetching with so many threads, each for one piece at a time.
    pub(crate) fn start(store: &Arc<dyn Store>, threads: usize, plan: Box<Plan>) -> Self {
        let shared = Arc::new(Shared {
            store: Arc::clone(store),
            plan,
            window: threads,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let start = || {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("ahead".into()).spawn(move || shared.work()).ok()
        };
        let threads = (0..threads).map_while(|_| start()).collect();
        Self { shared, threads }
    }

    /// The bytes of piece `number`. Those before it are passed over: asked for after all, they are
    /// fetched then.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub(crate) fn take(&self, number: usize) -> Result<Vec<u8>, StoreError> {
        let shared = &self.shared;
        let mut state = lock(&shared.state);
        if self.threads.is_empty() || number < state.taken {
            drop(state);
            return (shared.plan)(number).map_or_else(|| Ok(Vec::new()), |it| shared.fetch(&it));
        }
        state.taken = number;
        state.next = state.next.max(number);
        state.ready.retain(|piece, _| *piece >= number);
        shared.changed.notify_all();
        loop {
            if let Some(bytes) = state.ready.remove(&number) {
                state.taken = number + 1;
                shared.changed.notify_all();
                return bytes;
            }
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        lock(&self.shared.state).ended = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // It holds nothing that could be left half done.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut state = lock(&self.state);
        loop {
            if state.ended {
                return;
            }
            if state.next >= state.taken + self.window {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let number = state.next;
            let Some(piece) = (self.plan)(number) else {
                // Passed over pieces never come back: there is nothing more to do.
                return;
            };
            state.next += 1;
            drop(state);
            let bytes = self.fetch(&piece);
            state = lock(&self.state);
            if number >= state.taken {
                state.ready.insert(number, bytes);
                self.changed.notify_all();
            }
        }
    }

    fn fetch(&self, piece: &Piece) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; piece.len];
        self.store.get_range(&piece.key, piece.offset, &mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use repo_format::id::{SegmentName, SessionId};

    use super::*;
    use crate::store::Memory;
    use crate::store::wrap::Metered;

    const COUNT: usize = 50;

    fn key() -> ObjectKey {
        ObjectKey::Segment(SegmentName { session: SessionId([1; 16]), counter: 0 })
    }

    fn bytes_of(number: usize) -> Vec<u8> {
        vec![u8::try_from(number).unwrap(); 10]
    }

    fn plan(number: usize) -> Option<Piece> {
        let offset = number as u64 * 10;
        (number < COUNT).then(|| Piece { key: key(), offset, len: 10 })
    }

    fn store() -> Metered<Memory> {
        let store = Metered::new(Memory::default());
        store.put_new(&key(), &(0..COUNT).flat_map(bytes_of).collect::<Vec<u8>>()).unwrap();
        store
    }

    #[test]
    fn pieces_come_in_order_whole_and_once_with_any_number_of_threads() {
        for threads in [0, 1, 3, 80] {
            let store = store();
            let meter = store.meter();
            let before: u64 = meter.read().rows.iter().map(|row| row.requests).sum();
            let store: Arc<dyn Store> = Arc::new(store);
            let ahead = Ahead::start(&store, threads, Box::new(plan));
            for number in 0..COUNT {
                assert_eq!(ahead.take(number).unwrap(), bytes_of(number), "{threads} threads");
            }
            drop(ahead);
            let after: u64 = meter.read().rows.iter().map(|row| row.requests).sum();
            assert_eq!(after - before, COUNT as u64, "{threads} threads");
        }
    }

    #[test]
    fn who_passes_pieces_over_gets_the_later_ones_and_no_more_than_a_window_is_fetched() {
        let store = store();
        let meter = store.meter();
        let store: Arc<dyn Store> = Arc::new(store);
        let ahead = Ahead::start(&store, 4, Box::new(plan));
        assert_eq!(ahead.take(0).unwrap(), bytes_of(0));
        assert_eq!(ahead.take(40).unwrap(), bytes_of(40));
        assert_eq!(ahead.take(COUNT - 1).unwrap(), bytes_of(COUNT - 1));
        drop(ahead);
        let reads: u64 = meter.read().rows.iter().map(|row| row.requests).sum();
        assert!(reads <= 1 + 3 * 5, "{reads} requests for three pieces");
    }

    #[test]
    fn a_failure_is_told_to_who_takes_the_piece_and_the_others_come() {
        let store: Arc<dyn Store> = Arc::new(store());
        let beyond = |number| {
            let piece = plan(number)?;
            Some(if number == 7 { Piece { offset: 10_000, ..piece } } else { piece })
        };
        let ahead = Ahead::start(&store, 3, Box::new(beyond));
        for number in 0..COUNT {
            assert_eq!(ahead.take(number).is_err(), number == 7, "piece {number}");
        }
        assert_eq!(ahead.take(3).unwrap(), bytes_of(3), "once more");
    }
}
