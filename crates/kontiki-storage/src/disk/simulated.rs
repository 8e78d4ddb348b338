//! A disk in memory that fails as disks fail: for crash tests and for whole simulated clusters.
//!
//! ```text
//!   live      what reads see
//!     │  write / create / rename / remove      not durable: the versions of each sector since the last sync, each directory change
//!     ▼  sync_data / sync_dir
//!   durable   what a crash cannot take
//! ```
//!
//! [`SimulatedDisk::crash`] decides by seeded coins, for each sector of 512 bytes and each directory change that was not synced, whether it
//! survives; a sector written several times may come back as any of its versions. One coin weights all others of a crash, so that
//! crashes which keep or lose everything are as common as torn ones. The same seed and the same calls give the same disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Disk, DiskFile};

/// The unit that survives a crash whole or not at all.
const SECTOR_BYTES: usize = 512;

/// Sides of a coin.
const EIGHTHS: u64 = 8;

type Sector = [u8; SECTOR_BYTES];

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    random: Random,
    /// Files by number; a name is a link to one.
    files: BTreeMap<u64, File>,
    next_file: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Directory changes since the last `sync_dir`.
    changes: Vec<Change>,
    /// Handles of an older life are dead.
    life: u64,
    /// Calls that change something, in this life.
    operations: u64,
    cut_power_at: Option<u64>,
    sync_failures: u32,
    write_failures: u32,
    read_failures: u32,
    capacity_bytes: Option<u64>,
}

#[derive(Clone)]
enum Change {
    Create { name: String, file: u64 },
    Rename { from: String, to: String, file: u64 },
    Remove { name: String, file: u64 },
}

#[derive(Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written since the last sync: what they held before each write, the durable content not among them.
    unsynced: BTreeMap<usize, Vec<Sector>>,
    /// Sectors that were ever written.
    allocated: BTreeSet<usize>,
    /// A file without handles and names is freed.
    handles: Weak<()>,
}

/// SplitMix64 (Steele, Lea, Flood, 2014): small, and good enough for coins.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

impl SimulatedDisk {
    /// An empty disk whose coins come from a seed.
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: Random(seed),
            files: BTreeMap::new(),
            next_file: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            life: 0,
            operations: 0,
            cut_power_at: None,
            sync_failures: 0,
            write_failures: 0,
            read_failures: 0,
            capacity_bytes: None,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Cuts the power and brings it back: what was not synced survives or not, by coins; every open handle is dead.
    pub fn crash(&self) {
        let mut state = self.state.lock();
        let bias = [0, 1, 4, 7, EIGHTHS][state.random.below(5) as usize];
        state.crash(bias);
    }

    /// As [`SimulatedDisk::crash`], but nothing that was not synced survives.
    pub fn lose_unsynced(&self) {
        self.state.lock().crash(0);
    }

    /// The process dies and begins again: open handles are dead, but what was written is still in the page cache, neither lost nor
    /// durable. Brings the power back too.
    pub fn restart(&self) {
        self.state.lock().restart();
    }

    /// Cuts the power at the `count`-th call from now that changes something (0: the next one): it and all later ones fail, and a sync
    /// that fails so has saved nothing for certain. [`SimulatedDisk::crash`] brings the power back.
    pub fn cut_power_after(&self, count: u64) {
        let mut state = self.state.lock();
        state.cut_power_at = Some(state.operations + count);
    }

    /// How many calls have changed something since the last crash: writes, syncs, creations, renamings, removals.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// The next sync of a file fails. As in Linux: what it should have saved is on disk or not, reads still show it, and later
    /// syncs succeed without saving it.
    pub fn fail_next_sync(&self) {
        self.state.lock().sync_failures += 1;
    }

    /// The next write to a file fails, after having written a part of what it should.
    pub fn fail_next_write(&self) {
        self.state.lock().write_failures += 1;
    }

    /// The next read of a file fails.
    pub fn fail_next_read(&self) {
        self.state.lock().read_failures += 1;
    }

    /// Takes back the failures that were asked for and have not come.
    pub fn fail_no_more(&self) {
        self.state.lock().forget_failures();
    }

    /// What a power cut now would leave at the least: another disk, with what is durable and nothing else.
    pub fn survivors(&self) -> Self {
        let state = self.state.lock();
        let copy = |(name, number): (&String, &u64)| {
            let durable = state.files.get(number).map(|file| file.durable.clone()).unwrap_or_default();
            let allocated = (0..durable.len().div_ceil(SECTOR_BYTES)).collect();
            let file = File { live: durable.clone(), durable, allocated, ..File::default() };
            (name.clone(), *number, file)
        };
        let disk = Self::new(0);
        {
            let mut other = disk.state.lock();
            for (name, number, file) in state.durable_names.iter().map(copy) {
                other.files.insert(number, file);
                other.names.insert(name, number);
            }
            other.durable_names = other.names.clone();
            other.next_file = state.next_file;
        }
        disk
    }

