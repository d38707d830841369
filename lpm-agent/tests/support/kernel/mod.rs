//! An agent in this process or in one of its own, a look at the hooks that does not go through the
//! agent, and other programs on the same hooks.

pub mod neighbour;
pub mod process;
pub mod raw;
pub mod tap;

use std::{
    collections::BTreeMap,
    net::UdpSocket,
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver},
    },
    time::Instant,
};

use aya::{
    maps::MapError,
    programs::{SchedClassifier, TcAttachType},
    util::KernelVersion,
};
use lpm_agent::kernel::{
    Direction,
    attach::Mode,
    hotplug::{Event, Hotplug, InterfaceTable, Settings, StartError},
    load::{Kernel, LoadSettings, Programs},
    netns,
    rules::Rules,
};
use lpm_common::{
    layout::{InterfaceConfig, Methods},
    parse::tunnel::TunnelPorts,
};
use lpm_testbed::testbed::Netns;

pub use super::ready::{LIMIT, comes_to, eventually, kernel_is_usable};

/// Small maps: many tests load them at once.
pub const SETTINGS: LoadSettings = LoadSettings {
    flow_entries: 1024,
    query_entries: 64,
    rows: 8,
    stripes: 1,
    seeds: [1; 14],
    idle_seconds: 60,
    names: 1024,
    samples_bytes: 1 << 16,
    packet_clock: false,
    weakly_ordered: cfg!(not(target_arch = "x86_64")),
    methods: Methods::DEFAULT,
    xdp: false,
    tunnels: TunnelPorts {
        vxlan: [0; 4],
        geneve: [0; 4],
    },
};

fn tcx_is_there() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

/// Whether there is TCX here. If not, the reason is printed as a skip.
pub fn has_tcx() -> bool {
    let there = tcx_is_there();
    if !there {
        println!("LPM-SKIP kernel: no TCX before 6.6");
    }
    there
}

/// TCX where the kernel has it, else filters: what the agent chooses by itself.
pub fn native() -> Mode {
    modes()[0]
}

/// The modes that there are here, the native one first.
pub fn modes() -> &'static [Mode] {
    if tcx_is_there() {
        &[Mode::Tcx, Mode::Netlink]
    } else {
        &[Mode::Netlink]
    }
}

/// Ids of the programs of a hook in the native mode, first to last.
pub fn native_chain(netns: &Netns, interface: &str, direction: Direction) -> Vec<u32> {
    if tcx_is_there() {
        return tcx_chain(netns, interface, direction);
    }
    filters(netns, interface, direction)
        .iter()
        .filter_map(|filter| u32::try_from(filter.program?).ok())
        .collect()
}

/// An agent in this process.
pub struct Agent {
    pub hotplug: Hotplug,
    pub events: Receiver<Event>,
    pub programs: Arc<Programs>,
    pub kernel: Kernel,
}

impl Agent {
    /// Starts one, with rules and a mode, in a namespace.
    pub fn start(netns: &Netns, rules: Rules, mode: Mode) -> Self {
        Self::try_start(netns, rules, mode).expect("start an agent")
    }

    pub fn try_start(netns: &Netns, rules: Rules, mode: Mode) -> Result<Self, StartError> {
        let (sender, events) = mpsc::channel();
        let on_event = move |event: Event| {
            println!("{event:?}");
            drop(sender.send(event));
        };
        Self::with_events(netns, rules, mode, on_event, events)
    }

    pub fn with_events(
        netns: &Netns,
        rules: Rules,
        mode: Mode,
        on_event: impl FnMut(Event) + Send + 'static,
        events: Receiver<Event>,
    ) -> Result<Self, StartError> {
        let mut kernel = Kernel::load(&SETTINGS).expect("load the kernel object");
        let table = kernel.interfaces().expect("map INTERFACES");
        Self::with_table(netns, rules, mode, (kernel, table), on_event, events)
    }

    /// By the built-in rules, with the kernel's settings of interfaces recorded instead.
    pub fn recording(netns: &Netns, table: Recorder) -> Self {
        let kernel = Kernel::load(&SETTINGS).expect("load the kernel object");
        let (sender, events) = mpsc::channel();
        let on_event = move |event| drop(sender.send(event));
        let parts = (kernel, table);
        Self::with_table(netns, Rules::default(), native(), parts, on_event, events)
            .expect("start an agent")
    }

    fn with_table(
        netns: &Netns,
        rules: Rules,
        mode: Mode,
        (kernel, table): (Kernel, impl InterfaceTable + 'static),
        on_event: impl FnMut(Event) + Send + 'static,
        events: Receiver<Event>,
    ) -> Result<Self, StartError> {
        let programs = Arc::new(kernel.programs().expect("programs"));
        let settings = Settings {
            mode,
            netns: Some(netns::Netns::open(&path_of(netns)).expect("open the namespace")),
            ..Settings::new(rules)
        };
        let hotplug = Hotplug::start(settings, Arc::clone(&programs), table, on_event)?;
        Ok(Self {
            hotplug,
            events,
            programs,
            kernel,
        })
    }

    /// Names and vantages of what it watches, sorted.
    pub fn watched(&self) -> Vec<(String, &'static str)> {
        let mut watched: Vec<_> = self
            .hotplug
            .attached()
            .into_iter()
            .map(|attached| (attached.interface.name, attached.vantage.as_str()))
            .collect();
        watched.sort();
        watched
    }

    /// Our program of that name as a program id.
    pub fn id(&self, name: &str) -> u32 {
        let mut programs = self.programs.iter();
        programs
            .find(|program| program.name == name)
            .expect(name)
            .id
    }

    /// Waits for an event that fits.
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, mut fits: impl FnMut(Event) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            let left = LIMIT.saturating_sub(begun.elapsed());
            match self.events.recv_timeout(left) {
                Ok(event) => {
                    if let Some(found) = fits(event) {
                        return found;
                    }
                }
                Err(error) => panic!("waited in vain for {what}: {error}"),
            }
        }
    }
}

