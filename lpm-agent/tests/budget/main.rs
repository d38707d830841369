//! What the verifier had to look at and how deep the stack is, against a committed budget: a
//! program that grows past it may be refused by an older kernel.

mod stack;
mod verifier;

use lpm_agent::kernel::load::{Kernel, LoadSettings};

/// Verified instructions per program, at most; kernels refuse 1,000,000.
const INSTRUCTIONS: u32 = 80_000;
/// Likewise of those that look into tunnels.
const INSTRUCTIONS_INNER: u32 = 100_000;
/// Bytes of stack over a chain of calls, as 5.10 counts them; kernels refuse more.
const STACK: u32 = 512;

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
    settings.xdp = true;
    let mut kernel = Kernel::prepare(verifier::OBJECT, &settings).unwrap();
    let verified = verifier::verify(&mut kernel);
    for program in &verified {
        println!("{program:?}");
    }
    for program in verified {
        let instructions = if program.name.ends_with("_inner") {
            INSTRUCTIONS_INNER
        } else {
            INSTRUCTIONS
        };
        assert!(program.instructions <= instructions, "{program:?}");
        assert!(program.stack <= STACK, "{program:?}");
    }
}
