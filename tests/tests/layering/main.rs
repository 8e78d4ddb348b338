//! Holds the shape of the workspace (DESIGN sections 2 and 3): who may depend on whom, where each big dependency lives, how
//! files look, and what may come in from outside. It reads manifests and sources as text, so that nothing has to run for it.
//!
//! ```text
//!   Cargo.toml of every crate ── dependencies   the layer table, the "never" list, pins
//!   every .rs file            ── sources        one home each, seams, file shape
//!   cargo metadata, Cargo.lock── packages       licences, sources, banned packages, what a client compiles
//! ```
//!
//! Each checker is a function from data to a list of violations, and is itself tested on bad data: a checker that cannot fail
//! proves nothing.
#![allow(
    unreachable_pub,
    reason = "nothing of a program is reached from outside; `pub` marks what a module offers to the others"
)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test that reads the workspace's files and asks cargo about it"
)]

mod dependencies;
mod packages;
mod sources;

use std::path::{Path, PathBuf};
use std::process::Command;

use dependencies::Manifest;
use packages::Graph;
use sources::Source;

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("invariant: tests/ lies in the workspace").to_path_buf()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

/// Folders that hold crates: every direct child of `crates/`, `bench`, `tests`, `tests/checker` and `tests/sim`.
fn crate_folders() -> Vec<String> {
    let mut folders = vec!["bench".to_owned(), "tests".to_owned(), "tests/checker".to_owned(), "tests/sim".to_owned()];
    for entry in std::fs::read_dir(root().join("crates")).expect("crates/ is a folder") {
        folders.push(format!("crates/{}", entry.expect("readable").file_name().to_string_lossy()));
    }
    folders.sort();
    folders
}

fn manifests() -> Vec<Manifest> {
    crate_folders().iter().map(|folder| Manifest::parse(folder, &read(&root().join(folder).join("Cargo.toml")))).collect()
}

fn collect_sources(folder: &Path, found: &mut Vec<Source>) {
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("listing {}: {error}", folder.display())) {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            collect_sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(root()).expect("invariant: inside the workspace").to_string_lossy().into_owned();
            found.push(Source { path: relative, text: read(&path) });
        }
    }
}

fn all_sources() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["crates", "bench", "tests"] {
        collect_sources(&root().join(folder), &mut found);
    }
    assert!(found.len() > 40, "only {} sources found: the scan looks in the wrong place", found.len());
    found
}

fn none(violations: Vec<String>) {
    assert!(violations.is_empty(), "{} violation(s):\n  {}", violations.len(), violations.join("\n  "));
}

#[test]
fn crates_depend_one_way() {
    none(dependencies::check_layers(&manifests()));
}

#[test]
fn what_must_never_meet_never_meets() {
    none(dependencies::check_never(&manifests()));
}

#[test]
fn manifests_inherit_from_the_workspace() {
    none(dependencies::check_shape(&manifests()));
}

#[test]
fn alphas_are_pinned_exactly() {
    none(dependencies::check_pins(&read(&root().join("Cargo.toml"))));
}

#[test]
fn each_big_dependency_has_one_home() {
    none(sources::check_homes(&all_sources()));
}

#[test]
fn no_production_code_knows_that_it_is_simulated() {
    none(sources::check_simulation(&all_sources()));
}

#[test]
fn files_open_with_why_and_stay_short() {
    none(sources::check_shape(&all_sources()));
}

#[test]
fn outside_forces_enter_through_their_seams() {
    none(sources::check_seams(&all_sources()));
}

#[test]
fn packages_come_from_known_places_under_known_licences() {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(metadata.status.success(), "cargo metadata failed:\n{}", String::from_utf8_lossy(&metadata.stderr));
    let graph = Graph::parse(&String::from_utf8(metadata.stdout).expect("JSON is UTF-8"));
    let rules = packages::Rules::parse(&read(&root().join("deny.toml")));
    none(packages::check_licences(&graph, &rules));
    none(packages::check_bans(&graph, &rules));
    none(packages::check_origins(&graph));
    none(packages::check_reach(&graph));
}
