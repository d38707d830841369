//! What the verifier had to look at, against a committed budget: a program
//! that grows past it may be refused by an older kernel.

use aya::programs::SchedClassifier;
use lpm_agent::kernel::load::{Kernel, LoadSettings};

/// Verified instructions per program, at most; kernels refuse 1,000,000.
const BUDGET: u32 = 80_000;
/// Likewise of those that look into tunnels.
const BUDGET_INNER: u32 = 150_000;

#[test]
fn programs_keep_within_the_verifiers_budget() {
    if !nix::unistd::geteuid().is_root() {
        println!("LPM-SKIP budget: loading programs needs root");
        return;
    }
    let mut settings = LoadSettings::new();
    settings.flow_entries = 64;
    settings.tunnels.vxlan[0] = 4789;
    settings.tunnels.geneve[0] = 6081;
    let mut kernel = Kernel::load(&settings).unwrap();
    for (name, program) in kernel.ebpf_mut().programs_mut() {
        let name = name.to_owned();
        let program: &mut SchedClassifier = program.try_into().unwrap();
        let verified = program.info().unwrap().verified_instruction_count();
        println!("{name}: {verified:?} verified instructions");
        let verified = verified.unwrap_or(0);
        let budget = if name.ends_with("_inner") {
            BUDGET_INNER
        } else {
            BUDGET
        };
        assert!(
            verified <= budget,
            "{name}: {verified} verified instructions"
        );
    }
}
