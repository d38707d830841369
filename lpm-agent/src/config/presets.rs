//! Presets: rules for nodes where a known CNI made the interfaces.
//!
//! A preset stands between the configuration's own rules, which win, and the built-in ones, which
//! stay for what it does not name. So it is short: it says only what the built-in rules cannot know
//! from an interface's kind.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Tunnels;
use crate::{
    identity::permits::Network,
    kernel::rules::{Rule, Watch},
};

/// A network that LPM knows.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Azure Kubernetes Service with Azure CNI (node subnet, pod subnet or overlay).
    AksAzureCni,
    /// Azure Kubernetes Service with Azure CNI powered by Cilium.
    AksCilium,
    /// Flannel over `VxLAN`, `WireGuard` or routes.
    Flannel,
    /// Calico over `VxLAN`, IP in IP, `WireGuard` or routes.
    Calico,
    /// L2S-M's layer-2 overlays beside the CNI of the cluster.
    L2sm,
}

impl Preset {
    /// All presets.
    pub const ALL: [Self; 5] = [
        Self::AksAzureCni,
        Self::AksCilium,
        Self::Flannel,
        Self::Calico,
        Self::L2sm,
    ];

    /// The preset's word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AksAzureCni => "aks-azure-cni",
            Self::AksCilium => "aks-cilium",
            Self::Flannel => "flannel",
            Self::Calico => "calico",
            Self::L2sm => "l2sm",
        }
    }

    /// The preset's rules, in order.
    #[must_use]
    pub fn rules(self) -> Vec<Rule> {
        let rules: &[(&str, Watch)] = match self {
            // Accelerated networking puts a second card under eth0, which carries the same packets;
            // it is there before it has its master.
            Self::AksAzureCni => &[
                ("azv*", Watch::Pod),
                ("enP*", Watch::None),
                ("azure0", Watch::None),
            ],
            // `pod`, not `node`: by default Cilium routes in the host's stack here, and where eBPF
            // host routing is on, that is found per interface. `lxc_health` is no pod.
            Self::AksCilium => &[
                ("lxc_health", Watch::None),
                ("lxc*", Watch::Pod),
                ("cilium_host", Watch::None),
                ("cilium_net", Watch::None),
                ("cilium_vxlan", Watch::Overlay),
                ("cilium_geneve", Watch::Overlay),
                ("enP*", Watch::None),
            ],
            Self::Flannel => &[
                ("flannel.*", Watch::Overlay),
                ("flannel-v6.*", Watch::Overlay),
                ("flannel-wg*", Watch::Overlay),
                ("cni0", Watch::None),
                ("veth*", Watch::Pod),
            ],
            // `bpf*.cali` is a pair of the eBPF data path, both ends in the host.
            Self::Calico => &[
                ("vxlan.calico", Watch::Overlay),
                ("vxlan-v6.calico", Watch::Overlay),
                ("tunl0", Watch::Overlay),
                ("wireguard.cali", Watch::Overlay),
                ("wg-v6.cali", Watch::Overlay),
                ("bpf*.cali", Watch::None),
                ("cali*", Watch::Pod),
            ],
            // Pods hang on br1 to br10 by veths, which are watched; the switch has pairs of its own
            // (ls*, lspeer*) and Open vSwitch bridges (br-*, ovs-*), where the same frames pass.
            Self::L2sm => &[
                ("vxlan_sys_*", Watch::Overlay),
                ("ls?????p*", Watch::None),
                ("lspeer*", Watch::None),
                ("ls?????*", Watch::None),
                ("br-????????", Watch::None),
                ("ovs-*", Watch::None),
                ("br1", Watch::None),
                ("br?", Watch::None),
                ("br10", Watch::None),
                ("veth*", Watch::Pod),
            ],
        };
        let rule = |(name, vantage): &(&str, Watch)| Rule {
            name: Some((*name).to_owned()),
            kind: None,
            vantage: *vantage,
            inner: false,
            xdp: None,
        };
        rules.iter().map(rule).collect()
    }

    /// The further networks of pods that the preset permits.
    #[must_use]
    pub fn networks(self) -> Vec<Network> {
        let networks: &[(&str, &str)] = match self {
            Self::L2sm => &L2SM,
            Self::AksAzureCni | Self::AksCilium | Self::Flannel | Self::Calico => &[],
        };
        let network = |(name, cidr): &(&str, &str)| Network {
            name: Some((*name).to_owned()),
            cidr: cidr.parse().ok(),
        };
        networks.iter().map(network).collect()
    }

    /// The tunnel ports of the preset's network.
    #[must_use]
    pub fn tunnels(self) -> Tunnels {
        let vxlan = match self {
            Self::AksCilium | Self::Flannel => vec![8472],
            // The cluster's CNI may wrap L2S-M's packets once more.
            Self::L2sm => vec![7000, 8472, 4789],
            Self::AksAzureCni | Self::Calico => vec![4789],
        };
        Tunnels {
            vxlan,
            geneve: vec![6081],
        }
    }
}

