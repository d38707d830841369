//! Frames: the two parsers, tunnels, and any bytes through the whole pipeline.

use lpm_common::{
    hash::{self, SEEDS},
    host::{Arrival, Model, Settings},
    layout::{Method, Methods},
    packet::{Direction, Meta, flag},
    parse::{
        self, Common, Frame, Link, Skip,
        tunnel::{self, Shortcut, TunnelPorts},
    },
};

/// Secrets of the hash. They are fixed, so that an input always does the same.
pub(crate) const SECRETS: [u32; SEEDS] = [
    0x9e37_79b9,
    0x7f4a_7c15,
    0x85eb_ca6b,
    0xc2b2_ae35,
    0x27d4_eb2f,
    0x1656_67b1,
    0xd3a2_646c,
    0xfd70_46c5,
    0xb55a_4f09,
    0x2545_f491,
    0x4f6c_dd1d,
    0x94d0_49bb,
    0x1331_11eb,
    0xbf58_476d,
];

/// Ports of tunnels, as an agent has them by default.
pub(crate) const TUNNELS: TunnelPorts = TunnelPorts {
    vxlan: [4789, 8472, 0, 0],
    geneve: [6081, 0, 0, 0],
};

/// What is known of a frame beside its bytes: three bytes of an input.
struct Around {
    link: Link,
    direction: Direction,
    methods: Methods,
    vlan: u32,
}

impl Around {
    /// Takes the first three bytes. None: the input is shorter.
    fn take(data: &[u8]) -> Option<(Self, &[u8])> {
        let ([first, high, low], frame) = data.split_first_chunk::<3>()?;
        let all = Method::ALL.into_iter().collect();
        let around = Self {
            link: if first & 1 == 0 {
                Link::Ethernet
            } else {
                Link::Ip
            },
            direction: direction(first & 2 != 0),
            methods: if first & 4 == 0 {
                Methods::DEFAULT
            } else {
                all
            },
            vlan: u32::from(u16::from_be_bytes([*high, *low]) & 0xfff),
        };
        Some((around, frame))
    }

    fn meta(&self, frame: &[u8]) -> Meta {
        Meta {
            len: u32::try_from(frame.len()).expect("a short input"),
            segments: 1,
            ifindex: 3,
            vlan: self.vlan,
        }
    }
}

/// The direction of a packet by one bit.
pub(crate) fn direction(to_local: bool) -> Direction {
    if to_local {
        Direction::ToLocal
    } else {
        Direction::FromLocal
    }
}

/// Any frame through both parsers. What the fast one takes, the full one must read the same way.
pub fn parse(data: &[u8]) {
    let Some((around, frame)) = Around::take(data) else {
        return;
    };
    let meta = around.meta(frame);
    let full = parse::network(&frame, around.link, &meta, around.methods);
    let whole = full.and_then(|network| parse::transport(&frame, &network));
    if let Ok(packet) = &whole {
        let head = &packet.head;
        assert!(
            u32::from(head.headers) + head.payload <= meta.len,
            "{head:?}"
        );
        assert!(head.options <= 40, "{head:?}");
    }
    let known = Frame {
        len: meta.len,
        link: around.link,
        direction: around.direction,
        methods: around.methods,
    };
    let Common::Tcp(common) = parse::common(&frame, &known, &SECRETS) else {
        return;
    };
    let Some(head) = parse::common_head(&parse_after(frame, common.l4), &common) else {
        return;
    };
    // The fast parser looks at no option behind the timestamps, which are whole.
    let packet = match whole {
        Err(Skip::Malformed) if head.options > 12 => return,
        whole => whole.expect("what the fast parser reads is whole"),
    };
    let key = packet.key(around.direction, meta.ifindex);
    if packet.segment == meta.vlan {
        let fast = hash::fingerprint(
            &SECRETS,
            common.addresses,
            common.ports,
            meta.ifindex,
            meta.vlan,
        );
        assert_eq!(
            fast,
            hash::of_key(&SECRETS, &key),
            "one flow, one fingerprint"
        );
    }
    assert_eq!(head.flags & flag::SYN, 0);
    // The fast parser looks for SACK in one place only, and knows no MSS without SYN.
    let full = lpm_common::packet::TcpHead {
        sack: head.sack,
        mss: head.mss,
        ..packet.head
    };
    assert_eq!(head, full, "two parsers, one header");
}

/// The bytes from an offset on.
fn parse_after(frame: &[u8], at: u32) -> &[u8] {
    frame.get(at as usize..).unwrap_or_default()
}

/// Any frame through both ways to open a tunnel, level by level.
pub fn tunnels(data: &[u8]) {
    let Some((around, frame)) = Around::take(data) else {
        return;
    };
    let meta = around.meta(frame);
    let open = tunnel::open(&frame, around.link, around.vlan, &TUNNELS);
    let short = tunnel::shortcut(&frame, &meta, around.link, &TUNNELS);
    if let Ok(inside) = &open
        && inside.at != 0
    {
        assert!(
            inside.at <= inside.end && inside.end <= meta.len,
            "{inside:?}"
        );
        assert!(inside.vni < 1 << 24, "{inside:?}");
        let inner = &frame[inside.at as usize..inside.end as usize];
        let meta = Meta {
            len: inside.end - inside.at,
            ..meta
        };
        let _ = parse::network(&inner, inside.link(), &meta, around.methods);
    }
    if let Shortcut::Inside { base, len, .. } = short {
        let inside = open.expect("what the shortcut opens is a tunnel");
        assert_eq!(
            (base, base + len),
            (inside.at, inside.end),
            "two ways, one frame"
        );
        assert!(!inside.is_ip);
    }
    pipeline(&around, frame, TUNNELS);
}

/// Any bytes as one frame, through all of the pipeline and with nothing known of it.
pub fn packets(data: &[u8]) {
    let Some((around, frame)) = Around::take(data) else {
        return;
    };
    pipeline(&around, frame, TunnelPorts::default());
}

fn pipeline(around: &Around, frame: &[u8], tunnels: TunnelPorts) {
    let mut model = small(around.methods);
    model.tunnels = tunnels;
    let mut arrival = Arrival {
        now_ns: 1_000_000_000,
        link: around.link,
        direction: around.direction,
        ifindex: 3,
        vlan: around.vlan,
        segments: 1,
        segment_size: 0,
    };
    for further in [0, 1_000_000, 3_000_000] {
        arrival.now_ns += further;
        model.packet(frame, &arrival);
        model.joined_packet(frame, &arrival);
    }
    // One direction alone: nothing was answered.
    assert!(model.samples.borrow().is_empty());
    assert!(model.answers.borrow().is_empty());
    assert!(model.requested.borrow().is_empty());
}

/// A model with the smallest tables, so that sets fill up and making one costs little.
pub(crate) fn small(methods: Methods) -> Model {
    Model::new(Settings {
        flow_entries: 8,
        rows: 4,
        seeds: SECRETS,
        hz: 250,
        query_entries: 8,
        idle_seconds: 30,
        methods,
    })
}
