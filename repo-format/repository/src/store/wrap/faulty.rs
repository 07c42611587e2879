//! Faults on purpose, for tests. The same seed and the same requests give the same faults.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use repo_format::key::{ObjectKey, Prefix};
use rustix::io::Errno;

use crate::store::{Listed, Op, Store, StoreError, Strangers, Swept};

/// One way for a request to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Not done; `EIO`.
    Io,
    /// Not done; an error that passes.
    Unavailable,
    /// Done, but the caller is told of an error that passes.
    LostReply,
    /// Not done; no space.
    Full,
    /// A read succeeds with one bit wrong.
    BitFlip,
    /// A read ends early: half the object for `get`, [`StoreError::Short`] for `get_range`.
    ShortRead,
}

impl Fault {
    /// Whether it means anything for this operation; if not, the request goes through.
    fn applies_to(self, op: Op) -> bool {
        match self {
            Self::Io | Self::Unavailable => true,
            Self::LostReply => op.is_write(),
            Self::Full => matches!(op, Op::PutNew | Op::Put),
            Self::BitFlip | Self::ShortRead => matches!(op, Op::Get | Op::GetRange),
        }
    }
}

/// Passes requests on, except where it was told not to. Several orders may be given; the first
/// that applies to a request decides.
#[derive(Debug)]
pub struct Faulty<S> {
    inner: S,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    orders: Vec<Order>,
    random: u64,
    requests: u64,
    injected: u64,
    writes: u64,
    put_bytes: u64,
}

#[derive(Debug)]
enum Order {
    Nth { op: Op, left: u64, fault: Fault },
    Random { one_in: u64, faults: Vec<Fault> },
    FullAfter { bytes: u64 },
    CutAfter { writes: u64 },
}

impl<S: Store> Faulty<S> {
    /// Without faults, until some are ordered.
    pub fn new(inner: S) -> Self {
        Self { inner, state: Mutex::default() }
    }

    /// Spoils the `nth` request of this operation, counted from 1.
    #[must_use]
    pub fn fail_nth(self, op: Op, nth: u64, fault: Fault) -> Self {
        self.order(Order::Nth { op, left: nth, fault })
    }

    /// Spoils one request in `one_in`, on average, with one of `faults`; drawn from `seed`.
    #[must_use]
    pub fn random(self, seed: u64, one_in: u64, faults: &[Fault]) -> Self {
        self.state().random = seed;
        self.order(Order::Random { one_in: one_in.max(1), faults: faults.into() })
    }

    /// Has room for this many bytes of bodies, and deleting frees none.
    #[must_use]
    pub fn full_after(self, bytes: u64) -> Self {
        self.order(Order::FullAfter { bytes })
    }

    /// Dies after this many successful writes: every later request fails, reads included, and
    /// changes nothing. What was written before is in the inner store.
    #[must_use]
    pub fn cut_after(self, writes: u64) -> Self {
        self.order(Order::CutAfter { writes })
    }

    /// Requests so far, spoilt ones included.
    pub fn requests(&self) -> u64 {
        self.state().requests
    }

    /// Requests that were spoilt.
    pub fn injected(&self) -> u64 {
        self.state().injected
    }

    /// Requests that changed what is stored.
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    /// The store below.
    pub fn into_inner(self) -> S {
        self.inner
    }

    fn order(self, order: Order) -> Self {
        self.state().orders.push(order);
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, name: &dyn std::fmt::Display) -> String {
        format!("{}/{name}", self.inner.describe())
    }

    /// What is to go wrong with a request that is about to be made.
    fn draw(&self, op: Op, body_bytes: usize) -> Option<Fault> {
        let mut state = self.state();
        state.requests += 1;
        let fault = state.draw(op, body_bytes as u64).filter(|fault| fault.applies_to(op));
        state.injected += u64::from(fault.is_some());
        fault
    }

    fn write(
        &self,
        op: Op,
        key: &ObjectKey,
        body_bytes: usize,
        request: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let fault = self.draw(op, body_bytes);
        if fault.is_some_and(|fault| fault != Fault::LostReply) {
            return Err(error_of(fault, op, self.at(key)));
        }
        request()?;
        let mut state = self.state();
        state.writes += 1;
        state.put_bytes += body_bytes as u64;
        if fault.is_some() { Err(error_of(fault, op, self.at(key))) } else { Ok(()) }
    }

