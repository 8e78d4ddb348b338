//! Horizons: which versions of which keys an engine may drop when it rewrites what it stores.
//!
//! ```text
//!   machine ─ announce ─► told ─ flush ─► durable ─► Sieve ─► a compaction drops what no read may ask for any more
//!                                            │
//!   view ─ pin ──────────────────────────────┘ the table of its moment: while it lives, nothing newer is used
//! ```
//!
//! A range has a *horizon* `h`: reads at versions below it are refused. So of each key only the newest record at or below `h` counts, and those above
//! it: the sieve drops a record if it has passed a newer one of the same key that is itself at or below `h`.
//!
//! - **Only durable horizons are used.** A crash may lose the record that raised the horizon, and must not keep a compaction that relied on it: reads
//!   between the old and the new horizon would find holes. So a horizon counts after the first flush that began after it was announced.
//! - **A view holds the horizons still.** RocksDB asks its filter about records that only a snapshot needs, too. While there is a view, compactions
//!   use the horizons of when it was made, which are not beyond what the view itself says.
//! - **A lower horizon counts at once**, before the data that it belongs to is written, so that no compaction that sees the data uses the higher one.
//! - **Deletion marks** are records like others for the sieve. The newest one at or below the horizon could go too, once nothing older is left of
//!   its key, but a compaction does not know that: an older record may lie in a file that it does not read. So marks are noted,
//!   and *swept* afterwards: one batch removes the mark together with every older record that the engine still holds.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use kontiki_types::{Fault, Version};
use parking_lot::{Mutex, MutexGuard};

use super::{Batch, Engine};
use crate::mvcc::{self, Kind};
use crate::schema;

/// By the start of a range: its end, and its horizon. Ranges do not overlap.
type Table = BTreeMap<Vec<u8>, (Vec<u8>, Version)>;

/// Bytes of noted marks that are kept; what is more is found by the next compaction.
const MARKS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Marks that are swept in one batch.
const SWEEP_MARKS_MAX: usize = 256;

/// The horizons of one engine.
#[derive(Debug, Default)]
pub struct Horizons {
    state: Mutex<State>,
    /// Held by whoever replaces whole ranges, and by whoever must not see that happen.
    replacing: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// As announced.
    told: Table,
    /// What was flushed since.
    durable: Arc<Table>,
    /// By view, what was durable when it was made.
    pinned: BTreeMap<u64, Arc<Table>>,
    next_view: u64,
    /// Key parts of which the newest record at or below the horizon is a deletion.
    marks: Vec<Vec<u8>>,
    marks_bytes: usize,
}

impl Horizons {
    /// The keys of `[from, to)` have this horizon from now on, as far as what was written until now tells. Counts after the next flush; where a
    /// higher one was known, or the range was another, that one counts no more, at once.
    pub fn announce(&self, from: &[u8], to: &[u8], horizon: Version) {
        let mut state = self.state.lock();
        if state.told.get(from).is_some_and(|(end, known)| end == to && *known <= horizon) {
            state.told.insert(from.to_vec(), (to.to_vec(), horizon));
            return;
        }
        state.forget(from, to);
        state.told.insert(from.to_vec(), (to.to_vec(), horizon));
    }

    /// Nothing of `[from, to)` may be dropped any more: before other data is put there.
    pub fn forget(&self, from: &[u8], to: &[u8]) {
        self.state.lock().forget(from, to);
    }

    /// Before a flush begins: what it will make durable.
    pub(super) fn flushing(&self) -> Flushing {
        Flushing(self.state.lock().told.clone())
    }

    /// After that flush.
    pub(super) fn flushed(&self, flushing: Flushing) {
        let mut state = self.state.lock();
        let State { told, durable, .. } = &mut *state;
        let now: Table = flushing
            .0
            .into_iter()
            .filter(|(from, (to, horizon))| told.get(from).is_some_and(|(end, known)| end == to && known >= horizon))
            .collect();
        if **durable != now {
            *durable = Arc::new(now);
        }
    }

    /// Makes a view with what is durable held still for it.
    pub(super) fn pin<V>(self: &Arc<Self>, view: impl FnOnce() -> V) -> (V, Pin) {
        let mut state = self.state.lock();
        let number = state.next_view;
        state.next_view += 1;
        let table = Arc::clone(&state.durable);
        state.pinned.insert(number, table);
        (view(), Pin { horizons: Arc::clone(self), number })
    }

