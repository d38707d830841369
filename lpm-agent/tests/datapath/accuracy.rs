//! The ground truth in short: 5 and 20 ms, held against the wire's own log.
//! `cargo xtask bench truth` is the long version, with narrow bounds.

use std::{path::Path, time::Duration};

use lpm_testbed::truth::{Method, Plan, Report, Runner};

use crate::support::kernel::kernel_is_usable;

/// What samples may show beyond the truth, beside no delay: 10 % of the round
/// trip or 1 ms, because others work on this machine at the same time.
const BAND: (f64, f64) = (0.1, 1e6);

#[test]
fn samples_by_timestamps_show_the_wires_delay() {
    samples_show_the_wires_delay(Method::Ts);
}

#[test]
fn samples_by_sequence_number_show_the_wires_delay() {
    samples_show_the_wires_delay(Method::Seq);
}

fn samples_show_the_wires_delay(method: Method) {
    if !kernel_is_usable() {
        return;
    }
    let lpm = Path::new(env!("CARGO_BIN_EXE_lpm"));
    let runner = Runner::new(lpm, method).expect("a runner");
    let measure = |milliseconds| {
        let delay = Duration::from_millis(milliseconds);
        let plan = Plan {
            flows: 6,
            round: Duration::from_secs(2) + delay * 10,
            samples: 200,
            ..Plan::new(delay)
        };
        runner.run(&plan).expect("a result")
    };
    let results = [0, 5, 20].map(measure);
    for result in &results {
        // These two are of the same packets, so that no load can tell them apart.
        let off = result.beyond_log;
        println!(
            "{} ns: {} prompt samples, {:.1} us beyond the wire's log",
            result.delay_ns,
            off.count,
            off.p50 / 1e3
        );
        // The log reads another clock, a few microseconds off at the worst.
        assert!(
            off.min >= -5e3,
            "a sample is shorter than the truth: {off:?}"
        );
        assert!(
            off.p50 < 1e6,
            "a node costs less than a millisecond: {off:?}"
        );
    }
    let report = Report::new(results.into(), Some(BAND));
    println!("{report}");
    assert!(report.holds(), "see the list above");
}
