//! Spare files: the next segments, waiting. A spare is as long as a segment and was written from end to end once, so that a frame
//! written into it changes no length and no block map: then `fdatasync` needs no file system journal (measured: half the time).
//!
//! ```text
//!   prepare (any thread, ahead) ─┐                    ┌─► rename to the next segment
//!                                ├─► ready spares ────┤
//!   oldest segment, not needed ──┘                    └─► none ready: a sparse file, at once; the writer fills it as it goes
//! ```
//!
//! Nothing is lost with a spare, so its name need not be durable. If a crash undoes the renaming of an old segment but not what
//! became of the file then, one file has two names; both the old segment and a newest segment are removed at the next start, unread
//! and after it was moved.

use std::sync::Arc;

use kontiki_types::Fault;
use parking_lot::Mutex;

use super::segment::{FileKind, Segment};
use crate::disk::{Disk, DiskFile};

/// Zeros written at once.
const ZEROS_BYTES: usize = 1024 * 1024;

/// The spare files of a log. Cheap to clone, for another thread to prepare them.
#[derive(Clone)]
pub struct Spares {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    keep: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Numbers of the spares that are ready.
    ready: Vec<u64>,
    next_number: u64,
    preparing: usize,
}

/// A file that is about to become a segment.
pub(crate) struct Draft {
    name: String,
    pub(crate) place: String,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) size: u64,
    /// Up to here the file has no holes.
    pub(crate) filled: u64,
}

impl Spares {
    /// Takes over the spares that were found; those of another length are removed.
    pub(crate) fn open(disk: Arc<dyn Disk>, segment_bytes: u64, keep: usize, found: &[u64]) -> Result<Self, Fault> {
        let next_number = found.iter().max().map_or(0, |number| number.saturating_add(1));
        let state = Arc::new(Mutex::new(State { next_number, ..State::default() }));
        let spares = Self { disk, segment_bytes, keep, state };
        for number in found {
            let name = FileKind::Spare(*number).name();
            let place = spares.disk.place(&name);
            let length = spares.disk.open(&name, false).and_then(|file| file.len());
            let length = length.map_err(|error| Fault::io(format!("reading the length of {place}"), error))?;
            let mut state = spares.state.lock();
            if length == segment_bytes && state.ready.len() < keep {
                state.ready.push(*number);
            } else {
                spares.disk.remove(&name).map_err(|error| Fault::io(format!("removing {place}"), error))?;
            }
        }
        Ok(spares)
    }

    /// Whether [`Spares::prepare`] has work to do.
    pub fn wanted(&self) -> bool {
        let state = self.state.lock();
        self.keep > 0 && state.ready.is_empty() && state.preparing == 0
    }

    /// Makes one spare ready if there is none: writes and syncs a whole segment of zeros, so it blocks for a while. Any thread may
    /// do it while the log is written. If it fails (the disk is full), nothing is lost: the log goes on without a spare.
    pub fn prepare(&self) -> Result<(), Fault> {
        let number = {
            let mut state = self.state.lock();
            if self.keep == 0 || !state.ready.is_empty() || state.preparing > 0 {
                return Ok(());
            }
            state.preparing += 1;
            state.take_number()
        };
        let made = self.fill(&FileKind::Spare(number).name());
        let mut state = self.state.lock();
        state.preparing -= 1;
        if made.is_ok() {
            state.ready.push(number);
        }
        made
    }

    fn fill(&self, name: &str) -> Result<(), Fault> {
        let filled = self.disk.open(name, true).and_then(|file| {
            let zeros = vec![0; ZEROS_BYTES.min(usize::try_from(self.segment_bytes).unwrap_or(ZEROS_BYTES))];
            let mut offset = 0;
            while offset < self.segment_bytes {
                let count = usize::try_from(self.segment_bytes - offset).map_or(zeros.len(), |left| left.min(zeros.len()));
                file.write_at(offset, &zeros[..count])?;
                offset += count as u64;
            }
            file.sync_data()
        });
        filled.map_err(|error| {
            let _ = self.disk.remove(name);
            Fault::io(format!("writing the spare segment {}", self.disk.place(name)), error)
        })
    }

    /// A file of at least `size` bytes: a spare that is ready, or else a new, sparse one.
    pub(crate) fn take(&self, size: u64) -> Result<Draft, Fault> {
        let ready = if size <= self.segment_bytes { self.state.lock().ready.pop() } else { None };
        let size = size.max(self.segment_bytes);
        let name = FileKind::Spare(ready.unwrap_or_else(|| self.state.lock().take_number())).name();
        let place = self.disk.place(&name);
        let opened = self.disk.open(&name, ready.is_none()).and_then(|file| {
            if ready.is_none() {
                file.write_at(size - 1, &[0])?;
            }
            Ok(file)
        });
        match opened {
            Ok(file) => Ok(Draft { name, place, file, size, filled: if ready.is_some() { size } else { 0 } }),
            Err(error) => {
                let _ = self.disk.remove(&name);
                Err(Fault::io(format!("making room for the next raft log segment in {place}"), error))
            }
        }
    }

    /// Gives back a file that has not become a segment.
    pub(crate) fn discard(&self, draft: &Draft) {
        // It may hold anything by now; if removing it fails too, the next start finds it.
        let _ = self.disk.remove(&draft.name);
    }

    /// Names the draft as a segment. When this returns, name and content are durable.
    pub(crate) fn publish(&self, draft: Draft, id: u64) -> Result<Segment, Fault> {
        let name = FileKind::Segment(id).name();
        let place = self.disk.place(&name);
        let done = draft.file.sync_data().and_then(|()| self.disk.rename(&draft.name, &name)).and_then(|()| self.disk.sync_dir());
        done.map_err(|error| Fault::io(format!("starting the raft log segment {place} (fdatasync, rename, fsync)"), error))?;
        Ok(Segment { id, size: draft.size, file: draft.file, place })
    }

    /// Takes over files of segments that are not needed any more: as spares while there are too few, and if `reuse` says that
    /// nobody has them open; else they are removed.
    pub(crate) fn recycle(&self, segments: &[Retired]) -> Result<(), Fault> {
        let mut renamed = Vec::new();
        for retired in segments {
            let name = FileKind::Segment(retired.id).name();
            let place = self.disk.place(&name);
            let number = {
                let mut state = self.state.lock();
                let wanted = state.ready.len() + state.preparing + renamed.len() < self.keep;
                (wanted && retired.reuse && retired.size == self.segment_bytes).then(|| state.take_number())
            };
            let done = match number {
                Some(number) => self.disk.rename(&name, &FileKind::Spare(number).name()),
                None => self.disk.remove(&name),
            };
            done.map_err(|error| Fault::io(format!("recycling {place}"), error))?;
            renamed.extend(number);
        }
        self.state.lock().ready.extend(renamed);
        Ok(())
    }

    /// How many are ready.
    pub fn ready(&self) -> usize {
        self.state.lock().ready.len()
    }
}

impl State {
    fn take_number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }
}

/// A segment that is not needed any more.
pub(crate) struct Retired {
    pub(crate) id: u64,
    pub(crate) size: u64,
    /// Nobody reads it.
    pub(crate) reuse: bool,
}
