//! Taking over the state of another replica of the same partition: chunks are staged as they come, and installed in one step.
//!
//! ```text
//!   Import::begin(header) ─► add(chunk), add(chunk), ...  ─► complete ─► Machine::install ─► the machine goes on from there
//!                            staged beside the data: nothing           data, sessions, applied record and floor are
//!                            of the replica is touched                 replaced in one step, durably
//! ```
//!
//! The replica keeps its own id. What it held beyond the new range goes. The *floor* says where the snapshot ended: the log may lack what
//! comes before it, and if the power fails before the log was cut, it is still known that nothing is missing.

use std::sync::Arc;

use kontiki_types::{Effect, Fault, KeyRange, NamespaceId, encoding};

use super::export::{Chunk, ranges};
use super::header::{self, Header};
use super::{Machine, Opened};
use crate::engine::{Engine, Stage};
use crate::schema::{self, Key};

/// A state that is on its way. Dropping it leaves nothing.
pub struct Import {
    stage: Box<dyn Stage>,
    header: Header,
    /// What is still to come: the first begins where the next chunk must begin.
    missing: Vec<(Vec<u8>, Vec<u8>)>,
    rows: u64,
    bytes: u64,
}

impl std::fmt::Debug for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Import").field("header", &self.header).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Import {
    /// Begins to stage a state. Whether it is wanted (newer than what is here, of this partition, overlapping no other replica) is the
    /// caller's to find out first; [`Machine::install`] refuses it otherwise.
    pub fn begin(engine: &dyn Engine, header: Header) -> Result<Self, Fault> {
        let missing = ranges(&header);
        Ok(Self { stage: engine.stage()?, header, missing, rows: 0, bytes: 0 })
    }

    /// The state without its rows.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where the next chunk must begin; `None` if nothing is missing any more.
    pub fn next(&self) -> Option<&[u8]> {
        self.missing.first().map(|(from, _)| from.as_slice())
    }

    /// Where the range ends in which the next chunk lies.
    pub fn end(&self) -> Option<&[u8]> {
        self.missing.first().map(|(_, to)| to.as_slice())
    }

    /// Rows staged so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of keys and values staged so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Stages the next chunk. `Fault::Corrupt` if it is not the next one or does not hold together: then nothing was staged, and the right one
    /// may follow. After any other fault (the disk is full) the import is of no use.
    pub fn add(&mut self, chunk: &Chunk) -> Result<(), Fault> {
        self.check(chunk)?;
        self.stage.replace(&chunk.from, &chunk.to)?;
        for (key, value) in chunk.rows.iter() {
            self.stage.put(key, value)?;
            self.rows += 1;
            self.bytes += (key.len() + value.len()) as u64;
        }
        if let Some((from, to)) = self.missing.first_mut() {
            chunk.to.as_ref().clone_into(from);
            if from == to {
                self.missing.remove(0);
            }
        }
        Ok(())
    }

    /// Puts on the disk what is still in memory of the rows so far: what is left for [`Machine::install`] needs next to no room. After a fault
    /// the import is of no use.
    pub fn seal(&mut self) -> Result<(), Fault> {
        self.stage.seal()
    }

    fn check(&self, chunk: &Chunk) -> Result<(), Fault> {
        let bad = |detail: String| {
            let partition = self.header.descriptor.id;
            Err(Fault::corrupt(format!("a chunk of {partition} from {}", schema::place(&chunk.from)), detail))
        };
        let Some((from, to)) = self.missing.first() else { return bad("nothing was missing any more".to_owned()) };
        if chunk.from != *from {
            return bad(format!("the next one begins at {}", schema::place(from)));
        }
        if chunk.to <= chunk.from || chunk.to.as_ref() > to.as_slice() {
            return bad(format!("it ends at {}, and its range at {}", schema::place(&chunk.to), schema::place(to)));
        }
        let mut last: Option<&[u8]> = None;
        for (key, _) in chunk.rows.iter() {
            let in_order = last.is_none_or(|last| last < key);
            if !in_order || key < chunk.from.as_ref() || key >= chunk.to.as_ref() {
                return bad(format!("{} is outside of it or out of order", schema::place(key)));
            }
            last = Some(key);
        }
        Ok(())
    }
}

