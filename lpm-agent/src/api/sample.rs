//! The public record of a sample.

use std::{net::IpAddr, time::Duration};

use lpm_common::layout::{Echo, Leg, Method, Sample, Vantage, tunnel};
use serde::{Deserialize, Serialize};

use super::tunnel::TunnelRecord;
use crate::{
    identity::{Name, Resolver},
    passive::{Clock, flow::plain_address},
};

/// Version of [`SampleRecord`] and of the other records.
pub const SCHEMA: u32 = 1;

/// One round trip, as `lpm watch --format json` prints it. `src` to `dst` is the direction of the
/// stamped packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleRecord {
    /// Version of the record: [`SCHEMA`].
    pub schema: u32,
    /// When the echo passed: RFC 3339, nanoseconds, UTC.
    pub time: String,
    /// Interface of the vantage.
    pub interface: String,
    /// Kind of the vantage: `pod`, `overlay`, `bridge`, `nic` or `node`.
    pub vantage: String,
    /// Sender of the stamped packet.
    pub src: IpAddr,
    /// TCP or UDP port of the sender. 0: ICMP has none.
    pub sport: u16,
    /// Receiver of the stamped packet.
    pub dst: IpAddr,
    /// TCP or UDP port of the receiver.
    pub dport: u16,
    /// Round trip, nanoseconds.
    pub rtt_ns: u64,
    /// Leg: `remote` or `local`.
    pub leg: String,
    /// Echo class: `prompt`, `lone` or `data`.
    pub echo: String,
    /// Method: `ts`, `seq`, `handshake`, `icmp` or `dns`.
    pub method: String,
    /// The value that matched: TSval, end of sequence, ICMP sequence number (high 16 bits) and id,
    /// or DNS id.
    pub id: u32,
    /// Response code of a DNS answer: `NOERROR`, `NXDOMAIN`, `SERVFAIL`, `REFUSED`, `FORMERR`,
    /// `NOTIMP` or `other`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rcode: Option<String>,
    /// VLAN id of the outermost tag. None: there is no tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The tunnels that carried the flow, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tunnels: Vec<TunnelRecord>,
    /// Name of the sender. None: no name is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src_name: Option<Name>,
    /// Name of the receiver. None: no name is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst_name: Option<Name>,
}

impl SampleRecord {
    /// Makes a record of a sample of the matcher. `interface` is the interface's name, if known.
    #[must_use]
    pub fn new(sample: &Sample, clock: &Clock, interface: Option<&str>, whose: &Resolver) -> Self {
        let (src, dst) = (plain_address(sample.src), plain_address(sample.dst));
        let time = clock.wall_of_monotonic(sample.time_ns);
        let towards_remote = sample.leg == Leg::Remote as u8;
        let name = |address, is_local| {
            let name = if is_local {
                whose.local(sample.ifindex, sample.segment, address)
            } else {
                whose.remote(address)
            };
            name.map(|name| Name::clone(name))
        };
        Self {
            schema: SCHEMA,
            time: humantime::format_rfc3339_nanos(time).to_string(),
            interface: interface.map_or_else(|| format!("if{}", sample.ifindex), str::to_owned),
            vantage: Vantage::from_raw(sample.vantage)
                .map_or("unknown", Vantage::as_str)
                .into(),
            src,
            sport: sample.sport,
            dst,
            dport: sample.dport,
            rtt_ns: sample.rtt_ns,
            leg: if towards_remote {
                Leg::Remote
            } else {
                Leg::Local
            }
            .as_str()
            .into(),
            echo: sample.echo().map_or("unknown", Echo::as_str).into(),
            method: Method::from_raw(sample.method)
                .map_or("unknown", Method::as_str)
                .into(),
            id: sample.id,
            rcode: sample.rcode().map(|rcode| rcode.as_str().to_owned()),
            vlan: vlan(sample.segment),
            tunnels: TunnelRecord::all(sample.segment, sample.outer_vni),
            src_name: name(src, towards_remote),
            dst_name: name(dst, !towards_remote),
        }
    }

    /// The round trip as a duration.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        Duration::from_nanos(self.rtt_ns)
    }
}

/// VLAN id of the outermost tag, from a flow's segment word. None: untagged, or in a tunnel.
pub(crate) fn vlan(segment: u32) -> Option<u16> {
    if tunnel::is_inside(segment) {
        return None;
    }
    let id = u16::try_from(segment & 0xfff).ok()?;
    (id != 0).then_some(id)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{net::Ipv4Addr, path::Path};

    use super::*;
    use crate::{identity::PrefixMap, passive::clock::wall_clock};

    /// A sample of 12 us between two addresses of 198.18.5.0/24.
    pub(crate) fn sample() -> Sample {
        let words = |last| {
            let octets = Ipv4Addr::new(198, 18, 5, last).to_ipv6_mapped().octets();
            [0, 4, 8, 12].map(|at: usize| {
                u32::from_ne_bytes(octets[at..at + 4].try_into().expect("four bytes"))
            })
        };
        Sample {
            time_ns: 1,
            rtt_ns: 12_000,
            src: words(1),
            dst: words(2),
            id: 3_532_623_266,
            ifindex: 7,
            segment: 0,
            sport: 41_140,
            dport: 5301,
            leg: Leg::Remote as u8,
            echo: Echo::Prompt as u8,
            method: Method::Ts as u8,
            vantage: Vantage::Pod as u8,
            outer_vni: 0,
        }
    }

    #[test]
    fn json_is_as_the_contract_has_it() {
        let clock = wall_clock().expect("clocks");
        let mut record = SampleRecord::new(&sample(), &clock, Some("va"), &Resolver::default());
        assert!(
            humantime::parse_rfc3339(&record.time).is_ok(),
            "{}",
            record.time
        );
        assert_eq!(record.time.len(), "2026-01-01T00:00:00.000000000Z".len());
        record.time = "T".to_owned();
        let json = serde_json::to_string(&record).expect("JSON");
        assert_eq!(
            json,
            r#"{"schema":1,"time":"T","interface":"va","vantage":"pod","src":"198.18.5.1","sport":41140,"dst":"198.18.5.2","dport":5301,"rtt_ns":12000,"leg":"remote","echo":"prompt","method":"ts","id":3532623266}"#
        );
        assert_eq!(
            serde_json::from_str::<SampleRecord>(&json).expect("read back"),
            record
        );
    }

    #[test]
    fn dns_tells_its_response_code() {
        let sample = Sample {
            method: Method::Dns as u8,
            echo: Echo::Data as u8 | 3 << 4,
            ..sample()
        };
        let clock = wall_clock().expect("clocks");
        let record = SampleRecord::new(&sample, &clock, None, &Resolver::default());
        let said = (&*record.method, &*record.echo, record.rcode.as_deref());
        assert_eq!(said, ("dns", "data", Some("NXDOMAIN")));
    }

    #[test]
    fn names_are_added_where_known() {
        let names = PrefixMap::parse(
            "- {address: 198.18.5.2, namespace: shop, pod: db-0}\n",
            Path::new("n"),
        )
        .expect("names");
        let clock = wall_clock().expect("clocks");
        let record = SampleRecord::new(&sample(), &clock, None, &names.into());
        assert_eq!(record.src_name, None);
        assert_eq!(
            record.dst_name.and_then(|name| name.pod).as_deref(),
            Some("db-0")
        );
        assert_eq!(record.interface, "if7");
    }
}
