//! A whole cluster in one thread, from one seed: the production code of every layer over a simulated network, simulated disks and
//! simulated clocks, with faults drawn from the seed, clients whose histories are judged, and invariants that are looked at all along.
//!
//! # How a run is put together
//!
//! ```text
//!   seed ── Plan            how large, which kinds of fault, each fault with its time        plan, faults/draw
//!            │
//!   run ─────┼── Cluster    one turmoil host for each node and each machine of clients       cluster
//!            │     └─ Host  what a machine keeps when its process dies: disks, engine, clock host
//!            │          └─ Env  the production node's seams, over all that                   env
//!            ├── Faults     begun and ended on time; links, machines, disks, clocks          faults
//!            ├── Workload   clients (the production client) and what they saw                workload
//!            ├── Watch      the invariants, every few steps, from inside the nodes           watch, invariants
//!            └── judges     kontiki-checker on the history                                   judge
//!   Report   story, figures, failures                                                        run
//! ```
//!
//! A run has these phases: the cluster *starts* undisturbed; in the *safety* phase clients work while faults come and go; at the *heal* everything
//! is repaired and every partition must serve again within [`plan::SERVE_WITHIN_MS`]; then the clients stop, everything is *read* once more, the
//! replicas must *converge* within [`plan::CONVERGE_WITHIN_MS`], and the judges speak.
//!
//! # What makes it deterministic
//!
//! One run per process and one thread. turmoil drives the hosts; storage runs inline on the host's tasks and takes its time by sleeping
//! ([`mod@env`]); everything random derives from the seed, and what production code and its dependencies draw from the operating system comes from the
//! seed too: the binary replaces libc's `getrandom`, `getentropy` and `clock_gettime` for the thread of the simulation (`src/bin/sim/interpose.rs`). So use
//! the binary: a run inside of a test harness is a run, but not the same one twice.
//!
//! # To plant a bug
//!
//! Change production code, build, and `sim sweep --seeds 200`: it stops at the first seed that fails and prints the command that replays it. A fault kind
//! can be left out with `--without KIND`, or be the only one with `--only KIND`. `make planted` does so with the patches of `tests/planted`; the next one belongs there.
//!
//! **Invariant:** nothing here decides by a real clock, by entropy, by the order of a hash map or by an address in memory.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "test code: the other half of the seams, and a program that reads its command line and starts itself"
)]

pub mod clock;
pub mod cluster;
pub mod dice;
pub mod env;
pub mod faults;
pub mod host;
pub mod invariants;
pub mod judge;
pub mod plan;
pub mod run;
pub mod story;
pub mod watch;
pub mod workload;
