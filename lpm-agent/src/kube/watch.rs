//! Follows one kind of object: lists it in pages, then watches it with bookmarks. A failure is
//! reported and retried with growing pauses. A relist happens only if the server has forgotten the
//! last position.

use std::{fmt::Debug, pin::pin, time::Duration};

use futures_util::StreamExt;
use kube::{
    Api, Client, Error, Resource,
    api::{ListParams, WatchEvent, WatchParams},
    core::Status,
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;

use super::{Event, Failure};
use crate::backoff::{Backoff, Pauses, spread};

/// Objects per page of a list, which the server and the agent hold at once.
const PAGE: u32 = 500;

/// Random pause between the first page of a list and the rest: up to the first time per object that
/// remains, and at most the second. So a rollout's agents do not all read a large cluster at once.
const SPREAD: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(30));

/// Seconds after which the server ends a watch.
const WATCH: u32 = 290;

/// Time after which a watch that did not end counts as a dead connection.
const DEAD: Duration = Duration::from_secs(295);

/// First and longest pause after a failure.
const PAUSES: Pauses = Pauses {
    first: Duration::from_millis(500),
    longest: Duration::from_secs(20),
};

/// A message of the watch of a kind `W`.
#[derive(Debug)]
pub(crate) enum Message<E, W> {
    /// An event of the cluster.
    Event(Box<E>),
    /// The watch is connected, or has shown that it still is.
    Alive(W),
    /// The watch has failed.
    Failed(W, Failure),
}

/// The receiver of messages has gone.
struct Over;

/// The end of a watch.
enum Ended {
    /// The server ended the watch, as it does every few minutes.
    Quietly,
    /// The server has forgotten the last position.
    Gone(Error),
    Failed(Error),
}

/// Follows one kind until the receiver of messages has gone.
pub(crate) struct Follower<K, E, W> {
    /// The kind, which messages name.
    pub(crate) kind: W,
    /// Converts the kind's event to the event type of all kinds.
    pub(crate) wrap: fn(Event<K>) -> E,
    /// A field selector, such as `spec.nodeName=n1`.
    pub(crate) fields: Option<String>,
    /// Interval between relists, for a kind that is not watched. None: the kind is watched.
    pub(crate) every: Option<Duration>,
    /// Sender of messages. The follower ends once the receiver has gone.
    pub(crate) to: Sender<Message<E, W>>,
}

