//! The stack of a chain of calls, counted as Linux 5.10 counts it (`check_max_stack_depth`):
//! each function's depth rounded up to 32 bytes, 32 for one without. Newer kernels round to 16
//! where they compile to machine code, so what fits here fits everywhere.

use super::verifier::Instruction;

/// `BPF_JMP | BPF_CALL`, and what its source register says when it calls within the program.
const CALL: u8 = 0x85;
const PSEUDO_CALL: u8 = 1;

/// What 5.10 rounds each frame to.
const ROUND: u32 = 32;

/// The deepest chain of calls that begins with the program's first instruction: the first
/// instruction and the rounded frame of each function. `depths` has one number per function, in
/// the order of their code.
pub(crate) fn deepest(code: &[Instruction], depths: &[u32]) -> Vec<(usize, u32)> {
    let calls = calls(code);
    let mut starts: Vec<usize> = calls.iter().map(|&(_, to)| to).collect();
    starts.push(0);
    starts.sort_unstable();
    starts.dedup();
    assert_eq!(
        starts.len(),
        depths.len(),
        "the verifier counts other functions"
    );
    let function = |at: usize| starts.partition_point(|&start| start <= at) - 1;
    let edges: Vec<_> = calls
        .iter()
        .map(|&(from, to)| (function(from), function(to)))
        .collect();
    let chain = below(0, &edges, depths);
    chain
        .into_iter()
        .map(|function| (starts[function], frame(depths[function])))
        .collect()
}

fn frame(depth: u32) -> u32 {
    depth.max(1).next_multiple_of(ROUND)
}

/// The verifier refuses recursion, so this ends.
fn below(function: usize, edges: &[(usize, usize)], depths: &[u32]) -> Vec<usize> {
    let called = edges.iter().filter(|&&(from, _)| from == function);
    let stack = |chain: &Vec<usize>| chain.iter().map(|&at| frame(depths[at])).sum::<u32>();
    let under = called
        .map(|&(_, to)| below(to, edges, depths))
        .max_by_key(stack);
    let mut chain = vec![function];
    chain.extend(under.unwrap_or_default());
    chain
}

/// Calls within the program: from and to which instruction.
fn calls(code: &[Instruction]) -> Vec<(usize, usize)> {
    code.iter()
        .enumerate()
        .filter(|(_, instruction)| instruction.code == CALL && instruction.src_reg() == PSEUDO_CALL)
        .map(|(at, instruction)| {
            let distance = isize::try_from(instruction.imm).expect("a distance");
            let to = (at + 1).checked_add_signed(distance).expect("within");
            (at, to)
        })
        .collect()
}
