//! Who sits on an echo: delayed ACKs are `lone`, thinking is `data`, and
//! `prompt` stays at the truth whatever they do.

use std::{
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    path::Path,
    thread,
    time::Duration,
};

use lpm_testbed::{
    testbed::{Netns, Pair, PairConfig},
    traffic::{
        Background, Limit, PORT, PacedConfig, PacedSize, RequestConfig, Server, paced, requests,
    },
    truth::{Echo, Leg, Method, Monitor, Sample, Spread, WireTruth},
};

use crate::support::kernel::kernel_is_usable;

/// One way: long enough to be told from what a busy machine adds.
const DELAY: Duration = Duration::from_millis(10);
const RTT_NS: f64 = 20e6;
/// Port of a receiver that delays its ACKs.
const LAZY_PORT: u16 = 5310;
/// Linux waits at least this long before it acknowledges a lone segment.
const TIMER_NS: f64 = 40e6;

struct Scene {
    monitor: Monitor,
    _server: Server,
    pair: Pair,
}

impl Scene {
    fn new() -> Self {
        let pair = Pair::new(&PairConfig::default()).expect("the testbed");
        pair.set_delay(DELAY);
        let server = Server::start(&pair.server, PORT).expect("a server");
        let lpm = Path::new(env!("CARGO_BIN_EXE_lpm"));
        let monitor =
            Monitor::start(lpm, &pair.node, &["-i", Pair::POD_INTERFACE]).expect("an agent");
        drop(pair.wire().take_records());
        Self {
            monitor,
            _server: server,
            pair,
        }
    }

    fn target() -> SocketAddr {
        SocketAddr::new(Pair::SERVER[0], PORT)
    }

    fn paced(&self, port: u16, size: PacedSize, milliseconds: u64, count: u64) {
        let config = PacedConfig {
            target: SocketAddr::new(Pair::SERVER[0], port),
            size,
            period: Duration::from_millis(milliseconds),
            limit: Limit::count(count),
        };
        let client = Background::start(&self.pair.client, move |c| paced(&config, c));
        client.expect("a client").join().expect("it ends well");
    }

    fn requests(&self, config: RequestConfig) {
        let client = Background::start(&self.pair.client, move |c| requests(&config, c));
        client.expect("a client").join().expect("it ends well");
    }

    /// The remote leg's samples of each echo; each prompt one was held against
    /// the wire's log.
    fn remote(&self) -> impl Fn(Echo) -> Option<Spread> {
        self.monitor.settle().expect("all samples");
        let mut samples: Vec<Sample> = self.monitor.take_samples();
        // A SYN-ACK is always prompt.
        samples.retain(|sample| sample.method == Method::Ts);
        assert_eq!(self.pair.wire().missed().expect("a count"), 0);
        let wire = WireTruth::new(&self.pair.wire().take_records());
        for sample in samples.iter().filter(|sample| sample.leg == Leg::Remote) {
            let truth = wire.truth(sample);
            assert!(truth.is_some(), "a false sample: {sample:?}");
        }
        move |echo| {
            let fits = |s: &&Sample| s.leg == Leg::Remote && s.echo == echo;
            let times = samples.iter().filter(fits).map(|s| s.rtt_ns);
            let spread = Spread::of_times(times);
            println!("{echo:?}: {spread:?}");
            spread
        }
    }
}

/// `prompt` is at the truth: the wire's delay, and a little of the machine's.
fn at_the_truth(prompt: &Spread) {
    assert!(
        prompt.min >= RTT_NS && prompt.p50 < RTT_NS * 1.25,
        "{prompt:?}"
    );
}

/// A receiver of one connection that delays its ACKs as one that answers often
/// does: Linux acknowledges at once what an application that never answers reads.
struct Lazy(thread::JoinHandle<()>);

impl Lazy {
    fn start(netns: &Netns) -> Self {
        let listen = || TcpListener::bind((Ipv6Addr::UNSPECIFIED, LAZY_PORT));
        let listener = netns.run_in(listen).expect("enter").expect("listen");
        Self(thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut buffer = vec![0; 1 << 16];
            loop {
                delay_acks(&stream);
                if stream.read(&mut buffer).expect("read") == 0 {
                    break;
                }
            }
            // The receipt that the client waits for.
            stream.write_all(&[0; 16]).expect("write");
        }))
    }

    fn join(self) {
        self.0.join().expect("it receives");
    }
}

