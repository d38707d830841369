//! Runs other programs, with errors that name the program, the reason and the remedy.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::paths;

/// Runs `command` with its output shown; fails when it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command
        .status()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed with {status}; its own message is above");
    }
    Ok(())
}

/// Runs `command` and returns what it printed to stdout; fails with its stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed with {}: {}", output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as a user would type it, without the environment.
pub(crate) fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

/// Finds `program` on PATH, in the tools unpacked for this repository, or in the directories of
/// system administration, which a user's PATH lacks.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    search_path()
        .into_iter()
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// The directories of PATH, with those that [`which`] adds.
pub(crate) fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    dirs.extend([
        paths::tools().join("usr/bin"),
        paths::tools().join("usr/sbin"),
        "/usr/sbin".into(),
        "/sbin".into(),
    ]);
    dirs
}

/// Whether this process may do what only root may.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Makes a command that runs `program` as root: through sudo unless this process is root already.
pub(crate) fn privileged(program: impl AsRef<OsStr>) -> Command {
    if is_root() {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        command.arg(program);
        command
    }
}

/// Lets cargo run tests as root: through sudo unless this process is root already.
pub(crate) fn test_as_root(cargo: &mut Command) {
    if !is_root() {
        let host = format!(
            "CARGO_TARGET_{}_RUNNER",
            HOST.to_uppercase().replace('-', "_")
        );
        cargo.env(host, "sudo --preserve-env");
    }
}

/// The target triple that tests run on.
const HOST: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-gnu"
} else {
    "x86_64-unknown-linux-gnu"
};

/// Fails with a remedy when this process is not root and cannot become it.
pub(crate) fn require_root_or_sudo(what_for: &str) -> Result<()> {
    if is_root() || which("sudo").is_some() {
        return Ok(());
    }
    bail!("{what_for} needs root, and there is no sudo: run this command as root");
}

/// Makes a cargo command without the variables that `cargo run` set for this program. They describe
/// the package xtask, and would make other packages' build scripts run again.
pub(crate) fn cargo() -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    scrub(&mut command);
    command.current_dir(paths::root());
    if env::var_os("CARGO_TARGET_DIR").is_some() {
        // The build script of lpm-agent looks in `target` otherwise.
        command.env("LPM_EBPF_OBJECT", paths::kernel_object("lpm"));
    }
    command
}

/// Removes from `command` what `cargo run` put into the environment of this process.
pub(crate) fn scrub(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command.env_remove("LD_LIBRARY_PATH");
}

/// Cargo's home: `CARGO_HOME`, else `~/.cargo`.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_stderr() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo broken >&2; exit 3"]);
        let error = output(&mut command).unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("broken") && error.contains('3'));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("lpm-no-such-program")).unwrap_err();
        assert!(format!("{error:#}").contains("lpm-no-such-program"));
        assert_eq!(which("lpm-no-such-program"), None);
        assert!(which("sh").is_some());
    }
}
