//! The configuration: one YAML file, every key with a default, unknown keys refused.

mod auth;
mod conntrack;
mod durations;
mod error;
mod export;
pub mod foreign;
mod health;
mod identity;
mod method;
mod pins;
mod presets;
mod probes;
#[cfg(test)]
mod reference;
mod reflector;
mod role;
mod schema;
mod sections;
mod tunnels;

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use lpm_common::{layout, parse::tunnel::TunnelPorts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use auth::{Auth, SOCKET, Socket, Token, TokenReviews};
pub use conntrack::Conntrack;
pub use error::ConfigError;
pub use export::Export;
pub use health::Health;
pub use identity::{Enabled, Identity, Kubernetes, Scope, node_name};
pub use method::Method;
pub use pins::Pins;
pub use presets::Preset;
pub use probes::{
    Host, Ports, Probed, ProbedNodes, Probes, SESSIONS, Schedule, Share, Tags, Target, Train,
};
pub use reflector::{Allowed, Reflector, SessionKey};
pub use role::Role;
pub use tunnels::Tunnels;

use durations::{humantime_option, humantime_text};
use foreign::Foreign;
use sections::tables::{FLOWS, QUERIES, STRIPES};

use crate::{
    fnv::fnv,
    identity::{Levels, cni},
    kernel::{
        attach::Mode,
        privileges::Keep,
        rules::{Rule, Rules},
    },
    yaml,
};

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "lpm.yaml")]
pub struct Config {
    /// Address and port of the HTTP server. Only a loopback address keeps `/api` to this machine.
    #[schemars(with = "String", regex(pattern = r":[0-9]{1,5}$"))]
    pub listen: SocketAddr,
    /// A web configuration file of Prometheus' exporters: TLS, client certificates, users with
    /// passwords, response headers, a limit of requests. It and the files that it names are read
    /// again when they change. A relative path starts at the configuration's directory.
    pub web_config: Option<PathBuf>,
    /// Who may use `/api`, and whether `/metrics` needs credentials.
    pub auth: Auth,
    /// The Unix socket at which `lpm top` and `lpm watch` ask the agent of this machine.
    pub socket: Socket,
    /// Where health checks have a listener of their own.
    pub health: Health,
    /// Further forms of the metrics, and where they are served.
    pub export: Export,
    /// What `lpm run` does: `agent` measures packets by kernel programs, and probes if `probes` says
    /// so; `prober` only probes and answers probes, without kernel programs and without privileges.
    pub role: Role,
    /// What to watch on the nodes of a known CNI. The rules of the preset come after those of
    /// `interfaces`. It also sets `tunnels` and `identity.kubernetes.networks`, unless they are
    /// given. Takes effect without a restart, but for `identity.kubernetes.networks`.
    pub preset: Option<Preset>,
    /// Which interfaces are watched, and as which vantage. The first matching rule decides; the
    /// rules of the preset and the built-in rules come after these. By the built-in rules, veths
    /// into other namespaces are pods, tunnels are overlays and network cards are NICs. Takes
    /// effect without a restart.
    pub interfaces: Vec<Rule>,
    /// UDP ports of the tunnels that a rule's `inner: true` looks into.
    pub tunnels: Tunnels,
    /// How programs are attached: `tcx` (Linux 6.6 and later), `netlink`, or `auto`: TCX if the
    /// kernel has it.
    pub attach: Mode,
    /// Watch the interfaces of this network namespace: a name that `ip netns` shows, or a path. If
    /// absent: the agent's own namespace.
    pub netns: Option<String>,
    /// Entries of the flow table, 256 bytes each; a power of two.
    #[schemars(extend("enum" = schema::powers_of_two(FLOWS)))]
    pub flows: u32,
    /// Entries of the table of ICMP echo requests and DNS queries that wait for their answers, 32
    /// bytes each; a power of two.
    #[schemars(extend("enum" = schema::powers_of_two(QUERIES)))]
    pub queries: u32,
    /// Rows of histograms: as many pairs of namespaces are counted separately. A row takes 16 KiB
    /// per stripe.
    #[schemars(range(min = 2, max = 65_535))]
    pub rows: u32,
    /// Copies of the histograms, which reduce contention between CPUs; a power of two.
    #[schemars(extend("enum" = schema::powers_of_two(STRIPES)))]
    pub stripes: u32,
    /// A flow without a packet for this long is idle. A new flow may then take its entry.
    #[serde(with = "humantime_text")]
    #[schemars(with = "String", regex(pattern = schema::DURATION))]
    pub flow_idle: Duration,
    /// Length of a window. The minimum of each flow in a window is one observation of
    /// `lpm_flow_rtt_seconds`.
    #[serde(with = "humantime_text")]
    #[schemars(with = "String", regex(pattern = schema::DURATION))]
    pub window: Duration,
    /// How round trips are measured: `ts` (TCP timestamps), `seq` (TCP sequence numbers, where
    /// there are no timestamps or `ts` is off), `handshake`, `icmp`, `dns` and `request`. `request`
    /// is off by default: it measures from the first byte of a request to the last byte of its
    /// answer, on connections where the two ends take turns.
    #[schemars(length(min = 1))]
    pub methods: BTreeSet<Method>,
    /// Static names file: addresses to namespaces, pods, workloads, services and nodes. A relative
    /// path starts at the configuration's directory. Takes effect without a restart.
    pub names: Option<PathBuf>,
    /// Other sources of names: Kubernetes, and ranges outside of the cluster.
    pub identity: Identity,
    /// Name of this node. If absent: the environment variable `NODE_NAME`, else the host name.
    pub node_name: Option<String>,
    /// Which histograms are kept within namespaces (per workload, service or pod), and between nodes or
    /// zones.
    pub levels: Levels,
    /// How long the histogram rows of deleted namespaces, workloads, pods and nodes are kept; give the
    /// time of several scrapes. Then their series end, and others use the rows.
    #[serde(with = "humantime_text")]
    #[schemars(with = "String", regex(pattern = schema::DURATION))]
    pub keep_gone: Duration,
    /// Directory where the CNI library keeps its results. They say which pod owns an interface. The
    /// agent names the local end of a flow by its interface, never by an address that may have been
    /// another pod's.
    pub cni_results: PathBuf,
    /// Directory where the CNI plugins that Multus calls keep their results, for the further
    /// networks of pods (such as L2S-M's).
    pub multus_results: PathBuf,
    /// The agent's answers to probes (STAMP, RFC 8762), as `lpm reflect` gives them.
    pub reflector: Reflector,
    /// What the agent probes, and how. Takes effect without a restart: targets that stay as they
    /// are go on, and keep their counts.
    pub probes: Probes,
    /// Whether flows to services show their backends.
    pub conntrack: Conntrack,
    /// Whether the data path outlives the agent, and where it is pinned.
    pub pins: Pins,
    /// What `lpm run` keeps of the rights that it is started with. `least`: the capabilities
    /// `CAP_BPF`, `CAP_NET_ADMIN` and `CAP_PERFMON`, a filter of system calls, and by Landlock no
    /// file to write but its pins. `process_names`: also `CAP_SYS_PTRACE` and
    /// `CAP_DAC_READ_SEARCH`, and no Landlock, so that flows show the processes of other users.
    /// `all`: everything. `lpm top` and `lpm watch` give up nothing.
    pub privileges: Keep,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9477)),
            web_config: None,
            auth: Auth::default(),
            socket: Socket::default(),
            health: Health::default(),
            export: Export::default(),
            role: Role::default(),
            preset: None,
            interfaces: Vec::new(),
            tunnels: Tunnels::default(),
            attach: Mode::Auto,
            netns: None,
            flows: 1 << 16,
            queries: 1 << 14,
            rows: 512,
            stripes: 2,
            flow_idle: Duration::from_secs(30),
            window: Duration::from_secs(10),
            methods: Method::DEFAULT.into(),
            names: None,
            identity: Identity::default(),
            node_name: None,
            levels: Levels::default(),
            keep_gone: Duration::from_mins(10),
            cni_results: cni::RESULTS.into(),
            multus_results: cni::MULTUS_RESULTS.into(),
            reflector: Reflector::default(),
            probes: Probes::default(),
            conntrack: Conntrack::default(),
            pins: Pins::default(),
            privileges: Keep::default(),
        }
    }
}

