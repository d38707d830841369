//! A neighbour of the guest, on this machine, whose clock is another one: a namespace with the other
//! end of the guest's network card, a reflector, and a program that tells the time.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::process;

/// Address of the neighbour.
pub(super) const ADDRESS: &str = "198.18.254.1";

/// Name of the card in the namespace.
const CARD: &str = "guest0";

/// Answers each packet with nanoseconds since 1970, by another way than the reflector's.
const TIMES: &str = "\
import socket, struct, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('198.18.254.1', 8621))
while True:
    _, sender = s.recvfrom(64)
    s.sendto(struct.pack('!q', time.time_ns()), sender)
";

/// The namespace and its programs. Both end with the value.
pub(super) struct Neighbour {
    name: String,
    programs: Vec<Child>,
}

impl Neighbour {
    /// Starts a neighbour with the reflector of `lpm`; its log goes to `dir`.
    pub(super) fn start(lpm: &Path, dir: &Path) -> Result<Self> {
        let name = format!("lpm-kernel-{}", std::process::id());
        ip(&["netns", "add", &name])?;
        let mut neighbour = Self {
            name,
            programs: Vec::new(),
        };
        let name = &neighbour.name;
        ip(&["-n", name, "tuntap", "add", "dev", CARD, "mode", "tap"])?;
        let address = format!("{ADDRESS}/24");
        ip(&["-n", name, "addr", "add", &address, "dev", CARD])?;
        ip(&["-n", name, "link", "set", CARD, "up"])?;
        let log = fs::File::create(dir.join("neighbour.log")).context("cannot keep a log")?;
        let listen = format!("{ADDRESS}:8620");
        let mut reflect = neighbour.command(lpm);
        reflect.args(["reflect", "--listen", &listen, "--allow", "198.18.254.0/24"]);
        reflect.args(["--rate", "100000"]);
        let mut times = neighbour.command(Path::new("python3"));
        times.args(["-c", TIMES]);
        for program in [&mut reflect, &mut times] {
            program.stdin(Stdio::null()).stdout(Stdio::null());
            let child = program.stderr(log.try_clone()?).spawn();
            neighbour
                .programs
                .push(child.context("cannot start a program beside the guest")?);
        }
        Ok(neighbour)
    }

    /// Makes a command that runs in the namespace.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = process::privileged("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Gives a machine, which runs in the namespace, its card.
    pub(super) fn connect(qemu: &mut Command) {
        let tap = format!("tap,id=net,ifname={CARD},script=no,downscript=no");
        qemu.args(["-netdev", &tap, "-device", "virtio-net-pci,netdev=net"]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    process::run(process::privileged("ip").args(arguments))
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let id = program.id().to_string();
            let mut kill = process::privileged("kill");
            drop(process::run(kill.stderr(Stdio::null()).arg(id)));
            drop(program.wait());
        }
        drop(ip(&["netns", "delete", &self.name]));
    }
}
