//! Probes to a neighbour with another clock. In an emulated machine (`cargo xtask test --kernel`) the
//! clock really is off: this test sets it, and the neighbour is the machine outside. Anywhere else
//! nobody's clock is set, and the neighbour has the same one.
//!
//! The truth comes by another way: packets of user space to a program that tells the time. They
//! bound the offset, too, more loosely. What the test sets is known to the nanosecond.

use std::{
    env, fs, io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lpm_agent::active::{
    clock::{monotonic, real},
    offset::Bounds,
    plan::{Plan, Train},
    report::{Report, TrainEnd, Void},
    schedule::when::Rhythm,
    sender::Sender,
};
use nix::unistd::pipe;

use crate::support::{kernel::process::lpm, turn};

const MS: i64 = 1_000_000;

/// Trains of each scene.
const TRAINS: u32 = 25;

/// The two programs of a neighbour.
struct Neighbour {
    reflector: SocketAddr,
    times: SocketAddr,
    /// Programs of this machine, if it is its own neighbour.
    own: Option<std::process::Child>,
}

impl Neighbour {
    /// The machine outside, or this one.
    fn find() -> Self {
        if let Ok(address) = env::var("LPM_GUEST_PEER") {
            // This test sets the clock: of a guest, and of no other machine.
            let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
            assert_eq!(host.trim(), "lpm-guest", "LPM_GUEST_PEER is for guests");
            let at = |port| SocketAddr::new(address.parse().expect("an address"), port);
            return Self {
                reflector: at(8620),
                times: at(8621),
                own: None,
            };
        }
        let times = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let address = times.local_addr().expect("an address");
        thread::spawn(move || {
            let mut packet = [0; 8];
            while let Ok((_, sender)) = times.recv_from(&mut packet) {
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .expect("after 1970");
                let now = i64::try_from(now.as_nanos()).expect("before 2262");
                let _ = times.send_to(&now.to_be_bytes(), sender);
            }
        });
        // A port that was free just now.
        let port = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let reflector = port.expect("a port");
        let mut command = lpm();
        command.args([
            "reflect",
            "--listen",
            &reflector.to_string(),
            "--rate",
            "100000",
        ]);
        Self {
            reflector,
            times: address,
            own: Some(command.spawn().expect("start lpm reflect")),
        }
    }

    /// How far ahead the neighbour's clock is, as 100 packets of user space bound it. They may not
    /// span a setting.
    fn ahead(&self) -> Bounds {
        let any = if self.times.ip().is_loopback() {
            "127.0.0.1:0"
        } else {
            "0.0.0.0:0"
        };
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.connect(self.times).expect("connect");
        let limit = Duration::from_secs(1);
        socket.set_read_timeout(Some(limit)).expect("a timeout");
        let (mut ahead, mut answers) = (None::<Bounds>, 0);
        for _ in 0..200 {
            let before = real();
            socket.send(&[0]).expect("sent");
            let mut answer = [0; 8];
            if socket.recv(&mut answer).is_err() {
                continue;
            }
            let (after, there) = (real(), i64::from_be_bytes(answer));
            let bounds = Bounds {
                lower: there - after,
                upper: there - before,
            };
            // The clocks drift apart by some hundred ns meanwhile, far less than a round trip.
            ahead = Some(ahead.map_or(bounds, |ahead| ahead.meet(bounds).unwrap_or(bounds)));
            answers += 1;
            if answers == 100 {
                break;
            }
        }
        ahead.expect("an answer of the neighbour")
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        if let Some(own) = &mut self.own {
            let _ = own.kill();
            let _ = own.wait();
        }
    }
}

/// Changes the clock of this machine, which is emulated.
fn adjust(edit: impl FnOnce(&mut libc::timex)) {
    // SAFETY: all bits zero are a valid `timex`.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    edit(&mut timex);
    // SAFETY: the pointer is to a whole `timex`, which outlives the call.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    assert!(state >= 0, "adjtimex: {}", io::Error::last_os_error());
}

/// Sets this machine's clock by so many nanoseconds.
fn set_by(by: i64) {
    adjust(|timex| {
        timex.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
        timex.time.tv_sec = by.div_euclid(1_000_000_000);
        timex.time.tv_usec = by.rem_euclid(1_000_000_000);
    });
}

/// What trains told.
#[derive(Debug, Default)]
struct Told {
    ends: Vec<TrainEnd>,
    answered: u64,
    void: u64,
    impossible: u64,
    restarts: u64,
}

/// Sends trains. `between` is called behind each one.
fn send(neighbour: &Neighbour, mut between: impl FnMut(u32)) -> Told {
    let plan = Plan {
        target: neighbour.reflector,
        from: None,
        interface: None,
        ports: None,
        count: Some(TRAINS),
        interval: Duration::from_millis(60),
        rhythm: Rhythm::Even,
        train: Train::default(),
        size: 0,
        dscp: 0,
        ecn: 0,
        timeout: Duration::from_secs(1),
        session: 7,
        key: None,
    };
    let mut sender = Sender::open(plan).expect("a sender");
    let (readable, _end) = pipe().expect("a pipe");
    let mut told = Told::default();
    let result = sender.run(&readable.as_fd(), |report| {
        match report {
            Report::Answered(answered) => match answered.stamps {
                Ok(_) => told.answered += 1,
                Err(Void::Clock) => told.void += 1,
                Err(Void::Impossible) => told.impossible += 1,
            },
            Report::Restarted(_) => told.restarts += 1,
            Report::Train(end) => {
                told.ends.push(end);
                between(end.train);
            }
            _ => {}
        }
        Ok(())
    });
    result.expect("the sender's socket");
    told
}

/// Bounds that may be as much wider as the clocks drift apart in a second or two at the most that is
/// allowed.
fn widened(bounds: Bounds, by: i64) -> Bounds {
    Bounds {
        lower: bounds.lower - by,
        upper: bounds.upper + by,
    }
}

/// Holds the last train of a scene against the other way, before and behind it.
fn check(name: &str, neighbour: &Neighbour, told: &Told) -> Bounds {
    let begun = monotonic();
    let truth = neighbour.ahead();
    let passed = monotonic() - begun + 100 * MS;
    let truth = widened(truth, passed / 1_000);
    let end = told.ends.last().expect("a train");
    let known = end.offset.expect("bounds");
    eprintln!(
        "{name}: the neighbour is {}..{} us ahead by another way, {}..{} us by {} trains ({} \
         packets, {} void, {} impossible, {} windows begun anew); best {} us, {}",
        truth.lower / 1_000,
        truth.upper / 1_000,
        known.bounds.lower / 1_000,
        known.bounds.upper / 1_000,
        told.ends.len(),
        told.answered,
        told.void,
        told.impossible,
        told.restarts,
        known.estimate.offset / 1_000,
        known.estimate.basis.as_str()
    );
    assert!(known.bounds.meet(truth).is_some(), "{name}");
    assert_eq!(told.impossible, 0, "{name}");
    known.bounds
}

#[test]
fn the_bounds_hold_to_a_machine_with_another_clock() {
    turn::take();
    let neighbour = Neighbour::find();
    // The reflector listens once it answers.
    let begun = monotonic();
    let told = loop {
        let told = send(&neighbour, |_| {});
        if told.ends.last().is_some_and(|end| end.offset.is_some()) {
            break told;
        }
        assert!(monotonic() - begun < 60_000 * MS, "no answer: {told:?}");
    };
    let as_it_is = check("as it is", &neighbour, &told);
    if neighbour.own.is_some() {
        assert!(as_it_is.contains(0), "one clock: {as_it_is:?}");
        return;
    }
    // The clock goes forward, so the neighbour is behind by as much.
    set_by(100 * MS);
    let told = send(&neighbour, |_| {});
    let off = check("set forward by 100 ms", &neighbour, &told);
    let back = Bounds {
        lower: off.lower + 100 * MS,
        upper: off.upper + 100 * MS,
    };
    // Over the seconds between, a clock that nobody steers may have gained.
    assert!(
        widened(back, 10 * MS).meet(as_it_is).is_some(),
        "{off:?} {as_it_is:?}"
    );

    // It claims to be right to 50 us, and is not.
    adjust(|timex| {
        timex.modes = libc::ADJ_STATUS | libc::ADJ_MAXERROR | libc::ADJ_ESTERROR;
        timex.maxerror = 50;
    });
    let told = send(&neighbour, |_| {});
    check("it claims 50 us", &neighbour, &told);
    let claim = told.ends.last().and_then(|end| end.claims.here);
    eprintln!("claimed here: {claim:?} ns");
    assert!(claim.is_some(), "the kernel's claim");

    // Tuned by 200 ppm.
    adjust(|timex| {
        timex.modes = libc::ADJ_FREQUENCY;
        timex.freq = 200 << 16;
    });
    let told = send(&neighbour, |_| {});
    check("tuned by 200 ppm", &neighbour, &told);
    adjust(|timex| timex.modes = libc::ADJ_FREQUENCY);

    // Set in mid-train, again and again.
    let mut sets = 0;
    let told = send(&neighbour, |train| {
        if train % 3 == 0 && train + 2 < TRAINS {
            sets += 1;
            let by = if train % 2 == 0 { -30 * MS } else { 70 * MS };
            thread::spawn(move || {
                // Somewhere in the next train.
                thread::sleep(Duration::from_millis(40 + u64::from(train)));
                set_by(by);
            });
        }
    });
    check("set in mid-train", &neighbour, &told);
    assert!(told.restarts >= sets / 2, "{sets} settings: {told:?}");
}
