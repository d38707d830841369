//! From another build's agent to this one's and back, under traffic. `LPM_UPGRADE_FROM` names the
//! other build's `lpm`: `cargo xtask test --only upgrade` builds it.

use std::{path::PathBuf, sync::atomic::AtomicBool, thread};

use super::{
    LONG, PACKETS,
    attack::{ADDRESS, Attacked, MALLORY, fewest, flood},
    kernel_is_usable, programs, samples,
    site::{Site, modes},
};
use crate::{
    support::{
        clients::Ended,
        lpm::{Agent, eventually},
    },
    tables::Pod,
};

/// The other build's agent.
fn other_build() -> PathBuf {
    let other = std::env::var_os("LPM_UPGRADE_FROM").expect(
        "LPM_UPGRADE_FROM names no other build's lpm; `cargo xtask test --only upgrade` sets it",
    );
    let other = PathBuf::from(other);
    assert!(other.is_file(), "{}: no lpm there", other.display());
    other
}

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
    let other = other_build();
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

/// The flood goes on all the time. The hostile HTTP clients ask this build's agent only: the other
/// one may be older than what keeps them off.
#[test]
fn from_another_build_and_back_under_attack() {
    if !kernel_is_usable() {
        return;
    }
    let other = other_build();
    for &mode in modes() {
        let site = Site::new(mode, LONG);
        let mallory = Pod::new(&site.pair.node, MALLORY, "mallory", ADDRESS);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _ended = Ended(&stop);
            scope.spawn(|| flood(&mallory, &stop));
            let talk = site.talk();
            let this = || {
                let this = Attacked::start(&site, &[]);
                this.grows();
                this.agent
            };
            let other = || {
                let other = site.agent_of(&other, &["-i", MALLORY]);
                grows(&other);
                other
            };
            other().stop();
            for is_this in [true, false, true] {
                site.while_it_talks();
                let start = || if is_this { this() } else { other() };
                let (fewest, agent) = fewest(&site, mode, start);
                assert!(fewest >= 2, "{mode:?}: a hook was without a program");
                assert_eq!(site.layouts().len(), 1, "one layout is left");
                agent.stop();
            }
            talk.stop().expect("requests");
        });
    }
}
