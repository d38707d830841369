//! JSON records of flows, latencies and links: the API serves them, and `lpm top` shows them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use lpm_common::layout::{Echo, Leg, Method, Vantage};
use serde::{Deserialize, Serialize};

use super::{flow_id::flow_id, ports::PortRecord, sample::vlan, tunnel::TunnelRecord};
use crate::{
    identity::{
        Name, Resolver,
        processes::{Holder, Sockets},
        registry::Zones,
    },
    passive::{Clock, Counts, Labels, Model, flow::LegTimes, model::KnownFlow},
};

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Address of the end.
    pub address: IpAddr,
    /// TCP port of the end.
    pub port: u16,
    /// Name of the end. None: no name is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Zone of the node that the name has. None: the node or its zone is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
    /// The local process that holds the socket. None: not asked for, or not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
}

/// A number for each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Both {
    /// Packets from the local end.
    pub from_local: u64,
    /// Packets to the local end.
    pub to_local: u64,
}

impl Both {
    fn of([from_local, to_local]: [u64; 2]) -> Self {
        Self {
            from_local,
            to_local,
        }
    }

    /// Sum of both directions.
    #[must_use]
    pub fn total(self) -> u64 {
        self.from_local.saturating_add(self.to_local)
    }
}

/// Round trips of one leg, in nanoseconds. Absent: not measured yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// The latest round trip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// The smallest round trip since the agent knows the flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u64>,
    /// The smoothed round trip, as in RFC 6298.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smoothed: Option<u64>,
    /// Number of round trips.
    #[serde(default)]
    pub samples: u32,
}

impl From<LegTimes> for Times {
    fn from(times: LegTimes) -> Self {
        Self {
            last: times.last.map(nanos),
            min: times.min.map(nanos),
            smoothed: times.smoothed.map(nanos),
            samples: times.samples,
        }
    }
}

/// Round trips by leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Legs {
    /// Round trips of the remote leg: beyond the vantage.
    pub remote: Times,
    /// Round trips of the local leg: towards the local end.
    pub local: Times,
}

/// One flow at one vantage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// Identifies the flow for as long as it is in the table and the agent runs.
    pub id: String,
    /// Interface of the vantage.
    pub interface: String,
    /// Kind of the vantage: `pod`, `overlay`, `bridge`, `nic` or `node`.
    pub vantage: String,
    /// VLAN id of the outermost tag. None: there is no tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The tunnels that carried the flow's packets, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tunnels: Vec<TunnelRecord>,
    /// The end on this node's side of the vantage.
    pub local: End,
    /// The other end.
    pub remote: End,
    /// The backend that answers in place of the remote end, if the remote address is translated
    /// behind the vantage (that of a service).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<End>,
    /// When the flow was first seen, in RFC 3339.
    pub first_seen: String,
    /// When the flow was last seen, in RFC 3339.
    pub last_seen: String,
    /// Time since the flow was last seen, milliseconds.
    pub idle_ms: u64,
    /// True: seen within the idle time and not closed.
    pub active: bool,
    /// True: closed by a FIN from both ends, or by an RST.
    pub closed: bool,
    /// True: the SYN was seen. False: the flow was found mid-stream.
    pub opened: bool,
    /// Packets on the wire.
    pub packets: Both,
    /// Bytes on the wire.
    pub bytes: Both,
    /// Round trips.
    pub rtt_ns: Legs,
}