/// The namespace of L2S-M's networks at Multus, and the ranges that private networks use (RFC 1918,
/// RFC 4193). So no annotation gives a public address another name.
const L2SM: [(&str, &str); 4] = [
    ("l2sm-system/*", "10.0.0.0/8"),
    ("l2sm-system/*", "172.16.0.0/12"),
    ("l2sm-system/*", "192.168.0.0/16"),
    ("l2sm-system/*", "fc00::/7"),
];

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use lpm_common::layout::Vantage;

    use super::*;
    use crate::{
        config::Config,
        kernel::interfaces::{Interface, Kind, tests::interface},
    };

    /// Interfaces that a node has whatever its CNI is, with the vantage expected of each.
    const ANY: [(&str, Kind, Option<Vantage>); 3] = [
        ("lo", Kind::Loopback, None),
        ("eth0", Kind::Physical, Some(Vantage::Nic)),
        ("docker0", Kind::Bridge, None),
    ];

    fn other(kind: &str) -> Kind {
        Kind::Other(kind.to_owned())
    }

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("lpm.yaml")).expect(text)
    }

    /// Tests a preset on the interfaces of a node, each with the vantage that is expected. Veths
    /// end in another namespace, except those in `pairs`.
    fn holds(preset: Preset, list: &[(&str, Kind, Option<Vantage>)], pairs: &[&str]) {
        let rules = config(&format!("preset: {preset}\n")).rules(&[]);
        let node: Vec<(Interface, Option<Vantage>)> = ANY
            .iter()
            .chain(list)
            .enumerate()
            .map(|(number, (name, kind, wanted))| {
                let mut made = interface(name, kind.clone());
                made.index = u32::try_from(number).expect("a few") + 1;
                made.peer_elsewhere = *kind == Kind::Veth && !pairs.contains(name);
                (made, *wanted)
            })
            .collect();
        let all: BTreeMap<u32, Interface> = node
            .iter()
            .map(|(one, _)| (one.index, one.clone()))
            .collect();
        for (one, wanted) in &node {
            let decision = rules.decide(one, &all);
            assert_eq!(
                decision.vantage, *wanted,
                "{preset}: {}: {}",
                one.name, decision.reason
            );
        }
    }

    const POD: Option<Vantage> = Some(Vantage::Pod);
    const OVERLAY: Option<Vantage> = Some(Vantage::Overlay);

    #[test]
    fn azure_cni() {
        holds(
            Preset::AksAzureCni,
            &[
                ("enP38433s1", Kind::Physical, None),
                ("azvc440f455693", Kind::Veth, POD),
                // The pod's end, before it is moved to the pod.
                ("azvc440f4556932", Kind::Veth, None),
                ("azure0", Kind::Bridge, None),
            ],
            &["azvc440f4556932"],
        );
    }

    #[test]
    fn cilium() {
        holds(
            Preset::AksCilium,
            &[
                ("enP38433s1", Kind::Physical, None),
                ("cilium_net", Kind::Veth, None),
                ("cilium_host", Kind::Veth, None),
                ("cilium_vxlan", Kind::Vxlan, OVERLAY),
                ("lxc_health", Kind::Veth, None),
                ("lxc2f1e8a9c07d1", Kind::Veth, POD),
                ("tmp2f1e8", Kind::Veth, None),
            ],
            &["cilium_net", "cilium_host", "tmp2f1e8"],
        );
    }

    #[test]
    fn flannel() {
        holds(
            Preset::Flannel,
            &[
                ("flannel.1", Kind::Vxlan, OVERLAY),
                ("flannel-v6.1", Kind::Vxlan, OVERLAY),
                ("flannel-wg", other("wireguard"), OVERLAY),
                ("cni0", Kind::Bridge, None),
                ("veth9f0c27ab", Kind::Veth, POD),
                ("vethb0", Kind::Veth, None),
            ],
            &["vethb0"],
        );
    }

    #[test]
    fn calico() {
        holds(
            Preset::Calico,
            &[
                ("cali12d4a061371", Kind::Veth, POD),
                ("vxlan.calico", Kind::Vxlan, OVERLAY),
                ("vxlan-v6.calico", Kind::Vxlan, OVERLAY),
                ("tunl0", other("ipip"), OVERLAY),
                ("wireguard.cali", other("wireguard"), OVERLAY),
                ("bpfin.cali", Kind::Veth, None),
                ("bpfout.cali", Kind::Veth, None),
            ],
            &["bpfin.cali", "bpfout.cali"],
        );
    }

    #[test]
    fn l2sm() {
        holds(
            Preset::L2sm,
            &[
                ("br1", Kind::Bridge, None),
                ("br10", Kind::Bridge, None),
                ("br-1a2b3c4d", other("openvswitch"), None),
                ("ovs-system", other("openvswitch"), None),
                ("vxlan_sys_7000", Kind::Vxlan, OVERLAY),
                ("ls1a2b33", Kind::Veth, None),
                ("ls1a2b3p1999", Kind::Veth, None),
                ("lspeer3", Kind::Veth, None),
                ("veth77aa01bc", Kind::Veth, POD),
                // The CNI beside it.
                ("flannel.1", Kind::Vxlan, OVERLAY),
                ("cali12d4a061371", Kind::Veth, POD),
            ],
            // The switch may run in the host's namespace or in a pod's.
            &[],
        );
    }

    #[test]
    fn own_keys_win() {
        let own = config(
            "preset: flannel\ninterfaces:\n- {name: \"veth9*\", vantage: none}\n\
             - {name: eth0, vantage: nic, inner: true}\ntunnels: {vxlan: [4789]}\n",
        );
        assert_eq!(own.tunnels.vxlan, [4789]);
        let mut veth = interface("veth9f0c27ab", Kind::Veth);
        veth.peer_elsewhere = true;
        let decide = |veth: &Interface| own.rules(&[]).decide(veth, &BTreeMap::new());
        assert_eq!(decide(&veth).vantage, None);
        veth.name = "veth8".to_owned();
        assert_eq!(decide(&veth).vantage, POD);
        assert!(
            decide(&veth).reason.contains("preset"),
            "{}",
            decide(&veth).reason
        );
        assert_eq!(own.looked_into().vxlan[..2], [4789, 0]);
    }

    #[test]
    fn tunnels_are_the_presets_unless_given() {
        assert_eq!(config("preset: l2sm\n").tunnels.vxlan, [7000, 8472, 4789]);
        // An explicit value that equals the default without a preset also counts as given.
        let given = config("preset: flannel\ntunnels: {vxlan: [4789, 8472]}\n");
        assert_eq!(given.tunnels, Tunnels::default());
        let shown = config("preset: l2sm\n").to_yaml().expect("YAML");
        assert_eq!(config(&shown), config("preset: l2sm\n"), "{shown}");
        for preset in Preset::ALL {
            assert_eq!(config(&format!("preset: {preset}\n")).preset, Some(preset));
        }
    }

    #[test]
    fn networks_are_the_presets_unless_given() {
        let networks = |text: &str| config(text).identity.kubernetes.networks;
        let l2sm = networks("preset: l2sm\n");
        assert_eq!(l2sm.len(), L2SM.len());
        assert!(
            l2sm.iter()
                .all(|one| one.name.is_some() && one.cidr.is_some())
        );
        assert_eq!(networks("preset: flannel\n"), []);
        let none = "preset: l2sm\nidentity: {kubernetes: {networks: []}}\n";
        assert_eq!(networks(none), []);
        let own = "preset: l2sm\nidentity: {kubernetes: {networks: [{cidr: 198.18.0.0/15}]}}\n";
        assert_eq!(networks(own).len(), 1);
        let shown = config(none).to_yaml().expect("YAML");
        assert_eq!(config(&shown), config(none), "{shown}");
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_list() {
        let error = Config::parse("preset: weave\n", Path::new("lpm.yaml")).expect_err("weave");
        let error = error.to_string();
        assert!(error.contains("weave"), "{error}");
        for preset in Preset::ALL {
            assert!(error.contains(preset.as_str()), "{preset} in {error}");
        }
    }
}
