//! Views and cursors on RocksDB.
//!
//! A cursor holds the files that it walks over; a view holds a *snapshot*, a number behind which nothing is lost to overwriting, and
//! costs nothing until something is overwritten. Both borrow the database, so a view that is handed around keeps the database open
//! and its snapshot side by side in one self-referential cell.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kontiki_types::Fault;
use rocksdb::{DBRawIterator, ReadOptions, Snapshot};
use self_cell::self_cell;

use super::Store;
use super::errors::fault;
use crate::engine::horizons::Pin;
use crate::engine::{Cursor, View};

self_cell!(
    struct Pinned {
        owner: Arc<Store>,
        #[covariant]
        dependent: Snapshot,
    }
);

/// The database at one moment.
pub(super) struct RocksView {
    pinned: Pinned,
    /// Let go after the snapshot.
    _horizons: Pin,
}

impl RocksView {
    pub(super) fn new(store: Arc<Store>) -> Self {
        let horizons = Arc::clone(&store.horizons);
        let (pinned, pin) = horizons.pin(|| Pinned::new(store, |store| store.db.snapshot()));
        Self { pinned, _horizons: pin }
    }
}

impl View for RocksView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        let value = self.pinned.borrow_dependent().get_pinned(key);
        let value = value.map_err(|error| self.pinned.borrow_owner().fault("reading a key of a view", error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn cursor<'a>(&'a self, from: &[u8], to: &[u8]) -> Result<Box<dyn Cursor + 'a>, Fault> {
        let mut options = between(from, to);
        // Who walks over a view walks over much of it, once: what others read often must stay in the cache.
        options.fill_cache(false);
        let rows = self.pinned.borrow_dependent().raw_iterator_opt(options);
        Ok(Box::new(RocksCursor::new(&self.pinned.borrow_owner().path, rows)))
    }
}

/// Read options for a walk over `[from, to)`.
pub(super) fn between(from: &[u8], to: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_total_order_seek(true);
    if !from.is_empty() {
        options.set_iterate_lower_bound(from);
    }
    if !to.is_empty() {
        options.set_iterate_upper_bound(to);
    }
    options
}

/// A cursor on RocksDB's view of the moment it was made.
pub(super) struct RocksCursor<'a> {
    path: &'a Path,
    rows: DBRawIterator<'a>,
}

impl<'a> RocksCursor<'a> {
    pub(super) fn new(path: &'a Path, rows: DBRawIterator<'a>) -> Self {
        Self { path, rows }
    }

    /// An iterator that is nowhere is at an end, or has failed.
    fn check(&self) -> Result<(), Fault> {
        if self.rows.valid() {
            return Ok(());
        }
        let action = || format!("moving a cursor in {}", self.path.display());
        self.rows.status().map_err(|error| fault(action(), self.path, error))
    }
}

impl Cursor for RocksCursor<'_> {
    fn seek(&mut self, key: &[u8]) -> Result<(), Fault> {
        self.rows.seek(key);
        self.check()
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<(), Fault> {
        self.rows.seek_for_prev(key);
        self.check()
    }

    fn next(&mut self) -> Result<(), Fault> {
        if self.rows.valid() {
            self.rows.next();
        }
        self.check()
    }

    fn prev(&mut self) -> Result<(), Fault> {
        if self.rows.valid() {
            self.rows.prev();
        }
        self.check()
    }

    fn valid(&self) -> bool {
        self.rows.valid()
    }

    fn key(&self) -> &[u8] {
        self.rows.key().unwrap_or_default()
    }

    fn value(&self) -> &[u8] {
        self.rows.value().unwrap_or_default()
    }
}
