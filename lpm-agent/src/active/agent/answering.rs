//! The reflectors of an agent: a thread for each address, which goes on trying while the address
//! cannot be had.

use std::{
    collections::HashMap,
    net::SocketAddr,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};

use crate::{
    active::{
        allow::Allow,
        fate::Counts,
        mac::{Key, KeyError},
        reflector::{Reflector, Settings},
    },
    config,
    kernel::netns::Netns,
};

/// Time until an address that cannot be had is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What the reflectors of an agent have counted.
#[derive(Debug, Default)]
pub struct Answers {
    /// Packets by what became of them.
    pub counts: Counts,
    /// How often an address could not be had, or its socket failed.
    pub failures: AtomicU64,
}

/// The running threads. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Answering {
    end: Arc<EventFd>,
    threads: Vec<JoinHandle<()>>,
}

/// Reads the keys of the configuration.
///
/// # Errors
/// A key cannot be read.
pub(super) fn settings(reflector: &config::Reflector, allow: Allow) -> Result<Settings, KeyError> {
    let keys = reflector.keys.iter();
    let keys = keys.map(|key| Ok((key.session, Key::read(&key.file)?)));
    Ok(Settings {
        allow,
        rate: reflector.rate,
        keys: keys.collect::<Result<HashMap<_, _>, _>>()?,
    })
}

impl Answering {
    /// Starts a thread for each address, in the network namespace. An address that cannot be had is
    /// told, and tried again.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn start(
        listen: &[SocketAddr],
        settings: &Settings,
        answers: &Arc<Answers>,
        netns: Option<&Arc<Netns>>,
    ) -> std::io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let end = Arc::new(EventFd::from_value_and_flags(0, flags)?);
        let mut all = Self {
            end: Arc::clone(&end),
            threads: Vec::new(),
        };
        for address in listen.iter().copied() {
            let (settings, answers, end) =
                (settings.clone(), Arc::clone(answers), Arc::clone(&end));
            let netns = netns.map(Arc::clone);
            let thread = thread::Builder::new().name("lpm-reflect".to_owned());
            all.threads.push(thread.spawn(
                move || match netns.map_or(Ok(()), |netns| netns.enter()) {
                    Ok(()) => answer(address, &settings, &answers, &end),
                    Err(error) => tracing::error!(%address, "no probe is answered: {error}"),
                },
            )?);
        }
        Ok(all)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        // The threads wait for it to become readable, and none reads it.
        let _ = self.end.write(1);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that answers probes panicked");
            }
        }
    }
}

/// Answers at an address until the end.
fn answer(address: SocketAddr, settings: &Settings, answers: &Answers, end: &EventFd) {
    let mut said = None;
    while !is_over(end, Duration::ZERO) {
        let failed = match Reflector::bind(address, false, settings.clone()) {
            Ok(mut reflector) => {
                said = None;
                tracing::info!("the agent answers probes at {address}");
                match reflector.serve(&answers.counts, &end) {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        answers.failures.fetch_add(1, Ordering::Relaxed);
        let text = failed.to_string();
        if said.as_ref() != Some(&text) {
            tracing::error!(
                "no probe is answered at {address}: {text}; {}, it is tried again every {} s",
                remedy(&failed),
                RETRY.as_secs()
            );
            said = Some(text);
        }
        if is_over(end, RETRY) {
            return;
        }
    }
}

fn remedy(error: &std::io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) => {
            "`ss -lunp` shows who has the port: give another one in reflector.listen"
        }
        Some(Errno::EADDRNOTAVAIL) => "give an address of this machine in reflector.listen",
        Some(Errno::EACCES) => {
            "give a port from 1024 on in reflector.listen, or the capability NET_BIND_SERVICE"
        }
        _ => "give another address in reflector.listen",
    }
}

/// Waits for the end, at most so long.
fn is_over(end: &EventFd, wait: Duration) -> bool {
    let mut fds = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
    let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
    // An error, or a signal, is no end.
    poll(&mut fds, wait).is_ok_and(|ready| ready > 0)
}