impl FlowRecord {
    fn new(
        known: KnownFlow,
        clock: &Clock,
        interface: String,
        whose: &Resolver,
        backend: Option<SocketAddr>,
        sockets: Option<&Sockets>,
    ) -> Self {
        let KnownFlow {
            flow,
            traffic,
            active,
        } = known;
        let local = (flow.local, flow.local_port);
        let remote = (flow.remote, flow.remote_port);
        let holder = |one, other| {
            sockets
                .and_then(|sockets| sockets.holder(SocketAddr::from(one), SocketAddr::from(other)))
                .cloned()
        };
        let end = |(address, port), name: Option<&Arc<Name>>, holder| End {
            address,
            port,
            name: name.map(|name| Name::clone(name)),
            zone: None,
            holder,
        };
        let named = |at: (IpAddr, u16), holder| end(at, whose.remote(at.0), holder);
        let here = whose.local(flow.ifindex, flow.segment, flow.local);
        Self {
            id: flow_id(flow.fingerprint),
            interface,
            vantage: flow.vantage.map_or("unknown", Vantage::as_str).to_owned(),
            vlan: vlan(flow.segment),
            tunnels: TunnelRecord::all(flow.segment, flow.outer_vni),
            local: end(local, here, holder(local, remote)),
            remote: named(remote, holder(remote, local)),
            backend: backend.map(|backend| named((backend.ip(), backend.port()), None)),
            first_seen: humantime::format_rfc3339_millis(clock.wall(flow.first_seen)).to_string(),
            last_seen: humantime::format_rfc3339_millis(clock.wall(flow.last_seen)).to_string(),
            idle_ms: u64::try_from(clock.age(flow.last_seen).as_millis()).unwrap_or(u64::MAX),
            active,
            closed: flow.closed,
            opened: flow.opened,
            packets: Both::of(traffic.map(|traffic| traffic.packets)),
            bytes: Both::of(traffic.map(|traffic| traffic.bytes)),
            rtt_ns: Legs {
                remote: flow.legs[0].into(),
                local: flow.legs[1].into(),
            },
        }
    }
}

impl End {
    /// Sets the zone, which is that of the node in the name. `own`: the node of an end whose name
    /// has none.
    fn set_zone(&mut self, zones: &Zones, own: Option<&Arc<str>>) {
        let named = self.name.as_ref().and_then(|name| name.node.as_ref());
        self.zone = named.or(own).and_then(|node| zones.get(node)).cloned();
    }
}

/// Round trips of one pair of namespaces since the agent started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyRecord {
    /// Namespace of the local end.
    pub namespace: String,
    /// Namespace of the remote end. Empty: that end has no name.
    pub peer_namespace: String,
    /// Kind of the remote end: `pod`, `node`, `service` or `external`.
    pub peer_kind: String,
    /// Leg: `remote` or `local`.
    pub leg: String,
    /// Echo class: `prompt`, `lone` or `data`.
    pub echo: String,
    /// Method: `icmp`, `dns` or `request`. Absent: the round trips of TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Response code, if the method is `dns`. The DNS server is not told apart then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rcode: Option<String>,
    /// Number of samples missed.
    pub count: u64,
    /// Mean, nanoseconds.
    pub mean_ns: u64,
    /// Median: the upper bound of its bucket (buckets are 9 % wide), nanoseconds.
    pub p50_ns: u64,
    /// 90th percentile: the upper bound of its bucket, nanoseconds.
    pub p90_ns: u64,
    /// 99th percentile: the upper bound of its bucket, nanoseconds.
    pub p99_ns: u64,
}

/// One watched interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRecord {
    /// Name of the interface.
    pub interface: String,
    /// Vantage as which the interface is watched.
    pub vantage: String,
    /// How the programs are attached: `tcx` or `netlink`.
    pub mode: String,
    /// Number of active flows at the interface.
    pub flows: u64,
    /// Packets of the flows in the table.
    pub packets: Both,
    /// Bytes of the flows in the table.
    pub bytes: Both,
    /// Smallest round trips among the active flows.
    pub rtt_min_ns: MinByLeg,
    /// The kernel's counters of the interface, and the links that it makes. Absent: it cannot be
    /// read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortRecord>,
}

/// Smallest round trip of each leg, nanoseconds. Absent: not measured yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MinByLeg {
    /// Smallest round trip of the remote leg: beyond the vantage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<u64>,
    /// Smallest round trip of the local leg: towards the local end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<u64>,
}

/// All flows in the flow table. With `sockets`, also the processes that hold them.
///
/// # Errors
/// A clock cannot be read.
pub fn flows(model: &Model, sockets: Option<&Sockets>) -> io::Result<Vec<FlowRecord>> {
    let clock = model.clock()?;
    let links = model.links();
    let registry = model.registry();
    let (whose, zones) = (registry.whose(), registry.zones());
    Ok(model
        .flows(&clock)
        .into_iter()
        .map(|known| {
            let index = known.flow.ifindex;
            let interface = links
                .get(&index)
                .map_or_else(|| format!("if{index}"), |link| link.name.clone());
            let backend = model.backend(&known.flow);
            let mut flow = FlowRecord::new(known, &clock, interface, &whose, backend, sockets);
            flow.local.set_zone(&zones, registry.node());
            let others = [Some(&mut flow.remote), flow.backend.as_mut()].into_iter();
            others.flatten().for_each(|end| end.set_zone(&zones, None));
            flow
        })
        .collect())
}

