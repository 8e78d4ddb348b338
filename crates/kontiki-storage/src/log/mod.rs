//! The raft log of a node: one log for all groups, in segments that are written once from front to back and then recycled.
//!
//! ```text
//!   write(records) ─► frame ─► pwrite ─► index                    0000000007.segment   header │ frame │ frame │ ...
//!   sync()         ─► fdatasync                                   0000000008.segment   header │ frame │ ▁▁▁▁▁▁▁▁  active
//!   reader.read()  ─► index ─► pread ─► entry CRC                 0000000003.spare     waits
//! ```
//!
//! # Rules
//!
//! - **Order:** records are durable in the order in which they were written, whatever their groups: what recovery finds is always a
//!   prefix of the frames written, and holds everything that was written before the last `sync` that succeeded.
//! - **A failed fsync ends the log**, for ever: the kernel may have dropped the pages and will not say so again (Rebello et al., "Can
//!   Applications Recover from fsync Failures?", ATC 2020). So does any other failure, with one exception: a disk that was full
//!   before anything was written. Then the log is as before, and writing may be tried again.
//! - **A frame never spans segments.** One that does not fit goes to the next segment, which is made as large as it needs to be; a
//!   segment larger than usual is removed, not recycled.
//! - **Which tears are possible.** Between two syncs any number of frames may be written (one `write` makes several if it is large).
//!   After a power cut each sector of each of them may be there or not. The frames before the first bad one are kept, the rest is
//!   dropped, also good frames: they were never acknowledged. A frame tells up to which frame everything was durable when it was
//!   written; so if one behind a bad frame says that the bad one was durable, it is damage, and the log does not open. What cannot
//!   be told from a tear is damage to the last frame written before a crash.
//! - **A segment is recycled** when no live entry of any group lies in it or before it. Its votes, commit and purge points are in the header
//!   of every later one. This is decided when the log rolls to the next segment, and stands in that segment's header, so that
//!   a missing file is never taken for a recycled one.
//!
//! The bytes are described in `header`, `frame` and `record`, and all together in `docs/log-format.md`.
//!
//! **Invariant:** nothing here has a thread, a clock or a random number. One writer at a time is held by `&mut`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kontiki_types::limits::{FRAME_BYTES_MAX, SEGMENT_BYTES, SEGMENTS_SPARE_MAX};
use kontiki_types::{Fault, PartitionId, StoreId};

use self::frame::FrameBuffer;
use self::header::Header;
use self::reader::Shared;
use self::recovery::Found;
use self::segment::Segment;
use self::spares::Retired;
use crate::disk::Disk;

mod frame;
mod header;
mod index;
mod reader;
mod record;
mod recovery;
mod segment;
mod spares;

pub use reader::{Footprint, LogReader};
pub use record::Record;
pub use spares::Spares;

/// Zeros that are written at once ahead of the frames, in a segment that was not filled before.
const FILL_BYTES: u64 = 1024 * 1024;

/// What to do about damage.
const ADVICE: &str = "keep what is here, and restore this directory from a backup or replace this node by a new one (the other replicas have \
                      the data)";

/// Settings of a log. All defaults come from `limits`; tests use small ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Size of a segment file: 1 KiB to 1 GiB. May differ from what the log was written with.
    pub segment_bytes: u64,
    /// How many unused segments are kept for recycling, and whether one is prepared ahead (0: neither).
    pub spare_segments: usize,
    /// Bytes of records in one frame. A larger record gets a frame of its own.
    pub frame_bytes_max: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: SEGMENT_BYTES, spare_segments: SEGMENTS_SPARE_MAX, frame_bytes_max: FRAME_BYTES_MAX }
    }
}

impl LogOptions {
    fn check(&self) -> Result<(), Fault> {
        const KIB: u64 = 1024;
        if (KIB..=KIB * KIB * KIB).contains(&self.segment_bytes) {
            return Ok(());
        }
        let message = format!("segment_bytes is {}, it must be 1 KiB to 1 GiB; set another size", self.segment_bytes);
        Err(Fault::io("opening the raft log", std::io::Error::new(std::io::ErrorKind::InvalidInput, message)))
    }
}

/// What a log held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Every group that the log knows.
    pub groups: BTreeMap<PartitionId, RecoveredGroup>,
    /// Set if an interrupted write was found and dropped: worth a line in the program's log, and nothing to worry about.
    pub torn: Option<TornTail>,
}

