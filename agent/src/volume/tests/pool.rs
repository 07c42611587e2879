use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use crate::volume::{AlignedBuf, BUFFER_ALIGN_BYTES, BufPool};

#[test]
fn buffers_are_aligned_and_share_no_byte() {
    for (count, asked_bytes) in [(1, 1), (3, 4096), (7, 5000), (4, 1 << 20), (3, 3 << 20)] {
        let pool = BufPool::new(count, asked_bytes).unwrap();
        let mut buffers: Vec<_> = (0..count).map(|_| pool.take()).collect();
        for (number, buffer) in (1..).zip(&mut buffers) {
            assert!(buffer.capacity() >= asked_bytes);
            assert!(buffer.capacity().is_multiple_of(BUFFER_ALIGN_BYTES));
            assert!(buffer.space_mut().as_ptr().addr().is_multiple_of(BUFFER_ALIGN_BYTES));
            assert!(buffer.space_mut().iter().all(|&byte| byte == 0), "new memory is zero");
            buffer.space_mut().fill(number);
            buffer.set_len(asked_bytes);
        }
        for (number, buffer) in (1..).zip(&buffers) {
            assert_eq!(buffer.len(), asked_bytes);
            assert!(buffer.iter().all(|&byte| byte == number));
        }
    }
}

#[test]
fn a_pool_never_lends_more_than_it_has() {
    let pool = BufPool::new(3, 4096).unwrap();
    let (lent, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for round in 0..500 {
                    let buffer = pool.take();
                    most.fetch_max(lent.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    assert_eq!(buffer.len(), 0, "a lent buffer starts empty");
                    if round % 50 == 0 {
                        thread::yield_now();
                    }
                    lent.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert_eq!(pool.free(), 3);
}

#[test]
fn an_empty_pool_gives_nothing_until_a_buffer_comes_back() {
    let pool = BufPool::new(1, 4096).unwrap();
    let held = pool.take();
    assert!(pool.try_take().is_none());
    assert!(pool.take_timeout(Duration::from_millis(5)).is_none());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| pool.take());
        thread::sleep(Duration::from_millis(20));
        assert!(!waiter.is_finished());
        drop(held);
        waiter.join().unwrap();
    });
    assert!(pool.try_take().is_some());
}

#[test]
fn a_buffer_outlives_its_pool_and_its_thread() {
    let mut buffer = thread::spawn(|| BufPool::new(2, 4096).unwrap().take()).join().unwrap();
    buffer.fill_from(b"still here");
    assert_eq!(&buffer[..], b"still here");
}

#[test]
fn an_impossible_buffer_is_an_error() {
    AlignedBuf::new(usize::MAX).unwrap_err();
    AlignedBuf::new(usize::MAX / 2).unwrap_err();
    BufPool::new(usize::MAX / 4096, 8192).map(|_| ()).unwrap_err();
}
