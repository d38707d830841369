//! The packet counters of interfaces. Without an agent nothing else shows that a veth carries one
//! direction only (`lpm check`). With an agent that sees no packets, they show that it is blind.

use std::{collections::HashMap, fs, io};

/// Fewest packets for a remark.
const ENOUGH: u64 = 100;

/// Packets that an interface has received and sent.
pub(super) type Packets = [u64; 2];

/// The packet counters of the calling thread's network namespace, by name of the interface.
pub(super) fn packets() -> io::Result<HashMap<String, Packets>> {
    // The file is the thread's, not the process's: another thread may be in another namespace.
    Ok(parse(&fs::read_to_string("/proc/thread-self/net/dev")?))
}

/// Parses `/proc/net/dev`: two lines of titles, then a line per interface. A line has the name,
/// eight numbers of received traffic, and eight of sent traffic. Packets are the second number of
/// each.
fn parse(table: &str) -> HashMap<String, Packets> {
    let row = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let mut numbers = numbers.split_whitespace();
        let received = numbers.nth(1)?.parse().ok()?;
        let sent = numbers.nth(7)?.parse().ok()?;
        Some((name.trim().to_owned(), [received, sent]))
    };
    table.lines().filter_map(row).collect()
}

/// A remark on a pod's veth, if next to nothing went to its pod. A pod that only sends datagrams
/// looks the same.
pub(super) fn remark([received, sent]: Packets) -> Option<String> {
    (received >= ENOUGH && sent < received / 20).then(|| {
        format!(
            "; {received} packets came from its pod, {sent} went to the pod: if the CNI redirects \
             packets past it, the agent will watch it as node"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_kernel() {
        let table = "Inter-|   Receive                 |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
             wire0:  106560    1060    0    0    0     0          0         0  3835330    2879    0    0    0     0       0          0\n\
             vethclient: 3716026    1075    0    0    0     0          0         0      984      10    0    0    0     0       0          0\n";
        let packets = parse(table);
        assert_eq!(packets.len(), 2);
        assert_eq!(packets["vethclient"], [1075, 10]);
        assert_eq!(remark(packets["wire0"]), None);
        let said = remark(packets["vethclient"]).expect("one direction");
        assert!(said.contains("1075") && said.contains("10 went"), "{said}");
        assert_eq!(remark([99, 0]), None, "too few");
    }
}