impl Machine {
    /// Replaces this replica's state by an imported one: all of it or, after a fault, nothing of it; durable when this returns. Returns the
    /// effects, as `apply` does. The replica keeps its own id. Readers see the old state or the new one; while it is being replaced they
    /// are asked to come again.
    ///
    /// `Fault::Invariant` without any change if the import is not complete, of another partition, older than what was applied here, or
    /// overlaps another replica of this engine. Must not run beside another install, create or destroy of the same engine.
    pub fn install(&mut self, import: Import) -> Result<Vec<Effect>, Fault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        self.check_import(&import)?;
        let Import { mut stage, header, .. } = import;
        let old = self.descriptor();
        for (from, to) in beyond(&old.range, &header.descriptor.range) {
            stage.replace(&from, &to)?;
        }
        self.stage_records(&mut *stage, &header)?;
        let Header { descriptor, .. } = header;
        let published = Arc::clone(&self.published);
        {
            let _closed = published.close();
            // What is known of the old data does not hold for the new: the snapshot's horizon may be another.
            for range in [&old.range, &descriptor.range] {
                let (from, to) = schema::data(range);
                self.engine.horizons().forget(&from, &to);
            }
            let installed = stage.install();
            if installed.is_err() {
                self.state.announce_horizon(&*self.engine);
            }
            installed?;
            let reopened = self.reload();
            self.fault = reopened.as_ref().err().cloned();
            self.state = reopened?;
            self.published.publish(&self.state);
            self.state.announce_horizon(&*self.engine);
        }
        let system = descriptor.range.overlaps(&KeyRange::namespace(NamespaceId::SYSTEM));
        let mut effects = vec![Effect::DescriptorChanged(descriptor)];
        effects.extend(system.then_some(Effect::MapChanged));
        Ok(effects)
    }

    fn check_import(&self, import: &Import) -> Result<(), Fault> {
        let (partition, header) = (self.partition(), &import.header);
        let refused = |why: String| {
            Err(Fault::Invariant(format!("a snapshot of {} was given to {partition}: {why}", header.descriptor.id)))
        };
        if header.descriptor.id != partition {
            return refused("it is another partition".to_owned());
        }
        if let Some(next) = import.next() {
            return refused(format!("it is not complete: the next chunk begins at {}", schema::place(next)));
        }
        if header.applied_index < self.applied_index() {
            return refused(format!("it ends at entry {}, and {} was applied here", header.applied_index, self.applied_index()));
        }
        if let Some(other) = Self::overlapping(&*self.engine, &header.descriptor)? {
            return refused(format!("its range overlaps that of {other}, which has a replica here"));
        }
        Ok(())
    }

    fn stage_records(&self, stage: &mut dyn Stage, header: &Header) -> Result<(), Fault> {
        let partition = self.partition();
        let mut replica = Vec::new();
        header::replica_record(&header.descriptor, self.replica, &mut replica);
        let applied = encoding::encode(&header.applied());
        let floor = header.position.is_some().then(|| encoding::encode(&header.applied_index));
        replace_one(stage, &Key::Replica { partition }, Some(&replica))?;
        replace_one(stage, &Key::Applied { partition }, Some(&applied))?;
        replace_one(stage, &Key::Floor { partition }, floor.as_deref())
    }

    fn reload(&self) -> Result<super::State, Fault> {
        let partition = self.partition();
        let Some(Opened { state, .. }) = Self::load(&*self.engine, partition)? else {
            return Err(Fault::Invariant(format!("the replica of {partition} vanished while it was replaced")));
        };
        Ok(state)
    }
}

/// Stages that a record has this value, or is gone.
pub(super) fn replace_one(stage: &mut dyn Stage, key: &Key<&[u8]>, value: Option<&[u8]>) -> Result<(), Fault> {
    let from = key.encode();
    let to = [&from[..], &[0]].concat();
    stage.replace(&from, &to)?;
    value.map_or(Ok(()), |value| stage.put(&from, value))
}

/// The data records of `old` that lie outside of `new`.
fn beyond(old: &KeyRange, new: &KeyRange) -> Vec<(Vec<u8>, Vec<u8>)> {
    let ((from, to), (new_from, new_to)) = (schema::data(old), schema::data(new));
    let before = (from.clone(), to.clone().min(new_from));
    let after = (from.max(new_to), to);
    [before, after].into_iter().filter(|(from, to)| from < to).collect()
}
