use super::*;

#[test]
fn a_clock_without_synchronization_claims_nothing() {
    let claim = |state, status, maximum| Claim::of(state, status, maximum).error;
    assert_eq!(claim(libc::TIME_OK, 0, 50), Some(50_000));
    assert_eq!(claim(libc::TIME_OK, libc::STA_PLL, 0), Some(0));
    assert_eq!(claim(libc::TIME_ERROR, libc::STA_UNSYNC, 16_000_000), None);
    assert_eq!(claim(libc::TIME_OK, libc::STA_UNSYNC, 50), None);
    assert_eq!(claim(libc::TIME_OK, 0, 16_000_000), None, "saturated");
    assert_eq!(claim(-1, 0, 0), None, "the call failed");
}

#[test]
fn a_guest_that_takes_its_hosts_clock_for_exact_is_not_believed() {
    let claim = |error| Claim { error: Some(error) };
    assert_eq!(claim(0).believed(true).error, None);
    assert_eq!(claim(999).believed(true).error, None);
    assert_eq!(claim(1_000).believed(true).error, Some(1_000));
    assert_eq!(claim(0).believed(false).error, Some(0));
    assert!(claim::is_of_a_guest("flags\t\t: fpu hypervisor sse\n"));
    assert!(!claim::is_of_a_guest(
        "model name : hypervisor\nflags : fpu\n"
    ));
}

#[test]
fn the_allowance_is_the_kernels_where_nobody_slews() {
    // SAFETY: all bits zero are a valid `timex`.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    timex.tick = 10_000;
    timex.tolerance = 100 << 16;
    assert_eq!(claim::tolerated(&timex), 100_000);
    timex.offset = 7;
    assert_eq!(claim::tolerated(&timex), DRIFT, "it is slewed");
    (timex.offset, timex.tick) = (0, 10_100);
    assert_eq!(claim::tolerated(&timex), DRIFT, "it is slewed by its ticks");
    (timex.tick, timex.tolerance) = (10_000, 500 << 16);
    assert_eq!(claim::tolerated(&timex), DRIFT);
    timex.tolerance = 0;
    assert_eq!(claim::tolerated(&timex), DRIFT, "the call failed");
}

#[test]
fn a_clock_that_is_left_alone_has_no_changes() {
    let mut clock = Clock::start().expect("a timer");
    assert!((0..1_000).all(|_| clock.changes() == 0));
    assert_eq!(clock.last_change(), None);
    assert!(monotonic() > 0 && real() > 1_700_000_000_000_000_000);
}

/// A reading at `at` ns of `CLOCK_MONOTONIC_RAW`, a tenth of a microsecond long, by a clock that has
/// gained `gained` ns and was set by `set` ns.
fn read_at(at: i64, gained: i64, set: i64) -> Reading {
    Reading {
        raw: [at, at + 100],
        monotonic: [at + 20 + gained, at + 80 + gained],
        real: 1_800_000_000_000_000_000 + at + 50 + gained + set,
    }
}

const MS: i64 = 1_000_000;

#[test]
fn the_smallest_setting_is_seen_and_a_drift_within_the_allowance_is_none() {
    // 499 ns per millisecond: 499 parts per million.
    let mut steady = Steady::new(read_at(0, 0, 0), DRIFT);
    assert!((1..5_000).all(|at| steady.take(read_at(at * MS, at * 499, 0)).is_none()));
    let set = steady.take(read_at(5_000 * MS, 5_000 * 499, 200));
    assert_eq!(set, Some(Change::Set));
    let next = steady.take(read_at(5_001 * MS, 5_001 * 499, 200));
    assert_eq!(next, None);
    assert_eq!(steady.drift(), DRIFT);
}

#[test]
fn a_rate_beyond_the_allowance_is_news_once_and_allowed_from_then_on() {
    for gained in [600, -600, 80_000] {
        let mut steady = Steady::new(read_at(0, 0, 0), DRIFT);
        let mut take = |from, to, rate: i64, already: i64| {
            let all = (from..to)
                .filter_map(|at| steady.take(read_at(at * MS, already + (at - from) * rate, 0)));
            (all.collect::<Vec<_>>(), steady.drift())
        };
        let (changes, drift) = take(1, 10_000, gained, gained);
        assert_eq!(changes, [Change::Rate], "{gained}");
        assert!(
            u64::from(drift) >= gained.unsigned_abs() * 1_000,
            "{gained}"
        );
        // The rate is right again: so is the allowance, once two seconds show it.
        let (changes, drift) = take(10_000, 13_000, 0, 10_000 * gained);
        assert_eq!((changes, drift), (vec![], DRIFT), "{gained}");
    }
}

/// A change moves the number with the call that sees it and with the next, and then no more.
#[test]
fn a_bent_clock_is_seen_to_be_set_and_its_times_are_those_of_its_pieces() {
    let bend = Bend::default();
    let mut clock = Clock::bent(&bend).expect("a timer");
    assert_eq!(clock.changes(), 0);
    let at = real();
    bend.set(at, 5 * MS);
    assert_eq!(
        (clock.changes(), clock.changes(), clock.changes()),
        (1, 2, 2)
    );
    assert_eq!(clock.last_change(), Some(Change::Set));
    assert_eq!((bend.time(at - 1), bend.time(at)), (at - 1, at + 5 * MS));
    assert_eq!(bend.moments(at + 5 * MS), [at]);
    assert!(bend.moments(at + MS).is_empty(), "nobody saw that time");
    bend.set(at + MS, -5 * MS);
    assert_eq!(bend.moments(at + 5 * MS), [at, at + 5 * MS]);
    assert_eq!(clock.claim(), Claim::ask());
    bend.claims(Some(50_000));
    assert_eq!(clock.claim().error, Some(50_000));
}

#[test]
fn a_bent_rate_moves_both_clocks_alike() {
    let bend = Bend::default();
    let mut clock = Clock::bent(&bend).expect("a timer");
    bend.drift(200_000);
    let far = real() + 1_000_000 * MS;
    let gained = bend.offset(far);
    assert!((199 * MS..201 * MS).contains(&gained), "{gained}");
    assert_eq!(clock.changes(), 0, "within the allowance");
    bend.drift(50_000_000);
    let begun = std::time::Instant::now();
    while clock.changes() == 0 {
        assert!(begun.elapsed().as_secs() < 10, "5 % too fast, and not seen");
    }
    assert_eq!(clock.last_change(), Some(Change::Rate));
}
