//! `seq` forced on flows with timestamps, beside `ts` on the same packets.

use std::time::Duration;

use lpm_testbed::{
    testbed::{
        Impairment, Pair, PairConfig,
        wire::{Jitter, Loss},
    },
    traffic::{Limit, Server},
};

use super::{
    Directory, MARKER_PORT, alone,
    files::{Files, Verdict, script},
    missing,
    seen::{Capture, Watch},
    traffic::{finish, set_wire, talks},
};

/// Ports without and with loss, and the share of echoes for which the methods
/// may differ by more than a tick of the sender's clock: where an ACK was lost,
/// the next one's TSecr names a segment, its number does not.
const PHASES: [(u16, &str); 2] = [(5321, "0"), (5322, "0.01")];

#[test]
fn both_methods_agree_on_the_same_packets() {
    if let Some(reason) = missing() {
        println!("LPM-SKIP oracle: {reason}");
        return;
    }
    let _alone = alone();
    let directory = Directory::new("forced");
    let files = Files::new(&directory.path);
    let (config, by_seq) = (files.at("lpm.yaml"), files.at("watch-seq.jsonl"));
    std::fs::write(&config, "methods: [seq, handshake]\n").expect("a configuration");
    let config = config.to_str().expect("a path in UTF-8");
    let pair = Pair::new(&PairConfig::default()).expect("the testbed");
    let servers = PHASES.map(|(port, _)| Server::start(&pair.server, port));
    let _servers = servers.map(|server| server.expect("a server"));
    let _marker = Server::start(&pair.server, MARKER_PORT).expect("a server for markers");

    let ts = Watch::start(&pair, &files.watch, &[]);
    ts.seen_after_now(&pair);
    let seq = Watch::start(&pair, &by_seq, &["--config", config]);
    seq.seen_after_now(&pair);
    let capture = Capture::start(&pair, &files, "tcp portrange 5321-5322");
    let lossy = Impairment {
        jitter: Jitter::Uniform(Duration::from_millis(1)),
        loss: Loss::Random(0.01),
        ..Impairment::delay(Duration::from_millis(4))
    };
    let clean = Impairment::delay(Duration::from_micros(500));
    for (wire, (port, _)) in [clean, lossy].iter().zip(PHASES) {
        set_wire(&pair, wire);
        finish(talks(&pair, port, Limit::duration(Duration::from_secs(4))));
    }
    // Over the same wire: what is still under way passes before.
    ts.seen_after_now(&pair);
    capture.stop();
    for watch in [&ts, &seq] {
        watch.seen_after_now(&pair);
    }
    ts.stop();
    seq.stop();

    files.fields();
    let should_ts = files.oracle("ts", &[]);
    let should_seq = files.oracle("seq", &["--forced"]);
    for (port, beyond) in PHASES {
        let least = ["--min-samples", "2000"];
        let by_ts = files.live(&should_ts, &files.watch, "ts", port, &least);
        by_ts.expect_pass("ts");
        let [least, samples] = least;
        let forced = files.live(
            &should_seq,
            &by_seq,
            "seq",
            port,
            &["--forced", least, samples],
        );
        forced.expect_pass("seq, forced");
        let mut agree = script("agree.py");
        agree.args([&should_ts, &files.watch, &should_seq, &by_seq]);
        agree.args(["--port", &port.to_string(), "--beyond", beyond]);
        Verdict::of(&mut agree).expect_pass("seq beside ts");
    }
    // One method per flow: whoever has ts gives no sample by sequence number.
    let alone = std::fs::read_to_string(&files.watch).expect("the samples");
    assert!(!alone.contains("\"seq\""), "counted twice");
}
