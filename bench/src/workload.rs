//! What is written and read: keys spread evenly over the key space, values that do not compress.

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Bytes of a value.
pub const VALUE_BYTES: usize = 256;
/// Bytes of a key.
pub const KEY_BYTES: usize = 16;
/// Puts choose among this many keys.
pub const KEYS: u64 = 100_000;
/// The first so many keys are written before anything is measured; gets choose among them.
pub const KEYS_LOADED: u64 = 10_000;

/// Random bytes from which values are cut, so that making a value costs nothing and no two neighbours are equal.
const POOL_BYTES: usize = 1024 * 1024;

/// The `n`th key: hashed, so that its first bytes, by which an even cut of the key space partitions, are spread evenly.
pub fn key(n: u64) -> Bytes {
    let (high, low) = (mix(n), mix(!n));
    Bytes::from([high.to_be_bytes(), low.to_be_bytes()].concat())
}

/// SplitMix64's finaliser (Steele et al., "Fast Splittable Pseudorandom Number Generators", 2014): every bit of the input moves half
/// of those of the output.
fn mix(n: u64) -> u64 {
    let z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A source of keys and values, replayable from its seed.
pub struct Source {
    rng: SmallRng,
    pool: Bytes,
}

impl Source {
    /// A source that shares `pool`.
    pub fn new(seed: u64, pool: &Bytes) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), pool: pool.clone() }
    }

    /// The bytes that sources share.
    pub fn pool(seed: u64) -> Bytes {
        let mut bytes = vec![0; POOL_BYTES];
        SmallRng::seed_from_u64(seed).fill(bytes.as_mut_slice());
        Bytes::from(bytes)
    }

    /// A key among the first `count`.
    pub fn key(&mut self, count: u64) -> Bytes {
        key(self.rng.random_range(0..count))
    }

    /// A value.
    pub fn value(&mut self) -> Bytes {
        self.bytes(VALUE_BYTES)
    }

    /// So many bytes, at most half a MiB.
    pub fn bytes(&mut self, count: usize) -> Bytes {
        let at = self.rng.random_range(0..POOL_BYTES - count);
        self.pool.slice(at..at + count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_distinct_and_spread_over_the_first_byte() {
        let keys: std::collections::BTreeSet<Bytes> = (0..KEYS_LOADED).map(key).collect();
        assert_eq!(keys.len() as u64, KEYS_LOADED);
        let low = keys.iter().filter(|key| key[0] < 0x80).count() as u64;
        assert!(low.abs_diff(KEYS_LOADED / 2) < KEYS_LOADED / 20, "{low} of {KEYS_LOADED} in the lower half");
        assert!(keys.iter().all(|key| key.len() == KEY_BYTES));
    }

    #[test]
    fn a_seed_gives_the_same_again() {
        let pool = Source::pool(7);
        let draw = |seed| {
            let mut source = Source::new(seed, &pool);
            (source.key(KEYS), source.value())
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_eq!(draw(1).1.len(), VALUE_BYTES);
    }
}
