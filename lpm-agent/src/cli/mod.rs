//! The command line.

mod check;
mod client;
mod config;
mod here;
mod memory;
mod output;
mod probe;
#[cfg(test)]
mod reference;
mod reflect;
mod replay;
mod rights;
mod run;
mod show;
mod signals;
mod top;
mod unix;
mod watch;

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use tracing::field::Field;
use tracing_subscriber::{EnvFilter, field::MakeExt as _, fmt::format};

use crate::{
    config::Config,
    kernel::attach::Mode,
    session::{Options, Passive, Session},
    text::{Plain, plain},
};

/// Environment variable with the filter of log lines, such as `debug` or `lpm_agent=trace`.
const LOG: &str = "LPM_LOG";

/// Passive network latency: how long packets take, per flow and namespace, without sending any.
#[derive(Debug, Parser)]
#[command(name = "lpm", version, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    /// Watch the interfaces of this network namespace: a name that `ip netns` shows, or a path. The
    /// HTTP server stays in the caller's namespace.
    #[arg(long, global = true, value_name = "NAME|PATH")]
    netns: Option<String>,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  lpm top                      live table of the flows of this machine
  lpm watch -i eth0            every round trip as it is measured
  lpm run -c lpm.yaml          the agent, with metrics at http://127.0.0.1:9477/metrics
  lpm check                    what this machine supports, and what is missing";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent: measure, and serve metrics and the API.
    #[command(after_help = "Examples:
  lpm run                                        all interfaces, by the built-in rules
  lpm run -i eth0 --listen 127.0.0.1:9500        one interface, another port
  lpm run -c /etc/lpm/lpm.yaml --names names.yaml
On SIGHUP, or when the files change, the agent applies new names and rules without a restart.")]
    Run(run::Run),
    /// Show flows, namespaces and links live.
    #[command(after_help = "Examples:
  lpm top                                        all interfaces, by the built-in rules
  lpm top --agent http://127.0.0.1:9477          what a running agent sees
  lpm top --agent unix:/run/lpm/lpm.sock         the same, by the agent's Unix socket
  kubectl exec -it AGENT -- /lpm top             the same: in an agent's container it is the default
  lpm top -i eth0 --once --format json           one table as JSON, then exit")]
    Top(top::Top),
    /// Print every round trip as it is measured.
    #[command(after_help = "Examples:
  lpm watch -i eth0 --seconds 10                 ten seconds as text
  lpm watch --format json --count 100 | jq .rtt_ns
  lpm watch --agent http://127.0.0.1:9477        what a running agent measures
  kubectl exec AGENT -- /lpm watch               the same: in an agent's container it is the default")]
    Watch(watch::Watch),
    /// Measure the packets of a capture (pcap or pcapng) as if they passed now.
    #[command(after_help = replay::EXAMPLES)]
    Replay(Box<replay::Replay>),
    /// Measure the round trip to a reflector, and each way's delay, with probes (STAMP, RFC 8762).
    #[command(after_help = probe::EXAMPLES)]
    Probe(probe::Probe),
    /// Answer the probes of others (STAMP, RFC 8762).
    #[command(after_help = reflect::EXAMPLES)]
    Reflect(reflect::Reflect),
    /// Show what this machine supports, with a fix for each missing thing.
    #[command(after_help = "Examples:
  lpm check                      kernel, BTF, capabilities, interfaces
  lpm check -c lpm.yaml --json   which interfaces these rules would watch, for programs")]
    Check(check::Check),
    /// Remove what former agents have left in the kernel, and nothing else.
    #[command(after_help = "Example:
  lpm detach                     after an agent was killed; running agents are not touched")]
    Detach(check::Detach),
    /// Check, show or describe the configuration.
    #[command(after_help = "Examples:
  lpm config check lpm.yaml      is it valid? errors name the key and the line
  lpm config import config.json  L2S-M LPM's or LLAMA's configuration as lpm's
  lpm config show -c lpm.yaml    every key with its value, defaults included
  lpm config schema              the JSON schema, for editors")]
    Config(config::Config),
    /// Print the completions for a shell.
    #[command(after_help = "Example:
  lpm completions bash > /usr/share/bash-completion/completions/lpm")]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// What every command that measures takes.
#[derive(Clone, Debug, Args)]
struct Measure {
    /// Configuration file. Without it, every key has its default (`lpm config show`).
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Watch this interface, whatever the rules say; may be given several times.
    #[arg(short, long, value_name = "IFACE")]
    interface: Vec<String>,
    /// Names file: addresses to namespaces, pods, workloads, services, nodes.
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
    /// How to attach: auto, tcx or netlink.
    #[arg(long, value_name = "MODE", value_parser = mode)]
    attach: Option<Mode>,
}

