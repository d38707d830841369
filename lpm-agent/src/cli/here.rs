//! Detects an agent's own container, and an agent of this machine. There `lpm top` and `lpm watch` ask
//! that agent, by its Unix socket if they may.
//!
//! A measurement of their own would load the kernel programs a second time: in a container into the
//! memory that it may have, so that the agent would be killed for it.

use std::{
    fs,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::{fs::MetadataExt as _, net::UnixStream},
    path::Path,
};

use clap::Parser as _;

use super::{Cli, Command, Measure, client::Address};
use crate::config::{Config, Enabled, SOCKET};

/// Environment variable with the address of the agent of this container: the chart sets it.
const AGENT: &str = "LPM_AGENT";

/// The agent whose container or machine this is. None: there is none that answers, or the command line
/// asks for a measurement here.
pub(super) fn agent(measure: &Measure, netns: Option<&String>) -> Option<Address> {
    if measure.says_what() || netns.is_some() {
        return None;
    }
    let given = std::env::var(AGENT)
        .ok()
        .filter(|address| !address.is_empty());
    let of_container = match given {
        Some(address) => vec![Address::of(&address)],
        None => first_process(Path::new("/proc/1")).unwrap_or_default(),
    };
    if let Some((last, before)) = of_container.split_last() {
        let agent = before.iter().find(|agent| answers(agent)).unwrap_or(last);
        tell(&format!(
            "showing what the agent of this container measures ({agent}); with -i, lpm measures \
             again, in the memory of the container"
        ));
        return Some(agent.clone());
    }
    let agent = Address::Unix(SOCKET.into());
    answers(&agent).then(|| {
        tell(&format!(
            "showing what the agent of this machine measures ({agent}); with -i, lpm measures itself"
        ));
        agent
    })
}

/// True if somebody listens at the socket and lets this process connect. Whether a URL answers shows
/// when it is asked.
fn answers(agent: &Address) -> bool {
    let Some(path) = agent.socket() else {
        return true;
    };
    match UnixStream::connect(path) {
        Ok(_) => true,
        Err(error) => {
            if error.kind() == io::ErrorKind::PermissionDenied {
                tell(&format!(
                    "an agent runs, but its socket {agent} is for root and the group of its key \
                     socket.group: trying without it"
                ));
            }
            false
        }
    }
}

fn tell(text: &str) {
    // Without stderr there is nobody to tell.
    let _ = writeln!(io::stderr(), "lpm: {text}");
}

/// Where the first process serves, if it is an agent: the socket first. With the host's process ids it
/// is none.
fn first_process(process: &Path) -> Option<Vec<Address>> {
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

/// Where the agent with this command line serves.
fn served_by<'a>(line: impl Iterator<Item = &'a str>) -> Option<Vec<Address>> {
    let Command::Run(run) = Cli::try_parse_from(line).ok()?.command else {
        return None;
    };
    let config = run.config_file().and_then(|file| Config::read(file).ok());
    let config = config.unwrap_or_default();
    let socket = match (run.socket(), config.socket.enabled) {
        (Some(path), _) => Some(path),
        (None, Enabled::Always(false)) => None,
        (None, _) => Some(&*config.socket.path),
    };
    let socket = socket.map(|path| Address::Unix(path.to_owned()));
    let url = Address::Url(url(run.listens().unwrap_or(config.listen)));
    Some(socket.into_iter().chain([url]).collect())
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
        let of = |line: &str| {
            let all = served_by(line.split(' '));
            all.map(|all| {
                all.iter()
                    .map(Address::to_string)
                    .collect::<Vec<_>>()
                    .join(" ")
            })
        };
        let default = |url: &str| Some(format!("unix:/run/lpm/lpm.sock http://{url}"));
        assert_eq!(of("/lpm run"), default("127.0.0.1:9477"));
        assert_eq!(
            of("/lpm run --listen 0.0.0.0:9500"),
            default("127.0.0.1:9500")
        );
        assert_eq!(of("/lpm run --listen [::]:1"), default("[::1]:1"));
        let socket = of("/lpm run --socket /run/other");
        assert_eq!(
            socket.as_deref(),
            Some("unix:/run/other http://127.0.0.1:9477")
        );
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("lpm.yaml");
        let by_file = format!("/lpm run -c {}", file.display());
        fs::write(&file, "listen: 0.0.0.0:9600").expect("write");
        assert_eq!(of(&by_file), default("127.0.0.1:9600"));
        fs::write(&file, "socket: {enabled: false}").expect("write");
        assert_eq!(of(&by_file).as_deref(), Some("http://127.0.0.1:9477"));
        for other in ["/lpm watch", "/lpm", "/sbin/init splash"] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
