//! A sample, as the kernel programs send it to watchers.

use core::mem::size_of;

use super::Rcode;

/// Which part of the path a sample covers, seen from the vantage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Leg {
    /// Beyond the vantage: the stamped packet came from the local end.
    Remote = 0,
    /// Towards the pod of this node: the stamped packet went to the local end.
    Local = 1,
}

impl Leg {
    /// The value of the label `leg`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Remote => "remote",
            Self::Local => "local",
        }
    }
}

/// How long the far end may have held the echo back (the design's frozen term).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Echo {
    /// Any stack sends this acknowledgement at once.
    Prompt = 0,
    /// The echo may have waited for the delayed-ACK timer.
    Lone = 1,
    /// The echo is piggybacked on data: it may include the application's think
    /// time.
    Data = 2,
}

impl Echo {
    /// All echo classes, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Prompt, Self::Lone, Self::Data];

    /// The value of the label `echo`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Lone => "lone",
            Self::Data => "data",
        }
    }
}

/// How the sample was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Method {
    /// TCP timestamps (RFC 7323).
    Ts = 1,
    /// TCP sequence and acknowledgment numbers (RFC 9293), with Karn's rule
    /// (RFC 6298 section 3).
    Seq = 2,
    /// SYN to SYN-ACK, and SYN-ACK to ACK (RFC 9293 section 3.5).
    Handshake = 3,
    /// ICMP echo (RFC 792, RFC 4443 section 4).
    Icmp = 4,
    /// DNS query to answer (RFC 1035 section 4).
    Dns = 5,
    /// First byte of a request to last byte of its answer, on a TCP connection
    /// whose ends take turns.
    Request = 6,
}

impl Method {
    /// All methods, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Ts,
        Self::Seq,
        Self::Handshake,
        Self::Icmp,
        Self::Dns,
        Self::Request,
    ];

    /// The method with this number, as stored in a sample.
    #[must_use]
    pub fn from_raw(raw: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|method| *method as u8 == raw)
    }

    /// The value of the label `method`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ts => "ts",
            Self::Seq => "seq",
            Self::Handshake => "handshake",
            Self::Icmp => "icmp",
            Self::Dns => "dns",
            Self::Request => "request",
        }
    }

    /// The method's bit in a set of methods.
    #[inline(always)]
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// The methods that are on: a load-time setting of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Methods(pub u32);

impl Methods {
    /// The methods that are on unless the configuration says otherwise: all
    /// but [`Method::Request`], which makes every packet of a connection cost more.
    pub const DEFAULT: Self = Self(
        Method::Ts.bit()
            | Method::Seq.bit()
            | Method::Handshake.bit()
            | Method::Icmp.bit()
            | Method::Dns.bit(),
    );

    /// Whether the method is on.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, method: Method) -> bool {
        self.0 & method.bit() != 0
    }

    /// Whether packets with timestamps may take the fast path. They may if
    /// [`Method::Ts`] is on and [`Method::Request`] is off: with the latter,
    /// every packet may be the last one of an answer.
    #[inline(always)]
    #[must_use]
    pub const fn allow_fast_path(self) -> bool {
        self.0 & (Method::Ts.bit() | Method::Request.bit()) == Method::Ts.bit()
    }
}

impl FromIterator<Method> for Methods {
    fn from_iter<I: IntoIterator<Item = Method>>(methods: I) -> Self {
        Self(
            methods
                .into_iter()
                .fold(0, |all, method| all | method.bit()),
        )
    }
}

/// One record of the ring buffer `SAMPLES`. `src` to `dst` is the direction
/// of the stamped packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Sample {
    /// `CLOCK_MONOTONIC` of the echo, nanoseconds.
    pub time_ns: u64,
    /// Round trip, nanoseconds; for TCP's methods a multiple of
    /// [`super::UNIT_NS`].
    pub rtt_ns: u64,
    /// Sender of the stamped packet, network byte order, IPv4 mapped.
    pub src: [u32; 4],
    /// Receiver of the stamped packet, network byte order, IPv4 mapped.
    pub dst: [u32; 4],
    /// The number that matched. ICMP: sequence number (high 16 bits) and id.
    /// DNS: the message id. `ts`: the TSval. `seq`, `handshake`: the end of
    /// sequence.
    pub id: u32,
    /// Interface of the vantage.
    pub ifindex: u32,
    /// VLAN ids or VNI as in [`super::FlowCold::segment`].
    pub segment: u32,
    /// Host byte order.
    pub sport: u16,
    /// Host byte order.
    pub dport: u16,
    /// A [`Leg`].
    pub leg: u8,
    /// An [`Echo`] in the low 4 bits; for a DNS answer the response code in the
    /// high 4 bits.
    pub echo: u8,
    /// A [`Method`].
    pub method: u8,
    /// A [`super::Vantage`].
    pub vantage: u8,
    /// VNI of the tunnel around the innermost one, see [`super::tunnel`].
    pub outer_vni: u32,
}

impl Sample {
    /// How long the far end may have held the echo back; None: this version
    /// does not know it.
    #[must_use]
    pub fn echo(&self) -> Option<Echo> {
        let mut all = Echo::ALL.into_iter();
        all.find(|echo| *echo as u8 == self.echo & 0xf)
    }

    /// The response code of a DNS answer; None: the sample is of another
    /// method.
    #[must_use]
    pub fn rcode(&self) -> Option<Rcode> {
        let code = (self.echo >> 4).min(Rcode::Other as u8);
        Rcode::from_raw(code).filter(|_| self.method == Method::Dns as u8)
    }
}

const _: () = assert!(size_of::<Sample>() == 72);
