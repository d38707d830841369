//! From another build's agent to this one's and back, under traffic. `LPM_UPGRADE_FROM` names the
//! other build's `lpm`: `cargo xtask test --only upgrade` builds it.

use std::path::PathBuf;

use super::{
    LONG, PACKETS,
    attack::fewest,
    kernel_is_usable, programs, samples,
    site::{Site, modes},
};
use crate::support::lpm::{Agent, eventually};

/// The counters of an agent go on, or have begun anew once: they never go back while it lives.
fn grows(agent: &Agent) {
    let mut last = (0.0, 0.0);
    for _ in 0..3 {
        let before = last;
        eventually("it measures", || {
            let now = (samples(agent), agent.value(PACKETS).unwrap_or(0.0));
            assert!(now.0 >= last.0 && now.1 >= last.1, "{now:?} after {last:?}");
            last = now;
            now.0 > before.0 && now.1 > before.1
        });
    }
}

#[test]
fn from_another_build_and_back_under_traffic() {
    if !kernel_is_usable() {
        return;
    }
    let other = std::env::var_os("LPM_UPGRADE_FROM").expect(
        "LPM_UPGRADE_FROM names no other build's lpm; `cargo xtask test --only upgrade` sets it",
    );
    let other = PathBuf::from(other);
    assert!(other.is_file(), "{}: no lpm there", other.display());
    let this = PathBuf::from(env!("CARGO_BIN_EXE_lpm"));
    for &mode in modes() {
        let site = Site::new(mode, LONG);
        let talk = site.talk();
        let first = site.agent_of(&other, &[]);
        grows(&first);
        first.stop();
        for program in [&this, &other, &this] {
            site.while_it_talks();
            let (fewest, agent) = fewest(&site, mode, || {
                let agent = site.agent_of(program, &[]);
                grows(&agent);
                agent
            });
            assert!(fewest >= 2, "{mode:?}: a hook was without a program");
            assert_eq!(site.layouts().len(), 1, "one layout is left");
            assert_eq!(programs(&site, mode), 2, "{mode:?}: one program per hook");
            agent.stop();
        }
        let report = talk.stop().expect("requests");
        assert!(report.requests > 0, "the traffic went on");
    }
}
