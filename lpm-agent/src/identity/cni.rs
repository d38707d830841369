//! Finds the pod that an interface was made for, by the results that the CNI library stores.
//!
//! The container runtime calls the CNI plugins through libcni. libcni writes each result to
//! `/var/lib/cni/results/<network>-<container>-<interface>` when a pod's interface was added, and
//! removes it when the interface goes (`containernetworking/cni`, `libcni/api.go`, `cacheAdd`). A
//! result names the pod (`K8S_POD_NAMESPACE`, `K8S_POD_NAME` in `cniArgs`) and the interfaces that
//! were made. So the pod is known without the API server, and before its first process runs.
//!
//! Multus is such a plugin. It calls the plugins that it delegates to (for a pod's further
//! networks, as L2S-M's) through libcni as well, with a directory of its own for their results
//! (`k8snetworkplumbingwg/multus-cni`, `pkg/multus/multus.go`, `confAdd`; `cniDir`).

use std::{
    collections::HashMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use serde::Deserialize;

/// Default directory of libcni's results.
pub const RESULTS: &str = "/var/lib/cni/results";

/// Directory where Multus stores the results of the plugins that it calls.
pub const MULTUS_RESULTS: &str = "/var/lib/cni/multus/results";

/// Largest file that is read as a result. Results of pods are a few KiB each.
const LARGEST: u64 = 1 << 20;

/// A pod that has interfaces on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniPod {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Name of the interface within the pod.
    pub interface: String,
    /// Addresses of the pod in this result.
    pub addresses: Vec<IpAddr>,
}

impl CniPod {
    /// True if the interface is a port of an L2S-M switch that runs as a pod: what passes there is
    /// other pods' traffic. L2S-M names these pods `sps-` (or `ned-`, at the cluster's edge) and a
    /// hash (`internal/utils/naming.go`). They have a port on each bridge that pods are attached
    /// to.
    #[must_use]
    pub fn is_switch_port(&self) -> bool {
        let hash = ["sps-", "ned-"]
            .iter()
            .find_map(|kind| self.pod.strip_prefix(kind));
        let hash = hash.and_then(|rest| rest.split('-').next());
        let is_hash = |text: &str| text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        hash.is_some_and(is_hash) && self.interface.starts_with("net")
    }
}

/// The results of libcni for the pods on this node.
#[derive(Debug, Default)]
pub struct CniResults {
    by_interface: HashMap<String, CniPod>,
    by_address: HashMap<IpAddr, CniPod>,
    /// True: a file seems to be still in writing.
    unfinished: bool,
}

/// Time for which a file that is no result counts as still in writing.
const WRITING: Duration = Duration::from_secs(5);

/// A cached result, `types.100` or older. Its other fields are not read.
#[derive(Debug, Deserialize)]
struct Cached {
    #[serde(rename = "ifName", default)]
    interface: String,
    #[serde(rename = "cniArgs", default)]
    args: Vec<(String, String)>,
    #[serde(default)]
    result: Option<Outcome>,
}

#[derive(Debug, Default, Deserialize)]
struct Outcome {
    #[serde(default)]
    interfaces: Vec<Made>,
    #[serde(default)]
    ips: Vec<Given>,
}

#[derive(Debug, Deserialize)]
struct Made {
    name: String,
    /// Path of the network namespace. Empty: the interface is on the node.
    #[serde(default)]
    sandbox: String,
}

#[derive(Debug, Deserialize)]
struct Given {
    address: IpNet,
}

