//! Writes the first inputs of the fuzzers: `cargo run -p lpm-fuzz-targets --bin lpm-fuzz-seeds DIR`.
//!
//! They are made from the hand-made frames and flows of `lpm-common` and `tests/vectors`, and from
//! texts as people and programs write them. Sequences have none: libFuzzer finds those.

use std::{
    env, fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use lpm_common::testing::{
    frame::layouts,
    query::{Message, echo},
    tunnel::{wrap, wrappings},
    vectors,
};

const ACCEPT: [&str; 4] = [
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
     application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    "text/html, application/xhtml+xml, */*;q=0.8",
    "text/plain;q=0",
    "text/plain; version=\"0.0.4\"\napplication/openmetrics-text",
];

const CONFIG: [&str; 4] = [
    "listen: \"[::1]:9000\"\nattach: netlink\nflow_idle: 1m 30s\ninterfaces:\n\
     - {name: \"cali*\", vantage: pod}\n- {kind: vxlan, vantage: none}\n",
    "flows: 65536\nqueries: 4096\nrows: 512\nstripes: 4\nwindow: 10s\nmethods: [ts, seq, handshake, icmp, dns, request]\n",
    "preset: l2sm\nnames: names.yaml\nlevels: {workload: true, top: 16}\nkeep_gone: 5m\n\
     identity:\n  external:\n  - {cidr: 0.0.0.0/0, name: internet}\n  cluster_ranges: [10.0.0.0/8]\n  kubernetes: {scope: node}\n",
    "interfaces:\n- name: eth0\n  vantage: nic\n  inner: true\n  xdp: native\ntunnels:\n  vxlan: [4789]\n  geneve: [6081]\npins: {enabled: true}\nconntrack: {most: 1000}\n",
];

const NAMES: [&str; 2] = [
    "- {address: 198.18.1.2, namespace: shop, pod: web-0, workload: web, node: n1}\n\
     - {cidr: 198.18.5.0/24, kind: external, namespace: legacy}\n- {address: \"fd00::1\", service: db}\n",
    "# nothing\n\n",
];

const PEERS: [&str; 2] = [
    "{\"schema\":1,\"node\":\"n2\",\"all\":[{\"address\":\"198.18.2.7\",\"kind\":\"pod\",\"namespace\":\"shop\",\
     \"pod\":\"web-0\",\"labels\":{\"team\":\"blue\"}}]}\n{\"schema\":1,\"node\":\"n2\",\"changed\":[{\"address\":\"198.18.2.8\",\
     \"kind\":\"pod\",\"namespace\":\"b\"}],\"gone\":[\"198.18.2.7\"],\"moved\":[{\"address\":\"198.18.2.8\",\"since\":null}]}\n",
    "{\"schema\":1,\"node\":\"n2\"}\n{\"schema\":2,\"node\":\"n3\"}\n",
];

const PODS: &str = r#"[{"metadata":{"name":"web-0","namespace":"shop","uid":"a","labels":{"team":"blue"},
"ownerReferences":[{"kind":"ReplicaSet","name":"web-5d4f","uid":"r","controller":true,"apiVersion":"apps/v1"}]},
"spec":{"nodeName":"n1","hostNetwork":false},"status":{"phase":"Running","podIP":"198.18.1.2",
"podIPs":[{"ip":"198.18.1.2"},{"ip":"fd00::2"}],"startTime":"2026-01-01T00:00:00Z"}},
{"gone":1,"metadata":{"name":"web-0","namespace":"shop","uid":"a"}}]"#;

const ANNOTATIONS: [&str; 2] = [
    "[{\"name\":\"blue\",\"ips\":[\"198.19.1.5/24\"]},{\"name\":\"green\"}]\0[{\"name\":\"cbr0\",\"interface\":\"eth0\",\
     \"ips\":[\"198.18.1.2\"],\"default\":true},{\"name\":\"l2sm-system/overlay-veth3\",\"interface\":\"net1\",\
     \"ips\":[\"198.19.1.5\"]}]\0[{\"name\":\"overlay-veth3\",\"namespace\":\"l2sm-system\",\"ips\":[\"198.19.1.5/24\"]}]",
    "blue, green",
];

fn main() -> io::Result<()> {
    let directory = env::args_os().nth(1);
    let directory = directory.map_or_else(|| PathBuf::from("fuzz/seeds"), PathBuf::from);
    let write = |target: &str, number: usize, data: &[u8]| {
        let directory = directory.join(target);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(format!("{number:03}")), data)
    };
    for (number, data) in frames().iter().enumerate() {
        write("parse", number, data)?;
        write("packets", number, data)?;
    }
    for (number, data) in tunnels().iter().enumerate() {
        write("tunnels", number, data)?;
    }
    for (number, data) in captures()?.iter().enumerate() {
        write("capture", number, data)?;
    }
    for (number, data) in stamp()?.iter().enumerate() {
        write("stamp", number, data)?;
    }
    let peers = PEERS.map(|text| format!("\x40{text}"));
    let texts: [(&str, Vec<&str>); 6] = [
        ("accept", ACCEPT.to_vec()),
        ("annotations", ANNOTATIONS.to_vec()),
        ("config", CONFIG.to_vec()),
        ("names", NAMES.to_vec()),
        ("peers", peers.iter().map(String::as_str).collect()),
        ("pods", vec![PODS]),
    ];
    for (target, texts) in texts {
        for (number, text) in texts.iter().enumerate() {
            write(target, number, text.as_bytes())?;
        }
    }
    Ok(())
}

