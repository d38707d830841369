//! The configuration key `tunnels`: the UDP ports that carry tunnels.

use lpm_common::parse::tunnel::{PORTS, TunnelPorts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ConfigError;

/// UDP destination ports of tunnels, at most four of each kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tunnels {
    /// `VxLAN` (RFC 7348): 4789 is the registered port, 8472 the default of Linux, flannel and
    /// Cilium.
    #[schemars(length(max = 4), inner(range(min = 1, max = 65_535)))]
    pub vxlan: Vec<u16>,
    /// Geneve (RFC 8926): 6081.
    #[schemars(length(max = 4), inner(range(min = 1, max = 65_535)))]
    pub geneve: Vec<u16>,
}

impl Default for Tunnels {
    fn default() -> Self {
        Self {
            vxlan: vec![4789, 8472],
            geneve: vec![6081],
        }
    }
}

/// True if a configuration without errors has the key `tunnels`.
pub(super) fn given(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Given {
        tunnels: Option<Tunnels>,
    }
    serde_saphyr::from_str::<Given>(text).is_ok_and(|given| given.tunnels.is_some())
}

impl Tunnels {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, ports: &[u16], remedy| {
            let value = format!("{ports:?}");
            Err(ConfigError::Value { key, value, remedy })
        };
        for (key, ports) in [
            ("tunnels.vxlan", &self.vxlan),
            ("tunnels.geneve", &self.geneve),
        ] {
            if ports.len() > PORTS {
                return wrong(key, ports, "give at most four ports");
            }
            if ports.contains(&0) {
                return wrong(key, ports, "give ports of 1 to 65535");
            }
        }
        if self.vxlan.iter().any(|port| self.geneve.contains(port)) {
            let remedy = "a port can be of one kind of tunnel only: remove it from tunnels.vxlan \
                          or from here";
            return wrong("tunnels.geneve", &self.geneve, remedy);
        }
        Ok(())
    }

    /// The ports as the kernel programs take them.
    #[must_use]
    pub fn ports(&self) -> TunnelPorts {
        let of = |ports: &[u16]| std::array::from_fn(|i| ports.get(i).copied().unwrap_or(0));
        TunnelPorts {
            vxlan: of(&self.vxlan),
            geneve: of(&self.geneve),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{super::Config, *};

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("lpm.yaml"))
    }

    #[test]
    fn nothing_is_looked_into_unless_a_rule_asks() {
        let config = parse("tunnels: {vxlan: [7000]}").expect("a configuration");
        assert_eq!(config.looked_into(), TunnelPorts::default());
        let config = parse(
            "tunnels: {vxlan: [7000]}\ninterfaces: [{name: eth0, vantage: nic, inner: true}]",
        )
        .expect("a configuration");
        let ports = TunnelPorts {
            vxlan: [7000, 0, 0, 0],
            geneve: [6081, 0, 0, 0],
        };
        assert_eq!(config.looked_into(), ports);
        assert_eq!(Config::default().needs_restart(&config), ["tunnels"]);
    }

    #[test]
    fn ports_that_cannot_work_are_refused() {
        for (text, key) in [
            ("tunnels: {vxlan: [1, 2, 3, 4, 5]}", "tunnels.vxlan"),
            ("tunnels: {vxlan: [0]}", "tunnels.vxlan"),
            ("tunnels: {geneve: [8472]}", "tunnels.geneve"),
            ("tunnels: {gre: [1]}", "gre"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
