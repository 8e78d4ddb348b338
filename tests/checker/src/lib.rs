//! The judges of histories: pure functions from what clients saw to a verdict. The simulator and the chaos harness share them.
//!
//! ```text
//!   history ── json, edn        what was called, when, and what came back; written for other checkers too
//!      │  └─── timeline         the same as text that a person reads and writes
//!      ├─ linear ── model       linearizable? one object at a time; search over sequential specifications
//!      │    └───── explain      the smallest part that shows why not
//!      ├─ cut                   does a snapshot over many keys show one cut, by the versions?
//!      ├─ session               read your writes, monotonic reads, monotonic writes
//!      └─ availability          the longest time without a success, and how soon after a fault there was one
//! ```
//!
//! The end-to-end tests' `checks` (`tests/src/checks.rs`) judge from versions and from the final state. `linear` needs neither. It finds what
//! `registers`, `counters`, `unfailed` and `claims` find there as soon as the final state is added to the history as reads, and the
//! conditions as compare-and-sets: `tests/histories/finals.txt` has each of their bad records. `ordered` (rows of a scan come in order)
//! has no counterpart here.
//!
//! **Invariant:** this crate uses no other crate of Kontiki: a judge that shares code with the accused shares its errors.
//!
//! **Invariant:** no clock, no randomness, no files: the same history gives the same verdict and the same text.
//!
//! **Invariant:** "I do not know" is a verdict of its own. Whatever a judge gave up on, or could not read, is never "ok".

pub mod availability;
pub mod cut;
pub mod explain;
pub mod history;
pub mod linear;
pub mod model;
pub mod session;
pub mod timeline;
