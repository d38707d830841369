//! What the verifier had to look at and how deep the stack is, against a committed budget: a
//! program that grows past it may be refused by an older kernel.

mod stack;
mod verifier;

use aya::util::KernelVersion;
use lpm_agent::kernel::load::{Kernel, LoadSettings};
use lpm_common::layout::{Method, Methods};

use crate::support::turn;

/// Bytes of stack over a chain of calls, as 5.10 counts them, on every kernel: kernels refuse
/// more.
const STACK: u32 = 512;

/// Verified instructions, at most; kernels refuse 1,000,000. From which kernel on, and what for:
/// the usual programs, and those that look into tunnels. Before 6.4 every number in a program with
/// functions counts as precise, so that fewer states are equal. `cargo xtask test --kernel` checks
/// the columns that are not this machine's.
const INSTRUCTIONS: [(KernelVersion, u32, u32); 2] = [
    (KernelVersion::new(5, 10, 0), 165_000, 200_000),
    (KernelVersion::new(6, 4, 0), 120_000, 120_000),
];

#[test]
fn programs_keep_within_the_verifiers_budget() {
    turn::take();
    if !nix::unistd::geteuid().is_root() {
        println!("LPM-SKIP budget: loading programs needs root");
        return;
    }
    let here = KernelVersion::current().unwrap();
    let (_, usual, inner) = INSTRUCTIONS
        .into_iter()
        .rfind(|(from, _, _)| here >= *from)
        .expect("no kernel before 5.10");
    let mut settings = LoadSettings::new();
    settings.flow_entries = 64;
    settings.tunnels.vxlan[0] = 4789;
    settings.tunnels.geneve[0] = 6081;
    settings.xdp = true;
    let mut verified = Vec::new();
    // With `request` there is no fast path, without it no step of that method.
    let all: Methods = Method::ALL.into_iter().collect();
    for (methods, weakly_ordered) in [
        (all, false),
        (Methods::DEFAULT, false),
        (Methods::DEFAULT, true),
    ] {
        (settings.methods, settings.weakly_ordered) = (methods, weakly_ordered);
        let mut kernel = Kernel::prepare(verifier::OBJECT, &settings).unwrap();
        verified.extend(verifier::verify(&mut kernel));
    }
    for program in &verified {
        let (name, count, stack) = (&program.name, program.instructions, program.stack);
        println!("{name}: {count} verified instructions, {stack} bytes of stack");
    }
    for program in verified {
        let (name, count, stack) = (&program.name, program.instructions, program.stack);
        let most = if name.ends_with("_inner") {
            inner
        } else {
            usual
        };
        assert!(
            count <= most,
            "{name}: {count} verified instructions, more than {most}"
        );
        let chain = &program.chain;
        assert!(
            stack <= STACK,
            "{name}: {stack} bytes of stack in {chain:?}"
        );
    }
}