    /// For one compaction that begins now.
    pub(super) fn sieve(self: &Arc<Self>) -> Sieve {
        let state = self.state.lock();
        let mut tables = vec![Arc::clone(&state.durable)];
        for table in state.pinned.values() {
            if !tables.iter().any(|known| Arc::ptr_eq(known, table)) {
                tables.push(Arc::clone(table));
            }
        }
        Sieve {
            horizons: Arc::clone(self),
            tables,
            from: Vec::new(),
            to: None,
            horizon: Version::ZERO,
            part: Vec::new(),
            newest: None,
        }
    }

    /// To be held while ranges are replaced.
    pub(super) fn replacing(&self) -> MutexGuard<'_, ()> {
        self.replacing.lock()
    }

    /// Removes the deletion marks that were noted and what is older, as far as the horizons still say so. Bounded work at a time: writers go on
    /// between the batches.
    pub(super) fn sweep(self: &Arc<Self>, engine: &dyn Engine) -> Result<(), Fault> {
        loop {
            let marks = {
                let mut state = self.state.lock();
                let keep = state.marks.len().saturating_sub(SWEEP_MARKS_MAX);
                let marks = state.marks.split_off(keep);
                state.marks_bytes -= marks.iter().map(Vec::len).sum::<usize>();
                marks
            };
            if marks.is_empty() {
                return Ok(());
            }
            let _unreplaced = self.replacing();
            let mut sieve = self.sieve();
            let mut batch = Batch::new();
            for part in marks {
                remove_dead(engine, &mut sieve, &part, &mut batch)?;
            }
            if !batch.is_empty() {
                engine.write(&batch)?;
            }
        }
    }
}

/// If the newest record at or below the horizon is a deletion: removes it and all that are older.
fn remove_dead(engine: &dyn Engine, sieve: &mut Sieve, part: &[u8], batch: &mut Batch) -> Result<(), Fault> {
    let horizon = sieve.horizon_of(part);
    let from = [part, &(!horizon.0).to_be_bytes()].concat();
    let to = [part, &[0xff; schema::VERSION_BYTES + 1]].concat();
    let mut cursor = engine.cursor(&from, &to)?;
    cursor.seek(&from)?;
    if !cursor.valid() || mvcc::kind(cursor.key(), cursor.value())? != Kind::Delete {
        return Ok(());
    }
    while cursor.valid() {
        batch.delete(cursor.key());
        cursor.next()?;
    }
    Ok(())
}

impl State {
    fn forget(&mut self, from: &[u8], to: &[u8]) {
        let overlaps = |start: &Vec<u8>, end: &Vec<u8>| start.as_slice() < to && from < end.as_slice();
        self.told.retain(|start, (end, _)| !overlaps(start, end));
        if self.durable.iter().any(|(start, (end, _))| overlaps(start, end)) {
            Arc::make_mut(&mut self.durable).retain(|start, (end, _)| !overlaps(start, end));
        }
    }
}

/// What a flush will make durable.
pub(super) struct Flushing(Table);

/// Holds the horizons still while a view lives.
pub(super) struct Pin {
    horizons: Arc<Horizons>,
    number: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.horizons.state.lock().pinned.remove(&self.number);
    }
}

/// What becomes of a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// A newer one of its key has been passed that every reader may see.
    Drop,
    /// A deletion that every reader sees: to be swept, with all that it hides.
    Mark,
}

/// Decides about the records of one compaction, which come in the order of their keys.
pub(super) struct Sieve {
    horizons: Arc<Horizons>,
    tables: Vec<Arc<Table>>,
    /// In `[from, to)` the horizon is this one; no `to`: without an end.
    from: Vec<u8>,
    to: Option<Vec<u8>>,
    horizon: Version,
    /// The key part looked at last, and its newest record at or below the horizon, if that was passed.
    part: Vec<u8>,
    newest: Option<Version>,
}

impl Sieve {
    /// Whether a record may go. Total. Notes the marks that it passes.
    pub(super) fn drops(&mut self, key: &[u8], record: &[u8]) -> bool {
        match self.judge(key, record) {
            Verdict::Keep => false,
            Verdict::Drop => true,
            Verdict::Mark => {
                let mut state = self.horizons.state.lock();
                if state.marks_bytes < MARKS_BYTES_MAX {
                    state.marks_bytes += self.part.len();
                    state.marks.push(self.part.clone());
                }
                false
            }
        }
    }

