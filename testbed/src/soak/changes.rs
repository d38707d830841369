//! What changes beside the traffic: interfaces, names, and the API server itself.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    Error,
    site::{CHANGING, CYCLED, Site, job},
};
use crate::{kubernetes::ApiServer, testbed::Netns, truth::Monitor};

/// How long an interface may take until it is watched.
const PATIENCE: Duration = Duration::from_secs(30);

/// Names of the interfaces that come and go, in turn.
const INTERFACES: u32 = 8;

/// What the threads share.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Tells the threads to end.
    pub(super) stop: AtomicBool,
    /// Interfaces that were made, watched and deleted.
    pub(super) interfaces: AtomicU32,
    /// Number of the job that has the changing address now.
    pub(super) job: AtomicU32,
    /// Restarts of the API server.
    pub(super) restarts: AtomicU32,
}

impl Progress {
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Sleeps until a time, or until the threads shall end.
    pub(super) fn sleep_until(&self, time: Instant) {
        while !self.stopped() {
            let left = time.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(100)));
        }
    }
}

/// Tells the threads to end when dropped, also after an error.
pub(super) struct Ending<'a>(pub(super) &'a Progress);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Makes interfaces and deletes them, as many a second as asked for, each once the agent watches
/// it.
pub(super) fn interfaces(
    site: &Site,
    monitor: &Monitor,
    every: Duration,
    progress: &Progress,
) -> Result<(), Error> {
    let pod = Netns::new("cycled")?;
    let node = &site.pair.node;
    let mut next = Instant::now();
    while !progress.stopped() {
        let number = progress.interfaces.load(Ordering::Relaxed) % INTERFACES;
        let name = format!("{CYCLED}{number}");
        node.veth(&name, &pod, "eth0", 1500)?;
        node.ip(&format!("link set {name} up"))?;
        pod.ip("link set eth0 up")?;
        watched(monitor, &name, progress)?;
        node.ip(&format!("link delete {name}"))?;
        progress.interfaces.fetch_add(1, Ordering::Relaxed);
        next += every;
        progress.sleep_until(next);
    }
    Ok(())
}

/// Waits until the agent watches an interface.
fn watched(monitor: &Monitor, name: &str, progress: &Progress) -> Result<(), Error> {
    let series = format!("lpm_interface_attached{{interface=\"{name}\",vantage=\"pod\"}} 1");
    let until = Instant::now() + PATIENCE;
    while !monitor.metrics()?.contains(&series) {
        if Instant::now() > until {
            return Err(Error::Broken(format!(
                "{name} is not watched after {PATIENCE:?}"
            )));
        }
        progress.sleep_until(Instant::now() + Duration::from_millis(50));
        if progress.stopped() {
            break;
        }
    }
    Ok(())
}

/// Gives the changing address to another job's pod every second, and restarts the API server now
/// and then. At the end the last job keeps it.
pub(super) fn names(
    api: &mut ApiServer,
    restart_every: Duration,
    progress: &Progress,
) -> Result<(), Error> {
    let mut restart = Instant::now() + restart_every;
    let mut next = Instant::now();
    while !progress.stopped() {
        if Instant::now() >= restart {
            api.start_again()?;
            progress.restarts.fetch_add(1, Ordering::Relaxed);
            restart += restart_every;
            next = Instant::now();
        }
        change_hands(api, progress.job.load(Ordering::Relaxed))?;
        progress.job.fetch_add(1, Ordering::Relaxed);
        next += Duration::from_secs(1);
        progress.sleep_until(next);
    }
    Ok(())
}

/// The pod of the job `now` ends, and that of the next one gets its address.
fn change_hands(api: &ApiServer, now: u32) -> Result<(), Error> {
    let pods = "/api/v1/namespaces/games/pods";
    if now > 0 {
        api.delete(&format!("{pods}/job-{now}"))?;
    }
    let next = now + 1;
    api.create(pods, &job(next))?;
    let address = CHANGING.to_string();
    let status = serde_json::json!({
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
    });
    api.patch_status(&format!("{pods}/job-{next}"), &status)?;
    Ok(())
}
