//! Long random sequences from a seed: `cargo xtask fuzz differential --packets N --seed S`.
//!
//! A sequence mixes what the other tests do one at a time. Conversations, packets of any kind, pings
//! and DNS messages share one set of tables; some wear tags, some are in tunnels, some are damaged or
//! cut. The programs are those of the plain, the tunnel and the node hooks, and XDP.

use std::env;

use lpm_common::{
    host::{Arrival, Model},
    layout::{Method, Methods},
    packet::Direction,
    parse::Link,
    testing::{
        frame::Frame,
        tunnel::{wrap, wrappings},
    },
};
use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};

use super::{
    LONGEST, Pair, arrival,
    queries::any_question,
    random::any_packet,
    sequence::{Step, Talk, any_step},
    tunnels::TUNNELS,
    xdp::takes_metadata,
};

/// Packets of a run that nobody asked more of.
const PACKETS: u64 = 20_000;

/// Most packets of a sequence.
const LENGTH: usize = 80;

/// One packet of a sequence.
#[derive(Clone, Debug)]
enum Item {
    /// The next of a conversation.
    Step(Step),
    /// Any packet, the time before it, and its segments.
    Packet(Frame, u64, u32),
    /// A ping or a DNS message, its length at most, and the time before it.
    Question(Frame, Direction, usize, u64),
}

/// What is done to a packet's bytes.
#[derive(Clone, Debug)]
struct Guise {
    /// VLAN tag; 0: none.
    tag: u16,
    /// Number of the tunnel, for the programs that look into them.
    tunnel: usize,
    /// One byte that is another.
    damage: Option<(usize, u8)>,
}

fn any_item() -> impl Strategy<Value = Item> {
    prop_oneof![
        5 => any_step().prop_map(Item::Step),
        3 => any_packet().prop_map(|(frame, gap, segments)| Item::Packet(frame, gap, segments)),
        2 => any_question()
            .prop_map(|(frame, way, cut, gap)| Item::Question(frame, way, cut, gap)),
    ]
}

fn any_guise() -> impl Strategy<Value = Guise> {
    let tag = prop_oneof![12 => Just(0), 1 => 30_u16..33];
    let tunnel = prop_oneof![3 => Just(0_usize), 1 => 0_usize..40];
    let damage = prop_oneof![
        19 => Just(None),
        1 => (0_usize..140, any::<u8>()).prop_map(Some),
    ];
    (tag, tunnel, damage).prop_map(|(tag, tunnel, damage)| Guise {
        tag,
        tunnel,
        damage,
    })
}

/// The hooks that a sequence passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hooks {
    Plain,
    Tunnel,
    Node,
    Xdp,
}

/// A sequence on its way.
struct Run<'a> {
    hooks: Hooks,
    pair: &'a mut Pair,
    model: Model,
    talk: Talk,
    now_ns: u64,
    packets: u64,
}

impl Run<'_> {
    /// The frame of an item, what the kernel tells of it, and its length at most.
    fn frame(&mut self, item: Item) -> (Frame, Arrival, usize) {
        let (frame, gap, cut) = match item {
            Item::Step(step) => {
                self.talk.now_ns = self.now_ns;
                let mut frame = self.talk.frame(step);
                // A flow of its own: packets of any kind would end its samples.
                let server = if step.from_local {
                    &mut frame.dport
                } else {
                    &mut frame.sport
                };
                *server = 5310;
                let gap = self.talk.now_ns - self.now_ns;
                (frame, gap, usize::MAX)
            }
            Item::Packet(frame, gap, segments) => {
                self.now_ns += gap;
                let mut arrival = arrival(&frame, self.now_ns);
                arrival.segments = segments;
                arrival.segment_size = if segments > 1 { 724 } else { 0 };
                return (frame, arrival, usize::MAX);
            }
            Item::Question(frame, way, cut, gap) => {
                self.now_ns += gap;
                let mut arrival = arrival(&frame, self.now_ns);
                arrival.direction = way;
                return (frame, arrival, cut);
            }
        };
        self.now_ns += gap;
        let arrival = arrival(&frame, self.now_ns);
        (frame, arrival, cut)
    }

    fn bytes(&self, mut frame: Frame, guise: &Guise, cut: usize) -> (Vec<u8>, Link) {
        let link = if frame.ethernet {
            Link::Ethernet
        } else {
            Link::Ip
        };
        if guise.tag != 0 && frame.ethernet {
            frame.tags = vec![(0x8100, guise.tag)];
        }
        let mut bytes = frame.bytes();
        let mut link = link;
        if self.hooks == Hooks::Tunnel {
            let known = wrappings().into_iter().nth(guise.tunnel);
            let around = known.map_or_else(Vec::new, |(_, around)| around);
            if around.last().is_some_and(|outer| outer.ethernet) {
                bytes = wrap(&bytes, &around);
            }
            // Programs that look into tunnels are for Ethernet only.
            link = Link::Ethernet;
        }
        if let Some((at, byte)) = guise.damage
            && let Some(place) = bytes.get_mut(at)
        {
            *place = byte;
        }
        bytes.truncate(cut.min(LONGEST));
        (bytes, link)
    }

    fn packet(&mut self, item: Item, guise: &Guise) {
        let (frame, mut arrival, cut) = self.frame(item);
        let (bytes, link) = self.bytes(frame, guise, cut);
        arrival.link = link;
        let taken = match self.hooks {
            Hooks::Plain | Hooks::Tunnel => self.pair.packet(&bytes, &arrival),
            Hooks::Node => self.pair.joined_packet(&bytes, &arrival),
            Hooks::Xdp => {
                arrival.link = Link::Ethernet;
                // XDP knows no merged packets.
                (arrival.segments, arrival.segment_size) = (1, 0);
                self.pair.xdp_packet(&bytes, &arrival)
            }
        };
        if !taken {
            return;
        }
        self.packets += 1;
        if self.hooks == Hooks::Node {
            self.model.joined_packet(&bytes, &arrival);
        } else {
            self.model.packet(&bytes, &arrival);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: give a number")),
    )
}

