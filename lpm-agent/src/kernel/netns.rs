//! Network namespaces: opened by name or path, and entered by a thread that stays there.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use nix::sched::{CloneFlags, setns};
use thiserror::Error;

/// Directory where `ip netns add` keeps its namespaces.
const NAMED: &str = "/run/netns";

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

/// Why a network namespace could not be used.
#[derive(Debug, Error)]
pub enum NetnsError {
    /// The namespace does not exist.
    #[error(
        "cannot open the network namespace {path}: {source}; give a name that `ip netns list` \
         shows, or a path such as /proc/PID/ns/net"
    )]
    Open {
        /// Path that was opened.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The thread that would enter it could not be started.
    #[error("cannot start a thread: {0}; raise the limit of processes (ulimit -u)")]
    Thread(#[from] io::Error),
    /// The thread could not enter the namespace.
    #[error(
        "cannot enter the network namespace {path}: {source}; this needs CAP_SYS_ADMIN: run as \
         root, and give a network namespace"
    )]
    Enter {
        /// Path of the namespace.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

impl Netns {
    /// Opens a namespace: a path if `name` holds a slash, else a name of `ip netns`.
    pub fn open(name: &str) -> Result<Self, NetnsError> {
        let path = if name.contains('/') {
            PathBuf::from(name)
        } else {
            Path::new(NAMED).join(name)
        };
        match File::open(&path) {
            Ok(file) => Ok(Self { file, path }),
            Err(source) => Err(NetnsError::Open { path, source }),
        }
    }

    /// Moves the calling thread into this namespace, for good.
    ///
    /// Only for threads made for the purpose: sockets that the thread opens from now on, and
    /// interface indices it passes to the kernel, mean this namespace.
    pub fn enter(&self) -> Result<(), NetnsError> {
        // Even who is there already would need the capability to enter.
        if self.is_here().unwrap_or(false) {
            return Ok(());
        }
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| NetnsError::Enter {
            path: self.path.clone(),
            source: errno.into(),
        })
    }

    /// True if the calling thread is in this namespace.
    fn is_here(&self) -> io::Result<bool> {
        let here = fs::metadata("/proc/thread-self/ns/net")?;
        let there = self.file.metadata()?;
        Ok((here.dev(), here.ino()) == (there.dev(), there.ino()))
    }
}

/// Something that is done in a [`Place`].
type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace. Threads that are started there are in the namespace, too, and
/// need no right to enter it. Dropping it ends the thread, and none of those.
#[derive(Debug)]
pub struct Place {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Place {
    /// Starts the thread, lets it enter, and then do this.
    ///
    /// # Errors
    /// The namespace cannot be entered, no thread can be started, or `then` fails.
    pub fn start<E: From<NetnsError> + From<io::Error> + Send + 'static>(
        netns: Netns,
        then: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> Result<Self, E> {
        let (jobs, receiver) = mpsc::channel::<Job>();
        let (ready, begun) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("lpm-place".to_owned())
            .spawn(move || {
                let entered = netns.enter().map_err(E::from).and_then(|()| then());
                // Without the caller, nobody sends anything either.
                let _ = ready.send(entered);
                for job in receiver {
                    job();
                }
            })?;
        begun.recv().map_err(io::Error::other)??;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Does something in the namespace, and waits for it.
    ///
    /// # Panics
    /// If it panics.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job: Job = Box::new(move || drop(done.send(job())));
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(job));
        sent.and_then(|_| result.recv().ok())
            .expect("what was to be done in the network namespace panicked")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // A panic has been seen by who waited for the result.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_started_in_a_place_is_there() {
        let here = Netns::open("/proc/self/ns/net").expect("open");
        assert!(here.is_here().expect("look"));
        let place = Place::start(here, || Ok::<_, NetnsError>(()));
        let name = place
            .expect("start")
            .run(|| thread::current().name().map(str::to_owned));
        assert_eq!(name.as_deref(), Some("lpm-place"));
    }
}
