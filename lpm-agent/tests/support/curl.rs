//! A real HTTP client: curl.

use std::{ffi::OsStr, process::Command};

/// An answer: its status, or 0 if there was none, and its text.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub text: String,
    /// What curl says where there is no answer.
    pub said: String,
}

/// Asks with these arguments.
pub fn curl<A: AsRef<OsStr>>(arguments: &[A]) -> Answer {
    ask(Command::new("curl"), arguments)
}

/// Asks as another user, with these groups (`--groups 1,2`, or `--clear-groups`).
pub fn curl_as<A: AsRef<OsStr>>(user: &str, groups: &[&str], arguments: &[A]) -> Answer {
    let mut command = Command::new("setpriv");
    let ids = ["--reuid", user, "--regid", user];
    command.args(ids).args(groups).arg("curl");
    ask(command, arguments)
}

fn ask<A: AsRef<OsStr>>(mut command: Command, arguments: &[A]) -> Answer {
    let output = command
        .args([
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--noproxy",
            "*",
        ])
        .args(["--write-out", "\n%{http_code}"])
        .args(arguments)
        .output()
        .expect("curl");
    let text = String::from_utf8(output.stdout).expect("text");
    let (text, status) = text.rsplit_once('\n').expect("a status");
    Answer {
        status: status.parse().expect("a number"),
        text: text.to_owned(),
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
