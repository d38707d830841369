//! What cannot work is refused by the binary: with the thing, the reason and the remedy, and an
//! exit code that is not zero.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Command, Output},
};

use lpm_testbed::testbed::Netns;

use crate::support::kernel::{kernel_is_usable, path_of, process::lpm, tap::tap_of_type};

/// `linux/capability.h`.
const CAP_NET_ADMIN: libc::c_ulong = 12;
const CAP_SYS_ADMIN: libc::c_ulong = 21;
const CAP_PERFMON: libc::c_ulong = 38;
const CAP_BPF: libc::c_ulong = 39;

/// All that lets a process load, attach or look at programs.
const ALL: &[libc::c_ulong] = &[CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF];

/// The command without some capabilities, as a container would start it.
fn without(mut command: Command, capabilities: &'static [libc::c_ulong]) -> Command {
    let drop_them = move || {
        for capability in capabilities {
            // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, *capability, 0, 0, 0) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls only.
    unsafe { command.pre_exec(drop_them) };
    command
}

#[track_caller]
fn refused(command: &mut Command) -> String {
    let output = command.output().expect("start lpm");
    let text = text(&output);
    assert!(!output.status.success(), "it was not refused: {text}");
    text
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(err)
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
}

#[test]
fn without_capabilities() {
    if !kernel_is_usable() {
        return;
    }
    let commands: [&[&str]; 4] = [
        &["run", "-i", "lo", "--listen", "127.0.0.1:0"],
        &["watch", "-i", "lo"],
        &["top", "-i", "lo", "--once"],
        &["check"],
    ];
    for arguments in commands {
        let mut command = lpm();
        command.args(arguments);
        let text = refused(&mut without(command, ALL));
        says(&text, &["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "root"]);
    }
    let mut command = lpm();
    command.arg("detach");
    says(
        &refused(&mut without(command, ALL)),
        &["CAP_SYS_ADMIN", "root"],
    );
}

#[test]
fn without_one_capability() {
    if !kernel_is_usable() {
        return;
    }
    let mut command = lpm();
    command.args(["watch", "-i", "lo"]);
    let text = refused(&mut without(command, &[CAP_NET_ADMIN]));
    says(&text, &["CAP_NET_ADMIN", "root"]);
    assert!(!text.contains("CAP_BPF"), "that one is there: {text}");
}

/// Each capability that an agent keeps is missed by its name, with a remedy.
#[test]
fn each_capability_that_an_agent_needs_is_named() {
    if !kernel_is_usable() {
        return;
    }
    // CAP_SYS_ADMIN would grant the first two.
    let cases: [(&str, &'static [libc::c_ulong]); 3] = [
        ("CAP_BPF", &[CAP_BPF, CAP_SYS_ADMIN]),
        ("CAP_PERFMON", &[CAP_PERFMON, CAP_SYS_ADMIN]),
        ("CAP_NET_ADMIN", &[CAP_NET_ADMIN, CAP_SYS_ADMIN]),
    ];
    for (missing, dropped) in cases {
        let commands: [&[&str]; 2] = [&["run", "-i", "lo", "--listen", "127.0.0.1:0"], &["check"]];
        for arguments in commands {
            let mut command = lpm();
            command.args(arguments);
            let text = refused(&mut without(command, dropped));
            // What the agent says of itself, and what it keeps, names the others.
            let lacks = text
                .lines()
                .find(|line| line.contains("it lacks") || line.contains("missing: "));
            let lacks = lacks.unwrap_or_else(|| panic!("nothing is missed in: {text}"));
            for capability in ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"] {
                assert_eq!(lacks.contains(capability), capability == missing, "{lacks}");
            }
            says(&text, &["root"]);
        }
    }
}

/// Another user has none of them.
#[test]
fn as_nobody() {
    if !kernel_is_usable() {
        return;
    }
    let nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(reachable())
            .args(arguments);
        refused(&mut command)
    };
    let text = nobody(&["run", "-i", "lo", "--listen", "127.0.0.1:0"]);
    says(&text, &["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "root"]);
    says(&nobody(&["detach"]), &["CAP_SYS_ADMIN", "root"]);
    says(&nobody(&["check"]), &["MISSING", "CAP_BPF"]);
}

/// A copy of the binary that every user may start. The build's directory may be root's own.
fn reachable() -> std::path::PathBuf {
    static COPY: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    let directory = COPY.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), mode).expect("a mode");
        let copy = directory.path().join("lpm");
        std::fs::copy(env!("CARGO_BIN_EXE_lpm"), copy).expect("copy");
        directory
    });
    directory.path().join("lpm")
}

#[test]
fn check_misses_btf() {
    if !kernel_is_usable() {
        return;
    }
    // In a mount namespace of its own the kernel's BTF is covered up.
    let hidden = "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" check";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", hidden, env!("CARGO_BIN_EXE_lpm")]);
    let text = refused(&mut command);
    says(&text, &["MISSING", "btf", "CONFIG_DEBUG_INFO_BTF"]);
}

#[test]
fn no_such_interface() {
    if !kernel_is_usable() {
        return;
    }
    let netns = Netns::new("none").expect("netns");
    let mut command = lpm();
    command.args(["--netns", &path_of(&netns), "watch", "-i", "nosuch0"]);
    says(&refused(&mut command), &["nosuch0", "it has: lo"]);
}

#[test]
fn no_such_namespace() {
    let mut command = lpm();
    command.args(["--netns", "nosuchns", "check"]);
    says(
        &refused(&mut command),
        &["/run/netns/nosuchns", "ip netns list"],
    );
}

#[test]
fn an_unknown_link_type() {
    if !kernel_is_usable() {
        return;
    }
    let netns = Netns::new("ib").expect("netns");
    let _tap = netns.run_in(|| tap_of_type("ib7", 32)).expect("enter");
    let mut command = lpm();
    command.args(["--netns", &path_of(&netns), "watch", "-i", "ib7"]);
    says(
        &refused(&mut command),
        &["ib7", "link type 32", "vantage: none"],
    );
}

#[test]
fn it_is_the_capabilities_that_were_missing() {
    if !kernel_is_usable() {
        return;
    }
    // The same command with nothing taken away works.
    let output = lpm().arg("check").output().expect("start lpm");
    assert!(output.status.success(), "{}", text(&output));
}
