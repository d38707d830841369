//! The tables.

use std::fmt::Write as _;

use super::{Args, Part, reflector::Measured, trips::Scene};

fn read(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().to_owned()
}

/// How the results begin.
pub(super) fn head(args: &Args) -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let only = match args.only {
        None => "",
        Some(Part::Reflector) => " --only reflector",
        Some(Part::Trips) => " --only trips",
    };
    format!(
        "# Probes\n\nBy `cargo xtask bench probe -- --irtt PATH --stamp-suite PATH{only}` on {}. \
         Linux {}, {cpus} CPUs, load average at the end {}. {} rounds; in each every program has \
         its turn.\n",
        humantime::format_rfc3339_seconds(std::time::SystemTime::now())
            .to_string()
            .split('T')
            .next()
            .unwrap_or_default(),
        read("/proc/sys/kernel/osrelease"),
        read("/proc/loadavg"),
        args.rounds,
    )
}

fn rank(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "far fewer than 2^52 values"
    )]
    let at = ((values.len().saturating_sub(1)) as f64 * share).round() as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}

fn median(values: &[f64]) -> f64 {
    rank(values, 0.5)
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 values")]
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Writes a line. Writing to a string does not fail.
macro_rules! line {
    ($text:expr, $($part:tt)*) => { let _ = writeln!($text, $($part)*); };
}

/// The table of reflectors.
pub(super) fn reflectors(all: &[Measured]) -> String {
    let mut text = String::from(
        "\n## What a packet costs a reflector\n\nPackets answered per second that the process was \
         on a CPU, by the process's own clock, median (least to most) of the rounds; 128 sessions, \
         each with one packet on its way, on a veth pair. What the kernel does for an answer until \
         the client's socket has it is in that time, for each program alike. The ratio is of \
         medians. `lpm reflect` takes T2 from the kernel, and T3 where it is asked for; a \
         stamp-suite without the feature `hwtstamp` takes both itself. Dwell: T3 - T2 as the \
         answers say. Memory is `RssAnon` in KiB: at the beginning, then under this load, then \
         with 4,096 sessions.\n\n\
         | packets | reflector | packets per core-second | `lpm reflect` by this | answered | sent \
         again | dwell p50, p99 | memory |\n|---|---|---|---|---|---|---|---|\n",
    );
    for one in all {
        let ours = all.iter().find(|other| other.load == one.load);
        let ours = ours.map_or(f64::NAN, |ours| median(&ours.rates));
        line!(
            text,
            "| {} | {} | {:.0} ({:.0} to {:.0}) | {:.2} | {} | {} | {:.1} us, {:.1} us | {}, {}, {} |",
            one.load.as_str(),
            one.name,
            median(&one.rates),
            rank(&one.rates, 0.0),
            rank(&one.rates, 1.0),
            ours / median(&one.rates),
            one.answered,
            one.lost,
            median(&one.dwell) / 1e3,
            rank(&one.dwell, 0.99) / 1e3,
            one.memory[0],
            one.memory[1],
            one.memory[2],
        );
    }
    text
}

/// The tables of round trips.
pub(super) fn trips(scenes: &[Scene]) -> String {
    let mut text = String::from(
        "\n## The round trip\n\nMicroseconds. Each tool's median (mean) is that of its turns' medians \
         (means). Busy: a process on each CPU computes without end. The capture's column is of the \
         packets of `lpm probe`: (client in - client out) - (server out - server in) by AF_PACKET \
         at both ends of the cable, read by tshark; \"above\" is the median of each packet's \
         difference, and p99 of its size. A packet is shown to a capture before the device takes it, \
         so what the capture does with it counts as the wire's: \"by the capture\" is how much \
         longer packets are between queue and device with it than without, twice. Dwell: how long the packet was in the server, by the \
         capture.\n\n\
         | way | CPUs | tool | median | mean | capture's median | above | p99 | by the capture | dwell, median |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for scene in scenes {
        let cpus = if scene.is_busy { "busy" } else { "idle" };
        for (name, turns) in &scene.tools {
            let medians: Vec<f64> = turns.iter().map(|turn| turn.median).collect();
            let means: Vec<f64> = turns.iter().map(|turn| turn.mean).collect();
            let beside = if name.starts_with("lpm") {
                let captured: Vec<f64> =
                    scene.captured.iter().map(|trip| trip.round_trip).collect();
                let dwell: Vec<f64> = scene.captured.iter().map(|trip| trip.dwell).collect();
                let size: Vec<f64> = scene
                    .above_capture
                    .iter()
                    .map(|above| above.abs())
                    .collect();
                format!(
                    "{:.2} | {:.2} | {:.2} | {:.2} | {:.1}",
                    median(&captured) / 1e3,
                    median(&scene.above_capture) / 1e3,
                    rank(&size, 0.99) / 1e3,
                    scene.by_capture / 1e3,
                    median(&dwell) / 1e3,
                )
            } else if name == "stamp-suite" {
                format!(" | | | | {:.1}", median(&scene.suite_dwell) / 1e3)
            } else {
                " | | | | ".to_owned()
            };
            line!(
                text,
                "| {} | {cpus} | {name} | {:.2} | {:.2} | {beside} |",
                scene.way.as_str(),
                median(&medians) / 1e3,
                mean(&means) / 1e3,
            );
        }
    }
    text += &bars(scenes);
    text
}

/// What is asked for, and what was measured.
fn bars(scenes: &[Scene]) -> String {
    let mut text = String::from("\n| bar | way | measured | holds |\n|---|---|---|---|\n");
    let of = |scene: &Scene, name: &str| {
        let (_, turns) = scene.tools.iter().find(|(tool, _)| tool == name)?;
        let medians: Vec<f64> = turns.iter().map(|turn| turn.median).collect();
        let means: Vec<f64> = turns.iter().map(|turn| turn.mean).collect();
        Some((median(&medians) / 1e3, mean(&means) / 1e3))
    };
    let word = |holds| if holds { "yes" } else { "no" };
    for scene in scenes {
        let way = format!(
            "{}, {}",
            scene.way.as_str(),
            if scene.is_busy { "busy" } else { "idle" }
        );
        let above = median(&scene.above_capture) / 1e3;
        line!(
            text,
            "| within 3 us of the captures (median) | {way} | {above:.2} us | {} |",
            word(above.abs() <= 3.0)
        );
        let rest = above + scene.by_capture / 1e3;
        line!(
            text,
            "| the same, without what the captures add | {way} | {rest:.2} us | {} |",
            word(rest.abs() <= 3.0)
        );
        if let (Some(ours), Some(ping)) = (of(scene, "lpm probe"), of(scene, "ping")) {
            line!(
                text,
                "| neither median nor mean above ping's | {way} | {:.2} and {:.2}, ping {:.2} and \
                 {:.2} us | {} |",
                ours.0,
                ours.1,
                ping.0,
                ping.1,
                word(ours.0 <= ping.0 && ours.1 <= ping.1)
            );
        }
    }
    for idle in scenes.iter().filter(|scene| !scene.is_busy) {
        let busy = scenes
            .iter()
            .find(|scene| scene.is_busy && scene.way == idle.way);
        let moved = |name| Some(of(busy?, name)?.0 - of(idle, name)?.0);
        if let (Some(ours), Some(irtt)) = (moved("lpm probe"), moved("irtt")) {
            line!(
                text,
                "| under CPU load a tenth of irtt's move | {} | {ours:.2} us, irtt {irtt:.2} us | {} |",
                idle.way.as_str(),
                word(ours.abs() <= irtt.abs() / 10.0)
            );
        }
    }
    text
}