    /// For requests that no fault can spoil but by an error.
    fn refuse(&self, op: Op, name: &dyn std::fmt::Display) -> Result<(), StoreError> {
        match self.draw(op, 0) {
            None => Ok(()),
            fault => Err(error_of(fault, op, self.at(name))),
        }
    }

    fn flip_bit(&self, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        let bit = self.state().next_random() % (bytes.len() as u64 * 8);
        let byte = usize::try_from(bit / 8).unwrap_or(0);
        bytes[byte] ^= 1 << (bit % 8);
    }
}

impl State {
    fn draw(&mut self, op: Op, body_bytes: u64) -> Option<Fault> {
        let mut drawn = None;
        let mut orders = std::mem::take(&mut self.orders);
        for order in &mut orders {
            let fault = match order {
                Order::Nth { op: wanted, left, fault } if *wanted == op => {
                    *left = left.wrapping_sub(1);
                    (*left == 0).then_some(*fault)
                }
                Order::Nth { .. } => None,
                Order::Random { one_in, faults } => self.draw_random(*one_in, faults, op),
                Order::FullAfter { bytes } => {
                    (body_bytes > 0 && self.put_bytes + body_bytes > *bytes).then_some(Fault::Full)
                }
                Order::CutAfter { writes } => (self.writes >= *writes).then_some(Fault::Io),
            };
            // Every order counts every request, whichever decides.
            drawn = drawn.or(fault);
        }
        self.orders = orders;
        drawn
    }

    fn draw_random(&mut self, one_in: u64, faults: &[Fault], op: Op) -> Option<Fault> {
        if !self.next_random().is_multiple_of(one_in) {
            return None;
        }
        let fitting: Vec<Fault> =
            faults.iter().copied().filter(|fault| fault.applies_to(op)).collect();
        let choice = self.next_random().checked_rem(fitting.len() as u64)?;
        fitting.get(usize::try_from(choice).ok()?).copied()
    }

    /// Splitmix64.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn error_of(fault: Option<Fault>, op: Op, at: String) -> StoreError {
    let errno = match fault {
        Some(Fault::Unavailable | Fault::LostReply) => Errno::TIMEDOUT,
        Some(Fault::Full) => Errno::NOSPC,
        _ => Errno::IO,
    };
    StoreError::from_io(op, at, io::Error::from(errno))
}

impl<S: Store> Store for Faulty<S> {
    fn get(&self, key: &ObjectKey, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let fault = self.draw(Op::Get, 0);
        match fault {
            None => self.inner.get(key, limit_bytes),
            Some(Fault::BitFlip) => {
                let mut bytes = self.inner.get(key, limit_bytes)?;
                self.flip_bit(&mut bytes);
                Ok(bytes)
            }
            Some(Fault::ShortRead) => {
                let mut bytes = self.inner.get(key, limit_bytes)?;
                bytes.truncate(bytes.len() / 2);
                Ok(bytes)
            }
            Some(_) => Err(error_of(fault, Op::Get, self.at(key))),
        }
    }

    fn get_range(
        &self,
        key: &ObjectKey,
        offset_bytes: u64,
        buf: &mut [u8],
    ) -> Result<(), StoreError> {
        let fault = self.draw(Op::GetRange, 0);
        match fault {
            None => self.inner.get_range(key, offset_bytes, buf),
            Some(Fault::BitFlip) => {
                self.inner.get_range(key, offset_bytes, buf)?;
                self.flip_bit(buf);
                Ok(())
            }
            Some(Fault::ShortRead) => {
                let end_bytes = offset_bytes.saturating_add(buf.len() as u64);
                let size_bytes = end_bytes.saturating_sub(1);
                Err(StoreError::Short { at: self.at(key), end_bytes, size_bytes })
            }
            Some(_) => Err(error_of(fault, Op::GetRange, self.at(key))),
        }
    }