/// The kernel's settings of interfaces, in memory: index to vantage.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<BTreeMap<u32, u8>>>);

impl Recorder {
    pub fn get(&self, index: u32) -> Option<u8> {
        self.0.lock().expect("not poisoned").get(&index).copied()
    }
}

impl InterfaceTable for Recorder {
    fn set(&mut self, index: u32, config: InterfaceConfig) -> Result<(), MapError> {
        self.0
            .lock()
            .expect("not poisoned")
            .insert(index, config.vantage);
        Ok(())
    }

    fn remove(&mut self, index: u32) -> Result<(), MapError> {
        self.0.lock().expect("not poisoned").remove(&index);
        Ok(())
    }
}

/// The namespace as `--netns` takes it.
pub fn path_of(netns: &Netns) -> String {
    netns.path().display().to_string()
}

/// Ids of the programs of a TCX chain, first to last.
pub fn tcx_chain(netns: &Netns, interface: &str, direction: Direction) -> Vec<u32> {
    let direction = match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    };
    let query = || SchedClassifier::query_tcx(interface, direction);
    if !tcx_is_there() {
        return Vec::new();
    }
    let (_, programs) = netns.run_in(query).expect("enter").expect("query TCX");
    programs
        .iter()
        .map(aya::programs::ProgramInfo::id)
        .collect()
}

/// A filter as tc(8) sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub priority: u64,
    pub handle: String,
    pub kind: String,
    pub direct_action: bool,
    pub program: Option<u64>,
}

/// The filters of a hook, as tc(8) lists them.
pub fn filters(netns: &Netns, interface: &str, direction: Direction) -> Vec<Seen> {
    let direction = direction.to_string();
    let arguments = ["-j", "filter", "show", "dev", interface, &direction];
    let output = netns.output("tc", &arguments).expect("tc filter show");
    let list: Vec<serde_json::Value> = match output.trim() {
        "" => Vec::new(),
        json => serde_json::from_str(json).expect("JSON of tc"),
    };
    list.iter()
        .filter(|filter| filter["options"].is_object())
        .map(|filter| {
            let options = &filter["options"];
            Seen {
                priority: filter["pref"].as_u64().expect("pref"),
                handle: text(&options["handle"])
                    .or(text(&options["fh"]))
                    .unwrap_or_default(),
                kind: text(&filter["kind"]).expect("kind"),
                direct_action: options["direct-action"].as_bool().unwrap_or(false),
                program: options["prog"]["id"].as_u64(),
            }
        })
        .collect()
}

fn text(value: &serde_json::Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// A namespace with the host end of a pod's veth in it, up; and the pod, where it is `eth0`.
/// The node is 198.18.9.1, the pod 198.18.9.2; nothing but what a test sends passes.
pub fn node_with_pod(interface: &str) -> (Netns, Netns) {
    let (node, pod) = (
        Netns::new("node").expect("netns"),
        Netns::new("pod").expect("netns"),
    );
    for netns in [&node, &pod] {
        netns
            .sysctl("net.ipv6.conf.default.disable_ipv6", "1")
            .expect("sysctl");
    }
    node.ip(&format!(
        "link add {interface} address 02:00:00:00:09:01 type veth peer name eth0 address 02:00:00:00:09:02 netns {}",
        pod.name()
    ))
    .expect("veth");
    // Permanent neighbours: no ARP, so that packets can be counted.
    node.ip_batch(&format!(
        "addr add 198.18.9.1/24 dev {interface}\nlink set {interface} up\n\
         neigh replace 198.18.9.2 lladdr 02:00:00:00:09:02 dev {interface} nud permanent"
    ))
    .expect("node");
    pod.ip_batch(
        "addr add 198.18.9.2/24 dev eth0\nlink set eth0 up\n\
         neigh replace 198.18.9.1 lladdr 02:00:00:00:09:01 dev eth0 nud permanent",
    )
    .expect("pod");
    (node, pod)
}

/// Datagrams from the pod to the node of [`node_with_pod`], one at a time.
pub struct Datagrams {
    from: UdpSocket,
    to: UdpSocket,
}

impl Datagrams {
    pub fn new(node: &Netns, pod: &Netns) -> Self {
        let bind = |netns: &Netns, address: &str| {
            let socket = netns.run_in(|| UdpSocket::bind(address)).expect("enter");
            socket.expect("bind")
        };
        let (from, to) = (bind(pod, "198.18.9.2:0"), bind(node, "198.18.9.1:5000"));
        to.set_read_timeout(Some(LIMIT)).expect("a limit");
        from.connect("198.18.9.1:5000").expect("connect");
        Self { from, to }
    }

    /// Sends one and waits until it has arrived, unaltered.
    pub fn send(&self, number: u64) {
        self.from.send(&number.to_be_bytes()).expect("send");
        let mut received = [0; 16];
        let length = self.to.recv(&mut received).expect("what was sent arrives");
        assert_eq!(received[..length], number.to_be_bytes());
    }
}
