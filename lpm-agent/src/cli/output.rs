//! Detects that nobody reads a command's output any more.
//!
//! A writer notices by itself (`EPIPE`). A watcher without samples does not write, so the
//! descriptors are polled.

use std::{
    io::{self, IsTerminal as _},
    os::fd::{AsFd as _, BorrowedFd},
    process, thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tokio::sync::watch;

/// Longest time for which the output may accept nothing in an agent's container.
const STUCK: Duration = Duration::from_mins(1);

/// Interval between two checks of the output.
const LOOK: Duration = Duration::from_secs(5);

/// Waits for the end of the output, or of the terminal that the keys come from.
#[derive(Debug)]
pub(super) struct Gone(watch::Receiver<bool>);

impl Gone {
    /// Starts to watch the descriptors, in a thread that ends with the process.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn watch() -> io::Result<Self> {
        let (tell, told) = watch::channel(false);
        thread::Builder::new()
            .name("lpm-output".to_owned())
            .spawn(move || {
                let (stdin, stdout) = (io::stdin(), io::stdout());
                let mut ends = vec![stdout.as_fd()];
                ends.extend(stdin.is_terminal().then(|| stdin.as_fd()));
                if one_ends(&ends) {
                    // The send fails only if the command has ended.
                    let _ = tell.send(true);
                }
            })?;
        Ok(Self(told))
    }

    /// Waits until the output has ended.
    pub(super) async fn wait(&mut self) {
        if self.0.wait_for(|gone| *gone).await.is_err() {
            // The descriptors cannot be polled.
            std::future::pending::<()>().await;
        }
    }
}

/// Ends the process when its client has gone without a word. Container runtimes let that happen:
/// they hold both ends of the output, which then accepts nothing any more, or they close the input.
/// Use it only for commands that have nothing to detach.
pub(super) fn end_when_stuck() {
    // Without these threads the process ends with the container.
    let _ = thread::Builder::new()
        .name("lpm-stuck".to_owned())
        .spawn(|| {
            let stdout = io::stdout();
            let mut taken = Instant::now();
            while taken.elapsed() < STUCK {
                if is(stdout.as_fd(), PollFlags::POLLOUT) {
                    taken = Instant::now();
                }
                thread::sleep(LOOK);
            }
            process::exit(1);
        });
    let _ = thread::Builder::new()
        .name("lpm-input".to_owned())
        .spawn(|| {
            let stdin = io::stdin();
            // An input that was closed from the beginning (`< /dev/null`) says nothing.
            if !is(stdin.as_fd(), PollFlags::POLLHUP) && one_ends(&[stdin.as_fd()]) {
                process::exit(0);
            }
        });
}

/// True if a descriptor is in this state now.
fn is(fd: BorrowedFd<'_>, state: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd, state)];
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|now| now.intersects(state))
}

/// Waits until the other side of one of the descriptors is closed. False: they cannot be polled.
fn one_ends(fds: &[BorrowedFd<'_>]) -> bool {
    loop {
        // Errors and hang-ups are reported without being requested.
        let asked = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::empty()));
        let mut asked: Vec<PollFd<'_>> = asked.collect();
        match poll(&mut asked, PollTimeout::NONE) {
            Ok(_) => {
                let told = |fd: &PollFd<'_>| fd.revents().is_some_and(|now| !now.is_empty());
                if asked.iter().any(told) {
                    return true;
                }
            }
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}
