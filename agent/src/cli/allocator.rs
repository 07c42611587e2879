//! How the allocator gives memory back to the system.

/// Longer blocks are mapped one by one, and are the system's again when they are freed.
const MAPPED_FROM_BYTES: libc::c_int = 1 << 20;

/// Keeps long blocks out of the heap, where others soon lie behind them, so that what was freed stays.
/// glibc raises its limit to the longest block freed so far, up to 32 MiB (mallopt(3)); a prune of
/// 260,000 packs that had 81 MB allocated at most then took 132 MB, and with this limit takes 99,
/// as fast.
///
/// To be called before there are other threads.
pub(super) fn settle() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers, and changes how later blocks are allocated, not any that is there.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES);
    }
}
