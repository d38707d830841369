//! Looks up the names of targets, in a thread of its own: the system's resolver blocks.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, ToSocketAddrs as _},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::Duration,
};

/// Time from one look-up of all names to the next.
const EVERY: Duration = Duration::from_mins(1);

/// Time until names that were not found are looked up again.
const RETRY: Duration = Duration::from_secs(5);

/// Addresses of a name, or why there are none.
pub(super) type Found = Result<Vec<IpAddr>, String>;

/// The running thread. It ends after its look-up when this is dropped.
#[derive(Debug)]
pub(super) struct Resolver(Sender<BTreeSet<String>>);

impl Resolver {
    /// Starts the thread. `tell` receives what is found of each name that was asked for.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn start(
        tell: impl Fn(BTreeMap<String, Found>) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let (ask, asked) = mpsc::channel::<BTreeSet<String>>();
        thread::Builder::new()
            .name("lpm-resolve".to_owned())
            .spawn(move || {
                let mut names = BTreeSet::new();
                let mut wait = EVERY;
                loop {
                    match asked.recv_timeout(wait) {
                        Ok(other) => names = other,
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                    let found: BTreeMap<_, _> = (names.iter())
                        .map(|name| (name.clone(), look_up(name)))
                        .collect();
                    let is_complete = found.values().all(Result::is_ok);
                    wait = if is_complete { EVERY } else { RETRY };
                    if !tell(found) {
                        return;
                    }
                }
            })?;
        Ok(Self(ask))
    }

    /// Looks up these names from now on, and no others.
    pub(super) fn follow(&self, names: BTreeSet<String>) {
        // The thread ends only when its news are not wanted any more.
        let _ = self.0.send(names);
    }
}

fn look_up(name: &str) -> Found {
    // The port is of no meaning to the resolver.
    let found = (name, 1).to_socket_addrs().map_err(|error| {
        format!(
            "the name is not known: {error}; give an address, or check the name (`getent hosts`)"
        )
    })?;
    let addresses: Vec<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
    Ok(addresses)
}
