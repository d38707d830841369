//! Gets Debian's packages by an apt configuration of our own: of any suite and architecture, with
//! signatures checked. The system's apt is not touched.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{arch::Arch, process};

/// Address of Debian's archive, if the system's own sources do not name one.
const DEBIAN: &str = "http://deb.debian.org/debian";

/// The keyring with Debian's signatures.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt with sources, lists and state of its own.
pub(super) struct Apt {
    own: PathBuf,
    configuration: PathBuf,
}

impl Apt {
    /// Prepares an apt with `sources` (`<archive> <suite>` each) for packages of `arch`. Its state
    /// goes to `dir/apt`.
    pub(super) fn new(sources: &[String], arch: Arch, dir: &Path) -> Result<Self> {
        let own = dir.join("apt");
        for place in [
            "etc/sources.list.d",
            "etc/apt.conf.d",
            "etc/preferences.d",
            "etc/trusted.gpg.d",
            "state/lists/partial",
            "cache/archives/partial",
        ] {
            fs::create_dir_all(own.join(place))
                .with_context(|| format!("cannot make {}", own.display()))?;
        }
        fs::write(own.join("state/status"), "")?;
        let mut list = String::new();
        for source in sources {
            writeln!(list, "deb [signed-by={KEYRING}] {source} main")?;
        }
        fs::write(own.join("etc/sources.list"), list)?;
        let (shown, arch) = (own.display(), arch.name());
        let mut text = String::new();
        writeln!(text, "Dir::Etc \"{shown}/etc\";")?;
        writeln!(text, "Dir::State \"{shown}/state\";")?;
        writeln!(text, "Dir::State::status \"{shown}/state/status\";")?;
        writeln!(text, "Dir::Cache \"{shown}/cache\";")?;
        writeln!(text, "APT::Architecture \"{arch}\";")?;
        writeln!(text, "APT::Architectures {{ \"{arch}\"; }};")?;
        text.push_str("Acquire::Languages \"none\";\nAPT::Sandbox::User \"root\";\n");
        // How the system reaches the network is its own matter: /etc/apt's proxy holds here, too.
        for line in process::output(Command::new("apt-config").args(["dump", "Acquire"]))?.lines() {
            if line.to_lowercase().contains("::proxy") {
                writeln!(text, "{line}")?;
            }
        }
        let configuration = own.join("apt.conf");
        fs::write(&configuration, text)?;
        Ok(Self { own, configuration })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.configuration);
        command
    }

    /// Runs one of apt's programs.
    pub(super) fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        process::run(self.command(program).args(arguments))
    }

    /// Runs one of apt's programs and returns what it prints.
    pub(super) fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        process::output(self.command(program).args(arguments))
    }

    /// Unpacks `packages` into `root`; with their dependencies if `whole`.
    pub(super) fn unpack(&self, packages: &[&str], whole: bool, root: &Path) -> Result<()> {
        let debs = self.own.join("cache/archives");
        if whole {
            let options = ["install", "--yes", "--quiet", "--download-only"];
            let mut install = self.command("apt-get");
            install.args(options).arg("--no-install-recommends");
            // As nothing is installed, nothing is asked for that every system has.
            process::run(install.args(packages))?;
        } else {
            let mut download = self.command("apt-get");
            download.args(["download", "--quiet"]).args(packages);
            process::run(download.current_dir(&debs))?;
        }
        let mut files: Vec<PathBuf> = fs::read_dir(&debs)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .collect();
        files.sort();
        for deb in files {
            unpack(&deb, root)?;
            fs::remove_file(deb)?;
        }
        Ok(())
    }
}

/// Unpacks one package; where `root` has a link to a directory, into that.
fn unpack(deb: &Path, root: &Path) -> Result<()> {
    let mut read = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let stdout = read.stdout.take().context("dpkg-deb's output")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--keep-directory-symlink", "--directory"]);
    let written = process::run(tar.arg(root).stdin(stdout));
    if !read.wait()?.success() {
        bail!("dpkg-deb cannot read {}", deb.display());
    }
    written
}

/// The mirror that the system's own apt uses for Debian, or else Debian's.
pub(super) fn archive(security: bool) -> Result<String> {
    let mut list = Command::new("apt-get");
    list.args(["indextargets", "--format", "$(LABEL) $(REPO_URI)"]);
    let listed = process::output(&mut list).context("apt-get cannot list its sources")?;
    let of = |wanted: &str| {
        let mut lines = listed.lines().filter_map(|line| line.split_once(' '));
        lines.find_map(|(label, uri)| {
            (label == wanted).then(|| uri.trim_end_matches('/').to_owned())
        })
    };
    let debian = of("Debian");
    if !security {
        return Ok(debian.unwrap_or_else(|| DEBIAN.to_owned()));
    }
    Ok(of("Debian-Security")
        .unwrap_or_else(|| format!("{}-security", debian.as_deref().unwrap_or(DEBIAN))))
}
