//! A capture of 50 MB: memory does not grow with it.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::generator::{Generator, Plan};
use crate::support::lpm::{eventually, lpm};

/// What a process may need more at the end than after the first tenth, KiB: bounded summaries, and
/// what the allocator keeps.
const GROWTH_KIB: u64 = 4 << 10;

#[test]
fn memory_stays_flat() {
    for options in [&["--format", "csv"][..], &["--summary", "--format", "json"]] {
        let mut command = lpm();
        command.args(["replay", "-"]).args(options);
        let (early, late, said) = feed(&mut command, 50 << 20);
        println!("{options:?}: {early} KiB early, {late} KiB late; {said}");
        assert!(
            late < early + GROWTH_KIB,
            "{options:?}: {early} KiB grew to {late} KiB"
        );
        // The table is 16 MiB; beside it there is little.
        assert!(late < 64 << 10, "{late} KiB");
    }
}

/// Gives it a capture on stdin. Its largest resident set when a tenth was read, and when all but
/// what fits the pipe was, KiB; and what it said.
fn feed(command: &mut Command, bytes: u64) -> (u64, u64, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("lpm");
    let mut stdin = child.stdin.take().expect("stdin");
    let mut generator = Generator::new(Plan {
        bytes,
        ..Plan::default()
    });
    let mut chunk = vec![0; 1 << 16];
    let mut written = 0;
    let mut early = None;
    loop {
        let len = generator.read(&mut chunk).expect("memory");
        if len == 0 {
            break;
        }
        stdin.write_all(&chunk[..len]).expect("it reads");
        written += len as u64;
        if early.is_none() && written > bytes / 10 {
            early = Some(high_water(&child));
        }
    }
    let late = high_water(&child);
    drop(stdin);
    eventually("it ends", || child.try_wait().expect("a child").is_some());
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains(&format!("{} packets", generator.packets())),
        "{said}"
    );
    (early.expect("a tenth"), late, said)
}

/// `VmHWM`, KiB.
fn high_water(child: &Child) -> u64 {
    let path = format!("/proc/{}/status", child.id());
    let status = fs::read_to_string(Path::new(&path)).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let word = line
        .and_then(|line| line.split_whitespace().next())
        .expect("VmHWM");
    word.parse().expect("a number")
}