    /// The disk holds at most so many bytes, in whole sectors; holes in files take none. Beyond them writes fail, after having
    /// written what fits. `None`: no limit.
    pub fn full(&self, capacity_bytes: Option<u64>) {
        self.state.lock().capacity_bytes = capacity_bytes;
    }

    /// Bytes of all sectors that were written and still belong to a file.
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }

    /// Flips one bit of a file, also on the platter.
    pub fn flip_bit(&self, name: &str, bit: u64) -> io::Result<()> {
        self.state.lock().damage(name, |bytes| {
            let at = usize::try_from(bit / 8).unwrap_or(usize::MAX);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (bit % 8);
            }
        })
    }

    /// Cuts a file off, also on the platter.
    pub fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        self.state.lock().damage(name, |bytes| bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX)))
    }
}

impl State {
    /// Each coin keeps with a probability of `bias` eighths.
    fn crash(&mut self, bias: u64) {
        for file in self.files.values_mut() {
            file.crash(&mut self.random, bias);
        }
        let changes = std::mem::take(&mut self.changes);
        for change in changes {
            if self.random.below(EIGHTHS) < bias {
                change.apply(&mut self.durable_names);
            }
        }
        self.names.clone_from(&self.durable_names);
        let names = &self.names;
        self.files.retain(|number, _| names.values().any(|named| named == number));
        self.restart();
    }

    fn restart(&mut self) {
        self.life += 1;
        self.operations = 0;
        self.cut_power_at = None;
        self.forget_failures();
    }

    fn forget_failures(&mut self) {
        (self.sync_failures, self.write_failures, self.read_failures) = (0, 0, 0);
    }

    /// Counts a call that changes something; fails if there is no power.
    fn operate(&mut self) -> io::Result<()> {
        if self.cut_power_at.is_some_and(|at| self.operations >= at) {
            return Err(io::Error::other("the simulated power is off"));
        }
        self.operations += 1;
        Ok(())
    }

    fn lookup(&self, name: &str) -> io::Result<u64> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no file {name} on the simulated disk"));
        self.names.get(name).copied().ok_or_else(missing)
    }

    fn used_bytes(&self) -> u64 {
        let sectors: usize = self.files.values().map(|file| file.allocated.len()).sum();
        (sectors * SECTOR_BYTES) as u64
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
        self.free();
    }

    /// Frees the files that no name and no handle reaches.
    fn free(&mut self) {
        let Self { files, names, durable_names, changes, .. } = self;
        files.retain(|number, file| {
            let mut named = names.values().chain(durable_names.values());
            let pending = changes.iter().any(|change| change.file() == *number);
            file.handles.strong_count() > 0 || pending || named.any(|named| named == number)
        });
    }

    fn damage(&mut self, name: &str, damage: impl Fn(&mut Vec<u8>)) -> io::Result<()> {
        let number = self.lookup(name)?;
        if let Some(file) = self.files.get_mut(&number) {
            damage(&mut file.live);
            damage(&mut file.durable);
        }
        Ok(())
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create { name, file } => {
                names.insert(name.clone(), *file);
            }
            Self::Rename { from, to, file } => {
                if names.get(from) == Some(file) {
                    names.remove(from);
                }
                names.insert(to.clone(), *file);
            }
            Self::Remove { name, file } => {
                if names.get(name) == Some(file) {
                    names.remove(name);
                }
            }
        }
    }

    fn file(&self) -> u64 {
        match self {
            Self::Create { file, .. } | Self::Rename { file, .. } | Self::Remove { file, .. } => *file,
        }
    }
}

impl File {
    fn write(&mut self, offset: usize, buf: &[u8]) {
        if buf.is_empty() {
            return;
        }
        let end = offset + buf.len();
        for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            self.allocated.insert(sector);
            let before = sector_of(&self.live, sector);
            self.unsynced.entry(sector).and_modify(|versions| versions.push(before)).or_default();
        }
        if self.live.len() < end {
            self.live.resize(end, 0);
        }
        self.live[offset..end].copy_from_slice(buf);
    }

    /// How much of a write fits if so many sectors may be added.
    fn fits(&self, offset: usize, length: usize, sectors: u64) -> usize {
        let all = offset / SECTOR_BYTES..(offset + length).div_ceil(SECTOR_BYTES);
        let too_many = all.filter(|sector| !self.allocated.contains(sector)).nth(usize::try_from(sectors).unwrap_or(usize::MAX));
        too_many.map_or(length, |sector| (sector * SECTOR_BYTES).saturating_sub(offset).min(length))
    }

    fn sync(&mut self) {
        let live = &self.live;
        self.durable.resize(live.len(), 0);
        for sector in std::mem::take(&mut self.unsynced).into_keys() {
            let from = (sector * SECTOR_BYTES).min(live.len());
            let to = (from + SECTOR_BYTES).min(live.len());
            self.durable[from..to].copy_from_slice(&live[from..to]);
        }
    }

    /// Decides for each unsynced sector which of its versions is on the platter.
    fn settle(&mut self, random: &mut Random, bias: u64) {
        let length = if random.below(EIGHTHS) < bias { self.live.len() } else { self.durable.len() };
        self.durable.resize(length.max(self.durable.len()), 0);
        for (sector, mut versions) in std::mem::take(&mut self.unsynced) {
            if random.below(EIGHTHS) >= bias {
                continue;
            }
            versions.push(sector_of(&self.live, sector));
            let chosen = versions[random.below(versions.len() as u64) as usize];
            let from = (sector * SECTOR_BYTES).min(self.durable.len());
            let to = (from + SECTOR_BYTES).min(self.durable.len());
            self.durable[from..to].copy_from_slice(&chosen[..to - from]);
        }
    }

    fn crash(&mut self, random: &mut Random, bias: u64) {
        self.settle(random, bias);
        self.live.clone_from(&self.durable);
        self.handles = Weak::new();
    }
}

