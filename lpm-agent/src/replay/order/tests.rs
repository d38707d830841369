use super::super::digest::{KEPT, Needed, Repeats};
use super::*;

const MS: u64 = 1_000_000;

fn of(direction: u64) -> Digest {
    Digest {
        direction,
        conversation: 1,
        way: 0,
        packet: 0,
        id: 0,
        repeats: Repeats::ByTimer,
        needed: Needed::Headers,
    }
}

/// Times in the order in which packets of these directions and times are released.
fn sorted(packets: &[(u64, u64)]) -> (Vec<u64>, Disorder) {
    let mut order = Order::new(WINDOW_NS);
    let mut times = Vec::new();
    for (direction, at) in packets {
        order.push(0, &view(&[]), Some(of(*direction)), 10_000 * MS + at * MS);
        while let Some(held) = order.next(0) {
            times.push(held.time_ns / MS - 10_000);
        }
    }
    let rest = order.drain().into_iter();
    times.extend(rest.map(|(_, held)| held.time_ns / MS - 10_000));
    (times, order.disorder)
}

fn view(data: &[u8]) -> View<'_> {
    View {
        link: Link::Ip,
        data,
        len: 60,
        segment: 0,
        ifindex: 0,
    }
}

fn in_order(times: &[u64]) -> bool {
    times.is_sorted()
}

#[test]
fn queues_written_in_turns_are_put_in_order() {
    for batch in [7, 12, 40, 400, 900] {
        let of = |direction: u64| {
            (0..3_000_u64)
                .step_by(5)
                .map(move |at| (direction, at + direction))
        };
        let mut packets: Vec<_> = of(1).chain(of(2)).chain(of(3)).collect();
        packets.sort_by_key(|(direction, at)| (at / batch, *direction));
        let (times, disorder) = sorted(&packets);
        assert!(in_order(&times) && times.len() == packets.len(), "{batch}");
        assert_eq!(disorder.beyond, 0);
        assert!(disorder.packets > 0, "{batch}");
        assert!(disorder.furthest_ns < batch * MS, "{batch}");
    }
}

#[test]
fn what_is_further_out_of_order_is_said() {
    let packets: Vec<_> = (0..3)
        .flat_map(|i| [(1, i * 2_000), (2, i * 2_000 - i.min(1) * 1_500)])
        .collect();
    let (times, disorder) = sorted(&packets);
    assert_eq!(disorder.beyond, 2);
    assert_eq!(times.len(), packets.len());
}

/// Both directions go on, by a clock that was set back. Packets from before stay before, also
/// where the first packet after it could not decide.
#[test]
fn a_clock_that_was_set_is_no_disorder() {
    for back in [40, 100, 900, 5_000] {
        let before = (0..200).map(|i| (1 + i % 2, 6_000 + i * 10));
        let quiet = [(9, 8_000 - back)];
        let after = (1..200).map(|i| (1 + i % 2, 8_000 - back + i * 10));
        let packets: Vec<_> = before.chain(quiet).chain(after).collect();
        let (times, disorder) = sorted(&packets);
        let expected: Vec<_> = packets.iter().map(|(_, at)| *at).collect();
        assert_eq!(times, expected, "{back}");
        assert_eq!(disorder.beyond, 0, "{back}: it was no disorder");
    }
}

#[test]
fn memory_is_bounded() {
    let data = vec![0; 65_535];
    let digests = [Needed::Headers, Needed::All].map(|needed| Digest { needed, ..of(1) });
    for (size, digest) in [0, 65_535].into_iter().zip(digests) {
        let mut order = Order::new(WINDOW_NS);
        for i in 0..100_000 {
            order.push(i % 3, &view(&data[..size]), Some(digest), 10_000 * MS);
            while order.is_full() && order.next(i % 3).is_some() {}
            if order.is_full() {
                order.drain();
            }
            assert!(order.packets <= MOST_PACKETS && order.bytes <= MOST_BYTES);
        }
    }
}

#[test]
fn packets_come_out_as_they_went_in() {
    let data: Vec<u8> = (0..=250).cycle().take(2_000).collect();
    let mut order = Order::new(WINDOW_NS);
    let seen = View {
        link: Link::Ethernet,
        data: &data,
        len: 9_000,
        segment: 5,
        ifindex: 7,
    };
    order.push(0, &seen, None, MS);
    order.push(2, &view(&[1]), None, 0);
    let needed = Needed::All;
    order.push(0, &seen, Some(Digest { needed, ..of(1) }), 2 * MS);
    let out = order.drain();
    let [(2, first), (0, second), (0, third)] = out.as_slice() else {
        panic!("{out:?}");
    };
    assert_eq!(first.view().data, [1]);
    let kept = View {
        data: &data[..KEPT],
        ..seen
    };
    assert_eq!((second.view(), second.time_ns), (kept, MS));
    assert_eq!((third.view(), third.time_ns), (seen, 2 * MS));
}
