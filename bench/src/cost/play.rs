//! Many packets in a single test run: a program of the benchmark's own makes
//! each one from a list, and hands them to the programs under test in turn. So
//! everything is in the cache, although no packet comes twice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun,
    maps::{Array, MapData, ProgramArray},
    programs::{Program, SchedClassifier, TestRunOptions, Xdp},
};
use nix::time::{ClockId, clock_gettime};

use super::programs::classifier;

/// Bytes of a packet in the list; what a packet does not fill is like the
/// padding of a short Ethernet frame.
const BYTES: usize = 128;
/// Pairs of packets in one run: all that the list has room for.
pub(super) const PAIRS: u32 = 1024;

/// A packet of the local end's and the answer to it; the number tells one pair
/// from the next.
pub(super) type Make = fn(number: u32) -> [Vec<u8>; 2];

/// Plays pairs of packets to two programs: one takes the packets of the local
/// end, the other the answers.
pub(super) struct Player {
    ebpf: Ebpf,
    /// The kernel empties the array when nobody holds its descriptor.
    _turns: ProgramArray<MapData>,
    /// Number of the next pair.
    next: u32,
}

impl Player {
    /// A player for these programs of `to`; none: for the empty program.
    pub(super) fn new(bench_object: &[u8], to: Option<(&Ebpf, [&str; 2])>) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(bench_object)?;
        for name in ["bench_play", "bench_empty"] {
            classifier(&mut ebpf, name)?.load()?;
        }
        let mut turns = ProgramArray::try_from(ebpf.take_map("BENCH_TURNS").context("a map")?)?;
        let (from, names) = to.unwrap_or((&ebpf, ["bench_empty"; 2]));
        for (index, name) in (0..).zip(names) {
            let program = from.program(name).with_context(|| name.to_owned())?;
            turns.set(index, program.fd()?, 0)?;
        }
        Ok(Self {
            ebpf,
            _turns: turns,
            next: 0,
        })
    }

    /// Plays the next pairs. Returns nanoseconds per packet.
    pub(super) fn play(&mut self, make: Make) -> Result<f64> {
        let list = self.ebpf.map_mut("BENCH_PACKETS").context("a map")?;
        let mut list = Array::<_, [u8; BYTES]>::try_from(list)?;
        for pair in 0..PAIRS {
            for (way, packet) in (0..).zip(make(self.next.wrapping_add(pair))) {
                list.set(pair * 2 + way, padded(&packet)?, 0)?;
            }
        }
        let first = padded(&make(self.next)[0])?;
        self.next = self.next.wrapping_add(PAIRS);
        test_run(&mut self.ebpf, "bench_play", &first, 2 * PAIRS)
    }
}

fn padded(packet: &[u8]) -> Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    let room = bytes.get_mut(..packet.len());
    room.with_context(|| format!("a packet of {} bytes", packet.len()))?
        .copy_from_slice(packet);
    Ok(bytes)
}

/// Runs a program `repeat` times on a packet. Returns nanoseconds per run: the
/// processor's time of this thread, because the kernel's own figure is in whole
/// nanoseconds.
pub(super) fn test_run(ebpf: &mut Ebpf, name: &str, packet: &[u8], repeat: u32) -> Result<f64> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(packet);
    options.repeat = repeat;
    let program = ebpf.program_mut(name).with_context(|| name.to_owned())?;
    let before = busy()?;
    let run = match program {
        Program::Xdp(program) => <Xdp as TestRun>::test_run(program, options),
        program => <&mut SchedClassifier>::try_from(program)?.test_run(options),
    };
    let took = busy()?.saturating_sub(before);
    run.with_context(|| format!("test-run {name}"))?;
    ensure!(repeat > 0, "a run of no packets");
    Ok(took.as_secs_f64() * 1e9 / f64::from(repeat))
}

/// The processor's time that this thread has had.
fn busy() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
