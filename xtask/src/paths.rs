//! Paths of directories and files that the commands share.

use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    // The manifest directory is `<root>/xtask`; it always has a parent.
    manifest.parent().unwrap_or(manifest)
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, else `<root>/target`.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The built kernel object `name`, which lpm-agent's build script embeds.
pub(crate) fn kernel_object(name: &str) -> PathBuf {
    target().join("bpf").join(name)
}

/// A program of the workspace as it is shipped.
pub(crate) fn release_binary(name: &str) -> PathBuf {
    target().join("release").join(name)
}

/// A program of the workspace as the demo and the tests run it, in cargo's profile `dev`.
pub(crate) fn dev_binary(name: &str) -> PathBuf {
    target().join("debug").join(name)
}

/// Path of the program `name` in the directory `KUBEBUILDER_ASSETS`, if the user has it there. It
/// takes precedence over ours, as in the tests.
pub(crate) fn asset(name: &str) -> Option<PathBuf> {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS")?;
    let program = Path::new(&assets).join(name);
    program.is_file().then_some(program)
}

/// Tools unpacked for this repository alone, instead of installed into the system.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}