    /// Whether a record is of no use to anybody: dropped by a compaction, or swept after it.
    pub(super) fn is_dead(&mut self, key: &[u8], record: &[u8]) -> bool {
        self.judge(key, record) != Verdict::Keep
    }

    fn judge(&mut self, key: &[u8], record: &[u8]) -> Verdict {
        let Some((part, version)) = schema::split_data(key) else { return Verdict::Keep };
        if part != self.part {
            part.clone_into(&mut self.part);
            self.newest = None;
        }
        if version > self.horizon_of(key) {
            return Verdict::Keep;
        }
        if let Some(newest) = self.newest {
            return if version < newest { Verdict::Drop } else { Verdict::Keep };
        }
        self.newest = Some(version);
        if matches!(mvcc::kind(key, record), Ok(Kind::Delete)) { Verdict::Mark } else { Verdict::Keep }
    }

    /// The horizon at a key: the lowest that any table tells.
    fn horizon_of(&mut self, key: &[u8]) -> Version {
        let known = key >= self.from.as_slice() && self.to.as_deref().is_none_or(|to| key < to);
        if known && !self.from.is_empty() {
            return self.horizon;
        }
        key.clone_into(&mut self.from);
        (self.to, self.horizon) = (None, Version::MAX);
        for table in &self.tables {
            let (horizon, to) = look_up(table, key);
            self.horizon = self.horizon.min(horizon);
            self.to = match (self.to.take(), to) {
                (Some(a), Some(b)) => Some(a.min(b.to_vec())),
                (a, b) => a.or_else(|| b.map(<[u8]>::to_vec)),
            };
        }
        self.horizon
    }
}