/// The requests and answers of `tests/vectors/stamp.json`, after the four bytes that choose the rest.
fn stamp() -> io::Result<Vec<Vec<u8>>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/stamp.json");
    let cases: serde_json::Value = serde_json::from_reader(fs::File::open(path)?)?;
    let cases = cases.as_array().into_iter().flatten();
    let input = |case: &serde_json::Value, field: &str| {
        let digits = case[field].as_str().unwrap_or_default();
        let bytes = (0..digits.len())
            .step_by(2)
            .filter_map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok());
        // A key, signed by it, with state.
        let bits = 0b11_0110 | u8::from(case["mode"] == "authenticated");
        [bits, 34, 9, 2].into_iter().chain(bytes).collect()
    };
    Ok(cases
        .flat_map(|case| [input(case, "request"), input(case, "answer")])
        .collect())
}

/// Frames of each layout, pings and DNS messages, after the three bytes that a target reads first.
fn frames() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for v6 in [false, true] {
        let (local, remote) = vectors::ends(v6);
        let layouts = layouts(local, remote, 41140, 5301).into_iter();
        all.extend(layouts.map(|(_, frame)| (frame.ethernet, frame.bytes())));
        let query = Message::query(7);
        let others = [
            echo(local, remote, false, 1, 2),
            query.udp(local, remote, 4000, 53),
            Message::tcp(&[query], local, remote, 4000, 53),
        ];
        all.extend(others.map(|frame| (true, frame.bytes())));
    }
    let input =
        |(ethernet, bytes): (bool, Vec<u8>)| [&[u8::from(!ethernet), 0, 0][..], &bytes].concat();
    all.into_iter().map(input).collect()
}

fn tunnels() -> Vec<Vec<u8>> {
    let (local, remote) = vectors::ends(false);
    let mut frame = lpm_common::testing::frame::Frame::new(local, remote, 41140, 5301);
    (frame.payload, frame.timestamp) = (10, Some((1000, 0)));
    let wrappings = wrappings().into_iter();
    let input = |(_, around): (_, Vec<_>)| {
        let outer: &lpm_common::testing::tunnel::Around = around.last().expect("a tunnel");
        let first = u8::from(!outer.ethernet);
        [&[first, 0, 0][..], &wrap(&frame.bytes(), &around)].concat()
    };
    wrappings.map(input).collect()
}

/// Captures of two flows in each format, after the byte that says how they are read.
fn captures() -> io::Result<Vec<Vec<u8>>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors");
    let mut all = Vec::new();
    for file in ["ts.json", "seq.json"] {
        let cases = vectors::read(&path.join(file));
        let short = |case: &&vectors::Case| {
            (6..14).contains(&case.packets.len()) && case.packets.iter().all(|p| p.payload < 200)
        };
        for case in cases.iter().filter(short).take(3) {
            let packets: Vec<(u64, Vec<u8>)> = case
                .packets
                .iter()
                .map(|packet| (packet.t_ns, packet.frame(false).bytes()))
                .collect();
            let (old, new) = (pcap(&packets), pcapng(&packets));
            let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
            gzip.write_all(&new)?;
            all.extend([old, new, gzip.finish()?]);
        }
    }
    Ok(all
        .into_iter()
        .map(|bytes| [&[0][..], &bytes].concat())
        .collect())
}

fn u32s(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a short frame")
}

/// pcap in nanoseconds, Ethernet.
fn pcap(packets: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = u32s(&[0xa1b2_3c4d, 0x0004_0002, 0, 0, 0x4_0000, 1]);
    for (time, frame) in packets {
        let part = |time: u64| u32::try_from(time).expect("a time soon after 1970");
        let (seconds, rest) = (part(time / 1_000_000_000), part(time % 1_000_000_000));
        bytes.extend(u32s(&[seconds, rest, length(frame), length(frame)]));
        bytes.extend(frame);
    }
    bytes
}

/// pcapng in nanoseconds, one Ethernet interface.
fn pcapng(packets: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = block(0x0a0d_0d0a, u32s(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]));
    // Name, resolution, end of options.
    let options = [
        0x0003_0002,
        u32::from_le_bytes(*b"eth\0"),
        0x0001_0009,
        9,
        0,
    ];
    bytes.extend(block(1, u32s(&[&[1, 0x4_0000], &options[..]].concat())));
    for (time, frame) in packets {
        let (high, low) = ((time >> 32) as u32, (time & 0xffff_ffff) as u32);
        let head = u32s(&[0, high, low, length(frame), length(frame)]);
        bytes.extend(block(6, [head, frame.clone()].concat()));
    }
    bytes
}

fn block(kind: u32, mut body: Vec<u8>) -> Vec<u8> {
    body.resize(body.len().next_multiple_of(4), 0);
    let total = length(&body) + 12;
    [u32s(&[kind, total]), body, u32s(&[total])].concat()
}
