//! A certificate authority, and certificates that it signs; made by openssl.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// An authority in a directory.
pub struct Authority {
    directory: PathBuf,
    name: String,
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

const EC: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

impl Authority {
    /// Makes one. Its files bear this name.
    pub fn new(directory: &Path, name: &str) -> Self {
        let authority = Self {
            directory: directory.to_owned(),
            name: name.to_owned(),
        };
        let files = authority.files(name);
        authority.openssl(
            openssl()
                .args([
                    "req",
                    "-x509",
                    "-nodes",
                    "-subj",
                    "/CN=authority",
                    "-days",
                    "2",
                ])
                .args(EC)
                .arg("-keyout")
                .arg(&files.key)
                .arg("-out")
                .arg(&files.certificate),
        );
        authority
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.files(&self.name).certificate
    }

    fn files(&self, name: &str) -> Certificate {
        Certificate {
            certificate: self.directory.join(format!("{name}.pem")),
            key: self.directory.join(format!("{name}.key")),
        }
    }

    /// Signs a certificate with these subject alternative names (`DNS:a,IP:127.0.0.1`), which begins
    /// and ends so many days from now.
    pub fn sign(&self, name: &str, names: &str, (begin, end): (&str, &str)) -> Certificate {
        let files = self.files(name);
        let request = self.directory.join(format!("{name}.csr"));
        self.openssl(
            openssl()
                .args(["req", "-new", "-nodes", "-subj", "/CN=lpm"])
                .args(EC)
                .arg("-keyout")
                .arg(&files.key)
                .arg("-out")
                .arg(&request),
        );
        // `openssl ca` can sign what has expired, other than `openssl x509` of before 3.4.
        let path = |name: &str| self.directory.join(format!("{}-{name}", self.name));
        fs::write(path("index"), "").expect("an index");
        fs::write(path("index.attr"), "unique_subject = no\n").expect("its attributes");
        let config = format!(
            "[ca]\ndefault_ca = own\n[own]\ndatabase = {}\npolicy = any\ndefault_md = sha256\nrand_serial = yes\n\
             [any]\ncommonName = supplied\n[more]\nsubjectAltName = {names}\n",
            path("index").display()
        );
        fs::write(path("config"), config).expect("a configuration");
        let own = self.files(&self.name);
        self.openssl(
            openssl()
                .args(["ca", "-batch", "-notext", "-extensions", "more"])
                .args(["-startdate", &date(begin), "-enddate", &date(end)])
                .arg("-config")
                .arg(path("config"))
                .arg("-cert")
                .arg(own.certificate)
                .arg("-keyfile")
                .arg(own.key)
                .arg("-in")
                .arg(request)
                .arg("-out")
                .arg(&files.certificate)
                .arg("-outdir")
                .arg(&self.directory),
        );
        files
    }

    /// A certificate that is valid now.
    pub fn valid(&self, name: &str, names: &str) -> Certificate {
        self.sign(name, names, ("-1", "+1"))
    }

    fn openssl(&self, command: &mut Command) {
        let made = command
            .current_dir(&self.directory)
            .output()
            .expect("openssl");
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        assert!(made.status.success(), "{command:?}: {said}");
    }
}

fn openssl() -> Command {
    Command::new("openssl")
}

/// The date so many days from now, as openssl takes it.
fn date(days: &str) -> String {
    let date = Command::new("date")
        .args(["-u", "-d", &format!("{days} day"), "+%Y%m%d%H%M%SZ"])
        .output()
        .expect("date");
    String::from_utf8(date.stdout)
        .expect("text")
        .trim()
        .to_owned()
}
