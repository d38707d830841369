//! Settings of the C library's memory allocator.

/// Makes the allocator return freed memory to the kernel. Call it before there are other threads.
///
/// Loading reads all of the kernel's type information, tens of megabytes for a moment. A scrape
/// makes a text of megabytes. glibc raises its threshold for memory mappings with each large block
/// that is freed. So such blocks end up in heaps, one per few threads, which grow and do not shrink
/// (mallopt(3)): 75 MB of an agent that needs 25.
#[cfg(target_env = "gnu")]
pub(super) fn give_back() {
    const LARGE: i32 = 128 << 10;
    for (what, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_MMAP_THRESHOLD, LARGE),
        (libc::M_TRIM_THRESHOLD, LARGE),
    ] {
        // SAFETY: mallopt takes two numbers, and there is no other thread yet.
        if unsafe { libc::mallopt(what, value) } == 0 {
            tracing::debug!(what, value, "the C library did not accept a memory setting");
        }
    }
}

/// Does nothing: other C libraries return freed memory by themselves.
#[cfg(not(target_env = "gnu"))]
pub(super) fn give_back() {}
