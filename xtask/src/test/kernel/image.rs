//! The guest's initial memory disk: busybox, the kernel modules that tests need, and two scripts.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::packages::Kernel;

/// Kernel modules that booting needs, then those of the tests' networks. A kernel may have some of
/// them built in, or not at all.
const MODULES: &str = "virtio_pci virtio_console virtio_rng virtio_net virtiofs overlay \
    veth vxlan geneve bridge tun 8021q ifb macvlan dummy \
    sch_ingress cls_bpf cls_u32 cls_matchall act_mirred sch_netem sch_fq sch_tbf \
    nf_tables nft_chain_nat nft_nat nft_masq nft_redir nft_ct nft_compat \
    ip_tables iptable_nat iptable_filter ip6_tables xt_nat xt_MASQUERADE xt_addrtype xt_conntrack \
    br_netfilter";

/// A busybox for this machine, and one for the guest.
pub(super) struct Busybox {
    /// The busybox that runs on this machine.
    pub(super) here: PathBuf,
    /// The busybox that runs in the guest.
    pub(super) guest: PathBuf,
}

/// Writes the memory disk for `kernel` to `file`; `jobs` is what the guest runs.
pub(super) fn write(file: &Path, kernel: &Kernel, busybox: &Busybox, jobs: &str) -> Result<()> {
    let dir = file.with_extension("d");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    for place in [
        "bin", "proc", "sys", "dev", "host", "programs", "overlay", "root",
    ] {
        fs::create_dir_all(dir.join(place))?;
    }
    fs::copy(&busybox.guest, dir.join("bin/busybox")).context("cannot copy busybox")?;
    symlink("busybox", dir.join("bin/sh"))?;
    modules(&dir, kernel)?;
    fs::write(dir.join("init"), include_str!("init.sh"))?;
    fs::set_permissions(dir.join("init"), fs::Permissions::from_mode(0o755))?;
    fs::write(dir.join("tests.sh"), include_str!("tests.sh"))?;
    fs::write(dir.join("jobs.sh"), jobs)?;
    archive(&dir, file, &busybox.here)
}

/// Copies the modules and what they depend on, and names them in the order of loading.
fn modules(dir: &Path, kernel: &Kernel) -> Result<()> {
    let dependencies = fs::read_to_string(kernel.modules.join("modules.dep"))
        .with_context(|| format!("no modules.dep in {}", kernel.modules.display()))?;
    let release = kernel.modules.file_name().context("a release")?;
    let to = dir.join("lib/modules").join(release);
    let mut present = String::new();
    for name in MODULES.split_whitespace() {
        let Some(files) = dependencies.lines().find_map(|line| files_of(line, name)) else {
            continue;
        };
        for file in files {
            plain(
                &kernel.modules.join(file),
                &to.join(file.trim_end_matches(".xz")),
            )?;
        }
        present.push_str(name);
        present.push('\n');
    }
    fs::create_dir_all(&to)?;
    fs::write(
        to.join("modules.dep"),
        dependencies.replace(".ko.xz", ".ko"),
    )?;
    fs::write(dir.join("modules"), present)?;
    Ok(())
}

/// The files that a line of modules.dep names, if it is that of module `name`.
fn files_of<'a>(line: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let (file, needs) = line.split_once(':')?;
    let (_, base) = file.rsplit_once('/')?;
    let (stem, _) = base.split_once(".ko")?;
    // The kernel takes one for the other.
    (stem.replace('-', "_") == name).then(|| {
        let mut files = vec![file];
        files.extend(needs.split_whitespace());
        files
    })
}

/// Copies a module, unpacked. Busybox would first try a packed module as it is, and the kernel
/// would complain.
fn plain(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    if from.extension().is_none_or(|extension| extension != "xz") {
        fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
        return Ok(());
    }
    let file = fs::File::create(to)?;
    let status = Command::new("xz")
        .args(["--decompress", "--stdout"])
        .arg(from)
        .stdout(file)
        .status()
        .context("cannot start xz; install the package xz-utils")?;
    if !status.success() {
        bail!("xz cannot unpack {}", from.display());
    }
    Ok(())
}

/// Packs `dir` in the format that the kernel unpacks.
fn archive(dir: &Path, file: &Path, busybox: &Path) -> Result<()> {
    let mut names = Vec::new();
    list(dir, dir, &mut names)?;
    let mut cpio = Command::new(busybox)
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(file)?)
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start busybox")?;
    let mut stdin = cpio.stdin.take().context("cpio's input")?;
    stdin.write_all(names.join("\n").as_bytes())?;
    drop(stdin);
    if !cpio.wait()?.success() {
        bail!("busybox cpio failed for {}", dir.display());
    }
    Ok(())
}

/// Everything below `dir`, directories before what is in them, relative to `root`.
fn list(root: &Path, dir: &Path, names: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let name = path.strip_prefix(root)?;
        names.push(name.to_string_lossy().into_owned());
        if entry.file_type()?.is_dir() {
            list(root, &path, names)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_found_by_its_name_alone() {
        let line = "kernel/net/sched/cls_bpf.ko.xz: kernel/lib/a.ko.xz kernel/lib/b.ko.xz";
        let files = files_of(line, "cls_bpf").unwrap();
        assert_eq!(files.len(), 3);
        assert_eq!(files_of(line, "bpf"), None);
        assert!(files_of("kernel/net/act-mirred.ko:", "act_mirred").is_some());
    }
}
