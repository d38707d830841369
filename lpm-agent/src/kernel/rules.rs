//! Rules: which interfaces are watched, and as which vantage.

use std::{collections::BTreeMap, fmt};

use lpm_common::layout::Vantage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    interfaces::{Interface, Kind},
    xdp::XdpMode,
};
use crate::glob::glob;

/// How a rule has an interface watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Watch {
    /// The interface is not watched.
    None,
    /// The host end of a pod's veth.
    Pod,
    /// A tunnel device of an overlay.
    Overlay,
    /// A routed bridge.
    Bridge,
    /// A network card of the node.
    Nic,
    /// A pod's veth that the CNI redirects packets past (the agent finds this out by itself).
    Node,
}

impl Watch {
    /// The vantage, unless the interface is left alone.
    #[must_use]
    pub fn vantage(self) -> Option<Vantage> {
        Some(match self {
            Self::None => return None,
            Self::Pod => Vantage::Pod,
            Self::Overlay => Vantage::Overlay,
            Self::Bridge => Vantage::Bridge,
            Self::Nic => Vantage::Nic,
            Self::Node => Vantage::Node,
        })
    }
}

/// One rule: an interface that meets all its conditions is watched as the rule says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The name of the interface; `*` matches any characters and `?` matches one. If absent: every
    /// name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The kind of interface, as `lpm check` shows it (`veth`, `vxlan`, `physical`...). If absent:
    /// every kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The vantage to watch it as, or `none`.
    pub vantage: Watch,
    /// Measures also the flows inside tunnel packets (`tunnels` lists the UDP ports). For the
    /// network card under an overlay; Ethernet only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inner: bool,
    /// Read received packets by XDP (`native` in the driver, or `generic`) instead of TC. For the
    /// vantages `nic` and `overlay`. If another XDP program is attached, it stays, and the
    /// interface is not watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xdp: Option<XdpMode>,
}

/// Options of a rule beyond the vantage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Extras {
    /// True: measure the flows in tunnels, too.
    pub inner: bool,
    /// Use this XDP mode for what the interface receives. None: use TC.
    pub xdp: Option<XdpMode>,
}

impl Rule {
    fn fits(&self, interface: &Interface) -> bool {
        self.name
            .as_deref()
            .is_none_or(|pattern| glob(pattern, &interface.name))
            && self
                .kind
                .as_deref()
                .is_none_or(|kind| kind == interface.kind.as_str())
    }
}

impl fmt::Display for Extras {
    /// Formats the options, to be put after what else is said of the interface.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.inner {
            f.write_str(", also inside tunnels")?;
        }
        match self.xdp {
            Some(mode) => write!(f, ", receives by XDP ({mode})"),
            None => Ok(()),
        }
    }
}

/// All rules: those of the configuration, in order, then those of its preset, then the built-in
/// ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Interfaces to watch by name (`-i`), and no others. Each is watched whatever the rules say.
    /// Its vantage is that of the rules or, where they leave it alone, that of its kind. Empty: the
    /// rules decide.
    pub only: Vec<String>,
    /// The rules of the configuration. The first one that fits decides.
    pub rules: Vec<Rule>,
    /// The rules of the configuration's preset. Their names never make a pod of a veth with both
    /// ends here: it belongs to a pod that is still being made, or to a pair of the CNI's own.
    pub preset: Vec<Rule>,
}

/// The decision on an interface, and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The vantage to watch the interface as. None: leave it alone.
    pub vantage: Option<Vantage>,
    /// Options of the rule beyond the vantage.
    pub extras: Extras,
    /// The rule that decided, for people.
    pub reason: String,
}

impl Decision {
    fn new(vantage: impl Into<Option<Vantage>>, reason: impl fmt::Display) -> Self {
        Self {
            vantage: vantage.into(),
            extras: Extras::default(),
            reason: reason.to_string(),
        }
    }
}

