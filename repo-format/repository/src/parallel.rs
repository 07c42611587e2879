//! Asking for several things at once: a server may be far away, and most of a request is waiting.

use std::panic::resume_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::packer::lock;

/// Requests of one caller on their way at once.
pub(crate) const AT_ONCE: usize = 16;

/// Does both at once.
pub(crate) fn both<A: Send, B>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B) -> (A, B) {
    // There, one thread at a time is an agent.
    #[cfg(test)]
    if crate::sim::here::is_simulated() {
        return (a(), b());
    }
    std::thread::scope(|scope| {
        let a = scope.spawn(a);
        let b = b();
        (a.join().unwrap_or_else(|panic| resume_unwind(panic)), b)
    })
}

/// What `f` gives for each of `items`, in their order, [`AT_ONCE`] at a time. Of several errors any
/// may be returned, and after one nothing more is begun.
pub(crate) fn try_each<T: Sync, R: Send, E: Send>(
    items: &[T],
    f: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    #[cfg(test)]
    let is_simulated = crate::sim::here::is_simulated();
    #[cfg(not(test))]
    let is_simulated = false;
    if items.len() < 2 || is_simulated {
        return items.iter().map(f).collect();
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new((Vec::with_capacity(items.len()), None));
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return };
            match f(item) {
                Ok(result) => lock(&done).0.push((at, result)),
                Err(error) => {
                    next.store(items.len(), Ordering::Relaxed);
                    lock(&done).1.get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..items.len().min(AT_ONCE) {
            scope.spawn(work);
        }
        work();
    });
    let (mut results, error) = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(error) = error {
        return Err(error);
    }
    results.sort_unstable_by_key(|(at, _)| *at);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_items_and_many_are_asked_for_at_once() {
        let all_are_here = Barrier::new(AT_ONCE);
        let items: Vec<usize> = (0..4 * AT_ONCE).collect();
        let doubled = try_each(&items, |item| {
            all_are_here.wait();
            Ok::<_, ()>(item * 2)
        });
        assert_eq!(doubled, Ok(items.iter().map(|item| item * 2).collect()));
    }

    #[test]
    fn after_an_error_nothing_more_is_begun() {
        let begun = AtomicUsize::new(0);
        let items: Vec<usize> = (0..1000).collect();
        let result = try_each(&items, |item| {
            begun.fetch_add(1, Ordering::Relaxed);
            if *item == 3 { Err(*item) } else { Ok(()) }
        });
        assert_eq!(result, Err(3));
        assert!(begun.into_inner() < 1000);
    }
}
