//! The steps with queries and their answers (ICMP echo, DNS): reading them from
//! a packet one after the other, and matching each.

use crate::{
    bytes::Bytes,
    counter::Counter,
    env::{Claims, Env},
    hash::Seeds,
    layout::Method,
    packet::{Direction, Meta},
    parse::{Network, Packet},
    query::{self, Ledger, Queries, Query, Rest, Role},
    vlan::{self, Pairs},
};

/// Second step for protocols other than TCP: reads the packet's first query or
/// answer. A `Role::Neither` in the result means that nothing in the packet can
/// be measured, which is counted.
#[inline(always)]
pub fn datagram<B: Bytes, E: Env>(
    bytes: &B,
    meta: &Meta,
    network: &Network,
    direction: Direction,
    env: &E,
) -> (Query, Rest) {
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
pub fn message<B, S, T, E>(
    bytes: &B,
    packet: &Packet,
    (ifindex, direction): (u32, Direction),
    seeds: &S,
    table: &T,
    env: &E,
) -> (Query, Rest)
where
    B: Bytes,
    S: Seeds,
    T: Queries,
    E: Env,
{
    if !env.methods().has(Method::Dns) || !query::dns::over_tcp(packet, direction) {
        return (Query::default(), Rest::default());
    }
    let (mut query, mut rest) = query::dns::tcp(packet, direction, ifindex);
    let at = rest.at;
    if query::further(bytes, &mut query, &mut rest, direction).is_ok() {
        return (query, rest);
    }
    // The segment may begin with a message whose length came before.
    let name = query::dns::announced_as(&query, &rest, at, direction);
    if let Some(length) = query::announced(name.fingerprint(seeds), table, env)
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
pub fn queries<B: Bytes, E: Env>(
    bytes: &B,
    (mut query, mut rest): (Query, Rest),
    direction: Direction,
    env: &E,
    mut take: impl FnMut(&mut Query),
) {
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
pub fn take_query<S, T, E>(query: &Query, seeds: &S, table: &T, env: &E)
where
    S: Seeds,
    T: Queries + Claims + Ledger + Pairs,
    E: Env,
{
    let mut fingerprint = query.fingerprint(seeds);
    let tagged = vlan::query::concerns(query, table);
    match query.head.role {
        Role::Neither => {}
        Role::Asks => {
            if tagged {
                vlan::query::ask(query, seeds, table);
            }
            query::ask(query, table.row(query), fingerprint, table, env);
        }
        Role::Announces => query::ask(query, 0, fingerprint, table, env),
        Role::Answers => {
            let mut query = *query;
            if tagged {
                let asked = vlan::query::answer(&query, fingerprint, seeds, table);
                asked.counter.inspect(|counter| env.count(*counter, 1));
                (fingerprint, query.key.segment) = (asked.fingerprint, asked.segment);
            }
            let sample = query::answer(&query, fingerprint, table, env);
            if sample.found {
                table.answered(&query, &sample);
            }
        }
    }
}