impl<K, E, W> Follower<K, E, W>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    E: Send + 'static,
    W: Copy + Send + 'static,
{
    pub(crate) async fn run(self, client: Client) {
        let api: Api<K> = Api::all(client);
        // The call ends only when the receiver has gone.
        let Err(Over) = self.follow(&api).await;
    }

    async fn follow(&self, api: &Api<K>) -> Result<std::convert::Infallible, Over> {
        let mut pause = Backoff::new(PAUSES);
        let mut version = None;
        loop {
            let from = match version.take() {
                Some(from) => from,
                None => match self.list(api).await? {
                    Ok(from) => from,
                    Err(error) => {
                        self.failed("list", error, &mut pause).await?;
                        continue;
                    }
                },
            };
            if let Some(every) = self.every {
                self.send(Message::Alive(self.kind)).await?;
                pause.reset();
                // Up to half of the interval is added, so that not all agents come at once.
                tokio::time::sleep(spread(every)).await;
                continue;
            }
            let mut at = from;
            let ended = self.watch(api, &mut at, &mut pause).await?;
            match ended {
                Ended::Quietly => version = Some(at),
                Ended::Gone(error) => self.failed("watch", error, &mut pause).await?,
                Ended::Failed(error) => {
                    version = Some(at);
                    self.failed("watch", error, &mut pause).await?;
                }
            }
        }
    }

    /// Lists all objects. Returns the resource version of the list.
    async fn list(&self, api: &Api<K>) -> Result<Result<String, Error>, Over> {
        self.event(Event::Init).await?;
        let mut params = ListParams::default().limit(PAGE);
        if let Some(fields) = &self.fields {
            // The list comes from the server's cache, which has one node's objects at hand: older
            // servers read all pods from etcd otherwise. It may be a little old. The watch goes on
            // from there.
            params = params.fields(fields).match_any();
        }
        let mut first = true;
        loop {
            let page = match api.list(&params).await {
                Ok(page) => page,
                Err(error) => return Ok(Err(error)),
            };
            for object in page.items {
                self.event(Event::InitApply(object)).await?;
            }
            let next = page.metadata.continue_.filter(|next| !next.is_empty());
            if next.is_none() {
                self.event(Event::InitDone).await?;
                return Ok(Ok(page.metadata.resource_version.unwrap_or_default()));
            }
            params.continue_token = next;
            if std::mem::take(&mut first) {
                let most = put_off(page.metadata.remaining_item_count);
                tokio::time::sleep(most.mul_f64(fastrand::f64())).await;
            }
        }
    }

    async fn watch(
        &self,
        api: &Api<K>,
        version: &mut String,
        pause: &mut Backoff,
    ) -> Result<Ended, Over> {
        let params = WatchParams {
            field_selector: self.fields.clone(),
            timeout: Some(WATCH),
            bookmarks: true,
            ..WatchParams::default()
        };
        let events = match api.watch(&params, version).await {
            Ok(events) => events,
            Err(error) => return Ok(ended(error)),
        };
        let mut events = pin!(events);
        self.send(Message::Alive(self.kind)).await?;
        loop {
            let Ok(event) = tokio::time::timeout(DEAD, events.next()).await else {
                return Ok(Ended::Quietly);
            };
            match event {
                None => return Ok(Ended::Quietly),
                Some(Err(error)) => return Ok(ended(error)),
                Some(Ok(WatchEvent::Error(status))) => return Ok(ended(Error::Api(status))),
                Some(Ok(WatchEvent::Bookmark(bookmark))) => {
                    *version = bookmark.metadata.resource_version;
                    self.send(Message::Alive(self.kind)).await?;
                }
                Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                    advance(version, &object);
                    self.event(Event::Apply(object)).await?;
                }
                Some(Ok(WatchEvent::Deleted(object))) => {
                    advance(version, &object);
                    self.event(Event::Delete(object)).await?;
                }
            }
            pause.reset();
        }
    }

    async fn event(&self, event: Event<K>) -> Result<(), Over> {
        self.send(Message::Event(Box::new((self.wrap)(event))))
            .await
    }

    async fn send(&self, message: Message<E, W>) -> Result<(), Over> {
        self.to.send(message).await.map_err(|_| Over)
    }

    /// Reports a failure and waits. Up to half of the pause is added, so that agents that lost one
    /// server together do not come back together.
    async fn failed(
        &self,
        verb: &'static str,
        error: Error,
        pause: &mut Backoff,
    ) -> Result<(), Over> {
        let failure = Failure { verb, error };
        self.send(Message::Failed(self.kind, failure)).await?;
        pause.wait().await;
        Ok(())
    }
}

/// Longest delay of the rest of a list.
fn put_off(remaining: Option<i64>) -> Duration {
    let remaining = u32::try_from(remaining.unwrap_or_default().max(0)).unwrap_or(u32::MAX);
    SPREAD.0.saturating_mul(remaining).min(SPREAD.1)
}

fn ended(error: Error) -> Ended {
    match &error {
        Error::Api(status) if is_gone(status) => Ended::Gone(error),
        _ => Ended::Failed(error),
    }
}

/// True for status 410: "too old resource version", or "Expired".
fn is_gone(status: &Status) -> bool {
    status.code == 410 || matches!(status.reason.as_str(), "Gone" | "Expired")
}

fn advance<K: Resource>(version: &mut String, object: &K) {
    if let Some(now) = &object.meta().resource_version {
        version.clone_from(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_lists_are_spread() {
        for (remaining, most) in [
            (None, Duration::ZERO),
            (Some(-1), Duration::ZERO),
            (Some(4_500), Duration::from_millis(4_500)),
            (Some(99_500), SPREAD.1),
            (Some(i64::MAX), SPREAD.1),
        ] {
            assert_eq!(put_off(remaining), most, "{remaining:?}");
        }
    }
}