/// The timer takes this back each time it fires.
fn delay_acks(stream: &TcpStream) {
    let off: libc::c_int = 0;
    // SAFETY: the pointer is to a live number of the size that is given.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_QUICKACK,
            (&raw const off).cast(),
            4,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn delayed_acks_of_small_messages_are_lone() {
    if !kernel_is_usable() {
        return;
    }
    let scene = Scene::new();
    let lazy = Lazy::start(&scene.pair.server);
    // Nobody answers, and the next message comes after the timer.
    scene.paced(LAZY_PORT, PacedSize::Bytes(200), 90, 30);
    lazy.join();
    // Pairs beside them, which any stack acknowledges at once.
    scene.paced(PORT, PacedSize::Segments(4), 25, 60);
    let remote = scene.remote();
    let lone = remote(Echo::Lone).expect("lone messages");
    // When the timer has fired the next one may be acknowledged at once.
    assert!(lone.p90 >= RTT_NS + 0.9 * TIMER_NS, "{lone:?}");
    at_the_truth(&remote(Echo::Prompt).expect("pairs of segments"));
}

#[test]
fn full_segments_far_apart_are_not_prompt() {
    if !kernel_is_usable() {
        return;
    }
    let scene = Scene::new();
    let lazy = Lazy::start(&scene.pair.server);
    // The second full segment comes 12 ms after the first: its ACK is sent at
    // once, but names the first, so the round trip is 12 ms too long.
    scene.paced(LAZY_PORT, PacedSize::Segments(1), 12, 200);
    lazy.join();
    let remote = scene.remote();
    let lone = remote(Echo::Lone).expect("lone segments");
    assert!(lone.p50 >= RTT_NS + 11e6, "{lone:?}");
    if let Some(prompt) = remote(Echo::Prompt) {
        // What the machine bunched together.
        at_the_truth(&prompt);
    }
}

#[test]
fn requests_with_pauses_in_which_the_timer_fires() {
    if !kernel_is_usable() {
        return;
    }
    let scene = Scene::new();
    let _pod = Server::start(&scene.pair.client, PORT).expect("a server in the pod");
    // Asked from beyond the wire: the last answer before a pause waits for an
    // acknowledgement until the timer fires.
    let config = RequestConfig {
        gap: Some((3, Duration::from_millis(150))),
        limit: Limit::count(60),
        ..RequestConfig::new(SocketAddr::new(Pair::CLIENT[0], PORT))
    };
    let far = Background::start(&scene.pair.server, move |c| requests(&config, c));
    far.expect("a client").join().expect("it ends well");
    scene.paced(PORT, PacedSize::Segments(4), 25, 60);
    let remote = scene.remote();
    let lone = remote(Echo::Lone).expect("lone ACKs");
    assert!(lone.max >= RTT_NS + 0.9 * TIMER_NS, "{lone:?}");
    at_the_truth(&remote(Echo::Prompt).expect("pairs of segments"));
}

#[test]
fn thinking_is_data() {
    if !kernel_is_usable() {
        return;
    }
    let scene = Scene::new();
    scene.requests(RequestConfig {
        think: Duration::from_millis(30),
        period: Duration::from_millis(60),
        limit: Limit::count(40),
        ..RequestConfig::new(Scene::target())
    });
    // Requests of several segments: the stack acknowledges them at once, while
    // the server still thinks.
    scene.requests(RequestConfig {
        think: Duration::from_millis(30),
        period: Duration::from_millis(60),
        request: 6000,
        limit: Limit::count(40),
        ..RequestConfig::new(Scene::target())
    });
    let remote = scene.remote();
    let data = remote(Echo::Data).expect("answers");
    assert!(
        data.p50 >= RTT_NS + 29e6,
        "thinking takes its time: {data:?}"
    );
    at_the_truth(&remote(Echo::Prompt).expect("ACKs before the answer"));
}
