//! Pages of metrics. Clients that ask for the same page within a second get the same bytes.

use std::{
    collections::VecDeque,
    io::Write as _,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use tokio::{
    sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout_at},
};

use super::{pieces::Pieces, router::blocking};
use crate::export::{Metrics, metrics::MetricsError, negotiate::Format};

/// For how long clients get the same page: a little less than a second, so that a scrape each second
/// gets its own.
const SHARED: Duration = Duration::from_millis(900);

/// Pages that are made at the same time.
const AT_ONCE: usize = 2;

/// Time for which a client waits for a page that must be made.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most pages that exist because clients still read them. If there is one more, the oldest is given
/// up. More than there are forms, so that a page lives for about a second at least.
const HELD: usize = 8;

/// What a client gets: a format, packed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// The format.
    pub(super) format: Format,
    /// Whether it is packed by gzip (RFC 1952).
    pub(super) gzip: bool,
}

/// Why a client gets no page.
#[derive(Debug, thiserror::Error)]
pub(super) enum PageError {
    /// Others' pages are being made.
    #[error("the agent is busy with other pages: ask again in a second")]
    Busy,
    /// The metrics cannot be written.
    #[error(transparent)]
    Metrics(#[from] Arc<MetricsError>),
}

/// A page, and when its making began.
#[derive(Clone, Debug)]
struct Made {
    page: Arc<Pieces>,
    at: Instant,
}

type Slot = Arc<tokio::sync::Mutex<Option<Made>>>;

/// Makes pages, and keeps each for a second.
#[derive(Debug)]
pub(super) struct Pages {
    metrics: Arc<Metrics>,
    work: Arc<Semaphore>,
    /// The page of each format, plain and packed. A slot is locked while its page is made, so each
    /// page is made once.
    slots: [[Slot; 2]; Format::ALL.len()],
    held: Mutex<VecDeque<Weak<Pieces>>>,
}

impl Pages {
    pub(super) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            metrics,
            work: Arc::new(Semaphore::new(AT_ONCE)),
            slots: Default::default(),
            held: Mutex::default(),
        })
    }

    /// The page of a form. `fresh`: one whose making begins only now.
    pub(super) async fn get(
        self: &Arc<Self>,
        form: Form,
        fresh: bool,
    ) -> Result<Arc<Pieces>, PageError> {
        let now = Instant::now();
        let not_before = if fresh { now } else { now - SHARED };
        let made = self.made(form, not_before, now + PATIENCE).await?;
        Ok(made.page)
    }

    async fn made(
        self: &Arc<Self>,
        form: Form,
        not_before: Instant,
        deadline: Instant,
    ) -> Result<Made, PageError> {
        let slot = &self.slots[form.format as usize][usize::from(form.gzip)];
        let slot = timeout_at(deadline, Arc::clone(slot).lock_owned()).await;
        let slot = slot.map_err(|_| PageError::Busy)?;
        if let Some(made) = &*slot
            && made.at >= not_before
            && !made.page.is_given_up()
        {
            return Ok(made.clone());
        }
        let plain = if form.gzip {
            let plain = Form {
                gzip: false,
                ..form
            };
            Some(Box::pin(self.made(plain, not_before, deadline)).await?)
        } else {
            None
        };
        let work = timeout_at(deadline, Arc::clone(&self.work).acquire_owned()).await;
        // The semaphore is never closed.
        let permit = work.ok().and_then(Result::ok).ok_or(PageError::Busy)?;
        // A client that leaves ends neither the work nor its permit, so others get the page.
        let pages = Arc::clone(self);
        let making = tokio::spawn(pages.make(form, plain, slot, permit));
        match making.await {
            Ok(made) => made,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The agent ends.
                Err(_) => Err(PageError::Busy),
            },
        }
    }

    /// Makes a page, keeps it for others, and frees it later.
    async fn make(
        self: Arc<Self>,
        form: Form,
        plain: Option<Made>,
        mut slot: OwnedMutexGuard<Option<Made>>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Made, PageError> {
        let at = plain.as_ref().map_or_else(Instant::now, |plain| plain.at);
        let metrics = Arc::clone(&self.metrics);
        let page = blocking(move || {
            let _permit = permit;
            match plain {
                Some(plain) => Ok(plain.page.whole().map(|plain| packed(&plain))),
                None => metrics.encode(form.format).map(Some),
            }
            .map(|bytes| bytes.map(|bytes| Arc::new(Pieces::new(&bytes))))
        })
        .await
        .map_err(Arc::new)?
        // The plain page was given up meanwhile.
        .ok_or(PageError::Busy)?;
        self.hold(&page);
        let made = Made { page, at };
        *slot = Some(made.clone());
        drop(slot);
        tokio::spawn(async move {
            sleep(SHARED).await;
            let slot = &self.slots[form.format as usize][usize::from(form.gzip)];
            let mut slot = slot.lock().await;
            if slot.as_ref().is_some_and(|made| made.at == at) {
                *slot = None;
            }
        });
        Ok(made)
    }

    /// Notes a page, and gives up the oldest if clients hold too many.
    fn hold(&self, page: &Arc<Pieces>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|page| page.strong_count() > 0);
        held.push_back(Arc::downgrade(page));
        if held.len() > HELD
            && let Some(oldest) = held.pop_front().and_then(|page| page.upgrade())
        {
            oldest.give_up();
        }
    }
}

/// Packs by gzip.
fn packed(plain: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    let _ = gzip.write_all(plain);
    gzip.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests;
