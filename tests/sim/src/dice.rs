//! Everything random in a run: streams of numbers that derive from the seed and a name, so that drawing more of one thing changes
//! nothing about the others.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// One stream.
#[derive(Clone, Debug)]
pub struct Dice(SmallRng);

impl Dice {
    /// The stream of this name.
    pub fn of(seed: u64, name: &str) -> Self {
        Self(SmallRng::seed_from_u64(mix(seed, name)))
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.random_range(0..bound) }
    }

    /// A number from `least` to `most`, both included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        self.0.random_range(least..=most.max(least))
    }

    /// True in `part` of `of` cases.
    pub fn chance(&mut self, part: u64, of: u64) -> bool {
        self.below(of) < part
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0.random()
    }

    /// One of these.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// A set of `below` things as bits: at least one, and not all of them if there are two or more.
    pub fn some_of(&mut self, below: usize) -> u64 {
        let all = (1_u64 << below) - 1;
        if below < 2 { all } else { self.between(1, all - 1) }
    }
}

/// FNV-1a over the name, from the seed.
pub(crate) fn mix(seed: u64, name: &str) -> u64 {
    let start = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xcbf2_9ce4_8422_2325;
    name.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
