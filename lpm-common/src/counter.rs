//! Counters beside those of the flows: coverage, events and losses.

/// Number of [`Counter`]s.
pub const COUNTERS: usize = Counter::ALL.len();

macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident => $metric:literal, $label:literal;)+) => {
        /// One counter; the number is its place in the value of map
        /// `COUNTERS` (`[u64; COUNTERS]` per CPU).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Counter { $($(#[$doc])+ $name,)+ }

        impl Counter {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Name of the metric that shows this counter, without prefix and
            /// suffix, and the value of its label (empty: none).
            #[must_use]
            pub const fn metric(self) -> (&'static str, &'static str) {
                match self { $(Self::$name => ($metric, $label),)+ }
            }
        }
    };
}

counters! {
    /// A flow whose SYN was seen.
    FlowOpened => "flow_events", "opened";
    /// A flow first seen in the middle of its life.
    FlowJoined => "flow_events", "joined";
    /// A SYN on a flow that was there already: the ports are used again.
    FlowReopened => "flow_events", "reopened";
    /// Both sides sent FIN.
    FlowFinished => "flow_events", "finished";
    /// A RST ended the flow.
    FlowReset => "flow_events", "reset";
    /// TSvals went back for longer than reordering explains: a new start.
    FlowResynced => "flow_events", "resynced";
    /// A closed flow gave its entry to a new one.
    EvictedClosed => "flow_events", "evicted_closed";
    /// A flow with packets in one direction only, or whose handshake had not
    /// ended, gave up its entry.
    EvictedHalfOpen => "flow_events", "evicted_half_open";
    /// An idle flow gave up its entry.
    EvictedIdle => "flow_events", "evicted_idle";
    /// An active flow gave up its entry because its interface held more than
    /// its share.
    EvictedShare => "flow_events", "evicted_share";
    /// Packets of flows whose entries were given up.
    EvictedPackets => "evicted_packets", "";
    /// Bytes of flows whose entries were given up.
    EvictedBytes => "evicted_bytes", "";
    /// TCP packets that carry no timestamp option.
    NoTimestamp => "packets_without_timestamp", "";
    /// TSvals that were given a slot.
    Stamped => "stamps", "stored";
    /// TSvals not stamped because all slots were taken.
    StampSlotsFull => "stamps", "slots_full";
    /// TSvals not stamped to spread the stamps over the round trip.
    StampSpaced => "stamps", "spaced";
    /// Stamps that a later echo passed.
    StampPassed => "stamps", "passed";
    /// Stamps whose echo could answer another packet as well: sent again, lost
    /// or late segments, repeated acknowledgments (Karn's rule).
    StampVoided => "stamps", "voided";
    /// Samples of the method `seq`.
    SampledSeq => "samples", "seq";
    /// Samples of the method `handshake`.
    SampledHandshake => "samples", "handshake";
    /// Requests whose whole answer was seen.
    SampledRequest => "samples", "request";
    /// Requests that began before all of the last answer was acknowledged: the
    /// ends do not take turns.
    RequestOverlapping => "request_events", "overlapping";
    /// Requests that went on after all of them was acknowledged and before any
    /// answer: they may be one request or two. And requests whose answer went
    /// on after a second of silence: it may be the answer's end or something
    /// else.
    RequestInterrupted => "request_events", "interrupted";
    /// Requests whose connection was reset before the answer was acknowledged.
    RequestReset => "request_events", "reset";
    /// Segments older than others before them, by their TSvals: late, not
    /// sent again.
    Reordered => "reordered_packets", "";
    /// Stamps too old for the 32-bit time.
    StampExpired => "stamps", "expired";
    /// New echoes that found no stamp (also those of TSvals never stamped).
    UnmatchedEcho => "unmatched_echoes", "";
    /// Echoes of a TSval that the other side never sent.
    ForeignEcho => "foreign_echoes", "";
    /// Flows measured as one although their directions bear different VLAN ids,
    /// or only one direction bears any.
    VlanFlowJoined => "vlan_joins", "flow/joined";
    /// Flows not, or no longer, measured as one across VLANs: the other
    /// direction could be in more than one VLAN.
    VlanFlowAmbiguous => "vlan_joins", "flow/ambiguous";
    /// Answers that came in another VLAN than their queries, or in none.
    VlanQuestionJoined => "vlan_joins", "question/joined";
    /// Answers not matched across VLANs: the query was sent in more than one
    /// VLAN.
    VlanQuestionAmbiguous => "vlan_joins", "question/ambiguous";
    /// New flows without an entry: all entries of the set are in use.
    FlowsFull => "map_drops", "flows/full";
    /// Packets without an entry: another CPU was making one in the same set.
    FlowsBusy => "map_drops", "flows/busy";
    /// Samples counted in the overflow row (flows) or in no row (queries): all
    /// rows are in use.
    RowsFull => "map_drops", "rows/full";
    /// Samples counted in the overflow row, or in no row: another CPU was
    /// taking a row at that moment.
    RowsBusy => "map_drops", "rows/busy";
    /// Samples that a watcher missed.
    SamplesFull => "map_drops", "samples/full";
    /// Queries without an entry: all entries of the set wait for their answers.
    QueriesFull => "map_drops", "queries/full";
    /// Queries that gave up their entries before an answer: their interface and
    /// method held more than their share.
    QueriesShare => "map_drops", "queries/share";
    /// Queries without an entry: another CPU was making one in the same set.
    QueriesBusy => "map_drops", "queries/busy";
    /// Echo requests sent again before their answer.
    IcmpRepeated => "query_events", "icmp/repeated";
    /// First echo replies to requests that were sent again: no sample.
    IcmpAmbiguous => "query_events", "icmp/ambiguous";
    /// Further echo replies.
    IcmpDuplicate => "query_events", "icmp/duplicate";
    /// Echo replies after the query's timeout.
    IcmpLate => "query_events", "icmp/late";
    /// Echo replies that match no echo request.
    IcmpUnasked => "query_events", "icmp/unasked";
    /// DNS queries sent again, with the same ports and id, before the answer.
    DnsRepeated => "query_events", "dns/repeated";
    /// First answers to queries that were sent again: no sample.
    DnsAmbiguous => "query_events", "dns/ambiguous";
    /// Further answers to a query that was answered already.
    DnsDuplicate => "query_events", "dns/duplicate";
    /// Answers after the query's timeout.
    DnsLate => "query_events", "dns/late";
    /// Answers that match no query.
    DnsUnasked => "query_events", "dns/unasked";
    /// Answers that were cut short (TC): the query may be asked again over TCP.
    DnsTruncated => "query_events", "dns/truncated";
    /// Packets of several messages with more than those that were read.
    DnsFurther => "query_events", "dns/further";
    /// UDP messages shorter than a header, or queries without a question.
    DnsMalformed => "query_events", "dns/malformed";
    /// Messages that are no standard query (opcode).
    DnsOpcode => "query_events", "dns/opcode";
    /// TCP segments of port 53 that do not begin with a message.
    DnsNoMessage => "query_events", "dns/no_message";
    /// Packets that are not IP.
    SkippedNotIp => "parse_skipped", "not_ip";
    /// IP packets that are neither TCP nor what another method measures.
    SkippedNotTcp => "parse_skipped", "not_tcp";
    /// Fragments, except the first one of an ICMP echo or DNS message, which is
    /// read. A TCP segment's first fragment has the header, but not the
    /// segment's whole length, so it counts here too.
    SkippedFragment => "parse_skipped", "fragment";
    /// Packets that end before their headers do.
    SkippedTruncated => "parse_skipped", "truncated";
    /// Packets whose length fields contradict each other.
    SkippedMalformed => "parse_skipped", "malformed";
    /// Packets with more VLAN tags or extension headers than the parser
    /// follows.
    SkippedTooDeep => "parse_skipped", "too_deep";
    /// Whole tunnel packets that the kernel put together (UDP GRO): only the
    /// first one's headers could be read.
    SkippedMerged => "parse_skipped", "merged";
    /// TCP packets whose sequence or acknowledgment number the flow cannot have
    /// sent: forged, or of another connection with the same ends.
    SkippedOutOfWindow => "parse_skipped", "out_of_window";
}

impl Counter {
    /// Whether the counter counts packets that are not parsed.
    #[inline(always)]
    #[must_use]
    pub const fn is_of_skipped(self) -> bool {
        self as u32 >= Self::DnsFurther as u32 && self as u32 <= Self::SkippedMerged as u32
    }

    /// The counter of a method's samples (`method` is the method's number).
    /// Samples of `ts` have none: they are what the histograms hold beyond the
    /// other methods' counters.
    #[inline(always)]
    #[must_use]
    pub const fn sampled(method: u8) -> Option<Self> {
        match method {
            2 => Some(Self::SampledSeq),
            3 => Some(Self::SampledHandshake),
            6 => Some(Self::SampledRequest),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places() {
        for (place, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, place);
        }
    }
}
