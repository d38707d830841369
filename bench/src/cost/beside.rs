//! Two objects side by side: what a packet costs by this build and by another
//! one, in turn within each round, and the ratio with its 95 % interval.

use anyhow::{Context, Result, ensure};
use lpm_agent::kernel::load::LoadSettings;

use super::{
    Args, hot,
    live::Series,
    methods,
    play::{Make, Player, test_run},
    programs::{WAYS, load, load_empty, read},
    queries, tunnels_xdp,
};

/// Runs of a known packet per turn.
const REPEAT: u32 = 100_000;
/// Turns per round, of which the quickest counts: what disturbs a turn only adds.
const TURNS: usize = 3;
/// Rounds after which both objects are loaded anew: where their code and maps
/// lie in memory is part of what a load costs, and chance.
const ROUNDS_PER_LOAD: usize = 5;
/// Fewest rounds that an interval is told for.
const LEAST_ROUNDS: usize = 20;

/// Nanoseconds per packet by round: of this object, the other one and the empty
/// program.
pub(super) struct Row {
    pub(super) name: String,
    rounds: Vec<[f64; 3]>,
}

/// A median and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Interval {
    pub(super) median: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// What is measured again and again.
enum Packets {
    /// A packet of a known flow for one program, with nothing new in it; what the
    /// flow's other end sends makes it known.
    Same {
        program: &'static str,
        packet: Vec<u8>,
        back: Option<(&'static str, Vec<u8>)>,
    },
    /// A packet and its answer, new ones each time.
    Pairs(Make),
}

/// Measures once: nanoseconds per packet.
type Turn = Box<dyn FnMut() -> Result<f64>>;

impl Packets {
    fn turn(&self, object: &[u8], bench_object: &[u8]) -> Result<Turn> {
        match self {
            Self::Pairs(make) => {
                let (make, mut kernel) = (*make, load(object, &LoadSettings::new())?);
                let mut player = Player::new(bench_object, Some((kernel.ebpf_mut(), WAYS)))?;
                Ok(Box::new(move || player.play(make)))
            }
            Self::Same {
                program,
                packet,
                back,
            } => {
                let wants = program.ends_with("_inner") || program.starts_with("lpm_xdp");
                let settings = if wants {
                    tunnels_xdp::configured()
                } else {
                    LoadSettings::new()
                };
                let mut kernel = load(object, &settings)?;
                let (program, packet) = (*program, packet.clone());
                for _ in 0..hot::BEFORE {
                    test_run(kernel.ebpf_mut(), program, &packet, 1)?;
                    if let Some((program, packet)) = back {
                        test_run(kernel.ebpf_mut(), program, packet, 1)?;
                    }
                }
                Ok(Box::new(move || {
                    test_run(kernel.ebpf_mut(), program, &packet, REPEAT)
                }))
            }
        }
    }

