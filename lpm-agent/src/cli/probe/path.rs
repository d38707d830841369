//! What `lpm probe --mtu` and `lpm probe --hops` have in common.

use std::time::Duration;

use anyhow::bail;

use super::{Ends, Probe, Protocol, icmp, resolve};
use crate::active::{
    icmp::socket::Route,
    path::{self, Plan},
};

/// The interval that is not given.
const INTERVAL: Duration = Duration::from_secs(1);

impl Probe {
    /// Reads where and how the packets go. `name`: the option that asks for them.
    pub(super) fn path_plan(&self, name: &str) -> anyhow::Result<Plan> {
        self.refuse(
            name,
            &[
                (self.key.is_some(), "keys", "--key"),
                (self.train.is_some(), "trains", "--train"),
                (self.ecn != 0, "ECN", "--ecn"),
                (self.interval != INTERVAL, "intervals", "-i"),
            ],
        )?;
        let protocol = match self.protocol {
            Protocol::Stamp => path::Protocol::Stamp,
            Protocol::Icmp => path::Protocol::Icmp,
            Protocol::Tcp | Protocol::UdpSweep => {
                bail!("{name} goes by `--protocol stamp` or `--protocol icmp`")
            }
        };
        let Ends {
            target,
            from,
            interface,
        } = match protocol {
            path::Protocol::Stamp => self.ends(resolve)?,
            path::Protocol::Icmp => self.ends(icmp::resolve)?,
        };
        Ok(Plan {
            target,
            protocol,
            route: Route {
                from,
                interface,
                dscp: self.dscp,
            },
            timeout: self.timeout,
        })
    }

    /// Says why there is no socket.
    pub(super) fn no_socket(&self, plan: &Plan) -> String {
        let target = plan.target;
        match &self.from {
            Some(from) => format!(
                "cannot probe {target} from {from}: -I takes an interface of `ip link`, or an \
                 address of this machine"
            ),
            None => format!("cannot probe {target}"),
        }
    }
}

/// The target as it is shown: with its port, if it has one.
pub(super) fn target(plan: &Plan) -> String {
    match plan.protocol {
        path::Protocol::Stamp => plan.target.to_string(),
        path::Protocol::Icmp => plan.target.ip().to_string(),
    }
}

/// The protocol as a person reads it.
pub(super) fn protocol(plan: &Plan) -> &'static str {
    match plan.protocol {
        path::Protocol::Stamp => "STAMP",
        path::Protocol::Icmp => "ICMP",
    }
}
