//! The times of a run. There is one true time, which the run moves step by step; a machine's wall clock is wrong in a way of its own.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// True time since the run began. One run per process: so it can be a static, and the replaced `clock_gettime` can read it.
static NOW_US: AtomicU64 = AtomicU64::new(0);

/// The wall clock's true time at the beginning, in ms since the Unix epoch.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// True time since the run began, in us. It stands still during a step.
pub fn now_us() -> u64 {
    NOW_US.load(Ordering::Relaxed)
}

/// As [`now_us`], in ms.
pub fn now_ms() -> u64 {
    now_us() / 1000
}

pub(crate) fn set_now_us(now: u64) {
    NOW_US.store(now, Ordering::Relaxed);
}

/// One machine's wall clock.
#[derive(Debug, Default)]
pub struct Wall {
    ahead_us: AtomicI64,
    /// Parts per million that it runs too fast.
    drift_ppm: AtomicI64,
    drifts_since_us: AtomicU64,
}

impl Wall {
    /// What it shows, in ms since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        let ahead_ms = self.ahead_us() / 1000;
        (EPOCH_MS + now_ms()).saturating_add_signed(ahead_ms)
    }

    fn ahead_us(&self) -> i64 {
        let drifted = (now_us() - self.drifts_since_us.load(Ordering::Relaxed)) as i64;
        self.ahead_us.load(Ordering::Relaxed) + drifted / 1_000_000 * self.drift_ppm.load(Ordering::Relaxed)
    }

    /// Puts it forward, or back.
    pub fn jump_ms(&self, by: i64) {
        self.ahead_us.fetch_add(by * 1000, Ordering::Relaxed);
    }

    /// Lets it run too fast by so many parts per million (or too slow) from now on; 0: right again, from where it is.
    pub fn drift(&self, ppm: i64) {
        self.ahead_us.store(self.ahead_us(), Ordering::Relaxed);
        self.drifts_since_us.store(now_us(), Ordering::Relaxed);
        self.drift_ppm.store(ppm, Ordering::Relaxed);
    }

    /// Sets it right.
    pub fn correct(&self) {
        self.ahead_us.store(0, Ordering::Relaxed);
        self.drift(0);
        self.ahead_us.store(0, Ordering::Relaxed);
    }
}
