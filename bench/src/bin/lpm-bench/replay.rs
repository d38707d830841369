//! `lpm-bench replay`: how fast `lpm replay` reads a large capture.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use flate2::{Compression, write::GzEncoder};
use lpm_bench::replay::{Case, Generator, Plan, Report, measure};
use lpm_testbed::machine;

/// `lpm replay` on a large capture: speed and memory.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lpm-bench replay\n  \
    lpm-bench replay --bytes 50000000 --output /tmp/replay.md")]
pub(crate) struct Args {
    /// Length of the capture, bytes
    #[arg(long, default_value_t = 1_000_000_000)]
    bytes: u64,
    /// Connections at a time
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    flows: u16,
    /// Directory for the temporary capture [default: the system's temporary directory]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// The agent; by default `lpm` beside this binary
    #[arg(long)]
    lpm: Option<PathBuf>,
    /// Where to write the table as Markdown; the figures go beside it as JSON
    #[arg(long, default_value = "bench/results/replay.md")]
    output: PathBuf,
}

const CASES: [Case; 6] = [
    Case {
        name: "JSON lines",
        options: &["--format", "json"],
        compressed: false,
    },
    Case {
        name: "CSV",
        options: &["--format", "csv"],
        compressed: false,
    },
    Case {
        name: "CSV, anonymized",
        options: &["--format", "csv", "--anonymize"],
        compressed: false,
    },
    Case {
        name: "summary",
        options: &["--summary", "--format", "csv"],
        compressed: false,
    },
    Case {
        name: "histograms, `--local`",
        options: &[
            "--histograms",
            "--format",
            "csv",
            "--local",
            "198.18.5.1",
            "--local",
            "fd00::5:1",
        ],
        compressed: false,
    },
    Case {
        name: "histograms, gzip",
        options: &["--histograms", "--format", "csv"],
        compressed: true,
    },
];

pub(crate) fn main(args: &Args) -> Result<()> {
    let lpm = match &args.lpm {
        Some(lpm) => lpm.clone(),
        None => std::env::current_exe()?.with_file_name("lpm"),
    };
    if !lpm.is_file() {
        bail!(
            "there is no agent at {}: run `cargo xtask build`, or give one with --lpm",
            lpm.display()
        );
    }
    let files = Files::new(&args.directory.clone().unwrap_or_else(std::env::temp_dir));
    eprintln!("writing a capture of {} bytes ...", args.bytes);
    let mut generator = Generator::new(Plan {
        bytes: args.bytes,
        flows: args.flows,
        ..Plan::default()
    });
    files.write(&mut generator)?;
    let length = |path: &Path| fs::metadata(path).map(|metadata| metadata.len());
    let mut report = Report {
        machine: String::new(),
        bytes: length(&files.plain)?,
        compressed: length(&files.compressed)?,
        packets: generator.packets(),
        recorded_seconds: std::time::Duration::from_nanos(generator.elapsed_ns()).as_secs_f64(),
        runs: Vec::new(),
    };
    for case in CASES {
        let file = if case.compressed {
            &files.compressed
        } else {
            &files.plain
        };
        let figures = measure(&lpm, file, case)?;
        eprintln!("  {}: {:.2} s", case.name, figures.seconds);
        report.runs.push(figures);
    }
    report.machine = machine();
    print!("{report}");
    if let Some(directory) = args.output.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(&args.output, report.to_string())
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    fs::write(
        args.output.with_extension("json"),
        serde_json::to_vec_pretty(&report)?,
    )?;
    if !report.holds() {
        bail!("a run was slower than the recording, or its memory grew; see the table");
    }
    Ok(())
}

/// The captures; they go with their guard.
struct Files {
    plain: PathBuf,
    compressed: PathBuf,
}

impl Files {
    fn new(directory: &Path) -> Self {
        let at = |end| directory.join(format!("lpm-replay-{}.{end}", std::process::id()));
        Self {
            plain: at("pcap"),
            compressed: at("pcap.gz"),
        }
    }

    fn write(&self, generator: &mut Generator) -> Result<()> {
        let failed = |path: &Path| format!("cannot write {}", path.display());
        let mut plain = File::create(&self.plain).with_context(|| failed(&self.plain))?;
        io::copy(generator, &mut plain).with_context(|| failed(&self.plain))?;
        let compressed =
            File::create(&self.compressed).with_context(|| failed(&self.compressed))?;
        let mut encoder = GzEncoder::new(BufWriter::new(compressed), Compression::fast());
        io::copy(&mut File::open(&self.plain)?, &mut encoder)
            .with_context(|| failed(&self.compressed))?;
        encoder
            .finish()?
            .flush()
            .with_context(|| failed(&self.compressed))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // Nothing can be done about files that stay.
        let _ = fs::remove_file(&self.plain);
        let _ = fs::remove_file(&self.compressed);
    }
}