    fn put_new(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        self.write(Op::PutNew, key, body.len(), || self.inner.put_new(key, body))
    }

    fn put(&self, key: &ObjectKey, body: &[u8]) -> Result<(), StoreError> {
        self.write(Op::Put, key, body.len(), || self.inner.put(key, body))
    }

    fn list(
        &self,
        prefix: Prefix,
        visit: &mut dyn FnMut(Listed) -> Result<(), StoreError>,
    ) -> Result<Strangers, StoreError> {
        self.refuse(Op::List, &prefix.folder())?;
        self.inner.list(prefix, visit)
    }

    fn list_first(&self, prefix: Prefix) -> Result<Option<ObjectKey>, StoreError> {
        self.refuse(Op::ListFirst, &prefix.folder())?;
        self.inner.list_first(prefix)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.write(Op::Delete, key, 0, || self.inner.delete(key))
    }

    fn size(&self, key: &ObjectKey) -> Result<u64, StoreError> {
        self.refuse(Op::Size, key)?;
        self.inner.size(key)
    }

    fn prepare(&self) {
        self.inner.prepare();
    }

    fn sweep_temporary(&self) -> Result<Swept, StoreError> {
        self.refuse(Op::SweepTemporary, &"tmp")?;
        self.inner.sweep_temporary()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use repo_format::id::SessionId;

    use super::*;
    use crate::store::Memory;

    fn key(n: u8) -> ObjectKey {
        ObjectKey::Session(SessionId([n; 16]))
    }

    #[test]
    fn after_the_cut_nothing_changes_and_nothing_answers() {
        let memory = Arc::new(Memory::default());
        let store = Faulty::new(memory.clone()).cut_after(2);
        store.put_new(&key(1), b"one").unwrap();
        assert!(store.put_new(&key(1), b"one").is_err(), "a refused write does not count");
        store.put_new(&key(2), b"two").unwrap();
        assert!(store.put_new(&key(3), b"three").is_err());
        assert!(store.delete(&key(1)).is_err());
        assert!(store.get(&key(1), 9).is_err());
        assert!(store.list_first(Prefix::Sessions).is_err());
        assert_eq!(memory.keys(), [key(1), key(2)]);
    }

    #[test]
    fn a_full_store_takes_what_still_fits_and_can_be_read() {
        let store = Faulty::new(Memory::default()).full_after(10);
        store.put_new(&key(1), &[1; 8]).unwrap();
        assert!(matches!(store.put_new(&key(2), &[2; 3]), Err(StoreError::Full { .. })));
        store.put_new(&key(3), &[3; 2]).unwrap();
        assert_eq!(store.get(&key(1), 9).unwrap(), [1; 8]);
        store.delete(&key(1)).unwrap();
    }

    #[test]
    fn a_flipped_bit_is_exactly_one_and_the_stored_bytes_are_sound() {
        let store = Faulty::new(Memory::default())
            .fail_nth(Op::Get, 1, Fault::BitFlip)
            .fail_nth(Op::GetRange, 1, Fault::BitFlip)
            .fail_nth(Op::Get, 2, Fault::ShortRead);
        store.put_new(&key(1), &[0; 64]).unwrap();
        let ones = |bytes: &[u8]| bytes.iter().map(|byte| byte.count_ones()).sum::<u32>();
        assert_eq!(ones(&store.get(&key(1), 64).unwrap()), 1);
        let mut range = [0; 32];
        store.get_range(&key(1), 0, &mut range).unwrap();
        assert_eq!(ones(&range), 1);
        assert_eq!(store.get(&key(1), 64).unwrap().len(), 32);
        assert_eq!(store.get(&key(1), 64).unwrap(), [0; 64]);
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let run = |seed| {
            let faults = [Fault::Io, Fault::Unavailable, Fault::LostReply, Fault::Full];
            let store = Faulty::new(Memory::default()).random(seed, 3, &faults);
            (0..50).map(|n| format!("{:?}", store.put_new(&key(n), b"x"))).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        let spoilt = run(7).iter().filter(|answer| answer.starts_with("Err")).count();
        assert!((5..35).contains(&spoilt), "{spoilt}");
    }
}
