//! One topic at a time.
//!
//! Tests of one topic (a module at the root of a test binary) run side by side, as the test
//! harness starts them. Those of two topics do not: one may measure times, or count all programs
//! of the machine, while the other one loads programs or needs all CPUs.
//!
//! The harness runs each test in a thread of its own that has the test's name, and starts them in
//! the order of their names. So a topic's turn comes when the tests before it have ended, and no
//! test that waits holds up one that runs.

use std::{
    cell::RefCell,
    sync::{Condvar, Mutex, PoisonError},
    thread,
};

static TURN: Mutex<Turn> = Mutex::new(Turn {
    topic: String::new(),
    running: 0,
});
static ENDED: Condvar = Condvar::new();

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

/// Whose turn it is.
struct Turn {
    topic: String,
    /// Tests of the topic that run now.
    running: usize,
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

/// Waits until it is the turn of the calling test's topic, which it then is until the test ends.
///
/// Tests that need the machine's kernel or measure call this; [`kernel_is_usable`] does so for
/// them. Only the first call of a test waits, and none in a thread that a test started.
///
/// [`kernel_is_usable`]: super::ready::kernel_is_usable
pub fn take() {
    let thread = thread::current();
    // One thread for all tests (`--test-threads=1`) is called `main`, without a topic.
    let Some((topic, _)) = thread.name().and_then(|name| name.split_once("::")) else {
        return;
    };
    HELD.with_borrow_mut(|held| {
        held.get_or_insert_with(|| {
            let mut turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
            while turn.running > 0 && turn.topic != topic {
                turn = ENDED.wait(turn).unwrap_or_else(PoisonError::into_inner);
            }
            topic.clone_into(&mut turn.topic);
            turn.running += 1;
            Held
        });
    });
}
