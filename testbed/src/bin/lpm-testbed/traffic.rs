//! Traffic in the current namespace; the reports are JSON on stdout.

use std::net::SocketAddr;

use clap::{Args, Subcommand};
use humantime::Duration;
use lpm_testbed::traffic::{
    BulkConfig, Control, Limit, ManyConfig, PORT, PacedConfig, PacedSize, RequestConfig, Server,
    bulk, many, paced, requests,
};

/// When the client ends. Without either option it ends on a signal, and then without a report.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct LimitArgs {
    /// Ends after this time, for example 10s.
    #[arg(long)]
    duration: Option<Duration>,
    /// Ends after this many bytes (bulk), messages, or requests per connection.
    #[arg(long)]
    count: Option<u64>,
}

impl From<LimitArgs> for Limit {
    fn from(arguments: LimitArgs) -> Self {
        Self {
            duration: arguments.duration.map(Into::into),
            count: arguments.count,
        }
    }
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Command {
    /// Serve all kinds of traffic until a signal comes.
    Serve {
        /// TCP port, on all addresses.
        #[arg(long, default_value_t = PORT)]
        port: u16,
    },
    /// One connection as fast as it goes.
    Bulk {
        /// Address and port of the server.
        target: SocketAddr,
        #[command(flatten)]
        limit: LimitArgs,
        /// Compares checksums at the end.
        #[arg(long)]
        verify: bool,
    },
    /// Requests and answers on a few connections, timed.
    Requests(RequestArgs),
    /// A few bytes every now and then, one way.
    Paced(PacedArgs),
    /// Hundreds or thousands of connections at a steady rate.
    Many(ManyArgs),
}

/// What `requests` takes.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct RequestArgs {
    /// Address and port of the server.
    target: SocketAddr,
    #[command(flatten)]
    limit: LimitArgs,
    /// Connections.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Bytes of a request.
    #[arg(long, default_value_t = 100)]
    request: u32,
    /// Bytes of an answer.
    #[arg(long, default_value_t = 100)]
    response: u32,
    /// How long the server thinks (whole milliseconds).
    #[arg(long, default_value = "0s")]
    think: Duration,
    /// From one request to the next; 0s: back to back.
    #[arg(long, default_value = "0s")]
    period: Duration,
    /// Shifts each request by up to this share of the period.
    #[arg(long, default_value_t = 0.0)]
    jitter: f64,
    /// A new connection after this many requests.
    #[arg(long)]
    requests_per_connection: Option<u64>,
}

impl From<RequestArgs> for RequestConfig {
    fn from(arguments: RequestArgs) -> Self {
        Self {
            limit: arguments.limit.into(),
            connections: arguments.connections,
            request: arguments.request,
            response: arguments.response,
            think: arguments.think.into(),
            period: arguments.period.into(),
            jitter: arguments.jitter,
            requests_per_connection: arguments.requests_per_connection,
            ..Self::new(arguments.target)
        }
    }
}

/// What `paced` takes.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct PacedArgs {
    /// Address and port of the server.
    target: SocketAddr,
    #[command(flatten)]
    limit: LimitArgs,
    /// Bytes at once.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// Full segments at once, instead of --bytes.
    #[arg(long, conflicts_with = "bytes")]
    segments: Option<usize>,
    /// How often.
    #[arg(long, default_value = "12ms")]
    period: Duration,
}

impl From<PacedArgs> for PacedConfig {
    fn from(arguments: PacedArgs) -> Self {
        let bytes = PacedSize::Bytes(arguments.bytes);
        Self {
            target: arguments.target,
            size: arguments.segments.map_or(bytes, PacedSize::Segments),
            period: arguments.period.into(),
            limit: arguments.limit.into(),
        }
    }
}

/// What `many` takes.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ManyArgs {
    /// Address and port of the server.
    target: SocketAddr,
    #[command(flatten)]
    limit: LimitArgs,
    /// Connections at the same time.
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Requests per second over all connections.
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// A new connection after this many requests.
    #[arg(long)]
    requests_per_connection: Option<u64>,
}

impl From<ManyArgs> for ManyConfig {
    fn from(arguments: ManyArgs) -> Self {
        Self {
            limit: arguments.limit.into(),
            requests_per_connection: arguments.requests_per_connection,
            ..Self::new(arguments.target, arguments.connections, arguments.rate)
        }
    }
}

pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    let control = Control::new();
    match command {
        Command::Serve { port } => {
            let _server = Server::listen(port)?;
            loop {
                std::thread::park();
            }
        }
        Command::Bulk {
            target,
            limit,
            verify,
        } => print(&bulk(
            &BulkConfig {
                target,
                limit: limit.into(),
                verify,
            },
            &control,
        )?),
        Command::Requests(arguments) => print(&requests(&arguments.into(), &control)?),
        Command::Paced(arguments) => print(&paced(&arguments.into(), &control)?),
        Command::Many(arguments) => print(&many(&arguments.into(), &control)?),
    }
}

fn print(report: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}
