//! What the verifier says of each program, on every kernel the same way: the object is loaded once
//! more with the verifier's statistics asked for (`log_level` 4), into the maps that the agent's
//! own load made, so that its settings are the constants that they are in earnest.
//!
//! `bpf_prog_info` tells the number of instructions from 5.16 on only, and no kernel tells the
//! stack of a chain of calls.

use std::{
    collections::HashMap,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use aya::maps::{Map, MapData};
use aya_obj::{
    Object, ProgramSection,
    generated::{bpf_cmd, bpf_func_info, bpf_insn, bpf_prog_info, bpf_prog_type},
};
use lpm_agent::kernel::load::Kernel;

use super::stack;
use crate::support::syscall::{self, create, zeroed_attr};

pub(crate) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lpm.bpf.o"));

/// Statistics and nothing else (`BPF_LOG_STATS`).
const STATISTICS: u32 = 4;
const LOG_BYTES: usize = 1 << 16;

/// What the verifier had to do for one program.
#[derive(Debug)]
pub(crate) struct Verified {
    /// The program.
    pub(crate) name: String,
    /// Instructions that it looked at; kernels refuse 1,000,000.
    pub(crate) instructions: u32,
    /// Bytes of stack on the deepest chain of calls, as 5.10 counts; kernels refuse more than 512.
    pub(crate) stack: u32,
    /// That chain: function and bytes.
    pub(crate) chain: Vec<(String, u32)>,
}

/// Loads every program of the object, into the maps of `kernel`.
///
/// # Panics
/// When the kernel refuses one; the message holds the end of the verifier's log.
pub(crate) fn verify(kernel: &mut Kernel) -> Vec<Verified> {
    let mut object = Object::parse(OBJECT).expect("an object");
    let btf = object
        .fixup_and_sanitize_btf(aya::features().btf().expect("a kernel with BTF"))
        .expect("BTF that the kernel takes")
        .map(aya_obj::btf::Btf::to_bytes)
        .expect("an object with BTF");
    let btf = load_btf(&btf);
    relocate(&mut object, kernel);
    let mut verified: Vec<_> = object
        .programs
        .iter()
        .map(|(name, program)| {
            let kind = match program.section {
                ProgramSection::Xdp { .. } => bpf_prog_type::BPF_PROG_TYPE_XDP,
                ProgramSection::SchedClassifier => bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS,
                ref other => panic!("{name}: teach this test about {other:?}"),
            };
            let function = &object.functions[&program.function_key()];
            let (log, left) = load(name, kind, &program.license, function, &btf);
            let depths = depths(&log).unwrap_or_else(|| panic!("{name}: no stack depth in {log}"));
            let depths = of_all(function, &left, &depths);
            let chain = stack::deepest(&function.instructions, &depths);
            Verified {
                name: name.clone(),
                instructions: processed(&log)
                    .unwrap_or_else(|| panic!("{name}: no `processed` in {log}")),
                stack: chain.iter().map(|&(_, bytes)| bytes).sum(),
                chain: chain
                    .iter()
                    .map(|&(at, bytes)| (name_at(&object, &function.instructions[at..]), bytes))
                    .collect(),
            }
        })
        .collect();
    verified.sort_by(|a, b| a.name.cmp(&b.name));
    verified
}

/// The name of the function whose code `code` begins with. Equal code has equal names, as far as
/// anybody cares.
fn name_at(object: &Object, code: &[bpf_insn]) -> String {
    let same = |function: &&aya_obj::Function| {
        function.instructions.len() <= code.len()
            && function
                .instructions
                .iter()
                .zip(code)
                .all(|(a, b)| a.code == b.code && a.off == b.off)
    };
    let longest = object
        .functions
        .values()
        .filter(same)
        .max_by_key(|function| function.instructions.len());
    longest.map_or_else(|| "?".to_owned(), |function| function.name.clone())
}

/// Puts the descriptors of the maps that `kernel` holds into the instructions.
fn relocate(object: &mut Object, kernel: &mut Kernel) {
    let maps: HashMap<_, _> = object.maps.drain().collect();
    let ebpf = kernel.ebpf_mut();
    let numbers: Vec<_> = maps
        .iter()
        .map(|(name, map)| {
            let held = ebpf.map(name).unwrap_or_else(|| panic!("no map {name}"));
            (name.as_str(), data(held).fd().as_fd().as_raw_fd(), map)
        })
        .collect();
    let text = object
        .functions
        .keys()
        .map(|&(section, _)| section)
        .collect();
    object
        .relocate_maps(numbers.into_iter(), &text)
        .expect("maps");
    object.relocate_calls(&text).expect("calls");
    object.sanitize_functions(aya::features());
}

fn data(map: &Map) -> &MapData {
    match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuHashMap(data)
        | Map::LpmTrie(data)
        | Map::RingBuf(data)
        | Map::PerfEventArray(data)
        | Map::Unsupported(data) => data,
        other => panic!("teach this test about {other:?}"),
    }
}

