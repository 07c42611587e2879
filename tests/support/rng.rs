//! Random numbers that can be had again.

use std::time::{SystemTime, UNIX_EPOCH};

/// A `SplitMix64` generator.
#[derive(Debug, Clone)]
pub struct Rng(u64);

/// The seed of a test: `SALVOR_TEST_SEED`, or one of its own, which is printed.
pub fn seed(test: &str) -> u64 {
    let given = std::env::var("SALVOR_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::from(since.subsec_nanos()) ^ since.as_secs() << 20
    });
    println!("{test}: SALVOR_TEST_SEED={seed}");
    seed
}

impl Rng {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// One of `choices`.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let at = self.below(choices.len() as u64);
        &choices[usize::try_from(at).unwrap()]
    }

    /// Bytes that neither compress nor repeat.
    pub fn noise(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// Bytes that compress to about a third: half of each line repeats.
    pub fn text(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 64);
        while bytes.len() < len {
            let line = format!("{:016x} the same words as in every other line\n", self.number());
            bytes.extend_from_slice(line.as_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}
