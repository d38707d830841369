//! What a wire does to the packets of one direction.

use std::{fmt, sync::Arc, time::Duration};

use super::log::TcpIdentity;

/// What one direction of a wire does to its packets. The default forwards
/// each at once, unchanged.
#[derive(Debug, Clone)]
pub struct Impairment {
    /// One-way delay, counted from when the kernel put the packet on the wire.
    pub delay: Duration,
    /// Varies the delay from packet to packet; the order is kept.
    pub jitter: Jitter,
    /// Which packets vanish.
    pub loss: Loss,
    /// Bits per second of whole Ethernet frames; the delay comes on top.
    pub rate_bits_per_second: Option<u64>,
    /// Packets that may wait on this wire; what comes then is dropped.
    pub queue_packets: usize,
    /// Holds some packets back so that others overtake them.
    pub reorder: Option<Reorder>,
    /// Share of packets sent twice, 0 to 1.
    pub duplicate: f64,
    /// Overwrites the DSCP (0 to 63) of the outermost IP header.
    pub dscp: Option<u8>,
    /// Adds or removes 802.1Q tags.
    pub vlan: VlanAction,
    /// The same seed gives the same random decisions for the same packets.
    pub seed: u64,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Jitter::None,
            loss: Loss::None,
            rate_bits_per_second: None,
            queue_packets: 100_000,
            reorder: None,
            duplicate: 0.0,
            dscp: None,
            vlan: VlanAction::Keep,
            seed: 1,
        }
    }
}

impl Impairment {
    /// A plain one-way delay.
    #[must_use]
    pub fn delay(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }
}

/// How the delay varies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Jitter {
    /// Not at all.
    None,
    /// Evenly between the delay less this and the delay plus this.
    Uniform(Duration),
    /// Normal around the delay with this standard deviation.
    Normal(Duration),
    /// The delay is the minimum; a Pareto tail (shape 3) with this mean on top.
    Pareto(Duration),
}

impl Jitter {
    /// The delay of one packet, in nanoseconds.
    pub(super) fn apply(self, delay_ns: u64, random: &mut fastrand::Rng) -> u64 {
        let nanoseconds = |duration: Duration| duration.as_secs_f64() * 1e9;
        let offset = match self {
            Self::None => return delay_ns,
            Self::Uniform(width) => nanoseconds(width) * (2.0 * random.f64() - 1.0),
            Self::Normal(sigma) => {
                // Box and Muller; 1 - x keeps the logarithm's argument above 0.
                let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
                nanoseconds(sigma) * radius * (std::f64::consts::TAU * random.f64()).cos()
            }
            Self::Pareto(mean) => {
                // With shape 3 and scale s the mean beyond s is s / 2.
                let scale = 2.0 * nanoseconds(mean);
                scale * ((1.0 - random.f64()).powf(-1.0 / 3.0) - 1.0)
            }
        };
        // Delays are far below 2^52 ns, so nothing is lost on the way.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an offset of years is a typing error"
        )]
        delay_ns.saturating_add_signed(offset as i64)
    }
}

/// A packet as a loss predicate sees it.
#[derive(Debug, Clone, Copy)]
pub struct PacketView<'a> {
    /// How many came before it in this direction since the last `set`.
    pub index: u64,
    /// The Ethernet frame with its VLAN tags.
    pub frame: &'a [u8],
    /// What of TCP could be read, inside the `VxLAN` header if there is one.
    pub tcp: Option<&'a TcpIdentity>,
}

/// Decides whether a packet is lost.
pub type LossPredicate = Arc<dyn Fn(&PacketView<'_>) -> bool + Send + Sync>;

/// Which packets vanish. They are in the log all the same.
#[derive(Clone, Default)]
pub enum Loss {
    /// None.
    #[default]
    None,
    /// Each with this probability, 0 to 1.
    Random(f64),
    /// Every n-th one (the n-th, the 2n-th, ...); 0 means none.
    EveryNth(u64),
    /// Those for which this is true.
    Predicate(LossPredicate),
}

impl Loss {
    /// Loses what `predicate` says.
    pub fn when(predicate: impl Fn(&PacketView<'_>) -> bool + Send + Sync + 'static) -> Self {
        Self::Predicate(Arc::new(predicate))
    }

    pub(super) fn takes(&self, packet: &PacketView<'_>, random: &mut fastrand::Rng) -> bool {
        match self {
            Self::None => false,
            Self::Random(share) => random.f64() < *share,
            Self::EveryNth(n) => *n > 0 && (packet.index + 1).is_multiple_of(*n),
            Self::Predicate(predicate) => predicate(packet),
        }
    }
}

impl fmt::Debug for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => formatter.write_str("None"),
            Self::Random(share) => write!(formatter, "Random({share})"),
            Self::EveryNth(n) => write!(formatter, "EveryNth({n})"),
            Self::Predicate(_) => formatter.write_str("Predicate(..)"),
        }
    }
}

/// Holds packets back so that later ones overtake them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reorder {
    /// Share of packets held back, 0 to 1.
    pub probability: f64,
    /// How much longer they take.
    pub extra: Duration,
}

/// What happens to a frame's 802.1Q tags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum VlanAction {
    /// Nothing.
    #[default]
    Keep,
    /// Adds tags of these VLAN ids, the outermost first (two give `QinQ`, with
    /// 802.1ad outside).
    Push(Vec<u16>),
    /// Removes all tags.
    Pop,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of 10,000 packets are lost, and the first decisions.
    fn losses(loss: &Loss, seed: u64) -> (usize, Vec<bool>) {
        let mut random = fastrand::Rng::with_seed(seed);
        let view = |index| PacketView {
            index,
            frame: &[],
            tcp: None,
        };
        let decisions: Vec<bool> = (0..10_000)
            .map(|index| loss.takes(&view(index), &mut random))
            .collect();
        (
            decisions.iter().filter(|lost| **lost).count(),
            decisions[..100].to_vec(),
        )
    }

    #[test]
    fn losses_come_as_often_as_asked_and_the_same_for_the_same_seed() {
        let random = Loss::Random(0.1);
        let (count, first) = losses(&random, 5);
        assert!((850..1150).contains(&count), "{count}");
        assert_eq!(losses(&random, 5).1, first);
        assert_ne!(losses(&random, 6).1, first);
        assert_eq!(losses(&Loss::EveryNth(20), 5).0, 500);
        assert_eq!(losses(&Loss::when(|packet| packet.index < 3), 5).0, 3);
    }

    #[test]
    fn jitter_has_the_mean_it_promises() {
        let unit = Duration::from_micros(100);
        for (jitter, wanted) in [
            (Jitter::Uniform(unit), 1e6),
            (Jitter::Normal(unit), 1e6),
            (Jitter::Pareto(unit), 1.1e6),
        ] {
            let mut random = fastrand::Rng::with_seed(3);
            let sum: u64 = (0..20_000)
                .map(|_| jitter.apply(1_000_000, &mut random))
                .sum();
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let mean = sum as f64 / 20_000.0;
            assert!(
                (mean - wanted).abs() < 5_000.0,
                "{jitter:?}: {mean} for {wanted}"
            );
        }
    }
}
