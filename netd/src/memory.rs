//! How the allocator is told to keep what is resident small: glibc's, whose settings have no safe wrapper.

#![expect(unsafe_code, reason = "mallopt and malloc_trim have no safe wrapper")]

use std::time::Duration;

/// It takes about a millisecond for 10 MB, in which nobody allocates: not for each request.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(5);

/// By default glibc gives threads heaps of their own, and what one has freed the others do not get: a look at a thousand
/// attachments would stay resident once a thread. Before any other thread runs.
pub(crate) fn one_arena() {
    // SAFETY: no other thread runs yet, and the option takes any number.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives the pages back that hold nothing any more, for as long as it is polled. Many requests at once, and a look at the whole
/// node, need some for each attachment, for a moment; one small thing that lives above them would keep them all.
pub(crate) async fn keep_small() {
    loop {
        tokio::time::sleep(GIVE_BACK_EVERY).await;
        // SAFETY: it only looks at what is free, under the allocator's own lock.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
