//! The engine: an ordered map of bytes that takes atomic batches. What a replica is on disk lies in one of these; a node has
//! one engine for all its replicas.
//!
//! ```text
//!   machine ──Batch──► Engine::write      atomic, visible at once, NOT durable
//!   node ────────────► Engine::flush      the barrier: everything written before it survives a power cut after it
//!   reader ◄── first, cursor ── Engine    ordered reads; a cursor is one consistent view
//!   sender ◄── view ── Engine             one moment, kept for as long as it is held
//!   receiver ─► stage ─► install          ranges replaced as a whole: all of them or none, durable
//! ```
//!
//! There is no write-ahead log here: the Raft log is the log, and a restart replays what the engine had not flushed (DESIGN
//! section 8). So a crash may lose the newest batches, but only whole batches and only from the end: what is left is the state
//! after some prefix of the writes. Both engines keep that promise, and `tests/crash.rs` holds them to it.
//!
//! **Invariant:** this trait knows nothing of partitions, and of versions only which of them may go (`horizons`); only `rocks` names RocksDB.

mod batch;
mod garbage;
mod horizons;
pub mod memory;
pub mod rocks;
mod stage;

use std::sync::Arc;

use bytes::Bytes;
use kontiki_types::Fault;

pub use batch::{Batch, Change};
pub use garbage::{Part, Sample};
pub use horizons::Horizons;
pub use memory::MemoryEngine;
pub use rocks::{RocksEngine, RocksOptions};

/// An ordered map of non-empty byte keys to byte values.
pub trait Engine: Send + Sync + 'static {
    /// Applies a batch: all of it or nothing, in order, so that the last change of a key wins. Visible to every read that starts
    /// after this returns. Not durable before [`Engine::flush`].
    fn write(&self, batch: &Batch) -> Result<(), Fault>;

    /// Makes everything written before the call durable. Blocks; call it where blocking is allowed.
    fn flush(&self) -> Result<(), Fault>;

    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault>;

    /// The first record in `[from, to)`: the MVCC point read. An empty `to` is no bound. Where both ends have the same key part
    /// (`schema::data_prefix`) the engine may use a filter on it.
    fn first(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, Fault>;

    /// A cursor over `[from, to)` on the state of now, whatever is written later. An empty `to` is no bound.
    fn cursor<'a>(&'a self, from: &[u8], to: &[u8]) -> Result<Box<dyn Cursor + 'a>, Fault>;

    /// The state of now, to be read for as long as it is held, whatever is written, installed or compacted later. Holding it keeps
    /// what is overwritten meanwhile on disk, so let it go when it is not needed.
    fn view(&self) -> Arc<dyn View>;

    /// An empty stage. It takes room outside of the data, on the same disk, until it is installed or dropped.
    fn stage(&self) -> Result<Box<dyn Stage>, Fault>;

    /// Which versions may be dropped when what is stored is rewritten.
    fn horizons(&self) -> &Horizons;

    /// Cuts `[from, to)` into parts that follow each other and hold about `part_bytes` on disk each: for work that must not take it all
    /// at once. At least one; an estimate, from what the engine knows without reading.
    fn parts(&self, from: &[u8], to: &[u8], part_bytes: u64) -> Result<Vec<Part>, Fault>;

    /// Reads the first `records_max` records of `[from, to)`, and says how much of them a compaction would drop that begins now.
    fn sample(&self, from: &[u8], to: &[u8], records_max: usize) -> Result<Sample, Fault>;

    /// Rewrites what is stored of `[from, to)`, so that what was overwritten and deleted there gives its room back, as far as the horizons
    /// allow. Changes nothing that may be read. Flushes first. Blocks for as long as it takes to read and write the range; other calls go on beside it. An empty bound is none.
    fn compact(&self, from: &[u8], to: &[u8]) -> Result<(), Fault>;

    /// What the engine says of itself. Cheap enough to ask every second.
    fn stats(&self) -> EngineStats;
}

/// The state of an engine at one moment. It owns what it needs: it may be moved and kept. The engine's disk is closed only when
/// the last view of it is gone.
pub trait View: Send + Sync {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault>;

    /// A cursor over `[from, to)`. An empty `to` is no bound.
    fn cursor<'a>(&'a self, from: &[u8], to: &[u8]) -> Result<Box<dyn Cursor + 'a>, Fault>;
}

/// Rows that are to take the place of all that lies in some ranges. They are written outside of the data, so that the engine is
/// used meanwhile as if there were no stage; then [`Stage::install`] replaces all ranges in one step. Dropping a stage, also by a crash,
/// leaves nothing of it.
///
/// Ranges may come in any order but must not overlap; in a range, rows come in order. What breaks these rules is a fault, and the stage is
/// of no use after it, nor after any other fault.
pub trait Stage: Send {
    /// Begins the range `[from, to)`: it will hold what is put from here to the next call, and nothing else. Ranges that continue each other may
    /// be as small as one likes.
    fn replace(&mut self, from: &[u8], to: &[u8]) -> Result<(), Fault>;

    /// Adds a row to the range that was begun last.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault>;

    /// Writes what is still in memory. Rows that continue the range that was begun last need a new [`Stage::replace`] afterwards. An engine that
    /// has nothing to write need not do anything.
    fn seal(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    /// Replaces the ranges: all of them or, if it fails or the power fails, none. When this returns it is durable, as is everything
    /// that was written before. Views and cursors of before see nothing of it.
    fn install(self: Box<Self>) -> Result<(), Fault>;
}

/// A place in a consistent view. It starts nowhere: seek first. A cursor pins what it sees, so hold it for one page, not for
/// a whole scan.
pub trait Cursor {
    /// To the first record at or after `key`.
    fn seek(&mut self, key: &[u8]) -> Result<(), Fault>;
    /// To the last record at or before `key`.
    fn seek_for_prev(&mut self, key: &[u8]) -> Result<(), Fault>;
    /// To the next record. Stays nowhere if it is nowhere.
    fn next(&mut self) -> Result<(), Fault>;
    /// To the previous record. Stays nowhere if it is nowhere.
    fn prev(&mut self) -> Result<(), Fault>;
    /// Whether there is a record here.
    fn valid(&self) -> bool;
    /// The key here; empty if there is no record here.
    fn key(&self) -> &[u8];
    /// The value here; empty if there is no record here.
    fn value(&self) -> &[u8];
}

/// What an engine says of itself, for metrics, admission and the flush loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Records, estimated; every version of a key counts.
    pub records_estimate: u64,
    /// Bytes on disk (in memory, for the memory engine).
    pub data_bytes: u64,
    /// Bytes written and not yet flushed, estimated: what a restart would have to replay.
    pub unflushed_bytes: u64,
    /// Bytes that compaction still has to rewrite.
    pub compaction_debt_bytes: u64,
    /// Whether the engine holds writers back or refuses them at present.
    pub stalled: bool,
}
