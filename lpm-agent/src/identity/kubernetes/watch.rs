//! One kind of object followed: listed in pages, then watched with bookmarks. What breaks is told,
//! and tried again with growing pauses; the list is read anew only if the server has forgotten
//! where we were.

use std::{fmt::Debug, pin::pin, time::Duration};

use futures_util::StreamExt;
use kube::{
    Api, Client, Error, Resource,
    api::{ListParams, WatchEvent, WatchParams},
    core::Status,
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;

use super::{
    relist::Event,
    state::{StateEvent, Watched},
};

/// Objects per page of a list: what the server, and we, hold at once.
const PAGE: u32 = 500;

/// Between the first page of a list and the rest: up to this long per object that remains, and no
/// longer than the second, so that a rollout's agents do not all read a large cluster at once.
const SPREAD: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(30));

/// The server ends a watch after this long, seconds.
const WATCH: u32 = 290;

/// If it does not, the connection is dead.
const DEAD: Duration = Duration::from_secs(295);

/// First and longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));

/// What comes from a watch.
#[derive(Debug)]
pub(super) enum Message {
    /// Something has happened in the cluster.
    Event(Box<StateEvent>),
    /// The watch is connected, or has shown that it still is.
    Alive(Watched),
    /// It is not.
    Failed(Watched, Failure),
}

/// Why a list or a watch failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// `list` or `watch`.
    pub(super) verb: &'static str,
    /// What happened.
    pub(super) error: Error,
}

/// Nobody listens any more.
struct Over;

/// How a watch ended.
enum Ended {
    /// As it does every few minutes.
    Quietly,
    /// The server does not know any more where we were.
    Gone(Error),
    Failed(Error),
}

/// Follows one kind until nobody listens.
pub(super) struct Follower<K> {
    pub(super) kind: Watched,
    pub(super) wrap: fn(Event<K>) -> StateEvent,
    pub(super) fields: Option<String>,
    /// They are not watched, but listed again after this long.
    pub(super) every: Option<Duration>,
    pub(super) to: Sender<Message>,
}

impl<K> Follower<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    pub(super) async fn run(self, client: Client) {
        let api: Api<K> = Api::all(client);
        // It ends only when nobody listens.
        let Err(Over) = self.follow(&api).await;
    }

    async fn follow(&self, api: &Api<K>) -> Result<std::convert::Infallible, Over> {
        let mut pause = PAUSE.0;
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
                pause = PAUSE.0;
                // Up to half of it more: not all agents at once.
                tokio::time::sleep(every.mul_f64(1.0 + fastrand::f64() / 2.0)).await;
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

    /// Reads all objects; returns the version that the list is of.
    async fn list(&self, api: &Api<K>) -> Result<Result<String, Error>, Over> {
        self.event(Event::Init).await?;
        let mut params = ListParams::default().limit(PAGE);
        if let Some(fields) = &self.fields {
            // From the server's cache, which has what is of one node at hand: older servers read
            // all pods from etcd otherwise. It may be a little old; the watch goes on from there.
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
                let most = spread(page.metadata.remaining_item_count);
                tokio::time::sleep(most.mul_f64(fastrand::f64())).await;
            }
        }
    }

    async fn watch(
        &self,
        api: &Api<K>,
        version: &mut String,
        pause: &mut Duration,
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
            *pause = PAUSE.0;
        }
    }

    async fn event(&self, event: Event<K>) -> Result<(), Over> {
        self.send(Message::Event(Box::new((self.wrap)(event))))
            .await
    }

    async fn send(&self, message: Message) -> Result<(), Over> {
        self.to.send(message).await.map_err(|_| Over)
    }

    /// Tells what went wrong and waits: up to half of the pause more, so that agents that lost one
    /// server together do not come back together.
    async fn failed(
        &self,
        verb: &'static str,
        error: Error,
        pause: &mut Duration,
    ) -> Result<(), Over> {
        let failure = Failure { verb, error };
        self.send(Message::Failed(self.kind, failure)).await?;
        tokio::time::sleep(pause.mul_f64(1.0 + fastrand::f64() / 2.0)).await;
        *pause = (*pause * 2).min(PAUSE.1);
        Ok(())
    }
}

/// How long the rest of a list may be put off.
fn spread(remaining: Option<i64>) -> Duration {
    let remaining = u32::try_from(remaining.unwrap_or_default().max(0)).unwrap_or(u32::MAX);
    SPREAD.0.saturating_mul(remaining).min(SPREAD.1)
}

fn ended(error: Error) -> Ended {
    match &error {
        Error::Api(status) if is_gone(status) => Ended::Gone(error),
        _ => Ended::Failed(error),
    }
}

/// 410: "too old resource version", or "Expired".
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
            assert_eq!(spread(remaining), most, "{remaining:?}");
        }
    }
}