impl LatencyRecord {
    /// Makes a record of these counts. None: nothing was measured.
    fn new(namespace: &str, leg: Leg, echo: Echo, counts: &Counts) -> Option<Self> {
        Some(Self {
            namespace: namespace.to_owned(),
            peer_namespace: String::new(),
            peer_kind: String::new(),
            leg: leg.as_str().to_owned(),
            echo: echo.as_str().to_owned(),
            method: None,
            rcode: None,
            count: counts.count(),
            mean_ns: counts.mean().map(nanos)?,
            p50_ns: counts.quantile(0.5).map(nanos)?,
            p90_ns: counts.quantile(0.9).map(nanos)?,
            p99_ns: counts.quantile(0.99).map(nanos)?,
        })
    }

    fn with_peer(self, labels: &Labels) -> Self {
        Self {
            peer_namespace: labels.peer_namespace.to_string(),
            peer_kind: labels.peer_kind.as_str().to_owned(),
            ..self
        }
    }

    fn by(self, method: Method) -> Self {
        Self {
            method: Some(method.as_str().to_owned()),
            ..self
        }
    }
}

/// Round trips by pair of namespaces, leg and echo. Then follow those of ICMP echo, those of DNS by
/// namespace and response code, and those of requests.
#[must_use]
pub fn latencies(model: &Model) -> Vec<LatencyRecord> {
    let tcp = model.rtt().by_labels.into_iter();
    let tcp = tcp.filter_map(|((labels, leg, echo), counts)| {
        let record = LatencyRecord::new(&labels.namespace, leg, echo, &counts)?;
        Some(record.with_peer(&labels))
    });
    let icmp = model.echoes().by_labels.into_iter();
    let icmp = icmp.filter_map(|((labels, leg), counts)| {
        let record = LatencyRecord::new(&labels.namespace, leg, Echo::Prompt, &counts)?;
        Some(record.with_peer(&labels).by(Method::Icmp))
    });
    let dns = model.dns().by_namespace.into_iter();
    let dns = dns.filter_map(|((namespace, rcode), counts)| {
        let record = LatencyRecord::new(&namespace, Leg::Remote, Echo::Data, &counts)?;
        Some(LatencyRecord {
            rcode: Some(rcode.as_str().to_owned()),
            ..record.by(Method::Dns)
        })
    });
    let requests = model.requests().by_labels.into_iter();
    let requests = requests.filter_map(|((labels, leg), counts)| {
        let record = LatencyRecord::new(&labels.namespace, leg, Echo::Data, &counts)?;
        Some(record.with_peer(&labels).by(Method::Request))
    });
    tcp.chain(icmp).chain(dns).chain(requests).collect()
}

/// The interfaces that are watched, with the sums over their flows.
#[must_use]
pub fn links(model: &Model, flows: &[FlowRecord]) -> Vec<LinkRecord> {
    let ports = model.ports();
    model
        .links()
        .into_iter()
        .map(|(index, link)| {
            let mut record = LinkRecord {
                vantage: link.vantage.as_str().to_owned(),
                mode: link.mode.to_owned(),
                flows: 0,
                packets: Both::default(),
                bytes: Both::default(),
                rtt_min_ns: MinByLeg::default(),
                port: ports.get(&index).map(|port| PortRecord::new(port, model)),
                interface: link.name,
            };
            for flow in flows {
                if flow.interface == record.interface {
                    record.add(flow);
                }
            }
            record
        })
        .collect()
}

impl LinkRecord {
    fn add(&mut self, flow: &FlowRecord) {
        self.packets.from_local += flow.packets.from_local;
        self.packets.to_local += flow.packets.to_local;
        self.bytes.from_local += flow.bytes.from_local;
        self.bytes.to_local += flow.bytes.to_local;
        if flow.active {
            self.flows += 1;
            let least = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
            self.rtt_min_ns.remote = least(self.rtt_min_ns.remote, flow.rtt_ns.remote.min);
            self.rtt_min_ns.local = least(self.rtt_min_ns.local, flow.rtt_ns.local.min);
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
