//! A node that does not run, looked at from outside: for `recover`, which rebuilds a cluster that has lost its majorities from the
//! directories that are left.
//!
//! **Invariant:** opening a directory repairs it as a start would. Whoever must not change it hands in a copy.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use kontiki_raft::Offline;
pub use kontiki_raft::{FoundReplica, LogEnd, Looked};
use kontiki_storage::engine::RocksOptions;
use kontiki_storage::log::LogOptions;
use kontiki_storage::machine::MachineReader;
use kontiki_storage::system;
use kontiki_types::limits::{SCAN_PAGE_BYTES_MAX, SCAN_ROWS_MAX};
use kontiki_types::read::{ReadData, Scan};
use kontiki_types::{
    Bytes, CallError, Descriptor, Error, ErrorKind, Fault, KeyRange, NamespaceId, PartitionId, PartitionMap, Read, Row, Version,
    key,
};

use crate::env::{DataDir, Env};
use crate::identity::Identity;

/// The directory of a node that does not run.
pub struct Survivor {
    identity: Identity,
    offline: Offline,
    /// Holds the lock.
    _dir: Arc<dyn DataDir>,
}

impl Survivor {
    /// Opens a data directory that is there. Blocking. Refused while a node uses it.
    pub fn open(env: &Env, path: &Path) -> Result<Self, Error> {
        let dir = env.data_dirs.open(path)?;
        let identity = Identity::load(dir.as_ref())?;
        let engine = dir.engine(&RocksOptions::default())?;
        let log = dir.log().map_err(|error| Fault::io(format!("opening the raft log in {}", path.display()), error))?;
        let offline = Offline::open(log, identity.store, LogOptions::default(), engine)?;
        Ok(Self { identity, offline, _dir: dir })
    }

    /// Whose directory it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What it holds; a fault where a replica cannot be read.
    pub fn replicas(&self) -> Result<Looked<Error>, Error> {
        let found = self.offline.replicas()?;
        Ok(found.into_iter().map(|(partition, found)| (partition, found.map_err(Error::from))).collect())
    }

    /// Everything that this directory knows of a partition, its log's end applied. Blocking.
    pub fn replay(&self, partition: PartitionId) -> Result<Replayed, Error> {
        Ok(Replayed { reader: self.offline.replay(partition)? })
    }
}

/// A replica with its log's end applied.
pub struct Replayed {
    reader: MachineReader,
}

impl Replayed {
    /// The partition, as of the end of the log.
    pub fn descriptor(&self) -> Descriptor {
        self.reader.descriptor().as_ref().clone()
    }

    /// The version of its newest write.
    pub fn clock(&self) -> Version {
        self.reader.clock()
    }

    /// The map, as the system partition's replica knows it.
    pub fn map(&self) -> Result<PartitionMap, Error> {
        Ok(system::read_map(&self.reader)?)
    }

    /// Its rows with user keys, in key order, at its newest version.
    pub fn rows(self) -> Rows {
        let range = self.reader.descriptor().range.intersect(&KeyRange::namespace(NamespaceId::DEFAULT));
        let (at, left) = (self.reader.clock(), (!range.is_empty()).then_some(range));
        Rows { reader: self.reader, at, left, page: VecDeque::new() }
    }
}

/// The rows of one replica.
pub struct Rows {
    reader: MachineReader,
    at: Version,
    left: Option<KeyRange>,
    page: VecDeque<Row>,
}

impl Rows {
    fn next_page(&mut self, range: KeyRange) -> Result<(), Error> {
        let end = range.end.clone();
        let scan = Scan { range, reverse: false, keys_only: false, rows_max: SCAN_ROWS_MAX, bytes_max: SCAN_PAGE_BYTES_MAX };
        let ReadData::Page { rows, resume } = self.reader.read(&Read::Scan(scan), Some(self.at)).map_err(not_refused)?.data
        else {
            return Err(Error::new(ErrorKind::Internal, "a scan was not answered with a page"));
        };
        self.page = rows.into();
        self.left = resume.map(|start| KeyRange { start, end });
        Ok(())
    }
}

/// Reading a replica's own keys at its own clock is never refused.
fn not_refused(error: CallError) -> Error {
    match error {
        CallError::Fault(fault) => fault.into(),
        other => Error::new(ErrorKind::Internal, format!("a replica refused to read its own keys: {other}")),
    }
}

impl Iterator for Rows {
    /// Key and value.
    type Item = Result<(Bytes, Bytes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(Row { key, value, .. }) = self.page.pop_front() {
                return Some(Ok((key.slice(key::NAMESPACE_PREFIX_BYTES..), value)));
            }
            let range = self.left.take()?;
            if let Err(error) = self.next_page(range) {
                return Some(Err(error));
            }
        }
    }
}
