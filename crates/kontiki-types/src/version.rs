//! Versions: the commit timestamp of a write, in the shape of a hybrid logical clock (Kulkarni et al., "Logical Physical
//! Clocks", 2014): 48 bits of milliseconds, 16 bits of counter. The wall clock only *suggests* a version; what makes it right
//! is that applying a command gives a number greater than every one that the partition has given before (DESIGN section 5).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::partition::ClockKind;

/// A commit timestamp. 0 means "never written"; [`Version::MAX`] reads the newest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version(pub u64);

/// Bits of the counter below the milliseconds.
pub const COUNTER_BITS: u32 = 16;

impl Version {
    /// Before every write.
    pub const ZERO: Self = Self(0);
    /// After every write.
    pub const MAX: Self = Self(u64::MAX);

    /// The first version of a millisecond since the Unix epoch. Saturates at 48 bits (the year 10889).
    pub fn from_ms(ms: u64) -> Self {
        Self(ms.min((1 << (64 - COUNTER_BITS)) - 1) << COUNTER_BITS)
    }

    /// The milliseconds part. Meaningless for a partition with a counter clock.
    pub fn ms(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    /// The version that a partition whose newest one is `self` gives next, when the leader suggested `stamp_ms`.
    /// Always greater than `self`, until `u64::MAX`, at which it stays: [`Version::is_exhausted`] tells.
    pub fn next(self, clock: ClockKind, stamp_ms: u64) -> Self {
        let least = Self(self.0.saturating_add(1));
        match clock {
            ClockKind::Hybrid => least.max(Self::from_ms(stamp_ms)),
            ClockKind::Counter => least,
        }
    }

    /// Whether no greater version exists.
    pub fn is_exhausted(self) -> bool {
        self == Self::MAX
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl From<u64> for Version {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_counter_clock_is_dense_whatever_the_wall_says() {
        assert_eq!(Version(7).next(ClockKind::Counter, 1_000_000), Version(8));
    }

    #[test]
    fn a_clock_that_jumps_back_still_moves_forward() {
        let now = Version::from_ms(5_000);
        assert_eq!(now.next(ClockKind::Hybrid, 10), Version(now.0 + 1));
        assert_eq!(now.next(ClockKind::Hybrid, 5_001).ms(), 5_001);
    }

    proptest! {
        #[test]
        fn next_is_greater(last in 0..u64::MAX, stamp: u64) {
            prop_assert!(Version(last).next(ClockKind::Hybrid, stamp) > Version(last));
            prop_assert!(Version(last).next(ClockKind::Counter, stamp) > Version(last));
        }
    }
}
