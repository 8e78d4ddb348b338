//! How much room a compaction would give back, told without reading everything and without remembering anything: a range is cut into parts of some
//! ten MiB, of each part the first few hundred records are held against the horizons, and a part of which much is dead is worth rewriting.
//! A restart forgets nothing, because nothing was counted.

use kontiki_types::Fault;

use super::Cursor;
use super::horizons::Sieve;

/// A part of a range: the keys in `[from, to)` (an empty `to` is no bound), and how many bytes they take on disk, about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it begins.
    pub from: Vec<u8>,
    /// Where the next one begins.
    pub to: Vec<u8>,
    /// Bytes on disk; what was not flushed does not count.
    pub bytes: u64,
}

/// What was seen of some records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Bytes of their keys and values.
    pub read_bytes: u64,
    /// Of these, bytes that a compaction would drop.
    pub dead_bytes: u64,
}

impl Sample {
    /// Reads from the start of `cursor`'s range on.
    pub(super) fn take(cursor: &mut dyn Cursor, from: &[u8], sieve: &mut Sieve, records_max: usize) -> Result<Self, Fault> {
        let mut sample = Self::default();
        cursor.seek(from)?;
        for _ in 0..records_max {
            if !cursor.valid() {
                break;
            }
            let bytes = (cursor.key().len() + cursor.value().len()) as u64;
            sample.read_bytes += bytes;
            if sieve.is_dead(cursor.key(), cursor.value()) {
                sample.dead_bytes += bytes;
            }
            cursor.next()?;
        }
        Ok(sample)
    }

    /// How much of a part that looks like this is dead.
    pub fn dead_of(&self, part_bytes: u64) -> u64 {
        let share = u128::from(self.dead_bytes) * u128::from(part_bytes) / u128::from(self.read_bytes.max(1));
        u64::try_from(share).unwrap_or(part_bytes)
    }
}

/// Cuts `[from, to)` at the starts of the files in it. `files`: where each begins, and its bytes, in order.
pub(super) fn cut(from: &[u8], to: &[u8], files: &[(Vec<u8>, u64)], part_bytes: u64) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut open = Part { from: from.to_vec(), to: to.to_vec(), bytes: 0 };
    for (start, bytes) in files {
        if open.bytes >= part_bytes && *start > open.from {
            let next = Part { from: start.clone(), to: to.to_vec(), bytes: 0 };
            open.to.clone_from(start);
            parts.push(std::mem::replace(&mut open, next));
        }
        open.bytes += bytes;
    }
    parts.push(open);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(sizes: &[(&str, u64)]) -> Vec<(Vec<u8>, u64)> {
        sizes.iter().map(|(start, bytes)| (start.as_bytes().to_vec(), *bytes)).collect()
    }

    fn shown(parts: &[Part]) -> String {
        let one =
            |part: &Part| format!("{}-{}:{}", String::from_utf8_lossy(&part.from), String::from_utf8_lossy(&part.to), part.bytes);
        parts.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn parts_follow_each_other_and_end_where_a_file_begins() {
        assert_eq!(shown(&cut(b"a", b"z", &[], 10)), "a-z:0");
        assert_eq!(shown(&cut(b"a", b"", &files(&[("b", 4)]), 10)), "a-:4");
        assert_eq!(
            shown(&cut(b"a", b"z", &files(&[("b", 9), ("c", 1), ("d", 9), ("d", 5), ("e", 1)]), 10)),
            "a-d:10 d-e:14 e-z:1"
        );
        // Many versions of one key fill several files that begin with it: no part is empty.
        assert_eq!(shown(&cut(b"a", b"z", &files(&[("a", 20), ("a", 20), ("b", 1)]), 10)), "a-b:40 b-z:1");
    }

    #[test]
    fn a_share_of_nothing_is_nothing() {
        assert_eq!(Sample::default().dead_of(1000), 0);
        assert_eq!(Sample { read_bytes: 400, dead_bytes: 300 }.dead_of(1000), 750);
        assert_eq!(Sample { read_bytes: 1, dead_bytes: 1 }.dead_of(u64::MAX), u64::MAX);
    }
}