impl Config {
    /// Reads a file. Relative paths are resolved against the file's directory.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut config = Self::parse(&text, path)?;
        if let Some(directory) = path.parent() {
            let kubeconfig = &mut config.identity.kubernetes.kubeconfig;
            let tokens = config.auth.tokens.iter_mut().map(|token| &mut token.file);
            let files = [&mut config.names, kubeconfig, &mut config.web_config];
            let keys = config.reflector.keys.iter_mut().map(|key| &mut key.file);
            let files = files.into_iter().chain(tokens).flatten();
            for file in files.chain(keys).chain(config.probes.files()) {
                *file = directory.join(&*file);
            }
        }
        Ok(config)
    }

    /// Parses the text of a configuration, which may also be a file of another system ([`foreign`]).
    /// `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        if let Some(foreign) = Foreign::parse(text, path)? {
            return foreign.into_config(path);
        }
        let config: Option<Self> = yaml::read(text).map_err(|reason| ConfigError::Parse {
            path: path.to_owned(),
            reason,
        })?;
        let mut config = config.unwrap_or_default();
        if let Some(preset) = config.preset
            && !tunnels::given(text)
        {
            config.tunnels = preset.tunnels();
        }
        if let Some(preset) = config.preset
            && !Identity::gives_networks(text)
        {
            config.identity.kubernetes.networks = preset.networks();
        }
        config.check().map_err(|error| error.within(text, path))?;
        Ok(config)
    }

    /// Checks the values against each other and against what can work.
    pub fn check(&self) -> Result<(), ConfigError> {
        sections::check(self)
    }

    /// The rules for interfaces. If `only` is not empty, these interfaces alone are watched.
    #[must_use]
    pub fn rules(&self, only: &[String]) -> Rules {
        Rules {
            only: only.to_vec(),
            rules: self.interfaces.clone(),
            preset: self.preset.map_or_else(Vec::new, Preset::rules),
        }
    }

    /// The methods as the kernel programs encode them.
    #[must_use]
    pub fn method_set(&self) -> layout::Methods {
        self.methods.iter().map(|method| method.layout()).collect()
    }

    /// The tunnels that the programs must look into. None unless a rule asks for it.
    #[must_use]
    pub fn looked_into(&self) -> TunnelPorts {
        if self.interfaces.iter().any(|rule| rule.inner) {
            self.tunnels.ports()
        } else {
            TunnelPorts::default()
        }
    }

    /// True if a rule watches an interface by XDP.
    #[must_use]
    pub fn by_xdp(&self) -> bool {
        self.interfaces.iter().any(|rule| rule.xdp.is_some())
    }

    /// The configuration as YAML, with every key.
    ///
    /// # Errors
    /// None is known. The serialiser may have its own.
    pub fn to_yaml(&self) -> Result<String, serde_saphyr::ser::Error> {
        serde_saphyr::to_string(self)
    }

    /// The JSON schema.
    #[must_use]
    pub fn schema() -> schemars::Schema {
        schemars::schema_for!(Self)
    }

    /// A hash of the configuration (FNV-1a, 64 bits), for `lpm_config_hash_info`.
    #[must_use]
    pub fn hash(&self) -> String {
        format!("{:016x}", fnv(&format!("{self:?}")))
    }

    /// The keys in which `other` differs and that need a restart.
    #[must_use]
    pub fn needs_restart(&self, other: &Self) -> Vec<&'static str> {
        sections::needs_restart(self, other)
    }

    /// Keys that a running agent takes over.
    #[cfg(test)]
    pub(crate) fn hot_keys() -> Vec<&'static str> {
        sections::hot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("lpm.yaml"))
    }

    #[test]
    fn every_key_has_a_default() {
        for text in ["", "# nothing\n", "{}\n"] {
            assert_eq!(parse(text).expect(text), Config::default(), "{text:?}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read() {
        let config = parse(
            "listen: \"[::1]:9000\"\nattach: netlink\nflow_idle: 1m 30s\n\
             interfaces:\n- {name: \"cali*\", vantage: pod}\n- {kind: vxlan, vantage: none}\n",
        )
        .expect("a configuration");
        assert_eq!(config.flow_idle, Duration::from_secs(90));
        assert_eq!(config.interfaces.len(), 2);
        let shown = config.to_yaml().expect("YAML");
        assert_eq!(parse(&shown).expect(&shown), config, "{shown}");
    }

    #[test]
    fn unknown_keys_are_refused_by_name_and_line() {
        let error = parse("flows: 1024\nwindows: 10s\n")
            .expect_err("windows")
            .to_string();
        assert!(error.contains("windows") && error.contains('2'), "{error}");
        let error = parse("interfaces:\n- name: a\n  vantage: pod\n  nmae: b\n")
            .expect_err("nmae")
            .to_string();
        assert!(error.contains("nmae") && error.contains('4'), "{error}");
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_key() {
        for (text, key) in [
            ("flows: 1000\n", "flows"),
            ("health: {listen: \"127.0.0.1:9477\"}\n", "health.listen"),
            ("health: {port: 9478}\n", "port"),
            ("rows: 1\n", "rows"),
            ("stripes: 3\n", "stripes"),
            ("levels: {top: 0}\n", "levels.top"),
            ("levels: {container: true}\n", "container"),
            ("window: 10ms\n", "window"),
            ("keep_gone: 2h\n", "keep_gone"),
            ("conntrack: {most: 0}\n", "conntrack.most"),
            ("flow_idle: forever\n", "forever"),
            ("attach: xdp\n", "xdp"),
            ("methods: []\n", "methods"),
            ("methods: [ts, rtt]\n", "rtt"),
        ] {
            let error = parse(&format!("# first\n{text}"))
                .expect_err(text)
                .to_string();
            assert!(error.contains(key), "{error}");
            assert!(
                error.contains("lpm.yaml") && error.contains("line 2"),
                "{error}"
            );
        }
    }

    #[test]
    fn ranges_that_are_none_are_refused_by_line() {
        for text in [
            "identity: {external: [\n{cidr: 10.0.0.0/33, name: x}]}\n",
            "identity: {cluster_ranges: [10.0.0.0/8,\n10.0.0.0/33]}\n",
        ] {
            let error = parse(text).expect_err(text).to_string();
            for part in ["lpm.yaml", "line 2", "prefix length of 10.0.0.0/33"] {
                assert!(error.contains(part), "{error}");
            }
        }
    }

    #[test]
    fn the_hash_follows_the_values() {
        let config = Config::default();
        assert_eq!(config.hash(), Config::default().hash());
        assert_ne!(
            config.hash(),
            Config {
                rows: 64,
                ..Config::default()
            }
            .hash()
        );
    }
}