/// Programs with these settings, and the hooks that are tried with them.
fn pairs() -> Option<Vec<(Pair, Vec<Hooks>)>> {
    let all: Methods = Method::ALL.into_iter().collect();
    let mut plain = Pair::of_methods(Methods::DEFAULT)?;
    let mut hooks = vec![Hooks::Plain];
    if takes_metadata(&mut plain) {
        hooks.push(Hooks::Xdp);
    }
    // Last: the node hooks change what is known of the interface.
    hooks.push(Hooks::Node);
    Some(vec![
        (plain, hooks),
        (Pair::of_methods(all)?, vec![Hooks::Plain]),
        (Pair::with(TUNNELS)?, vec![Hooks::Tunnel]),
    ])
}

#[test]
fn long_sequences_from_a_seed_leave_the_same_state() {
    let Some(pairs) = pairs() else { return };
    let seed = number("LPM_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let wanted = number("LPM_FUZZ_PACKETS").unwrap_or(PACKETS);
    println!("differential: seed {seed}, {wanted} packets");
    let kinds: usize = pairs.iter().map(|(_, hooks)| hooks.len()).sum();
    let (mut packets, mut samples) = (0, 0);
    for (number, (mut pair, hooks)) in pairs.into_iter().enumerate() {
        for hooks in hooks {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&seed.to_le_bytes());
            (bytes[8], bytes[9]) = (u8::try_from(number).expect("few"), hooks as u8);
            let share = wanted.div_ceil(kinds as u64);
            let done = sequences(&mut pair, hooks, &bytes, share);
            println!(
                "differential: {hooks:?}: {} packets, {} samples",
                done.0, done.1
            );
            packets += done.0;
            samples += done.1;
        }
    }
    println!("differential: {packets} packets, {samples} samples, seed {seed}");
    assert!(packets >= wanted && samples > wanted / 100);
}

/// Runs sequences until so many packets went through both. Returns how many did, and their samples.
fn sequences(pair: &mut Pair, hooks: Hooks, seed: &[u8; 32], wanted: u64) -> (u64, u64) {
    let cases = u32::try_from(wanted.div_ceil(LENGTH as u64 / 4)).expect("fewer sequences");
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, seed));
    let items = prop::collection::vec((any_item(), any_guise()), LENGTH / 4 + 10..LENGTH);
    let begin = prop_oneof![Just([u32::MAX - 2000, 7]), any::<[u32; 2]>()];
    let strategy = (begin, any::<bool>(), items);
    let counts = std::cell::Cell::new((0, 0));
    let pair = std::cell::RefCell::new(pair);
    let outcome = runner.run(&strategy, |(next, timestamps, items)| {
        if counts.get().0 >= wanted {
            return Ok(());
        }
        let mut pair = pair.borrow_mut();
        let model = if hooks == Hooks::Node {
            pair.reset_joined()
        } else {
            pair.reset()
        };
        let mut run = Run {
            hooks,
            pair: &mut pair,
            model,
            talk: Talk {
                next,
                now_ns: 0,
                timestamps,
            },
            now_ns: 0,
            packets: 0,
        };
        for (item, guise) in items {
            run.packet(item, &guise);
        }
        run.pair.assert_same(&run.model, "a long sequence");
        let measured = run.model.samples.borrow().len() + run.model.answers.borrow().len();
        let (packets, samples) = counts.get();
        counts.set((packets + run.packets, samples + measured as u64));
        Ok(())
    });
    if let Err(error) = outcome {
        let seed = u64::from_le_bytes(*seed.first_chunk().expect("eight bytes"));
        panic!("{hooks:?}, LPM_FUZZ_SEED={seed}: {error}");
    }
    counts.get()
}
