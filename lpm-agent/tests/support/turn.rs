//! Tests that must not run beside those of another topic.
//!
//! A topic is a module at the root of a test binary. Most tests wait most of their time, for traffic
//! and for programs, and run side by side, as the test harness starts them. The topics in [`ALONE`]
//! do not: one may measure times, or count all programs of the machine, while another test loads
//! programs or needs all CPUs. Their tests run beside those of the same topic only.
//!
//! The harness runs each test in a thread of its own that has the test's name, and starts them in
//! the order of their names. So a test that waits holds nothing that a running one needs.

use std::{
    cell::RefCell,
    sync::{Condvar, Mutex, PoisonError},
    thread,
};

/// The topics whose tests measure times, count what the whole machine has, or need all CPUs.
pub(crate) const ALONE: [&str; 11] = [
    "accuracy",
    "delayed_ack",
    "detach",
    "front",
    "handshake",
    "hotplug",
    "live",
    "oracle",
    "requests",
    "restart",
    "two_cpus",
];

static TURN: Mutex<Turn> = Mutex::new(Turn {
    alone: None,
    running: 0,
});
static ENDED: Condvar = Condvar::new();

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

/// Tells which tests may run now.
pub(crate) struct Turn {
    /// The one topic whose tests may run; None: those of all topics that are not in [`ALONE`].
    pub(crate) alone: Option<&'static str>,
    /// Tests that run now.
    pub(crate) running: usize,
}

impl Turn {
    /// Whether a test of a topic (None: of one that need not be alone) may run beside those that run
    /// now.
    pub(crate) fn admits(&self, topic: Option<&'static str>, tests_at_once: usize) -> bool {
        let beside = topic == self.alone && (topic.is_none() || self.running < tests_at_once);
        self.running == 0 || beside
    }
}

/// A test's part in its topic's turn: until its thread ends.
struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        let mut turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        turn.running -= 1;
        ENDED.notify_all();
    }
}

/// Waits until the calling test may run, and lets no test that disturbs it begin until it ends.
///
/// Tests that need the machine's kernel or measure call this; [`kernel_is_usable`] does so for
/// them. Only the first call of a test waits, and none in a thread that a test started. Tests of a
/// topic in [`ALONE`] run as many at once as there are CPUs.
///
/// [`kernel_is_usable`]: super::ready::kernel_is_usable
pub fn take() {
    let thread = thread::current();
    // One thread for all tests (`--test-threads=1`) is called `main`, without a topic.
    let Some((topic, _)) = thread.name().and_then(|name| name.split_once("::")) else {
        return;
    };
    let alone = ALONE.into_iter().find(|name| *name == topic);
    let tests_at_once = thread::available_parallelism().map_or(1, usize::from);
    HELD.with_borrow_mut(|held| {
        held.get_or_insert_with(|| {
            let mut turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
            while !turn.admits(alone, tests_at_once) {
                turn = ENDED.wait(turn).unwrap_or_else(PoisonError::into_inner);
            }
            turn.alone = alone;
            turn.running += 1;
            Held
        });
    });
}
