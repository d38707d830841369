//! Is an address reachable? Asked by a TCP connect to a port nobody serves,
//! because that needs neither a `ping` program nor a server: the refusal is
//! the answer, one round trip later.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use super::{Error, Netns};

/// How long the testbed waits for anything.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// The discard port, which nobody serves here.
const PORT: u16 = 9;

/// The time from SYN to the refusal, as the caller in `from` sees it.
pub fn connect_time(from: &Netns, to: IpAddr, limit: Duration) -> Result<Duration, Error> {
    let outcome = from.run_in(|| {
        let start = Instant::now();
        match TcpStream::connect_timeout(&SocketAddr::new(to, PORT), limit) {
            Ok(_) => Ok(start.elapsed()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(start.elapsed()),
            Err(error) => Err(error),
        }
    })?;
    outcome.map_err(|source| Error::system(format!("{to} from {}", from.name()), source))
}

/// Waits until `from` reaches `to`: neighbours resolved, links and routes up.
pub fn wait_reachable(from: &Netns, to: IpAddr) -> Result<(), Error> {
    let start = Instant::now();
    let mut last = String::new();
    while start.elapsed() < DEADLINE {
        // Short, because the kernel sends a lost first SYN again after a second.
        match connect_time(from, to, Duration::from_millis(50)) {
            Ok(_) => return Ok(()),
            Err(error) => last = error.to_string(),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let what = format!("reaching {to} from {} (last: {last})", from.name());
    Err(Error::Timeout {
        what,
        after: DEADLINE,
    })
}
