//! Detects an agent's own container. There `lpm top` and `lpm watch` ask that agent.
//!
//! A measurement of their own would load the kernel programs a second time, into the memory that
//! the container may have. The agent would be killed for it.

use std::{
    fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use clap::Parser as _;

use super::{Cli, Command, Measure};
use crate::config::Config;

/// Environment variable with the URL of the agent of this container: the chart sets it.
const AGENT: &str = "LPM_AGENT";

/// The URL of the agent whose container this is. None: this is no agent's container, or the command
/// line asks for a measurement here.
pub(super) fn agent(measure: &Measure, netns: Option<&String>) -> Option<String> {
    if measure.says_what() || netns.is_some() {
        return None;
    }
    let url = std::env::var(AGENT).ok().filter(|url| !url.is_empty());
    let url = url.or_else(|| first_process(Path::new("/proc/1")))?;
    // Without stderr there is nobody to tell.
    let _ = writeln!(
        io::stderr(),
        "lpm: showing what the agent of this container measures ({url}); with -i, lpm measures \
         again, in the memory of the container"
    );
    Some(url)
}

/// The URL where the first process serves, if it is an agent. With the host's process ids it is
/// not.
fn first_process(process: &Path) -> Option<String> {
    let [it, this] = [process.join("exe"), "/proc/self/exe".into()].map(|path| {
        let file = fs::metadata(path).ok()?;
        Some((file.dev(), file.ino()))
    });
    if it.is_none() || it != this {
        return None;
    }
    let line = fs::read(process.join("cmdline")).ok()?;
    let line = String::from_utf8(line).ok()?;
    served_by(line.trim_end_matches('\0').split('\0'))
}

/// The URL of the agent with this command line.
fn served_by<'a>(line: impl Iterator<Item = &'a str>) -> Option<String> {
    let Command::Run(run) = Cli::try_parse_from(line).ok()?.command else {
        return None;
    };
    let listen = run.listens().or_else(|| {
        let config = run.config_file()?;
        Config::read(config).ok().map(|config| config.listen)
    });
    Some(url(listen.unwrap_or(Config::default().listen)))
}

fn url(listen: SocketAddr) -> String {
    let address = match listen.ip() {
        IpAddr::V4(any) if any.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(any) if any.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    format!("http://{}", SocketAddr::new(address, listen.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_agent_serves() {
        let of = |line: &str| served_by(line.split(' '));
        let url = |port| Some(format!("http://127.0.0.1:{port}"));
        assert_eq!(of("/lpm run"), url(9477));
        assert_eq!(of("/lpm run --listen 0.0.0.0:9500"), url(9500));
        let v6 = Some("http://[::1]:1".to_owned());
        assert_eq!(of("/lpm run --listen [::]:1"), v6);
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("lpm.yaml");
        fs::write(&file, "listen: 0.0.0.0:9600").expect("write");
        assert_eq!(of(&format!("/lpm run -c {}", file.display())), url(9600));
        for other in ["/lpm watch", "/lpm", "/sbin/init splash"] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
