//! Measures Kontiki from outside: real server processes, real sockets, real disks, and only the public API.
//!
//! ```text
//!   quick ── processes   three `kontiki server` children on loopback, data in a directory of the run
//!     │      cpu, disk   /proc/PID/stat of every server; what an fdatasync costs where the data lies
//!     ├───── load        closed-loop callers: latency, throughput
//!     ├───── stall       a leader is killed with SIGKILL while writers write
//!     └───── report      one table for people, one JSON file for programs
//!
//!   nodes ── the same processes, while nodes are wiped, join, leave, are stopped, are started
//! ```
//!
//! **Invariant:** no figure is asserted. A benchmark that fails on a busy machine teaches people to ignore it.
//! **Invariant:** every wait has a bound, and every child is killed by its own handle when the run ends, however it ends.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program that starts servers, reads /proc and measures the machine; no library code lives here"
)]

pub mod cpu;
pub mod disk;
pub mod failure;
pub mod load;
pub mod nodes;
pub mod processes;
pub mod quick;
pub mod report;
pub mod stall;
pub mod workload;

pub use failure::Failure;
