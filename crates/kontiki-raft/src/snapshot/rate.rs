//! The node's share of the network for snapshots: so many bytes per second, all transfers together. Who wants to send waits until the
//! bytes before have had their time.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// A rate that all transfers share.
pub(crate) struct Rate {
    bytes_per_second: u64,
    /// When the line is free again.
    free_at: Mutex<Option<Instant>>,
}

impl Rate {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: Mutex::default() }
    }

    /// Waits for a turn to send so many bytes.
    pub(crate) async fn take(&self, bytes: usize) {
        let at = self.book(Instant::now(), bytes);
        sleep_until(at).await;
    }

    /// When so many bytes may be sent that are asked for now.
    fn book(&self, now: Instant, bytes: usize) -> Instant {
        let lasts = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.max(1) as f64);
        let mut free_at = self.free_at.lock();
        let at = free_at.map_or(now, |free| free.max(now));
        *free_at = Some(at + lasts);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spread_over_time_and_an_idle_line_saves_nothing_up() {
        let (rate, start) = (Rate::new(1000), Instant::now());
        let after = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(rate.book(start, 500), start, "the first may go at once");
        assert_eq!(rate.book(start, 250), after(500));
        assert_eq!(rate.book(after(600), 1000), after(750));
        assert_eq!(rate.book(after(9000), 1000), after(9000));
        assert_eq!(rate.book(after(9000), 1000), after(10_000), "what was not used is gone");
    }
}
