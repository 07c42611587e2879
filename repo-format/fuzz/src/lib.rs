//! What the targets share: fixed keys, and an allocator that ends the process when a decoder takes
//! more memory than its target allows.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use repo_format::error::FormatError;
use repo_format::keys::{KeyBundle, Keys, Secret};

/// Passes everything on and counts what is live.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        if live > LIMIT.load(Ordering::Relaxed) {
            LIMIT.store(usize::MAX, Ordering::Relaxed);
            eprintln!("over the allocation limit: {} bytes more, {live} live", layout.size());
            std::process::abort();
        }
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `decode`, which must not have more than `limit_bytes` allocated at any moment.
pub fn within<T>(limit_bytes: usize, decode: impl FnOnce() -> T) -> T {
    LIMIT.store(LIVE.load(Ordering::Relaxed) + limit_bytes, Ordering::Relaxed);
    let decoded = decode();
    LIMIT.store(usize::MAX, Ordering::Relaxed);
    decoded
}

/// Memory for a decoder whose result is not much larger than what it was given.
pub const SMALL: usize = 16 << 20;

/// Decodes within `limit_bytes`; what is accepted must have these very bytes when encoded.
pub fn canonical<T>(
    limit_bytes: usize,
    bytes: &[u8],
    decode: impl FnOnce(&[u8]) -> Result<T, FormatError>,
    encode: impl FnOnce(&T) -> Vec<u8>,
) {
    if let Ok(decoded) = within(limit_bytes, || decode(bytes)) {
        assert!(encode(&decoded) == bytes, "two encodings of one thing");
    }
}

/// A key bundle.
pub fn bundle() -> KeyBundle {
    KeyBundle::new(Secret::new([1; 32]), Secret::new([2; 32]))
}

/// Its keys.
pub fn keys() -> Keys {
    Keys::new(&bundle())
}
