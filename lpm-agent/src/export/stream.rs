//! The stream of samples: one reader of the kernel's ring, any number of watchers.
//!
//! The kernel writes samples only while [`Control::watch`] is not zero. A watcher that ends,
//! however it dies, takes its count along because the [`Watcher`] is dropped.
//!
//! [`Control::watch`]: lpm_common::layout::Control::watch

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use lpm_common::{counter::Counter, layout::Sample};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::passive::Model;

/// Most samples kept for a slow watcher. Older ones count as missed.
const BACKLOG: usize = 1 << 16;

/// Longest sleep of the reader in the kernel. The kernel programs wake it only when the ring fills
/// up: a wake-up per sample would cost them more than the sample.
const PATIENCE: Duration = Duration::from_millis(20);

/// Where samples come from: the kernel's ring buffer.
pub trait Ring: Send {
    /// Waits for samples, at most this long, and hands each to `take`.
    ///
    /// # Errors
    /// The ring cannot be waited for.
    fn wait(&mut self, at_most: Duration, take: &mut dyn FnMut(Sample)) -> io::Result<()>;
}

/// Distributes samples from the ring to all watchers.
#[derive(Debug)]
pub struct Hub {
    model: Arc<Model>,
    samples: broadcast::Sender<Sample>,
    watchers: Mutex<u32>,
    stop: Arc<AtomicBool>,
    reader: Mutex<Option<JoinHandle<()>>>,
}

impl Hub {
    /// Starts the thread that reads the ring.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(model: Arc<Model>, ring: impl Ring + 'static) -> io::Result<Arc<Self>> {
        Self::with_backlog(model, ring, BACKLOG)
    }

    fn with_backlog(
        model: Arc<Model>,
        mut ring: impl Ring + 'static,
        backlog: usize,
    ) -> io::Result<Arc<Self>> {
        let (samples, _) = broadcast::channel(backlog);
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, stopped) = (samples.clone(), Arc::clone(&stop));
        let reader = thread::Builder::new().name("lpm-samples".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // There is no watcher. The kernel has been told, and these are the last samples
                // that it wrote.
                let take = &mut |sample| drop(sender.send(sample));
                if let Err(error) = ring.wait(PATIENCE, take) {
                    tracing::error!(%error, "the stream of samples ended: its ring cannot be read");
                    break;
                }
            }
        })?;
        let (watchers, reader) = (Mutex::new(0), Mutex::new(Some(reader)));
        Ok(Arc::new(Self {
            model,
            samples,
            watchers,
            stop,
            reader,
        }))
    }

    /// Begins to watch.
    #[must_use]
    pub fn watch(self: &Arc<Self>) -> Watcher {
        let samples = self.samples.subscribe();
        let kernel_missed = Arc::new(AtomicU64::new(0));
        let missed_before = self.missed_by_kernel();
        self.count(1);
        Watcher {
            hub: Arc::clone(self),
            samples,
            missed_before,
            lagged: 0,
            kernel_missed,
        }
    }

    /// The model that the samples belong to.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model, as a shared pointer.
    #[must_use]
    pub fn shared_model(&self) -> &Arc<Model> {
        &self.model
    }

    fn count(&self, change: i32) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        *watchers = watchers.saturating_add_signed(change);
        self.model
            .tables()
            .control()
            .watch
            .store(*watchers, Ordering::Release);
    }

    /// Samples that found the ring full since the programs were loaded. 0 if the kernel cannot be
    /// asked, which the difference of two readings survives.
    fn missed_by_kernel(&self) -> u64 {
        self.model
            .counters()
            .map_or(0, |counters| counters[Counter::SamplesFull as usize])
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let reader = self
            .reader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if reader.is_some_and(|reader| reader.join().is_err()) {
            tracing::error!("the thread that reads samples panicked");
        }
    }
}

/// One reader of the stream. Dropping it ends the reading.
#[derive(Debug)]
pub struct Watcher {
    hub: Arc<Hub>,
    samples: broadcast::Receiver<Sample>,
    missed_before: u64,
    lagged: u64,
    kernel_missed: Arc<AtomicU64>,
}

impl Watcher {
    /// Waits for the next sample. None: the stream has ended.
    pub async fn next(&mut self) -> Option<Sample> {
        loop {
            match self.samples.recv().await {
                Ok(sample) => return Some(sample),
                Err(RecvError::Lagged(missed)) => self.lagged += missed,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Takes a sample that has already arrived. None: no sample waits.
    pub fn ready(&mut self) -> Option<Sample> {
        loop {
            match self.samples.try_recv() {
                Ok(sample) => return Some(sample),
                Err(broadcast::error::TryRecvError::Lagged(missed)) => self.lagged += missed,
                Err(_) => return None,
            }
        }
    }

    /// Samples that this watcher did not get since it began: the kernel's ring was full, or the
    /// watcher was too slow.
    #[must_use]
    pub fn missed(&self) -> u64 {
        let now = self
            .hub
            .missed_by_kernel()
            .saturating_sub(self.missed_before);
        // Once the kernel cannot be asked any more, the last answer holds.
        self.kernel_missed
            .fetch_max(now, Ordering::Relaxed)
            .max(now)
            + self.lagged
    }

    /// The hub that the watcher reads from.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.hub.count(-1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::{
        export::sample::tests::sample,
        passive::model::tests::{model, tables},
    };

    /// A ring that the test fills.
    struct Hand(Receiver<Sample>);

    impl Ring for Hand {
        fn wait(&mut self, at_most: Duration, take: &mut dyn FnMut(Sample)) -> io::Result<()> {
            if let Ok(sample) = self.0.recv_timeout(at_most) {
                take(sample);
            }
            Ok(())
        }
    }

    fn watched(hub: &Hub) -> u32 {
        hub.model().tables().control().watch.load(Ordering::Acquire)
    }

    #[test]
    fn the_kernel_is_told_how_many_watch() {
        let (_ring, samples) = channel();
        let hub = Hub::start(Arc::new(model(tables(&[]))), Hand(samples)).expect("a hub");
        assert_eq!(watched(&hub), 0);
        let (one, other) = (hub.watch(), hub.watch());
        assert_eq!(watched(&hub), 2);
        drop(one);
        assert_eq!(watched(&hub), 1);
        drop(other);
        assert_eq!(watched(&hub), 0);
    }

    #[tokio::test]
    async fn every_watcher_gets_every_sample() {
        let (ring, samples) = channel();
        let hub = Hub::start(Arc::new(model(tables(&[]))), Hand(samples)).expect("a hub");
        let mut watchers = [hub.watch(), hub.watch()];
        for _ in 0..3 {
            ring.send(sample()).expect("the hub listens");
        }
        for watcher in &mut watchers {
            for _ in 0..3 {
                assert_eq!(watcher.next().await, Some(sample()));
            }
            assert_eq!(watcher.missed(), 0);
        }
    }

    #[tokio::test]
    async fn a_slow_watcher_is_told_what_it_missed() {
        let (ring, samples) = channel();
        let hub =
            Hub::with_backlog(Arc::new(model(tables(&[]))), Hand(samples), 64).expect("a hub");
        let (mut slow, mut quick) = (hub.watch(), hub.watch());
        let all = 64 + 10;
        for _ in 0..all {
            ring.send(sample()).expect("the hub listens");
            assert!(quick.next().await.is_some());
        }
        assert_eq!(quick.missed(), 0);
        let mut got = 0;
        while slow.ready().is_some() {
            got += 1;
        }
        assert_eq!(got + slow.missed(), all);
        assert_eq!(slow.missed(), 10);
    }
}
