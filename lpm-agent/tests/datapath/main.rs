//! The kernel programs, on interfaces and under traffic: where they are attached, what they count and
//! measure, and that nothing else notices them.

mod accuracy;
mod attach;
mod budget;
mod coexistence;
mod delayed_ack;
mod detach;
mod differential;
mod front;
mod handshake;
mod hotplug;
mod icmp_dns;
mod integrity;
mod maps;
mod nat;
mod node_hooks;
mod nonlinear;
mod oracle;
mod ports;
mod presets;
mod redirect_peer;
mod requests;
mod restart;
mod segments;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
mod tables;
mod tunnels;
mod turns;
mod two_cpus;
mod vantages;
mod xdp;