impl CniResults {
    /// Reads all results of a directory, and when it last changed. A file that is no result is
    /// skipped.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            // The file has gone meanwhile, and so has its pod.
            if let Ok(metadata) = entry.metadata()
                && metadata.is_file()
                && metadata.len() <= LARGEST
            {
                found.push((metadata.modified()?, entry.path()));
            }
        }
        // Of two results for one address the younger one holds: the older was left behind.
        found.sort();
        let mut results = Self::default();
        for (modified, path) in found {
            let cached = fs::read(&path).ok();
            match cached.map(|text| serde_json::from_slice::<Cached>(&text)) {
                Some(Ok(cached)) => results.take(cached),
                // libcni writes in place: the directory does not change when a file becomes
                // complete.
                Some(Err(error)) => {
                    results.unfinished |= modified.elapsed().is_ok_and(|age| age < WRITING);
                    tracing::debug!(path = %path.display(), %error, "not a CNI result");
                }
                None => {}
            }
        }
        Ok(results)
    }

    fn take(&mut self, cached: Cached) {
        let arg = |key: &str| {
            let mut args = cached.args.iter();
            args.find(|(name, _)| name == key)
                .map(|(_, value)| value.clone())
        };
        let (Some(namespace), Some(pod)) = (arg("K8S_POD_NAMESPACE"), arg("K8S_POD_NAME")) else {
            return;
        };
        let Outcome { interfaces, ips } = cached.result.unwrap_or_default();
        let addresses: Vec<IpAddr> = ips.iter().map(|given| given.address.addr()).collect();
        let pod = CniPod {
            namespace,
            pod,
            interface: cached.interface,
            addresses,
        };
        for made in interfaces
            .into_iter()
            .filter(|made| made.sandbox.is_empty())
        {
            self.by_interface.insert(made.name, pod.clone());
        }
        for address in &pod.addresses {
            self.by_address.insert(*address, pod.clone());
        }
    }

    /// The pod that an interface of the node was made for. A bridge is named by every pod's result
    /// and belongs to none, so ask for ends of veths only.
    #[must_use]
    pub fn of_interface(&self, name: &str) -> Option<&CniPod> {
        self.by_interface.get(name)
    }

    /// The pod that an address was given to.
    #[must_use]
    pub fn of_address(&self, address: IpAddr) -> Option<&CniPod> {
        self.by_address.get(&address)
    }

    /// All addresses of a pod.
    pub fn of_pod(&self, namespace: &str, pod: &str) -> impl Iterator<Item = IpAddr> {
        let all = self.by_address.iter();
        let its = all.filter(move |(_, of)| of.namespace == namespace && of.pod == pod);
        its.map(|(address, _)| *address)
    }

    /// True if a file may become complete without any change of the directory.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    /// True if there are no results.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_interface.is_empty() && self.by_address.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A result of containerd's libcni for the plugin `ptp`, shortened.
    const PTP: &str = r#"{"kind":"cniCacheV1","containerId":"0a1b","config":"e30=","ifName":"eth0",
        "networkName":"pods","cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","shop"],
        ["K8S_POD_NAME","web-1"],["K8S_POD_INFRA_CONTAINER_ID","0a1b"],["K8S_POD_UID","u"]],
        "capabilityArgs":{"portMappings":[]},"result":{"cniVersion":"1.0.0","dns":{},
        "interfaces":[{"mac":"5e:00:00:00:00:01","name":"veth12ab"},
        {"mac":"5e:00:00:00:00:02","name":"eth0","sandbox":"/var/run/netns/cni-1"}],
        "ips":[{"address":"198.18.4.2/24","gateway":"198.18.4.1","interface":1}],
        "routes":[{"dst":"0.0.0.0/0"}]}}"#;

    #[test]
    fn a_result_names_interface_and_address() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("pods-0a1b-eth0"), PTP).expect("write");
        fs::write(directory.path().join("half"), &PTP[..100]).expect("write");
        let other = PTP.replace("K8S_POD_NAME\"", "POD\"");
        fs::write(
            directory.path().join("no-pod"),
            other.replace("12ab", "34cd"),
        )
        .expect("write");
        let results = CniResults::read(directory.path()).expect("read");
        let pod = CniPod {
            namespace: "shop".to_owned(),
            pod: "web-1".to_owned(),
            interface: "eth0".to_owned(),
            addresses: vec![[198, 18, 4, 2].into()],
        };
        assert_eq!(results.of_interface("veth12ab"), Some(&pod));
        assert_eq!(results.of_interface("veth34cd"), None, "it names no pod");
        assert_eq!(results.of_interface("eth0"), None, "that is the pod's own");
        let address = "198.18.4.2".parse().expect("an address");
        assert_eq!(results.of_address(address), Some(&pod));
        assert!(!results.is_empty());
        assert!(results.is_unfinished(), "one is half written");
    }

    #[test]
    fn ports_of_a_switch_are_told_from_pods() {
        let is = |pod: &str, interface: &str| {
            let pod = CniPod {
                namespace: "l2sm-system".to_owned(),
                pod: pod.to_owned(),
                interface: interface.to_owned(),
                addresses: Vec::new(),
            };
            pod.is_switch_port()
        };
        assert!(is("sps-0a1b2c3d-x7k2p", "net3"));
        assert!(is("ned-ffffffff-abcde", "net1"));
        assert!(!is("sps-0a1b2c3d-x7k2p", "eth0"), "its own");
        for pod in [
            "sps-web-x7k2p",
            "spss-0a1b2c3d-x",
            "web-0a1b2c3d-x7k2p",
            "sps-0a1b2c3",
        ] {
            assert!(!is(pod, "net1"), "{pod}");
        }
    }

    #[test]
    fn of_two_for_an_address_the_younger_holds() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::write(path("b"), PTP).expect("write");
        fs::write(path("a"), PTP.replace("web-1", "web-2")).expect("write");
        let old = fs::File::options().write(true).open(path("b")).expect("b");
        old.set_modified(SystemTime::UNIX_EPOCH)
            .expect("set the time");
        let results = CniResults::read(directory.path()).expect("read");
        let of = results.of_interface("veth12ab").expect("a pod");
        assert_eq!(of.pod, "web-2");
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        assert!(CniResults::read(Path::new("/nonexistent")).is_err());
    }
}
