//! What the end-to-end tests and the demo are made of: real `kontiki server` processes on loopback, clients that write while those
//! are killed, the record of what the clients saw, and the checks that hold the record against what the store has in the end.
//!
//! ```text
//!   processes ── program ── ports        real processes: start, SIGKILL, SIGTERM, restart, wait until ready
//!        │
//!   workload ─── history ─── checks      clients write; every call is recorded; pure functions judge the record
//!   progress ── catalogue                who leads and how far each node is; real documents to store
//!   small_disk                           a file system that can be filled
//! ```
//!
//! **Invariant:** a check is a function from data to a list of violations, and has been seen to find one (its own tests feed it
//! bad records): a check that cannot fail proves nothing.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests start processes, read files and use clocks: they are the outside world of the product"
)]

pub mod catalogue;
pub mod checks;
pub mod history;
pub mod ports;
pub mod processes;
pub mod program;
pub mod progress;
pub mod small_disk;
pub mod workload;
