//! Seeds that every test run goes through: some that have found something once, and some that nobody has seen before, whose numbers are
//! printed. The long sweep is `make sweep`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test that starts the program under test")]

use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seeds with a history. Each has failed once, with what its line says.
const REGRESSIONS: &[(&str, &str)] = &[
    ("3", "a stream of entries went on behind a gap when the log was purged under it"),
    ("5052", "a stream of entries behind a purge sent nothing for ever"),
];
/// Seeds that together have every kind of fault.
const FIXED: std::ops::Range<u64> = 100..110;
/// How many new ones are drawn.
const FRESH: u64 = 4;

fn sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(args).output().expect("the program starts")
}

fn sweep(from: u64, seeds: u64) {
    let (from, seeds) = (from.to_string(), seeds.to_string());
    let output = sim(&["sweep", "--from", &from, "--seeds", &seeds, "--jobs", "2"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    println!("{said}");
}

#[test]
fn seeds_that_have_found_something_find_nothing_now() {
    for (seed, what) in REGRESSIONS {
        let output = sim(&["run", "--quiet", "--seed", seed]);
        assert!(output.status.success(), "seed {seed} ({what}):\n{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn fixed_seeds_find_nothing() {
    sweep(FIXED.start, FIXED.end - FIXED.start);
}

#[test]
fn fresh_seeds_find_nothing() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let from = now.as_micros() as u64 % 1_000_000_000 + 1_000_000;
    println!("fresh seeds from {from}");
    sweep(from, FRESH);
}

#[test]
fn a_seed_gives_one_trace_and_entropy_would_give_two() {
    let equal = sim(&["meta", "--seeds", "1", "--from", "7"]);
    assert!(equal.status.success(), "{}", String::from_utf8_lossy(&equal.stdout));
    let unseeded = sim(&["meta", "--seeds", "1", "--from", "7", "--unseeded"]);
    assert!(!unseeded.status.success(), "a comparison that cannot fail proves nothing");
}
