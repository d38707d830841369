//! `lpm probe` and `lpm reflect` beside others that speak STAMP, TWAMP-Light and ICMP, and what a
//! reflector does with packets that are not as they should be. None loads a kernel program.

mod ends;
mod icmp;
mod light;
mod refusals;
mod scapy;
mod stamp_suite;
