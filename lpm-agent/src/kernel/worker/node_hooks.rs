//! Which pods are watched as `node`, and the hooks that are joined for them: see
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

/// How often it is looked whether interfaces carry both directions.
pub(super) const EVALUATE_EVERY: Duration = Duration::from_secs(3);

impl Worker {
    /// The vantage by the rules, or `node` for a pod past whose veth packets are redirected, and
    /// `bridge` for one that is a switch.
    pub(super) fn wanted(&self, interface: &Interface) -> Option<Vantage> {
        let vantage = self.rules.decide(interface, &self.known).vantage?;
        let redirected = self.judge.verdict(interface.index) == Some(true);
        let pod = vantage == Vantage::Pod && interface.layer() == Some(Layer::Ethernet);
        Some(if pod && self.describe.passes_others(interface) {
            Vantage::Bridge
        } else if pod && redirected {
            Vantage::Node
        } else {
            vantage
        })
    }

    /// Looks which interfaces carry one direction only.
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
            // What somebody in front took away was not redirected.
            if shown.vantage == Vantage::Pod && self.was_disturbed(index) {
                continue;
            }
            if let Some(one_sided) = self.judge.evaluate(index, shown.vantage, sides) {
                let interface = shown;
                (self.on_event)(Event::OneSided {
                    interface,
                    one_sided,
                });
                self.reconcile(index);
            }
        }
    }

    /// While any interface is watched as `node`, what may go to its pod is looked at wherever it
    /// enters the host.
    pub(super) fn join_hooks(&mut self) {
        let shown = |active: &Active| active.shown.vantage;
        let wanted = self.active.values().any(|a| shown(a) == Vantage::Node);
        for active in self.active.values_mut() {
            let interface = &active.shown.interface;
            if !wanted {
                self.attacher.part(interface, &mut active.attachment);
            } else if let Err(error) = self.attacher.join(interface, &mut active.attachment) {
                // The next round tries again; an interface that is gone is about to be told of.
                tracing::warn!(interface = interface.name, %error, "what enters here for redirected pods is not measured");
            }
        }
    }
}
