//! Which start of the node this is: the file STARTS, counted up and synced at every start before anything else is opened. The cluster
//! remembers the newest start of each node. So a directory that was replaced by an older copy of itself is told from the one that it was
//! copied from: it has forgotten votes and entries that it acknowledged, and must not take part.
//!
//! The number alone would not tell two copies that are started at the same time; the nonce, drawn at each start, does.
//!
//! And the file OPENED, from the first start on that came as far as a log: a directory that has it and has lost its log has forgotten as much as one
//! that was wiped, but still says who it was.

use kontiki_types::partition::Incarnation;
use kontiki_types::{Error, StoreId};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::env::DataDir;
use crate::small_file;

/// The file.
pub(crate) const STARTS_FILE: &str = "STARTS";
/// The file that says that there was a log.
const OPENED_FILE: &str = "OPENED";

/// Counts this start and makes it durable. Blocking. A directory without the file was never started, or lost it: then the count begins
/// anew, and if the cluster remembers a higher one, it refuses the node.
pub(crate) fn next(dir: &dyn DataDir, seed: u64) -> Result<Incarnation, Error> {
    let fail = |error| small_file::io_error(dir.path(), "cannot count its starts", error);
    let advice = "replace this node by a new one: empty the directory and start it again (the other nodes have the data)";
    let known = if dir.entries().map_err(fail)?.iter().any(|name| name == STARTS_FILE) {
        small_file::read(dir, STARTS_FILE, advice)?
    } else {
        Incarnation::UNKNOWN
    };
    let nonce = SmallRng::seed_from_u64(seed ^ STARTS_SEED).random();
    let this = Incarnation { starts: known.starts + 1, nonce };
    let root = dir.root().map_err(fail)?;
    small_file::write(root.as_ref(), STARTS_FILE, &this).map_err(fail)?;
    Ok(this)
}

/// Whether the directory has had a log. Blocking.
pub(crate) fn had_log(dir: &dyn DataDir) -> Result<bool, Error> {
    let entries = dir.entries().map_err(|error| small_file::io_error(dir.path(), "cannot be listed", error))?;
    Ok(entries.iter().any(|name| name == OPENED_FILE))
}

/// Notes that the directory has a log from now on. Blocking.
pub(crate) fn note_log(dir: &dyn DataDir, store: StoreId) -> Result<(), Error> {
    let written = dir.root().and_then(|root| small_file::write(root.as_ref(), OPENED_FILE, &store));
    written.map_err(|error| small_file::io_error(dir.path(), "cannot be written to", error))
}

/// Sets the nonce's seed apart from the others that derive from the node's.
const STARTS_SEED: u64 = 0x7374_6172_7473;
