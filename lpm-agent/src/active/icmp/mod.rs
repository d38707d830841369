//! ICMP and `ICMPv6` echo (RFC 792, RFC 4443 section 4): the round trip to any machine, without a
//! reflector.
//!
//! The target's kernel answers, and tells none of its times. So there is one figure, from the kernel's
//! time of sending (T1) to its time of receiving (T4), and the target's own part is in it. Each way
//! alone cannot be told, neither its delay nor its loss.
//!
//! [`packet`] has the bytes, [`socket`] the two kinds of sockets that may send them, [`sender`] a
//! session, and [`summary`] its figures.

pub(super) mod control;
pub mod packet;
pub mod sender;
pub mod socket;
pub mod summary;
