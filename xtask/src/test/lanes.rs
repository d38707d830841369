//! Runs groups of tests side by side: most of their time they wait for sockets and programs.

use std::{
    sync::{Mutex, PoisonError},
    thread,
};

use super::{groups::Group, output::Tally, run_group, runner};
use crate::signals;

/// Groups that run at once. Each runs as many tests at once as the machine has CPUs.
const LANES: usize = 2;

/// Runs the groups, [`LANES`] at a time, and starts them in their order. Each line that a group
/// prints begins with the group's name.
///
/// After a signal no further group is started.
pub(super) fn run(groups: &[&Group]) -> Tally {
    let waiting = Mutex::new(groups.iter());
    let total = Mutex::new(Tally::default());
    let lane = || {
        loop {
            let next = lock(&waiting).next();
            let Some(group) = next.filter(|_| !signals::stopped()) else {
                break;
            };
            let tally = runner::labelled(group.name, || run_group(group));
            lock(&total).add(tally);
        }
    };
    thread::scope(|scope| {
        for _ in 0..LANES.min(groups.len()) {
            scope.spawn(lane);
        }
    });
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{sync::Condvar, time::Duration};

    use anyhow::Result;

    use super::*;
    use crate::test::groups::Needs;

    /// How many groups have begun.
    static BEGUN: Mutex<usize> = Mutex::new(0);
    static ONE_MORE: Condvar = Condvar::new();

    /// Passes if as many groups as there are lanes run at once.
    #[expect(clippy::unnecessary_wraps, reason = "the type of a group's function")]
    fn meets_the_others() -> Result<Tally> {
        let mut begun = lock(&BEGUN);
        *begun += 1;
        ONE_MORE.notify_all();
        let patience = Duration::from_mins(1);
        let waited = ONE_MORE.wait_timeout_while(begun, patience, |begun| *begun < LANES);
        let (begun, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Ok(if *begun < LANES {
            Tally::one_failure("alone")
        } else {
            Tally::one_pass()
        })
    }

    #[test]
    fn groups_run_side_by_side_and_all_are_counted() {
        let group = Group::new("meets", "the others", Needs::Rust, meets_the_others);
        let failing = Group::new("fails", "", Needs::Rust, || {
            Ok(Tally::one_failure("always"))
        });
        let tally = run(&[&group, &group, &failing]);
        assert_eq!(tally.counts(), "2 passed, 1 failed, 0 skipped");
        assert_eq!(tally.failures(), ["fails: always"]);
    }
}
