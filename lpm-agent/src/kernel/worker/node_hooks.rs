//! Chooses the pods that are watched as `node`, and attaches the hooks that this vantage needs: see
//! [`crate::kernel::one_sided`].

use std::time::{Duration, Instant};

use lpm_common::layout::Vantage;

use super::{
    super::{
        hotplug::Event,
        interfaces::{Interface, Layer},
    },
    Active, Worker,
};

/// Interval between two checks whether interfaces carry both directions.
pub(super) const EVALUATE_EVERY: Duration = Duration::from_secs(3);

impl Worker {
    /// The vantage of an interface by the rules. It is `node` for a pod past whose veth packets are
    /// redirected, and `bridge` for a pod that is a switch.
    pub(super) fn wanted(&self, interface: &Interface) -> Option<Vantage> {
        let vantage = self.rules.decide(interface, &self.known).vantage?;
        let redirected = self.judge.is_redirected(interface.index);
        let pod = vantage == Vantage::Pod && interface.layer() == Some(Layer::Ethernet);
        Some(if pod && self.describe.passes_others(interface) {
            Vantage::Bridge
        } else if pod && redirected {
            Vantage::Node
        } else {
            vantage
        })
    }

    /// Checks which interfaces carry one direction only.
    pub(super) fn evaluate(&mut self) {
        let now = Instant::now();
        if now < self.evaluate_at {
            return;
        }
        self.evaluate_at = now + EVALUATE_EVERY;
        let Some(evidence) = &mut self.evidence else {
            return;
        };
        self.sides = evidence.look();
        for (index, sides) in self.sides.clone() {
            let Some(shown) = self.active.get(&index).map(|active| active.shown.clone()) else {
                continue;
            };
            // A program in front took these packets away. They were not redirected.
            if shown.vantage == Vantage::Pod && self.was_disturbed(index) {
                continue;
            }
            if let Some(one_sided) = self.judge.evaluate(index, shown.vantage, sides) {
                let interface = shown;
                (self.on_event)(Event::OneSided {
                    interface,
                    one_sided,
                    redirected: self.judge.is_redirected(index),
                });
                self.reconcile(index);
            }
        }
    }

    /// Attaches the third hook to all interfaces while any is watched as `node`. So packets to its
    /// pod are seen wherever they enter the host. Otherwise it detaches the third hook.
    pub(super) fn join_hooks(&mut self) {
        let shown = |active: &Active| active.shown.vantage;
        let wanted = self.active.values().any(|a| shown(a) == Vantage::Node);
        for active in self.active.values_mut() {
            let interface = &active.shown.interface;
            if !wanted {
                self.attacher.part(interface, &mut active.attachment);
            } else if let Err(error) = self.attacher.join(interface, &mut active.attachment) {
                // The next round tries again. If the interface is gone, a message about it is under
                // way.
                tracing::warn!(interface = interface.name, %error, "packets that enter here for redirected pods are not measured");
            }
        }
    }
}