/// The stack of each function, in the order of their code, from that of those that are left: what
/// the settings leave no call of the verifier takes out before it tells. Its frame counts all the
/// same where 5.10 adds frames up, as one without any stack.
fn of_all(function: &aya_obj::Function, left: &[u32], depths: &[u32]) -> Vec<u32> {
    let mut left = left.iter().zip(depths).peekable();
    let all = function.func_info.func_info.iter().map(|info| {
        let depth = left.next_if(|(kept, _)| **kept == info.type_id);
        depth.map_or(0, |(_, depth)| *depth)
    });
    let all = all.collect();
    assert!(left.next().is_none(), "functions in another order");
    all
}

/// The types of a loaded program's functions (`bpf_prog_info.func_info`).
fn functions_of(program: &OwnedFd) -> Vec<u32> {
    const NONE: bpf_func_info = bpf_func_info {
        insn_off: 0,
        type_id: 0,
    };
    let mut functions = vec![NONE; 128];
    // SAFETY: a structure of plain numbers; all zero is a value of it.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    info.nr_func_info = count(functions.len());
    info.func_info_rec_size = count(size_of::<bpf_func_info>());
    info.func_info = functions.as_mut_ptr() as u64;
    let mut attr = zeroed_attr();
    // SAFETY: writing plain numbers into a union; what the pointers name outlives the call.
    let want = unsafe { &mut attr.info };
    want.bpf_fd = program.as_raw_fd().cast_unsigned();
    want.info_len = count(size_of::<bpf_prog_info>());
    want.info = &raw mut info as u64;
    syscall::call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).expect("what was loaded");
    functions.truncate(info.nr_func_info as usize);
    functions.iter().map(|info| info.type_id).collect()
}

/// Loads one program; returns the verifier's statistics and the types of the functions that it
/// left.
fn load(
    name: &str,
    kind: bpf_prog_type,
    license: &std::ffi::CStr,
    function: &aya_obj::Function,
    btf: &OwnedFd,
) -> (String, Vec<u32>) {
    let mut log = vec![0_u8; LOG_BYTES];
    let functions = function.func_info.func_info_bytes();
    let lines = function.line_info.line_info_bytes();
    let mut attr = zeroed_attr();
    // SAFETY: writing plain numbers into a union; what the pointers name outlives the call.
    let want = unsafe { &mut attr.__bindgen_anon_3 };
    want.prog_type = kind as u32;
    want.insns = function.instructions.as_ptr() as u64;
    want.insn_cnt = count(function.instructions.len());
    want.license = license.as_ptr() as u64;
    want.prog_btf_fd = btf.as_raw_fd().cast_unsigned();
    want.func_info = functions.as_ptr() as u64;
    want.func_info_cnt = count(function.func_info.len());
    want.func_info_rec_size = count(function.func_info_rec_size);
    want.line_info = lines.as_ptr() as u64;
    want.line_info_cnt = count(function.line_info.len());
    want.line_info_rec_size = count(function.line_info_rec_size);
    want.log_level = STATISTICS;
    want.log_buf = log.as_mut_ptr() as u64;
    want.log_size = count(log.len());
    let result = create(bpf_cmd::BPF_PROG_LOAD, &mut attr);
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    let log = String::from_utf8_lossy(&log[..end]).into_owned();
    match result {
        Ok(program) => (log, functions_of(&program)),
        Err(error) => panic!("{name}: {error}: {log}"),
    }
}

fn load_btf(bytes: &[u8]) -> OwnedFd {
    let mut attr = zeroed_attr();
    // SAFETY: writing plain numbers into a union; the bytes outlive the call.
    let want = unsafe { &mut attr.__bindgen_anon_7 };
    want.btf = bytes.as_ptr() as u64;
    want.btf_size = count(bytes.len());
    create(bpf_cmd::BPF_BTF_LOAD, &mut attr).expect("load the BTF")
}

/// `processed N insns`, the last one.
fn processed(log: &str) -> Option<u32> {
    let line = log
        .lines()
        .rev()
        .find(|line| line.starts_with("processed "))?;
    line.split(' ').nth(1)?.parse().ok()
}

/// Bytes of stack of each function, in the order of their code: `stack depth A+B+C`, or, since
/// 7.3, `subprog N (name) ... stack A` line by line.
fn depths(log: &str) -> Option<Vec<u32>> {
    let sum = log
        .lines()
        .find_map(|line| line.strip_prefix("stack depth "))?;
    let old: Option<Vec<u32>> = sum.split('+').map(|depth| depth.parse().ok()).collect();
    old.or_else(|| {
        log.lines()
            .filter(|line| line.starts_with("subprog "))
            .map(|line| line.rsplit_once(" stack ")?.1.parse().ok())
            .collect()
    })
}

fn count(length: usize) -> u32 {
    u32::try_from(length).expect("short")
}

/// For [`stack`]'s sake: what an instruction is.
pub(crate) type Instruction = bpf_insn;