fn sector_of(bytes: &[u8], sector: usize) -> Sector {
    let mut content = [0; SECTOR_BYTES];
    let from = (sector * SECTOR_BYTES).min(bytes.len());
    let to = (from + SECTOR_BYTES).min(bytes.len());
    content[..to - from].copy_from_slice(&bytes[from..to]);
    content
}

impl Disk for SimulatedDisk {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        let number = match state.lookup(name) {
            Ok(number) => number,
            Err(missing) if !create => return Err(missing),
            Err(_) => {
                state.operate()?;
                let number = state.next_file;
                state.next_file += 1;
                state.files.insert(number, File::default());
                state.change(Change::Create { name: name.to_owned(), file: number });
                number
            }
        };
        let life = state.life;
        let missing = || io::Error::other("a name without a file: a defect of the simulated disk");
        let file = state.files.get_mut(&number).ok_or_else(missing)?;
        let alive = file.handles.upgrade().unwrap_or_default();
        file.handles = Arc::downgrade(&alive);
        Ok(Arc::new(OpenFile { state: Arc::clone(&self.state), number, life, _alive: alive }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state.lock().names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let file = state.lookup(from)?;
        state.operate()?;
        state.change(Change::Rename { from: from.to_owned(), to: to.to_owned(), file });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let file = state.lookup(name)?;
        state.operate()?;
        state.change(Change::Remove { name: name.to_owned(), file });
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        state.changes.clear();
        state.durable_names = state.names.clone();
        state.free();
        Ok(())
    }
}

struct OpenFile {
    state: Arc<Mutex<State>>,
    number: u64,
    life: u64,
    _alive: Arc<()>,
}

impl OpenFile {
    fn with<T>(&self, call: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        if state.life != self.life {
            return Err(io::Error::other("the simulated machine has crashed since this file was opened"));
        }
        call(&mut state)
    }
}

fn file_of(files: &mut BTreeMap<u64, File>, number: u64) -> io::Result<&mut File> {
    files.get_mut(&number).ok_or_else(|| io::Error::other("an open file is gone: a defect of the simulated disk"))
}

impl DiskFile for OpenFile {
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.with(|state| {
            state.operate()?;
            let offset = usize::try_from(offset).map_err(io::Error::other)?;
            let room = state.capacity_bytes.map(|capacity| capacity.saturating_sub(state.used_bytes()));
            let State { files, random, write_failures, .. } = state;
            let file = file_of(files, self.number)?;
            let fits = room.map_or(buf.len(), |room| file.fits(offset, buf.len(), room / SECTOR_BYTES as u64));
            if *write_failures > 0 {
                *write_failures -= 1;
                let part = random.below(fits as u64) as usize;
                file.write(offset, &buf[..part]);
                return Err(io::Error::other("the simulated disk failed to write"));
            }
            file.write(offset, &buf[..fits]);
            if fits < buf.len() {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "the simulated disk is full"));
            }
            Ok(())
        })
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|state| {
            if state.read_failures > 0 {
                state.read_failures -= 1;
                return Err(io::Error::other("the simulated disk failed to read"));
            }
            let file = file_of(&mut state.files, self.number)?;
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(file.live.len());
            let to = from.saturating_add(buf.len()).min(file.live.len());
            buf[..to - from].copy_from_slice(&file.live[from..to]);
            Ok(to - from)
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(file_of(&mut state.files, self.number)?.live.len() as u64))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state| {
            state.operate()?;
            let State { files, random, sync_failures, .. } = state;
            let file = file_of(files, self.number)?;
            if *sync_failures > 0 {
                *sync_failures -= 1;
                file.settle(random, EIGHTHS / 2);
                return Err(io::Error::other("the simulated disk failed to sync"));
            }
            file.sync();
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
