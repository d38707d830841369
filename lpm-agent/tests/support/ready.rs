//! Whether a test can run here, and waiting for what it wants.

use std::{
    thread,
    time::{Duration, Instant},
};

use lpm_agent::kernel::{load::object_is_embedded, privileges};

/// How long anything may take before a test fails; far more than it ever needs. On an emulated CPU
/// loading the programs alone takes half a minute.
pub const LIMIT: Duration = Duration::from_mins(4);

/// Whether tests of the kernel can run here, in the [turn](super::turn) of their topic. If not, the
/// reason is printed as a skip.
pub fn kernel_is_usable() -> bool {
    super::turn::take();
    let reason = if !object_is_embedded() {
        "the kernel programs have not been built".to_owned()
    } else if let [need, ..] = privileges::missing()[..] {
        format!("this process lacks {need}")
    } else {
        return true;
    };
    println!("LPM-SKIP kernel: {reason}");
    false
}

/// Waits until something holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until what a hook holds is what it should be once links were closed: one lives on for a
/// moment in a child that another test is just starting, and where it was pinned until the kernel
/// has done the work that it put off (`bpf_link_put`).
#[track_caller]
pub fn comes_to<T: PartialEq<U> + std::fmt::Debug, U: std::fmt::Debug>(
    what: &str,
    mut is: impl FnMut() -> T,
    wanted: &U,
) {
    let begun = Instant::now();
    loop {
        let now = is();
        if now == *wanted {
            return;
        }
        assert!(
            begun.elapsed() < LIMIT,
            "waited in vain: {what}: {now:?}, not {wanted:?}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}
