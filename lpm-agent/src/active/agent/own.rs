//! What the agent counts of its own probing, over all targets: whether it probes at all.

use std::{collections::BTreeMap, time::SystemTime};

use nix::errno::Errno;

use crate::active::report::Report;

/// What the agent has done so far.
#[derive(Clone, Debug, Default)]
pub struct OwnProbing {
    /// Probes whose fate is known at least for now: answered, unanswered until the timeout, or refused.
    pub sent: u64,
    /// Probes that were refused, by cause.
    pub errors: BTreeMap<&'static str, u64>,
    /// When the last train ended, answered or not. None: none has ended.
    pub last_train: Option<SystemTime>,
}

impl OwnProbing {
    /// Counts what a report says of the agent itself.
    pub(super) fn note(&mut self, report: &Report) {
        match report {
            Report::Answered(_) | Report::Lost { .. } => self.sent += 1,
            Report::Unreachable { error, .. } => {
                self.sent += 1;
                *self.errors.entry(cause(*error)).or_default() += 1;
            }
            Report::Train(_) => self.last_train = Some(SystemTime::now()),
            // Of a probe that was counted, or of none.
            Report::Late { .. }
            | Report::Duplicate { .. }
            | Report::Numbered { .. }
            | Report::Restarted(_) => {}
        }
    }
}

/// Why a probe was refused, by the error that the kernel gives for an ICMP message (ip(7), and
/// `icmp_err_convert` in `net/ipv4/icmp.c`) or for sending.
fn cause(error: Errno) -> &'static str {
    match error {
        Errno::ECONNREFUSED => "port",
        Errno::EHOSTUNREACH | Errno::EHOSTDOWN => "host",
        Errno::ENETUNREACH => "network",
        Errno::EACCES | Errno::EPERM => "prohibited",
        Errno::EMSGSIZE => "too_big",
        Errno::ENOBUFS | Errno::ENOMEM | Errno::EAGAIN => "no_buffers",
        Errno::ENODEV | Errno::ENXIO | Errno::ENETDOWN | Errno::EADDRNOTAVAIL => "interface",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_probe_is_counted_once() {
        let mut own = OwnProbing::default();
        let refused = |error| Report::Unreachable { probe: 0, error };
        own.note(&refused(Errno::ECONNREFUSED));
        own.note(&refused(Errno::ECONNREFUSED));
        own.note(&refused(Errno::EPERM));
        own.note(&Report::Lost {
            probe: 3,
            sequence: 3,
        });
        // They were counted as lost, and as answered.
        own.note(&Report::Late {
            probe: 3,
            dwell: None,
        });
        own.note(&Report::Duplicate { probe: 4 });
        assert_eq!(own.sent, 4);
        assert_eq!(own.errors, [("port", 2), ("prohibited", 1)].into());
        assert_eq!(own.last_train, None);
    }
}