    fn empty(&self, bench_object: &[u8]) -> Result<Turn> {
        match self {
            Self::Pairs(make) => {
                let (make, mut player) = (*make, Player::new(bench_object, None)?);
                Ok(Box::new(move || player.play(make)))
            }
            Self::Same {
                program, packet, ..
            } => {
                let (mut empty, packet) = (load_empty(bench_object)?, packet.clone());
                let name = if program.starts_with("lpm_xdp") {
                    "bench_xdp_empty"
                } else {
                    "bench_empty"
                };
                Ok(Box::new(move || {
                    test_run(&mut empty, name, &packet, REPEAT)
                }))
            }
        }
    }
}

fn all_packets() -> Vec<(String, Packets)> {
    let mut all = Vec::new();
    let [from, to] = hot::packets(41140);
    for (way, (packet, back)) in [(&from, &to), (&to, &from)].into_iter().enumerate() {
        let packets = Packets::Same {
            program: WAYS[way],
            packet: packet.clone(),
            back: Some((WAYS[1 - way], back.clone())),
        };
        all.push((format!("TCP, {}", WAYS[way]), packets));
    }
    for (program, name) in [
        ("lpm_to_local_inner", "TCP"),
        ("lpm_to_local_inner", "VxLAN"),
        ("lpm_to_local_inner", "Geneve"),
        ("lpm_to_local_inner", "VxLAN in VxLAN"),
        ("lpm_xdp", "TCP"),
        ("lpm_xdp_inner", "VxLAN"),
    ] {
        let found = tunnels_xdp::packets().into_iter();
        for packets in found.filter(|packets| packets.name == name) {
            let back = tunnels_xdp::back_of(program);
            let packets = Packets::Same {
                program,
                packet: packets.there,
                back: packets.back.map(|packet| (back, packet)),
            };
            all.push((format!("{name}, {program}"), packets));
        }
    }
    for (name, packet) in queries::others() {
        let packets = Packets::Same {
            program: WAYS[0],
            packet,
            back: None,
        };
        all.push((name.to_owned(), packets));
    }
    let pairs: [(&str, Make); 5] = [
        ("data and ACK, timestamps", methods::stamped),
        ("data and ACK, none", methods::bare),
        ("SYN and SYN-ACK", methods::opening),
        ("DNS query and answer", queries::dns),
        ("echo request and reply", queries::ping),
    ];
    all.extend(pairs.map(|(name, make)| (name.to_owned(), Packets::Pairs(make))));
    all
}

/// Everything that runs hot.
pub(super) fn measure(args: &Args, other: &std::path::Path) -> Result<Vec<Row>> {
    let rounds = args.rounds();
    ensure!(
        rounds >= LEAST_ROUNDS,
        "--beside wants --rounds {LEAST_ROUNDS} or more"
    );
    let (this, other) = (read(&args.object)?, read(other)?);
    let bench_object = read(&args.bench_object)?;
    let mut rows = Vec::new();
    for (name, packets) in all_packets() {
        eprintln!("measuring {name}, {rounds} rounds ...");
        let mut all = Vec::new();
        while all.len() < rounds {
            let mut turns = [
                packets.turn(&this, &bench_object)?,
                packets.turn(&other, &bench_object)?,
                packets.empty(&bench_object)?,
            ];
            // The first round warms up.
            round(&mut turns, 0)?;
            for _ in 0..ROUNDS_PER_LOAD.min(rounds - all.len()) {
                all.push(round(&mut turns, all.len())?);
            }
        }
        rows.push(Row { name, rounds: all });
    }
    Ok(rows)
}

/// One round: the least of each one's turns. `first` is who begins.
fn round(turns: &mut [Turn; 3], first: usize) -> Result<[f64; 3]> {
    let mut least = [f64::INFINITY; 3];
    for turn in 0..TURNS {
        for place in 0..3 {
            let place = (place + turn + first) % 3;
            least[place] = least[place].min(turns[place]()?);
        }
    }
    Ok(least)
}

/// The rows of live traffic, by direction.
pub(super) fn of_live(series: &[Series]) -> Result<Vec<Row>> {
    let find = |name: &str| {
        let found = series.iter().find(|series| series.name == name);
        found.with_context(|| format!("{name} was not measured"))
    };
    let (this, other, empty) = (find("lpm")?, find("beside")?, find("empty")?);
    let rows = ["from pod", "to pod"].into_iter().enumerate();
    let rows = rows.map(|(way, name)| {
        let both = this.gross[way].iter().zip(&other.gross[way]);
        let all = both.zip(&empty.gross[way]);
        Row {
            name: name.to_owned(),
            rounds: all
                .map(|((this, other), empty)| [*this, *other, *empty])
                .collect(),
        }
    });
    Ok(rows.collect())
}

impl Row {
    /// Net nanoseconds per packet of this object (0), or of the other one (1).
    pub(super) fn net(&self, place: usize) -> Option<Interval> {
        let net = self.rounds.iter().map(|round| round[place] - round[2]);
        Interval::of(net.collect())
    }

    /// Ratio of the net costs of this object and the other one.
    pub(super) fn net_ratio(&self) -> Option<Interval> {
        let rounds = self.rounds.iter();
        Interval::of(
            rounds
                .map(|[this, other, empty]| (this - empty) / (other - empty))
                .collect(),
        )
    }

    /// Ratio of the costs of both objects, calling a program included.
    pub(super) fn gross_ratio(&self) -> Option<Interval> {
        let rounds = self.rounds.iter();
        Interval::of(rounds.map(|[this, other, _]| this / other).collect())
    }
}

impl Interval {
    /// The interval of order statistics that holds the true median in at least
    /// 95 of 100 cases, whatever the values' distribution. None: too few values.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let n = values.len();
        // Probability that at most `outside` values are below the median.
        let (mut outside, mut tail) = (None, 0.0);
        let mut term = 0.5_f64.powi(i32::try_from(n).ok()?);
        for k in 0..n / 2 {
            tail += term;
            if 2.0 * tail > 0.05 {
                break;
            }
            outside = Some(k);
            #[expect(clippy::cast_precision_loss, reason = "numbers of rounds")]
            let next = (n - k) as f64 / (k + 1) as f64;
            term *= next;
        }
        let k = outside?;
        Some(Self {
            median: f64::midpoint(values[(n - 1) / 2], values[n / 2]),
            low: values[k],
            high: values[n - 1 - k],
        })
    }

    /// What the interval says about a limit.
    pub(super) fn verdict(&self, limit: f64) -> &'static str {
        if self.high <= limit {
            "yes"
        } else if self.low > limit {
            "no"
        } else {
            "not resolved"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Interval;

    #[test]
    fn an_interval_is_that_of_the_binomial_table() {
        let of = |n: u32| Interval::of((1..=n).map(f64::from).collect());
        let ends = |n| of(n).map(|interval| (interval.low, interval.high));
        assert_eq!(ends(5), None);
        assert_eq!(ends(6), Some((1.0, 6.0)));
        assert_eq!(ends(20), Some((6.0, 15.0)));
        assert_eq!(ends(30), Some((10.0, 21.0)));
        assert_eq!(of(30).map(|interval| interval.median), Some(15.5));
    }

    #[test]
    fn a_limit_inside_of_the_interval_is_not_resolved() {
        let interval = Interval {
            median: 1.01,
            low: 0.99,
            high: 1.03,
        };
        assert_eq!(interval.verdict(1.03), "yes");
        assert_eq!(interval.verdict(1.02), "not resolved");
        assert_eq!(interval.verdict(0.98), "no");
    }
}
