//! The progress bar of a replay, on a terminal.

use std::io::{self, IsTerminal as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::replay::capture::Progress;

const KNOWN: &str = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
const UNKNOWN: &str = "{spinner} {bytes} {bytes_per_sec} {elapsed}";

/// A bar on stderr with bytes, rate and the time left.
pub(super) struct Bar {
    bar: ProgressBar,
    progress: Progress,
}

impl Bar {
    /// Makes a bar. It is hidden where stderr is no terminal. It is also hidden where the results
    /// go to a terminal, unless they come at the end.
    pub(super) fn new(progress: Progress, results_at_the_end: bool) -> Self {
        let shown =
            io::stderr().is_terminal() && (results_at_the_end || !io::stdout().is_terminal());
        let target = if shown {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(progress.total, target);
        let template = if progress.total.is_some() {
            KNOWN
        } else {
            UNKNOWN
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, progress }
    }

    /// Draws the bar, at most as often as an eye sees.
    pub(super) fn show(&self) {
        self.bar.set_position(self.progress.read());
    }

    /// Removes the bar.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
