//! Somebody else's program on the same hook: it counts packets and lets them pass.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd},
};

use aya::maps::{Array, Map, MapData};
use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_insn, bpf_map_type, bpf_prog_type};
use lpm_agent::kernel::Direction;
use lpm_testbed::testbed::Netns;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use crate::support::syscall::{create, zeroed_attr};

/// A program that counts, and its counter.
pub struct Neighbour {
    name: String,
    program: OwnedFd,
    counter: Array<MapData, u64>,
}

impl Neighbour {
    /// Loads one that ends with `verdict`: 0 is `TC_ACT_OK`, -1 goes on to the next.
    pub fn load(name: &str, verdict: i32) -> Self {
        Self::load_code(name, &[], verdict)
    }

    /// Likewise, one that counts only packets whose linear part is shorter than `bytes`.
    pub fn load_for_nonlinear(name: &str, bytes: i32) -> Self {
        // r2 = skb->data; r3 = skb->data_end; r3 -= r2; if r3 >= bytes, skip the counting.
        // Where `struct __sk_buff` of linux/bpf.h has them.
        let (data, end) = (76, 80);
        let mut code = [
            instruction(0x61, 2, 1, 0),
            instruction(0x61, 3, 1, 0),
            instruction(0x1f, 3, 2, 0),
            instruction(0x35, 3, 0, bytes),
        ];
        (code[0].off, code[1].off, code[3].off) = (data, end, 4);
        Self::load_code(name, &code, -1)
    }

    fn load_code(name: &str, condition: &[bpf_insn], verdict: i32) -> Self {
        let (fd, counter) = counter();
        // r1 = address of the counter; r2 = 1; *r1 += r2; return verdict.
        let count = [
            instruction(0x18, 1, 2, fd),
            instruction(0, 0, 0, 0),
            instruction(0xb7, 2, 0, 1),
            instruction(0xdb, 1, 2, 0),
            instruction(0xb7, 0, 0, verdict),
            instruction(0x95, 0, 0, 0),
        ];
        let code = [condition, &count].concat();
        let mut attr = zeroed_attr();
        // SAFETY: writing plain numbers into a union; the kernel reads code, license and the
        // name during the call only.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
        load.insn_cnt = u32::try_from(code.len()).expect("short");
        load.insns = code.as_ptr() as u64;
        load.license = c"MIT".as_ptr() as u64;
        for (to, from) in load.prog_name.iter_mut().zip(name.bytes().take(15)) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        let program = create(bpf_cmd::BPF_PROG_LOAD, &mut attr).expect("load a neighbour");
        Self {
            name: name.to_owned(),
            program,
            counter,
        }
    }

    /// Packets seen so far.
    pub fn count(&self) -> u64 {
        self.counter.get(&0, 0).expect("read the counter")
    }

    /// Attaches it by netlink at a priority and handle. It stays until the namespace goes.
    pub fn add_filter(
        &self,
        netns: &Netns,
        interface: &str,
        direction: Direction,
        priority: u16,
        handle: u32,
    ) {
        let index = index_of(netns, interface);
        netns
            .run_in(|| self.filter_here(index, direction, priority, handle))
            .expect("enter")
            .expect("add a neighbour's filter");
    }

    fn filter_here(
        &self,
        index: u32,
        direction: Direction,
        priority: u16,
        handle: u32,
    ) -> io::Result<()> {
        let mut message = TcMessage::with_index(index.cast_signed());
        message.header.parent = TcHandle {
            major: 0xFFFF,
            minor: if direction == Direction::Ingress {
                0xFFF2
            } else {
                0xFFF3
            },
        };
        message.header.handle = handle.into();
        message.header.info = u32::from(priority) << 16 | u32::from(3u16.to_be());
        message.attributes.push(TcAttribute::Kind("bpf".to_owned()));
        let fd = self.program.as_raw_fd().cast_unsigned();
        message.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(fd)),
            TcOption::Bpf(TcFilterBpfOption::ProgName(self.name.clone())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        let mut packet = NetlinkMessage::from(RouteNetlinkMessage::NewTrafficFilter(message));
        packet.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        packet.finalize();
        let mut buffer = vec![0; packet.buffer_len()];
        packet.serialize(&mut buffer);
        let socket = Socket::new(NETLINK_ROUTE)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.send(&buffer, 0)?;
        let (answer, _) = socket.recv_from_full()?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer);
        match answer.map_err(io::Error::other)?.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
            _ => Ok(()),
        }
    }

    /// Attaches it as the last of a TCX chain; closing the result takes it off.
    pub fn add_tcx(
        &self,
        netns: &Netns,
        interface: &str,
        direction: Direction,
    ) -> io::Result<OwnedFd> {
        self.add_tcx_with(netns, interface, direction, 0)
    }

    /// The same as the first of the chain.
    pub fn add_tcx_first(
        &self,
        netns: &Netns,
        interface: &str,
        direction: Direction,
    ) -> io::Result<OwnedFd> {
        // BPF_F_BEFORE
        self.add_tcx_with(netns, interface, direction, 1 << 3)
    }

    fn add_tcx_with(
        &self,
        netns: &Netns,
        interface: &str,
        direction: Direction,
        flags: u32,
    ) -> io::Result<OwnedFd> {
        let mut attr = zeroed_attr();
        attr.link_create.__bindgen_anon_1.prog_fd = self.program.as_raw_fd().cast_unsigned();
        attr.link_create.__bindgen_anon_2.target_ifindex = index_of(netns, interface);
        attr.link_create.flags = flags;
        attr.link_create.attach_type = match direction {
            Direction::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
            Direction::Egress => bpf_attach_type::BPF_TCX_EGRESS,
        } as u32;
        netns
            .run_in(|| create(bpf_cmd::BPF_LINK_CREATE, &mut attr))
            .expect("enter")
    }
}

/// Index of an interface of a namespace.
pub fn index_of(netns: &Netns, interface: &str) -> u32 {
    let index = || nix::net::if_::if_nametoindex(interface);
    netns
        .run_in(index)
        .expect("enter")
        .expect("the interface's index")
}

/// An array of one number: its descriptor, and aya's view, which owns that descriptor.
fn counter() -> (i32, Array<MapData, u64>) {
    let mut attr = zeroed_attr();
    // SAFETY: writing plain numbers into a union.
    let wanted = unsafe { &mut attr.__bindgen_anon_1 };
    wanted.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    (wanted.key_size, wanted.value_size, wanted.max_entries) = (4, 8, 1);
    // Before 5.11 maps count as locked memory. Where it may not be raised, this is a newer kernel,
    // or the map says it.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let map = create(bpf_cmd::BPF_MAP_CREATE, &mut attr).expect("make a map");
    let fd = map.as_raw_fd();
    let map = Map::from_map_data(MapData::from_fd(map).expect("a map")).expect("an array");
    (fd, Array::try_from(map).expect("an array of u64"))
}

fn instruction(code: u8, to: u8, from: u8, value: i32) -> bpf_insn {
    // SAFETY: an instruction is plain numbers.
    let mut instruction: bpf_insn = unsafe { MaybeUninit::zeroed().assume_init() };
    instruction.code = code;
    instruction.set_dst_reg(to);
    instruction.set_src_reg(from);
    instruction.imm = value;
    instruction
}
