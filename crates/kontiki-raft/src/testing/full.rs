//! An engine in memory whose disk can be full for what is staged, or for the step that installs it, and for nothing else.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use kontiki_storage::engine::{Batch, Cursor, Engine, EngineStats, Horizons, MemoryEngine, Part, Sample, Stage, View};
use kontiki_types::Fault;

pub(crate) struct Fillable {
    pub(crate) engine: Arc<MemoryEngine>,
    pub(crate) full: Arc<AtomicBool>,
    /// Installations fail, though everything was staged.
    pub(crate) uninstallable: Arc<AtomicBool>,
}

impl Engine for Fillable {
    fn write(&self, batch: &Batch) -> Result<(), Fault> {
        self.engine.write(batch)
    }

    fn flush(&self) -> Result<(), Fault> {
        self.engine.flush()
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.engine.get(key)
    }

    fn first(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, Fault> {
        self.engine.first(from, to)
    }

    fn cursor<'a>(&'a self, from: &[u8], to: &[u8]) -> Result<Box<dyn Cursor + 'a>, Fault> {
        self.engine.cursor(from, to)
    }

    fn view(&self) -> Arc<dyn View> {
        self.engine.view()
    }

    fn stage(&self) -> Result<Box<dyn Stage>, Fault> {
        let (full, uninstallable) = (self.full.clone(), self.uninstallable.clone());
        Ok(Box::new(FillableStage { stage: self.engine.stage()?, full, uninstallable }))
    }

    fn parts(&self, from: &[u8], to: &[u8], part_bytes: u64) -> Result<Vec<Part>, Fault> {
        self.engine.parts(from, to, part_bytes)
    }
    fn sample(&self, from: &[u8], to: &[u8], records_max: usize) -> Result<Sample, Fault> {
        self.engine.sample(from, to, records_max)
    }
    fn compact(&self, from: &[u8], to: &[u8]) -> Result<(), Fault> {
        self.engine.compact(from, to)
    }

    fn horizons(&self) -> &Horizons {
        self.engine.horizons()
    }

    fn stats(&self) -> EngineStats {
        self.engine.stats()
    }
}

struct FillableStage {
    stage: Box<dyn Stage>,
    full: Arc<AtomicBool>,
    uninstallable: Arc<AtomicBool>,
}

fn no_room(flag: &AtomicBool, action: &str) -> Result<(), Fault> {
    match flag.load(Ordering::SeqCst) {
        true => Err(Fault::io(action, io::Error::from(io::ErrorKind::StorageFull))),
        false => Ok(()),
    }
}

impl Stage for FillableStage {
    fn replace(&mut self, from: &[u8], to: &[u8]) -> Result<(), Fault> {
        self.stage.replace(from, to)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        no_room(&self.full, "staging rows")?;
        self.stage.put(key, value)
    }

    fn seal(&mut self) -> Result<(), Fault> {
        self.stage.seal()
    }

    fn install(self: Box<Self>) -> Result<(), Fault> {
        no_room(&self.uninstallable, "installing rows")?;
        self.stage.install()
    }
}