impl Measure {
    /// Reads the configuration, from the file or the defaults, and applies the options of the
    /// command line.
    fn config(&self, netns: Option<&String>, listen: Option<SocketAddr>) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        if let Some(names) = &self.names {
            config.names = Some(names.clone());
        }
        if let Some(attach) = self.attach {
            config.attach = attach;
        }
        if let Some(netns) = netns {
            config.netns = Some(netns.clone());
        }
        if let Some(listen) = listen {
            config.listen = listen;
        }
        config.check()?;
        Ok(config)
    }

    /// True if the command line says what is to be measured, or how.
    fn says_what(&self) -> bool {
        let Self {
            config,
            interface,
            names,
            attach,
        } = self;
        config.is_some() || !interface.is_empty() || names.is_some() || attach.is_some()
    }

    fn options(&self, netns: Option<&String>) -> anyhow::Result<Options> {
        let mut config = self.config(netns, None)?;
        // The data path of these commands ends with them.
        config.pins.enabled = false;
        Ok(Options {
            config,
            only: self.interface.clone(),
            layout_version: None,
            passive: true,
            active: false,
            place: None,
        })
    }
}

/// The part of a session that measures.
fn measuring(session: &Session) -> anyhow::Result<&Passive> {
    let passive = session.passive();
    passive.context("this session gives names only; start it with Options::passive to measure")
}

fn mode(text: &str) -> Result<Mode, String> {
    [Mode::Auto, Mode::Tcx, Mode::Netlink]
        .into_iter()
        .find(|mode| mode.as_str() == text)
        .ok_or_else(|| "give auto, tcx or netlink".to_owned())
}

/// Parses the command line, does what it says, and reports what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log(matches!(cli.command, Command::Run(_)));
    // As ping does: 1 is for no answer, 2 for an error.
    let failure = match cli.command {
        Command::Probe(_) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    };
    match execute(cli) {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Without stderr there is nobody left to tell.
            let _ = writeln!(
                Plain(io::stderr()),
                "lpm: {}",
                shortened(&error.to_string())
            );
            failure
        }
    }
}

fn execute(cli: Cli) -> anyhow::Result<ExitCode> {
    let netns = cli.netns.as_ref();
    match cli.command {
        Command::Run(run) => run.execute(netns),
        Command::Top(top) => top.execute(netns),
        Command::Watch(watch) => watch.execute(netns),
        Command::Replay(replay) => replay.execute(),
        Command::Probe(probe) => return probe.execute(netns),
        Command::Reflect(reflect) => reflect.execute(netns),
        Command::Check(check) => check.execute(netns),
        Command::Detach(detach) => detach.execute(netns),
        Command::Config(config) => config.execute(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lpm", &mut script);
            Ok(io::stdout().write_all(&script)?)
        }
    }
    .map(|()| ExitCode::SUCCESS)
}

fn log(agent: bool) {
    let default = if agent { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env(LOG).unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .fmt_fields(format::debug_fn(field).delimited(" "))
        .with_writer(io::stderr)
        .init();
}

/// Writes the message of a log line, or a field of it, without characters that a terminal obeys: it
/// may hold names from anywhere. Further lines are indented, so that none looks like one of the log.
fn field(to: &mut format::Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let text = format!("{value:?}");
    let text = plain(&text).replace('\n', "\n  ");
    match field.name() {
        "message" => to.write_str(&text),
        name => write!(to, "{name}={text}"),
    }
}

/// True if the error is a closed output pipe: the reader had enough, which is no failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Shortens a long message in the middle. The verifier's messages run to thousands of lines, of
/// which the last ones give the reason.
fn shortened(text: &str) -> String {
    const FIRST: usize = 3;
    const LAST: usize = 12;
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= FIRST + LAST + 1 {
        return text.to_owned();
    }
    let left_out = format!("... {} lines left out ...", lines.len() - FIRST - LAST);
    let shown = lines[..FIRST].iter().copied().chain([left_out.as_str()]);
    shown
        .chain(lines[lines.len() - LAST..].iter().copied())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Makes the runtime of the commands that wait for several things at once.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("lpm-async")
        .enable_all()
        .build()?)
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    /// What was logged.
    #[derive(Clone, Default)]
    struct Logged(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Logged {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn log_lines_hold_nothing_that_a_terminal_obeys() {
        let logged = Logged::default();
        let writer = logged.clone();
        let log = tracing_subscriber::fmt()
            .with_ansi(false)
            .fmt_fields(format::debug_fn(field).delimited(" "))
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(log, || {
            let name = "\u{1b}]0;x\u{7}\u{9b}31m\u{202e}";
            tracing::error!(interface = %name, "the agent of {name} says\n2026 ERROR forged");
        });
        let text = logged.0.lock().expect("not poisoned").clone();
        let text = String::from_utf8(text).expect("UTF-8");
        assert!(
            !text.contains(|c: char| c.is_control() && c != '\n' || c == '\u{202e}'),
            "{text:?}"
        );
        assert!(
            text.contains(" interface=\u{fffd}]0;x") && text.contains("\n  2026"),
            "{text}"
        );
    }
}
