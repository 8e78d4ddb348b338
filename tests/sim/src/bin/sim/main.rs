//! `sim`: runs clusters from seeds. One run per process, so that nothing that a process counts up is in the way; `sweep` and `meta` start
//! processes of themselves.
//!
//! ```text
//!   sim run --seed 7              the story of one seed, and its verdict
//!   sim sweep --seeds 200         many seeds in parallel, up to the first that fails
//!   sim meta --seeds 10           each seed twice: the complete traces must be equal
//!   sim shrink --seed 7           a smaller run that fails in the same way
//!   sim kinds                     the kinds of fault
//! ```
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test program: it reads its command line and starts itself"
)]

mod args;
mod interpose;
mod meta;
mod shrink;
mod single;
mod sweep;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser as _;

fn main() -> ExitCode {
    let failed = match Args::parse().command {
        Command::Run(run) => single::run(&run),
        Command::Sweep(sweep) => sweep::run(&sweep),
        Command::Meta(meta) => meta::run(&meta),
        Command::Shrink(shrink) => shrink::run(&shrink),
        Command::Kinds => {
            for (_, name, what) in kontiki_sim::faults::Kind::LIST {
                println!("{name:<14} {what}");
            }
            Ok(true)
        }
    };
    match failed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sim: {error}");
            ExitCode::from(2)
        }
    }
}