/// What a log held of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// The last vote.
    pub vote: Option<Bytes>,
    /// The last commit point.
    pub committed: Option<Bytes>,
    /// The last purge: up to where, and its state.
    pub purged: Option<(u64, Bytes)>,
    /// The first live entry's index, or the one where the next entry will be.
    pub first_index: u64,
    /// The last live entry's index; `None` if there is none.
    pub last_index: Option<u64>,
}

/// Where an interrupted write was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: String,
    /// Where the first frame that was dropped began.
    pub offset: u64,
}

/// The writing end of the log.
pub struct Log {
    shared: Arc<Shared>,
    store: StoreId,
    spares: Spares,
    frame_bytes_max: usize,
    frame: FrameBuffer,
    active: Arc<Segment>,
    /// Where the next frame goes.
    tail: u64,
    /// Up to here the active segment has no holes.
    filled: u64,
    /// The number of the next frame.
    next_sequence: u64,
    /// All frames up to this number are durable.
    synced: u64,
    /// What ended this log.
    poison: Option<Fault>,
}

/// How an attempt to write failed.
enum Failure {
    /// The log is as before.
    Before(Fault),
    /// It is not known what is on disk.
    Midway(Fault),
}

impl Log {
    /// Whether the directory holds a log: any segment. Whoever has data that came through a log asks before [`Log::open`], which
    /// would begin a new one where there is none, without votes and without what was acknowledged.
    pub fn exists(disk: &dyn Disk) -> Result<bool, Fault> {
        recovery::has_segments(disk)
    }

    /// Opens the log of a directory, or begins a new one. Everything that it returns is durable. The log of another store is refused.
    pub fn open(disk: Arc<dyn Disk>, store: StoreId, options: LogOptions) -> Result<(Self, Recovered), Fault> {
        options.check()?;
        let Found { index, segments, active, tail, filled, next_sequence, spares, torn } =
            recovery::recover(&disk, store, &options)?;
        let groups = index.groups.iter().map(|(group, found)| {
            let hard = &found.hard;
            let recovered = RecoveredGroup {
                vote: hard.vote.clone(),
                committed: hard.committed.clone(),
                purged: hard.bounds.purged.map(|upto| (upto, hard.purged_state.clone())),
                first_index: hard.bounds.first,
                last_index: found.last_index(),
            };
            (*group, recovered)
        });
        let recovered = Recovered { groups: groups.collect(), torn };
        let shared = Shared::default();
        *shared.state.write() = reader::State { index, segments };
        let log = Self {
            shared: Arc::new(shared),
            store,
            spares,
            frame_bytes_max: options.frame_bytes_max,
            frame: FrameBuffer::default(),
            active,
            tail,
            filled,
            next_sequence,
            synced: next_sequence - 1,
            poison: None,
        };
        Ok((log, recovered))
    }

