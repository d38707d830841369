//! The binary `lpm` as its users meet it: started, read, signalled.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver},
    },
    thread,
};

use lpm_testbed::testbed::{Netns, NsChild};
use nix::sys::signal::Signal;
use serde_json::Value;

pub use super::ready::{LIMIT, eventually, kernel_is_usable};

/// The binary, in the [turn](super::turn) of the test's topic.
pub fn lpm() -> Command {
    super::turn::take();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lpm"));
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end.
#[track_caller]
pub fn output(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a command that must fail, and gives what it says on stderr.
#[track_caller]
pub fn fails(command: &mut Command) -> String {
    let output = output(command);
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success(), "{command:?} succeeded: {said}");
    assert!(said.starts_with("lpm: "), "{said}");
    said
}

/// Runs a command that must succeed, and gives its output.
#[track_caller]
pub fn succeeds(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?} failed, {}: {}\nits output: {}",
        output.status,
        end_of(&output.stderr),
        end_of(&output.stdout)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// The last of what was said: a comparison says its reasons there.
fn end_of(said: &[u8]) -> String {
    const MOST: usize = 8192;
    let from = said.len().saturating_sub(MOST);
    String::from_utf8_lossy(&said[from..]).into_owned()
}

/// A running `lpm`; killed when dropped.
pub struct Lpm {
    pub child: NsChild,
    /// Lines of stdout, as they come.
    pub lines: Receiver<String>,
    said: Arc<Mutex<String>>,
}

impl Lpm {
    /// Starts one that watches a namespace's interfaces from outside.
    pub fn start(node: &Netns, arguments: &[&str]) -> Self {
        Self::start_with(node, arguments, &[])
    }

    /// Starts one as [`Lpm::start`] does, with these environment variables.
    pub fn start_with(node: &Netns, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = lpm();
        command
            .args(["--netns", node.path().to_str().expect("a path")])
            .args(arguments)
            .envs(environment.iter().copied());
        Self::spawn(node, &mut command)
    }

    /// Starts a command; `owner` kills it if the test forgets.
    pub fn spawn(owner: &Netns, command: &mut Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = owner.spawn(command).expect("start lpm");
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout().expect("stdout"));
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let said = Arc::new(Mutex::new(String::new()));
        let (mut stderr, hears) = (child.stderr().expect("stderr"), Arc::clone(&said));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = stderr.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..read]);
                eprint!("{text}");
                hears.lock().expect("not poisoned").push_str(&text);
            }
        });
        Self { child, lines, said }
    }

    /// What it has said on stderr so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("not poisoned").clone()
    }

    /// Waits until it has said something.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        eventually(text, || {
            let said = self.said();
            let ended = self.child.try_wait().expect("wait");
            assert!(said.contains(text) || ended.is_none(), "it ended: {said}");
            said.contains(text)
        });
    }

    /// The next line of stdout.
    #[track_caller]
    pub fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("a line")
    }

    /// Sends a signal and waits for the end.
    pub fn end(&self, signal: Signal) -> ExitStatus {
        self.child.signal(signal).expect("signal");
        self.child.wait(LIMIT).expect("lpm ends")
    }
}

/// A running `lpm run`, and its HTTP server.
pub struct Agent {
    pub lpm: Lpm,
    pub url: String,
    /// The agent's Unix socket, unless it is of another build. The machine's own is another agent's.
    pub socket: PathBuf,
    _directory: Option<tempfile::TempDir>,
}

impl Agent {
    /// Starts one on a free port, and waits until it is ready.
    pub fn start(node: &Netns, arguments: &[&str]) -> Self {
        Self::start_with(node, arguments, &[])
    }

    /// Starts one as [`Agent::start`] does, with these environment variables.
    pub fn start_with(node: &Netns, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = lpm();
        command.envs(environment.iter().copied());
        Self::of(command, node, arguments, true)
    }

    /// Starts that of another build.
    pub fn start_of(program: &Path, node: &Netns, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Self::of(command, node, arguments, false)
    }

    /// One that serves at this URL, and has no socket of its own.
    pub fn at(lpm: Lpm, url: String) -> Self {
        Self {
            lpm,
            url,
            socket: PathBuf::new(),
            _directory: None,
        }
    }

    fn of(mut command: Command, node: &Netns, arguments: &[&str], has_socket: bool) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("lpm.sock");
        command
            .args(["--netns", node.path().to_str().expect("a path")])
            .args(["run", "--listen", "127.0.0.1:0"])
            .args(arguments);
        if has_socket {
            command.arg("--socket").arg(&socket);
        }
        let lpm = Lpm::spawn(node, &mut command);
        lpm.wait_for("/metrics\n");
        let said = lpm.said();
        let (before, _) = said.split_once("/metrics\n").expect("the URL is there");
        let (_, url) = before.rsplit_once("metrics at ").expect("the URL is there");
        let agent = Self {
            url: url.to_owned(),
            lpm,
            socket,
            _directory: Some(directory),
        };
        eventually("the agent is ready", || {
            ureq::get(format!("{}/readyz", agent.url)).call().is_ok()
        });
        agent
    }

    /// What a path answers, to whoever asks for this type.
    pub fn get(&self, path: &str, accept: &str) -> (String, Vec<u8>) {
        let url = format!("{}{path}", self.url);
        // What was counted until now, not a page that another client got within this second.
        let request = ureq::get(&url).header("Cache-Control", "no-cache");
        let mut response = request.header("Accept", accept).call().expect(path);
        let kind = response.headers()["content-type"]
            .to_str()
            .expect("text")
            .to_owned();
        (kind, response.body_mut().read_to_vec().expect("a body"))
    }

    /// The metrics as text.
    pub fn metrics(&self) -> String {
        String::from_utf8(self.get("/metrics", "*/*").1).expect("text")
    }

    /// The value of a series; `None`: there is no such series.
    pub fn value(&self, series: &str) -> Option<f64> {
        value(&self.metrics(), series)
    }

    /// The records of a list of the API.
    pub fn list(&self, path: &str) -> Vec<Value> {
        let (_, body) = self.get(&format!("/api/v1/{path}"), "application/json");
        let page: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(page["schema"], 1);
        page["items"].as_array().expect("items").clone()
    }

    /// Ends it in good order.
    pub fn stop(self) {
        let status = self.lpm.end(Signal::SIGTERM);
        assert!(status.success(), "{status}: {}", self.lpm.said());
    }
}

/// The value of a series in text 0.0.4.
pub fn value(metrics: &str, series: &str) -> Option<f64> {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(line.parse().expect("a number"))
}
