//! The rules of storage as scripts that a person can read. Every script runs on both engines and must give the same output there.
//!
//! To see or change what a script says, run it with `UPDATE_GOLDENFILES=1` and read the difference.

mod common;

use std::path::Path;

use common::engine_runner::EngineRunner;
use common::machine_runner::MachineRunner;
use common::{BOTH, On};

/// Runs every script of a folder on both engines.
#[allow(clippy::disallowed_methods, reason = "a test lists its own scripts")]
fn run_folder(folder: &str, run: impl Fn(On, &Path) -> std::io::Result<()>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(folder);
    let mut scripts: Vec<_> =
        std::fs::read_dir(&path).expect("the folder is there").map(|entry| entry.expect("an entry").path()).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no scripts in {}", path.display());
    for script in scripts {
        for on in BOTH {
            eprintln!("{} on {on:?}", script.display());
            run(on, &script).unwrap_or_else(|error| panic!("{} on {on:?}: {error}", script.display()));
        }
    }
}

#[test]
fn engine() {
    run_folder("engine", |on, script| goldenscript::run(&mut EngineRunner::new(on), script));
}

#[test]
fn mvcc() {
    run_folder("mvcc", |on, script| goldenscript::run(&mut EngineRunner::new(on), script));
}

#[test]
fn sessions() {
    run_folder("sessions", |on, script| goldenscript::run(&mut MachineRunner::new(on), script));
}

#[test]
fn machine() {
    run_folder("machine", |on, script| goldenscript::run(&mut MachineRunner::new(on), script));
}
