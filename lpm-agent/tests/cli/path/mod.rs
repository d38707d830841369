//! `lpm probe --mtu` and `lpm probe --hops`, along lines of routers. Neither loads a kernel program.

mod hops;
mod line;
mod mtu;
