//! What both engines demand of a stage: ranges that do not overlap, and in each its rows in order.

use kontiki_types::Fault;

use crate::schema;

/// `[from, to)`.
pub(super) type Bounds = (Vec<u8>, Vec<u8>);

/// The ranges that a stage was told of, and where it is in the last.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    /// Neighbours that came one after the other are one.
    told: Vec<Bounds>,
    /// The last key of the last range; empty if it has none yet.
    last_key: Vec<u8>,
}

impl Ranges {
    /// Begins the range `[from, to)`. Returns whether it goes on where the last one ended.
    pub(super) fn begin(&mut self, from: &[u8], to: &[u8]) -> Result<bool, Fault> {
        if from.is_empty() || from >= to {
            return Err(refused(
                from,
                &format!("a range of a stage ends behind its start, and this one ends at {}", schema::place(to)),
            ));
        }
        if let Some((_, end)) = self.told.last_mut().filter(|(_, end)| end == from) {
            to.clone_into(end);
            return Ok(true);
        }
        self.told.push((from.to_vec(), to.to_vec()));
        self.last_key.clear();
        Ok(false)
    }

    /// Takes the next key of the last range.
    pub(super) fn admit(&mut self, key: &[u8]) -> Result<(), Fault> {
        let Some((from, to)) = self.told.last() else { return Err(refused(key, "no range was begun for it")) };
        if key < from.as_slice() || key >= to.as_slice() {
            return Err(refused(key, "it lies outside of the range that was begun for it"));
        }
        if key <= self.last_key.as_slice() {
            return Err(refused(key, &format!("it does not come after the one before, {}", schema::place(&self.last_key))));
        }
        key.clone_into(&mut self.last_key);
        Ok(())
    }

    /// All ranges in order, if no two of them overlap.
    pub(super) fn finish(self) -> Result<Vec<Bounds>, Fault> {
        let mut told = self.told;
        told.sort();
        match told.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            Some(pair) => Err(refused(&pair[1].0, "two ranges of a stage overlap there")),
            None => Ok(told),
        }
    }
}

fn refused(key: &[u8], why: &str) -> Fault {
    Fault::Invariant(format!("a stage was given {}: {why}", schema::place(key)))
}
