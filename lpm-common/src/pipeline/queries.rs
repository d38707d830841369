//! The steps with queries and their answers (ICMP echo, DNS): reading them from
//! a packet one after the other, and matching each.

use super::{Host, PacketContext};
use crate::{
    bytes::Bytes,
    counter::Counter,
    env::Env,
    layout::Method,
    packet::Direction,
    parse::{Network, Packet},
    query::{self, Query, QueryRecorder, Rest, Role},
    vlan,
};

/// Second step for protocols other than TCP: reads the packet's first query or
/// answer. A `Role::Neither` in the result means that nothing in the packet can
/// be measured, which is counted.
#[inline(always)]
pub fn datagram<B: Bytes, H: Host, E: Env>(
    bytes: &B,
    network: &Network,
    cx: &PacketContext<'_, H, E>,
) -> (Query, Rest) {
    let (meta, direction, env) = (&cx.meta, cx.direction, cx.env);
    let size = if meta.segments > 1 {
        env.segment_size()
    } else {
        0
    };
    match query::datagram(bytes, network, direction, meta.ifindex, size) {
        Ok((mut query, mut rest)) => {
            further(bytes, &mut query, &mut rest, direction, env);
            (query, rest)
        }
        Err(counter) => {
            env.count(counter, u64::from(meta.segments));
            (Query::default(), Rest::default())
        }
    }
}

/// Reads the packet's next query or answer. A `Role::Neither` in `query` means
/// that the message cannot be measured, which is counted. False: the packet has
/// no other message.
#[inline(always)]
pub fn further<B: Bytes, E: Env>(
    bytes: &B,
    query: &mut Query,
    rest: &mut Rest,
    direction: Direction,
    env: &E,
) -> bool {
    let further = query::further(bytes, query, rest, direction);
    further.unwrap_or_else(|counter| {
        // In a TCP stream, what is not read goes on in the next segment.
        let counter = if let Counter::DnsNoMessage = counter {
            Counter::DnsFurther
        } else {
            counter
        };
        env.count(counter, 1);
        true
    })
}

/// Reads the first query or answer of a TCP packet, after the second step. A
/// `Role::Neither` in the result means that there is none.
#[inline(always)]
pub fn message<B: Bytes, H: Host, E: Env>(
    bytes: &B,
    packet: &Packet,
    cx: &PacketContext<'_, H, E>,
) -> (Query, Rest) {
    let (direction, host, env) = (cx.direction, cx.host, cx.env);
    if !env.methods().has(Method::Dns) || !query::dns::over_tcp(packet, direction) {
        return (Query::default(), Rest::default());
    }
    let (mut query, mut rest) = query::dns::tcp(packet, direction, cx.meta.ifindex);
    let at = rest.at;
    if query::further(bytes, &mut query, &mut rest, direction).is_ok() {
        return (query, rest);
    }
    // The segment may begin with a message whose length came before.
    let name = query::dns::announced_as(&query, &rest, at, direction);
    if let Some(length) = query::announced(name.fingerprint(host), host, env)
        && let Ok(head) = query::dns::announced(bytes, &mut rest, (at, length), direction)
    {
        query.head = head;
        return (query, rest);
    }
    env.count(Counter::DnsNoMessage, 1);
    (Query::default(), Rest::default())
}

/// Takes the messages of a packet whose first message was read. Host code calls
/// this. At most [`query::MOST`] messages are taken.
pub fn queries<B: Bytes, H, E: Env>(
    bytes: &B,
    (mut query, mut rest): (Query, Rest),
    cx: &PacketContext<'_, H, E>,
    mut take: impl FnMut(&mut Query),
) {
    let (direction, env) = (cx.direction, cx.env);
    take(&mut query);
    for _ in 1..query::MOST {
        if !further(bytes, &mut query, &mut rest, direction, env) {
            return;
        }
        take(&mut query);
    }
    if rest.at < rest.end {
        env.count(Counter::DnsFurther, 1);
    }
}

/// Takes a query or an answer: the last step. Host code calls this.
pub fn take_query<H: Host + QueryRecorder, E: Env>(query: &Query, host: &H, env: &E) {
    let mut fingerprint = query.fingerprint(host);
    let tagged = vlan::query::concerns(query, host);
    match query.head.role {
        Role::Neither => {}
        Role::Asks => {
            if tagged {
                vlan::query::ask(query, host);
            }
            query::ask(query, host.row(query), fingerprint, host, env);
        }
        Role::Announces => query::ask(query, 0, fingerprint, host, env),
        Role::Answers => {
            let mut query = *query;
            if tagged {
                let asked = vlan::query::answer(&query, fingerprint, host);
                asked.counter.inspect(|counter| env.count(*counter, 1));
                (fingerprint, query.key.segment) = (asked.fingerprint, asked.segment);
            }
            let sample = query::answer(&query, fingerprint, host, env);
            if sample.found {
                host.answered(&query, &sample);
            }
        }
    }
}
