//! Bad input: a clear message with a remedy and a non-zero exit. And the help.

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::Command,
};

use lpm_testbed::testbed::Netns;
use nix::{sys::signal::Signal, unistd::Uid};

use crate::support::lpm::{self, Agent, Lpm, fails, kernel_is_usable, lpm, succeeds};

/// Fails unless the text holds all the words.
#[track_caller]
fn names(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
}

/// A file in a directory that goes with the test.
fn file(directory: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path = directory.path().join(name);
    fs::write(&path, text).expect("write a file");
    path.to_str().expect("a path").to_owned()
}

#[test]
fn every_command_has_help_with_an_example() {
    for command in [
        "run",
        "top",
        "watch",
        "replay",
        "check",
        "detach",
        "config",
        "completions",
    ] {
        let help = succeeds(lpm().args([command, "--help"]));
        names(&help, &["Example", &format!("lpm {command}")]);
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        names(
            &succeeds(lpm().args(["completions", shell])),
            &["watch", "replay", "detach"],
        );
    }
}

#[test]
fn unknown_keys_are_named_with_their_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = file(
        &directory,
        "lpm.yaml",
        "flows: 1024\nwindow: 10s\nlisten_on: ::1\n",
    );
    for arguments in [&["config", "check"][..], &["run", "-c"], &["watch", "-c"]] {
        let said = fails(lpm().args(arguments).arg(&path));
        names(&said, &["listen_on", "line 3", &path, "lpm config schema"]);
    }
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let said = fails(lpm().args(["run", "-c", "/nowhere/lpm.yaml"]));
    names(
        &said,
        &["/nowhere/lpm.yaml", "No such file", "check the path"],
    );
}

#[test]
fn what_is_shown_can_be_checked() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = file(
        &directory,
        "lpm.yaml",
        &succeeds(lpm().args(["config", "show"])),
    );
    names(
        &succeeds(lpm().args(["config", "check", &path])),
        &["is valid"],
    );
    let schema: serde_json::Value =
        serde_json::from_str(&succeeds(lpm().args(["config", "schema"]))).expect("JSON");
    assert_eq!(schema["additionalProperties"], false);
    assert!(schema["properties"]["flow_idle"]["description"].is_string());
}

#[test]
fn the_published_schemas_are_those_of_this_version() {
    for (arguments, published) in [
        (
            &["config", "schema"][..],
            include_str!("../../../deploy/schema/lpm.json"),
        ),
        (
            &["config", "schema", "--names"],
            include_str!("../../../deploy/schema/names.json"),
        ),
    ] {
        let now = succeeds(lpm().args(arguments));
        assert!(
            now == published,
            "run: lpm {} > deploy/schema/...",
            arguments.join(" ")
        );
    }
}

#[test]
fn duplicate_names_are_refused_by_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let twice = "- {cidr: 198.18.5.0/24, namespace: a}\n- {cidr: 198.18.5.0/24, namespace: b}\n";
    let path = file(&directory, "names.yaml", twice);
    let said = fails(lpm().args(["watch", "--names", &path]));
    names(&said, &["line 2", "line 1", "198.18.5.0/24"]);
}

#[test]
fn a_port_that_is_taken_is_told_before_anything_is_touched() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = taken.local_addr().expect("address").to_string();
    let said = fails(lpm().args(["run", "--listen", &address]));
    names(&said, &["taken", &address, "--listen"]);
    assert!(!said.contains("attached"), "{said}");
}

#[test]
fn an_agent_that_is_not_there_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = free.local_addr().expect("address").to_string();
    drop(free);
    for command in [&["watch"][..], &["top", "--once"]] {
        let said = fails(lpm().args(command).args(["--agent", &address]));
        names(&said, &[&address, "lpm run"]);
    }
}

/// The binary where anybody may run it: not below a home directory.
fn public_copy(directory: &tempfile::TempDir) -> Command {
    let everybody = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), everybody).expect("set permissions");
    let copy = directory.path().join("lpm");
    fs::copy(env!("CARGO_BIN_EXE_lpm"), &copy).expect("copy");
    Command::new(copy)
}

#[test]
fn without_root_the_missing_capabilities_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = public_copy(&directory);
    command.args(["watch", "-i", "lo"]);
    if Uid::effective().is_root() {
        command.uid(65_534).gid(65_534);
    }
    if lpm_agent::kernel::load::object_is_embedded() {
        let said = fails(&mut command);
        names(&said, &["CAP_BPF", "CAP_NET_ADMIN", "run lpm as root"]);
    } else {
        names(&fails(&mut command), &["cargo xtask build"]);
    }
}

#[test]
fn signals_end_it_in_good_order() {
    if !kernel_is_usable() {
        return;
    }
    let node = Netns::new("cli").expect("a namespace");
    node.ip("link add va type veth peer name vb")
        .expect("a veth");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let watch = Lpm::start(&node, &["watch", "-i", "va"]);
        watch.wait_for("attached to va (pod, tcx)");
        assert!(watch.end(signal).success(), "{signal}");
        lpm::eventually("the summary", || {
            watch.said().contains("0 samples, 0 missed")
        });
    }
    Agent::start(&node, &["-i", "va"]).stop();
}

#[test]
fn one_table_is_printed_and_all_is_detached() {
    if !kernel_is_usable() {
        return;
    }
    let node = Netns::new("cli").expect("a namespace");
    node.ip("link add va type veth peer name vb")
        .expect("a veth");
    let once = [
        "--netns",
        node.name(),
        "top",
        "-i",
        "va",
        "--once",
        "--seconds",
        "0.2",
    ];
    names(
        &succeeds(lpm().args(once).args(["--tab", "links"])),
        &["IFACE", "va", "pod", "tcx"],
    );
    let json: serde_json::Value =
        serde_json::from_str(&succeeds(lpm().args(once).args(["--format", "json"]))).expect("JSON");
    assert_eq!(json["schema"], 1);
    assert_eq!(json["links"][0]["interface"], "va");
    let said = succeeds(lpm().args(["--netns", node.name(), "detach"]));
    // Other tests kill agents meanwhile, whose programs are not this directory's.
    let of_others = |line: &str| line.starts_with("left program ");
    assert!(
        said.contains("no former agent") || said.lines().all(of_others),
        "{said}"
    );
}

#[test]
fn the_live_view_asks_for_a_terminal_before_it_touches_anything() {
    let said = fails(lpm().arg("top"));
    names(&said, &["terminal", "--once"]);
}
