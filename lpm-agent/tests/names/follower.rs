//! What the agent would know, without a kernel.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use lpm_agent::identity::{
    Name, PrefixMap,
    kubernetes::{Kubernetes, OfNode, Settings, Watched},
    merge::{Delta, Merge, News},
    permits::Permits,
    status::Status,
};

use crate::support::ready::eventually;

/// Follows a cluster.
pub(crate) struct Follower {
    _kubernetes: Kubernetes,
    pub(crate) status: Arc<Status>,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    merge: Merge,
    names: PrefixMap,
    /// All that was ever said of an address.
    said: BTreeMap<IpAddr, Vec<String>>,
}

impl Known {
    fn take(&mut self, news: News) {
        let News::Changes(changes) = news else { return };
        for change in changes {
            for delta in self.merge.apply(change) {
                self.change(delta);
            }
        }
    }

    fn change(&mut self, (range, name): Delta) {
        match name {
            Some(name) => self.names.insert(range, name),
            None => drop(self.names.remove(range)),
        }
        if range.prefix_len() == range.max_prefix_len() {
            let said = self.names.lookup(range.addr()).map(|name| words(name));
            let said = said.unwrap_or_else(|| "nobody".to_owned());
            let all = self.said.entry(range.addr()).or_default();
            if all.last() != Some(&said) {
                all.push(said);
            }
        }
    }
}

/// Kind, namespace, pod; workload and service where it has any of them beside itself.
fn words(name: &Name) -> String {
    let word = |word: &Option<Arc<str>>| word.as_deref().unwrap_or("-").to_owned();
    let mut words = vec![
        format!("{:?}", name.kind).to_lowercase(),
        word(&name.namespace),
        word(&name.pod),
    ];
    let bare = name.workload_type.as_deref() == Some("barepod");
    let workload = name.workload.clone().filter(|_| !bare);
    if workload.is_some() || name.service.is_some() {
        words.extend([word(&workload), word(&name.service)]);
    }
    words.join(" ")
}

impl Follower {
    pub(crate) fn start(kubeconfig: &Path) -> Self {
        Self::start_of(kubeconfig, None)
    }

    /// Follows a cluster, or one node's pods.
    pub(crate) fn start_of(kubeconfig: &Path, of_node: Option<OfNode>) -> Self {
        Self::permitting(kubeconfig, of_node, Permits::default())
    }

    /// Follows a cluster, or one node's pods, and lets addresses in further networks count.
    pub(crate) fn permitting(kubeconfig: &Path, of_node: Option<OfNode>, permits: Permits) -> Self {
        let (status, known) = (Arc::<Status>::default(), Arc::<Mutex<Known>>::default());
        known.lock().expect("not poisoned").merge = Merge::permitting(permits.clone());
        let settings = Settings {
            kubeconfig: Some(kubeconfig.to_owned()),
            labels: vec!["team".to_owned()],
            permits,
            of_node,
            ..Settings::default()
        };
        let hears = Arc::clone(&known);
        let tell = move |news| {
            hears.lock().expect("not poisoned").take(news);
            true
        };
        Self {
            _kubernetes: Kubernetes::start(settings, Arc::clone(&status), tell).expect("start"),
            status,
            known,
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("not poisoned")
    }

    /// Waits until all objects of all kinds have been seen.
    #[track_caller]
    pub(crate) fn wait_for_all(&self) {
        eventually("all is known", || {
            let kinds = self.status.kinds();
            Watched::ALL
                .iter()
                .all(|kind| kinds.get(kind).is_some_and(|kind| kind.synced))
        });
    }

    pub(crate) fn who(&self, address: &str) -> String {
        let address = address.parse().expect("an address");
        let known = self.known();
        let name = known.names.lookup(address);
        name.map_or_else(|| "nobody".to_owned(), |name| words(name))
    }

    pub(crate) fn label(&self, address: &str, label: &str) -> Option<String> {
        let known = self.known();
        let name = known.names.lookup(address.parse().expect("an address"))?;
        name.labels.get(label).map(ToString::to_string)
    }

    pub(crate) fn said_of(&self, address: &str) -> Vec<String> {
        let address: IpAddr = address.parse().expect("an address");
        self.known().said.get(&address).cloned().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, address: &str, who: &str) {
        eventually(&format!("{address} is {who}"), || self.who(address) == who);
    }
}

/// Kubeconfigs that were changed.
pub(crate) mod changed {
    use serde_json::{Value, json};

    /// With a token that nobody has.
    pub(crate) fn token(kubeconfig: &str) -> String {
        with(kubeconfig, "/users/0/user/token", json!("expired"))
    }

    /// Without the server's authority.
    pub(crate) fn authority(kubeconfig: &str) -> String {
        let path = "/clusters/0/cluster/certificate-authority";
        with(kubeconfig, path, Value::Null)
    }

    /// By another address.
    pub(crate) fn by(kubeconfig: &str, address: std::net::SocketAddr) -> String {
        let server = format!("https://{address}");
        with(kubeconfig, "/clusters/0/cluster/server", json!(server))
    }

    fn with(text: &str, path: &str, to: Value) -> String {
        let mut all: Value = serde_json::from_str(text).expect("JSON");
        *all.pointer_mut(path).expect(path) = to;
        all.to_string()
    }
}