impl Rules {
    /// Watches these interfaces and no other.
    #[must_use]
    pub fn only(names: impl IntoIterator<Item = String>) -> Self {
        Self {
            only: names.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Decides on one of a namespace's interfaces. `all` is needed to find its master.
    #[must_use]
    pub fn decide(&self, interface: &Interface, all: &BTreeMap<u32, Interface>) -> Decision {
        if !self.only.is_empty() {
            if !self.only.contains(&interface.name) {
                return Decision::new(None, "not among the interfaces given with -i");
            }
            let by_rules = self.by_rules(interface, all);
            let vantage = by_rules.vantage;
            let named = Decision::new(
                vantage.unwrap_or_else(|| interface.natural_vantage()),
                "given with -i",
            );
            return Decision {
                extras: by_rules.extras,
                ..named
            };
        }
        self.by_rules(interface, all)
    }

    fn by_rules(&self, interface: &Interface, all: &BTreeMap<u32, Interface>) -> Decision {
        let pair = interface.kind == Kind::Veth && !interface.peer_elsewhere;
        let preset = if pair { &[] } else { self.preset.as_slice() };
        let own = decided(&self.rules, interface, "configuration");
        own.or_else(|| decided(preset, interface, "preset"))
            .unwrap_or_else(|| built_in(interface, all))
    }
}

/// The decision of the first of these rules that fits the interface.
fn decided(rules: &[Rule], interface: &Interface, whose: &str) -> Option<Decision> {
    let (number, rule) = (1..).zip(rules).find(|(_, rule)| rule.fits(interface))?;
    let reason = format!("rule {number} of the {whose}");
    Some(Decision {
        extras: Extras {
            inner: rule.inner,
            xdp: rule.xdp,
        },
        ..Decision::new(rule.vantage.vantage(), reason)
    })
}

/// Names of network cards, also where a container's or a test's veth plays one. `eni*` is not among
/// them: those are pods' veths on EKS.
const CARD_NAMES: [&str; 5] = ["eth*", "eno*", "enp*", "ens*", "enx*"];

/// The decision of the built-in rules.
fn built_in(interface: &Interface, all: &BTreeMap<u32, Interface>) -> Decision {
    let card_name = CARD_NAMES
        .iter()
        .any(|pattern| glob(pattern, &interface.name));
    let lower_of = interface
        .master
        .and_then(|master| all.get(&master))
        .filter(|master| master.kind != Kind::Bridge);
    match &interface.kind {
        Kind::Loopback => Decision::new(None, "loopback"),
        Kind::Vxlan | Kind::Geneve => Decision::new(Vantage::Overlay, "a tunnel"),
        Kind::Bridge => Decision::new(None, "a bridge: its ports are watched"),
        // The upper device carries this traffic too: AKS's enP* under eth0, a bond's members.
        Kind::Physical | Kind::Veth if lower_of.is_some() => Decision::new(
            None,
            format_args!(
                "below {}",
                lower_of.map_or("another", |master| &master.name)
            ),
        ),
        Kind::Veth if !interface.peer_elsewhere => {
            Decision::new(None, "a veth with its other end in the same namespace")
        }
        Kind::Veth if card_name => Decision::new(Vantage::Nic, "a veth named as a network card"),
        Kind::Veth => Decision::new(Vantage::Pod, "a veth into another namespace"),
        Kind::Physical if interface.layer().is_some() => {
            Decision::new(Vantage::Nic, "a network card")
        }
        Kind::Physical => Decision::new(None, "a link type that lpm cannot read"),
        Kind::Other(kind) => Decision::new(None, format_args!("no rule for the kind {kind}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::interfaces::tests::interface, *};

    fn alone(interface: &Interface) -> Option<Vantage> {
        Rules::default().decide(interface, &BTreeMap::new()).vantage
    }

    #[test]
    fn built_in_rules() {
        let mut veth = interface("veth12", Kind::Veth);
        assert_eq!(alone(&veth), None, "both ends here");
        veth.peer_elsewhere = true;
        assert_eq!(alone(&veth), Some(Vantage::Pod));
        veth.name = "eth0".to_owned();
        assert_eq!(alone(&veth), Some(Vantage::Nic));
        veth.name = "eni1234".to_owned();
        assert_eq!(alone(&veth), Some(Vantage::Pod), "EKS");
        assert_eq!(
            alone(&interface("vx0", Kind::Vxlan)),
            Some(Vantage::Overlay)
        );
        assert_eq!(
            alone(&interface("g0", Kind::Geneve)),
            Some(Vantage::Overlay)
        );
        assert_eq!(
            alone(&interface("eth0", Kind::Physical)),
            Some(Vantage::Nic)
        );
        assert_eq!(alone(&interface("br0", Kind::Bridge)), None);
        assert_eq!(alone(&interface("lo", Kind::Loopback)), None);
        assert_eq!(
            alone(&interface("tun0", Kind::Other("tun".to_owned()))),
            None
        );
    }

    #[test]
    fn what_lies_below_another_device_is_not_counted_twice() {
        let mut lower = interface("enP1s1", Kind::Physical);
        lower.master = Some(2);
        let mut upper = interface("eth0", Kind::Physical);
        upper.index = 2;
        let mut all = BTreeMap::from([(2, upper)]);
        let decision = Rules::default().decide(&lower, &all);
        assert_eq!(
            (decision.vantage, decision.reason.as_str()),
            (None, "below eth0")
        );
        // A bridge is another matter: frames that it forwards pass its ports only.
        all.insert(2, interface("br0", Kind::Bridge));
        assert_eq!(
            Rules::default().decide(&lower, &all).vantage,
            Some(Vantage::Nic)
        );
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rule = |name: Option<&str>, kind: Option<&str>, vantage| Rule {
            name: name.map(str::to_owned),
            kind: kind.map(str::to_owned),
            vantage,
            inner: false,
            xdp: None,
        };
        let rules = Rules {
            only: Vec::new(),
            rules: vec![
                rule(Some("cni0"), Some("bridge"), Watch::Bridge),
                rule(None, Some("bridge"), Watch::None),
                rule(Some("vx*"), None, Watch::None),
            ],
            ..Rules::default()
        };
        let decide = |interface: &Interface| rules.decide(interface, &BTreeMap::new()).vantage;
        assert_eq!(
            decide(&interface("cni0", Kind::Bridge)),
            Some(Vantage::Bridge)
        );
        assert_eq!(decide(&interface("br0", Kind::Bridge)), None);
        assert_eq!(decide(&interface("vx0", Kind::Vxlan)), None);
        assert_eq!(
            decide(&interface("ov0", Kind::Vxlan)),
            Some(Vantage::Overlay),
            "built in"
        );
    }

    #[test]
    fn asked_for_by_name() {
        let rules = Rules::only(["lo".to_owned(), "va".to_owned(), "br0".to_owned()]);
        let decide = |interface: &Interface| rules.decide(interface, &BTreeMap::new()).vantage;
        assert_eq!(decide(&interface("lo", Kind::Loopback)), Some(Vantage::Nic));
        assert_eq!(decide(&interface("va", Kind::Veth)), Some(Vantage::Pod));
        assert_eq!(
            decide(&interface("br0", Kind::Bridge)),
            Some(Vantage::Bridge)
        );
        assert_eq!(decide(&interface("eth0", Kind::Physical)), None);
    }
}