/// The horizon at a key, and up to where it is that.
fn look_up<'t>(table: &'t Table, key: &[u8]) -> (Version, Option<&'t [u8]>) {
    if let Some((_, (to, horizon))) = table.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()
        && key < to.as_slice()
    {
        return (*horizon, Some(to));
    }
    let next = table.range::<[u8], _>((Bound::Excluded(key), Bound::Unbounded)).next();
    (Version::ZERO, next.map(|(from, _)| from.as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(user: &str, version: u64) -> Vec<u8> {
        let key = kontiki_types::key::internal(kontiki_types::NamespaceId::DEFAULT, user.as_bytes());
        schema::Key::Data { key, version: Version(version) }.encode()
    }

    fn range(from: &str, to: &str) -> (Vec<u8>, Vec<u8>) {
        let user = |user: &str| kontiki_types::key::internal(kontiki_types::NamespaceId::DEFAULT, user.as_bytes());
        schema::data(&kontiki_types::KeyRange::new(user(from), user(to)))
    }

    fn announce(horizons: &Horizons, from: &str, to: &str, horizon: u64) {
        let (from, to) = range(from, to);
        horizons.announce(&from, &to, Version(horizon));
    }

    fn flush(horizons: &Horizons) {
        horizons.flushed(horizons.flushing());
    }

    /// The versions 1 to 5 of a key that are kept.
    fn kept(horizons: &Arc<Horizons>, user: &str) -> Vec<u64> {
        let mut sieve = horizons.sieve();
        let mut put = Vec::new();
        mvcc::put_into(b"v", &mut put);
        (1..=5).rev().filter(|version| !sieve.drops(&key(user, *version), &put)).collect()
    }

    #[test]
    fn a_horizon_counts_after_a_flush_that_began_later() {
        let horizons = Arc::new(Horizons::default());
        let early = horizons.flushing();
        announce(&horizons, "a", "m", 3);
        assert_eq!(kept(&horizons, "b"), [5, 4, 3, 2, 1], "a crash could lose it");
        horizons.flushed(early);
        assert_eq!(kept(&horizons, "b"), [5, 4, 3, 2, 1], "that flush began before");
        flush(&horizons);
        assert_eq!(kept(&horizons, "b"), [5, 4, 3]);
        assert_eq!(kept(&horizons, "m"), [5, 4, 3, 2, 1], "beyond the range");
        announce(&horizons, "a", "m", 5);
        assert_eq!(kept(&horizons, "b"), [5, 4, 3], "the old one still counts");
        flush(&horizons);
        assert_eq!(kept(&horizons, "b"), [5]);
    }

    #[test]
    fn what_is_lower_or_of_another_range_counts_at_once() {
        let horizons = Arc::new(Horizons::default());
        announce(&horizons, "a", "m", 4);
        announce(&horizons, "m", "z", 4);
        flush(&horizons);
        let during = horizons.flushing();
        announce(&horizons, "a", "m", 2);
        horizons.flushed(during);
        assert_eq!(kept(&horizons, "b"), [5, 4, 3, 2, 1], "neither the higher, nor the lower before its flush");
        assert_eq!(kept(&horizons, "n"), [5, 4]);
        flush(&horizons);
        assert_eq!(kept(&horizons, "b"), [5, 4, 3, 2]);
        announce(&horizons, "a", "n", 4);
        assert_eq!((kept(&horizons, "b").len(), kept(&horizons, "x").len()), (5, 5));
        let (from, to) = range("b", "c");
        flush(&horizons);
        horizons.forget(&from, &to);
        flush(&horizons);
        assert_eq!(kept(&horizons, "a"), [5, 4, 3, 2, 1]);
    }

    #[test]
    fn a_view_holds_the_horizons_still() {
        let horizons = Arc::new(Horizons::default());
        announce(&horizons, "a", "m", 2);
        flush(&horizons);
        let (_, first) = horizons.pin(|| ());
        announce(&horizons, "a", "m", 4);
        flush(&horizons);
        let (_, second) = horizons.pin(|| ());
        assert_eq!(kept(&horizons, "b"), [5, 4, 3, 2]);
        drop(first);
        assert_eq!(kept(&horizons, "b"), [5, 4]);
        drop(second);
        assert_eq!(kept(&horizons, "b"), [5, 4]);
    }

    /// A compaction that sees a mark knows nothing of the files that it does not see: the mark stays, and goes together with what is older.
    #[test]
    fn a_mark_goes_only_with_everything_that_it_hides() {
        let engine = crate::engine::MemoryEngine::new();
        let horizons = Arc::new(Horizons::default());
        announce(&horizons, "a", "z", 4);
        flush(&horizons);
        let (mut put, mut mark) = (Vec::new(), Vec::new());
        mvcc::put_into(b"v", &mut put);
        mvcc::delete_into(&mut mark);
        let mut batch = Batch::new();
        let records =
            [("b", 5, &put), ("b", 4, &mark), ("b", 2, &mark), ("b", 1, &put), ("c", 4, &put), ("c", 1, &put), ("d", 5, &mark)];
        for (user, version, record) in records {
            batch.put(&key(user, version), record);
        }
        engine.write(&batch).expect("writes");
        let mut sieve = horizons.sieve();
        assert!(!sieve.drops(&key("b", 4), &mark), "what is older of it was not passed");
        assert!(!sieve.drops(&key("d", 5), &mark), "above the horizon");
        assert!(!horizons.sieve().drops(&key("c", 3), &mark), "a mark that is gone by now, and not the newest any more");
        horizons.sweep(&*engine).expect("sweeps");
        let left = records.map(|(user, version, _)| engine.get(&key(user, version)).expect("reads").is_some());
        assert_eq!(left, [true, false, false, false, true, true, true]);
        // Marks of a range that was given to other data meanwhile say nothing.
        let mut sieve = horizons.sieve();
        assert!(!sieve.drops(&key("d", 4), &mark));
        let (from, to) = range("a", "z");
        horizons.forget(&from, &to);
        let mut batch = Batch::new();
        batch.put(&key("d", 4), &mark);
        engine.write(&batch).expect("writes");
        horizons.sweep(&*engine).expect("sweeps");
        assert!(engine.get(&key("d", 4)).expect("reads").is_some());
    }

    #[test]
    fn one_sieve_serves_many_ranges_and_foreign_records() {
        let horizons = Arc::new(Horizons::default());
        announce(&horizons, "b", "c", 3);
        announce(&horizons, "d", "e", 5);
        flush(&horizons);
        let mut sieve = horizons.sieve();
        let mut put = Vec::new();
        mvcc::put_into(b"v", &mut put);
        let mut kept = Vec::new();
        for user in ["a", "b", "bb", "c", "d", "f"] {
            for version in [5, 3, 1] {
                if !sieve.drops(&key(user, version), &put) {
                    kept.push(format!("{user}{version}"));
                }
            }
        }
        assert_eq!(kept.join(" "), "a5 a3 a1 b5 b3 bb5 bb3 c5 c3 c1 d5 f5 f3 f1");
        for foreign in [&b""[..], b"\x01", b"\x02aaaaaaaa", b"\x10", b"\x10aaaaaaaa"] {
            assert!(!sieve.drops(foreign, b""));
        }
    }
}