    /// Writes records, in one frame if they fit. They can be read at once, but are durable only after `sync`. Either all of them are
    /// written or, if it fails, the log has ended or is as before; after a crash a prefix of them may be there.
    pub fn write(&mut self, records: &[Record]) -> Result<(), Fault> {
        self.check_alive()?;
        self.shared.state.read().index.check(records).map_err(Fault::Invariant)?;
        let mut rest = records;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.frame.fill(rest, self.frame_bytes_max));
            match self.write_frame(now) {
                Ok(()) => rest = later,
                Err(Failure::Before(fault)) if rest.len() == records.len() => return Err(fault),
                Err(Failure::Before(fault) | Failure::Midway(fault)) => return Err(self.end(fault)),
            }
        }
        Ok(())
    }

    /// Makes everything written durable. If it fails, the log has ended.
    pub fn sync(&mut self) -> Result<(), Fault> {
        self.check_alive()?;
        let written = self.next_sequence - 1;
        if self.synced < written {
            let synced = self.active.file.sync_data();
            synced.map_err(|error| self.end(Fault::io(format!("fdatasync of {}", self.active.place), error)))?;
            self.synced = written;
        }
        Ok(())
    }

    /// A reading end.
    pub fn reader(&self) -> LogReader {
        LogReader { shared: Arc::clone(&self.shared) }
    }

    /// The spare segments, for another thread to prepare them.
    pub fn spares(&self) -> Spares {
        self.spares.clone()
    }

    /// As [`Spares::prepare`].
    pub fn prepare_spare(&self) -> Result<(), Fault> {
        self.spares.prepare()
    }

    /// Bytes of all segment files, without spares.
    pub fn size_bytes(&self) -> u64 {
        self.reader().size_bytes()
    }

    /// How many segments there are.
    pub fn segments(&self) -> usize {
        self.reader().segments()
    }

    fn check_alive(&self) -> Result<(), Fault> {
        match &self.poison {
            None => Ok(()),
            Some(Fault::Io { action, source }) => {
                Err(Fault::Io { action: format!("the raft log has ended because {action}"), source: Arc::clone(source) })
            }
            Some(fault) => Err(fault.clone()),
        }
    }

    fn end(&mut self, fault: Fault) -> Fault {
        self.poison = Some(fault.clone());
        fault
    }

    /// Writes the frame that lies in the buffer and holds these records.
    fn write_frame(&mut self, records: &[Record]) -> Result<(), Failure> {
        let bytes = self.frame.total_bytes();
        if self.tail + bytes > self.active.size {
            self.roll(bytes)?;
        }
        self.fill(self.tail + bytes)?;
        let offset = self.tail;
        let frame = self.frame.finish(self.active.id, self.next_sequence, self.synced);
        if let Err(error) = self.active.file.write_at(offset, frame) {
            let fault = Fault::io(format!("writing {} at byte {offset}", self.active.place), error);
            return Err(Failure::Midway(fault));
        }
        self.tail += bytes;
        self.next_sequence += 1;
        let mut at = offset + frame::FRAME_HEADER_BYTES as u64;
        let mut state = self.shared.state.write();
        for record in records {
            let view = record.view();
            let location = recovery::location(self.active.id, at, view);
            let location =
                location.ok_or_else(|| Failure::Midway(Fault::Invariant(format!("a record at byte {at} of a segment"))))?;
            state.index.apply(view, location).map_err(|detail| Failure::Midway(Fault::Invariant(detail)))?;
            at += record.size_bytes() as u64;
        }
        Ok(())
    }

    /// Writes zeros up to an offset and some way beyond it, if there are holes: to sync a frame that was written into a hole takes a
    /// file system journal commit (measured on ext4: 190 us instead of 130 us), which is so paid once in a megabyte.
    fn fill(&mut self, to: u64) -> Result<(), Failure> {
        let from = self.filled.max(self.tail);
        if from >= to {
            return Ok(());
        }
        let to = (to + FILL_BYTES).min(self.active.size);
        let zeros = vec![0; usize::try_from(to - from).unwrap_or_default()];
        let filled = self.active.file.write_at(from, &zeros);
        filled.map_err(|error| before_if_full(Fault::io(format!("filling {} at byte {from}", self.active.place), error)))?;
        self.filled = to;
        Ok(())
    }

    /// Ends the active segment and begins the next, with room for a frame. Recycles what is not needed any more.
    fn roll(&mut self, frame_bytes: u64) -> Result<(), Failure> {
        self.sync().map_err(Failure::Midway)?;
        let id = self.active.id + 1;
        let (groups, oldest) = {
            let state = self.shared.state.read();
            (state.index.hard_states(), state.index.oldest().map_or(id, |(_, segment)| segment))
        };
        let mut header = Header {
            id,
            size: 0,
            oldest,
            previous: self.active.id,
            previous_end: self.tail,
            first_sequence: self.next_sequence,
            store: self.store,
            groups,
        };
        let tail = header.encode().len() as u64;
        let draft = self.spares.take(tail + frame_bytes).map_err(before_if_full)?;
        header.size = draft.size;
        if let Err(fault) = draft.write(0, &header.encode()) {
            self.spares.discard(&draft);
            return Err(before_if_full(fault));
        }
        self.filled = draft.filled;
        let active = Arc::new(self.spares.publish(draft, id).map_err(Failure::Midway)?);
        self.tail = tail;
        self.active = Arc::clone(&active);
        let retired = {
            let mut state = self.shared.state.write();
            state.segments.insert(id, active);
            let keep = state.segments.split_off(&oldest);
            std::mem::replace(&mut state.segments, keep)
        };
        // Readers take their segments from the map: nobody new can come.
        let retired: Vec<_> = retired
            .into_values()
            .map(|segment| Retired { id: segment.id, size: segment.size, reuse: Arc::strong_count(&segment) == 1 })
            .collect();
        self.spares.recycle(&retired).map_err(Failure::Midway)
    }
}

fn before_if_full(fault: Fault) -> Failure {
    if fault.is_disk_full() { Failure::Before(fault) } else { Failure::Midway(fault) }
}
