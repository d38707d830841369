//! Growing pauses between attempts.

use std::time::Duration;

/// The lengths of pauses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pauses {
    /// The pause after the first failure.
    pub(crate) first: Duration,
    /// The longest pause.
    pub(crate) longest: Duration,
}

/// Pauses between failed attempts. Each is twice as long as the one before, up to a longest one.
#[derive(Debug)]
pub(crate) struct Backoff {
    pauses: Pauses,
    next: Duration,
}

impl Backoff {
    /// Starts with the first pause.
    pub(crate) fn new(pauses: Pauses) -> Self {
        Self {
            pauses,
            next: pauses.first,
        }
    }

    /// Starts again with the first pause, after an attempt that succeeded.
    pub(crate) fn reset(&mut self) {
        self.next = self.pauses.first;
    }

    /// Waits for the next pause, spread by [`spread`]. The pause after it is twice as long.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(spread(self.next)).await;
        self.next = (self.next * 2).min(self.pauses.longest);
    }

    /// Shortens the next pause to at most this.
    pub(crate) fn cap(&mut self, longest: Duration) {
        self.next = self.next.min(longest);
    }
}

/// A pause, and up to half of it more by chance: agents that lost one server together do not come
/// back together.
pub(crate) fn spread(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_up_to_the_longest_one() {
        let mut backoff = Backoff::new(Pauses {
            first: seconds(1),
            longest: seconds(3),
        });
        for pause in [1, 2, 3, 3].map(seconds) {
            assert_eq!(backoff.next, pause);
            let begun = tokio::time::Instant::now();
            backoff.wait().await;
            // The clock of tokio counts whole milliseconds.
            let waited = begun.elapsed();
            let most = pause * 3 / 2 + Duration::from_millis(1);
            assert!(waited >= pause && waited <= most, "{waited:?} of {pause:?}");
        }
        backoff.cap(seconds(2));
        assert_eq!(backoff.next, seconds(2));
        backoff.reset();
        assert_eq!(backoff.next, seconds(1));
    }
}
