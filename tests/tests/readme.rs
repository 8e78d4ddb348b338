//! Keeps the documents true where a program can: the limits that README.md states are those of the code, and the files that README.md
//! and ARCHITECTURE.md name are there. (The README's example is compiled as a doc test of `kontiki`.)
#![allow(clippy::disallowed_methods, reason = "a test that reads the workspace's documents")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kontiki_types::limits;

/// The constants that README.md may name.
fn constants() -> BTreeMap<&'static str, u64> {
    BTreeMap::from([
        ("BATCH_GET_BYTES_MAX", limits::BATCH_GET_BYTES_MAX as u64),
        ("BATCH_GET_KEYS_MAX", limits::BATCH_GET_KEYS_MAX as u64),
        ("DELETE_RANGE_KEYS_MAX", limits::DELETE_RANGE_KEYS_MAX as u64),
        ("DELETE_RANGES_MAX", limits::DELETE_RANGES_MAX as u64),
        ("KEY_BYTES_MAX", limits::KEY_BYTES_MAX as u64),
        ("MESSAGE_BYTES_MAX", limits::MESSAGE_BYTES_MAX as u64),
        ("NODES_MAX", limits::NODES_MAX as u64),
        ("PARTITIONS_MAX", u64::from(limits::PARTITIONS_MAX)),
        ("PROPOSALS_QUEUED_MAX", limits::PROPOSALS_QUEUED_MAX as u64),
        ("PROPOSAL_BYTES_QUEUED_MAX", limits::PROPOSAL_BYTES_QUEUED_MAX as u64),
        ("READS_QUEUED_MAX", limits::READS_QUEUED_MAX as u64),
        ("REQUEST_BYTES_MAX", limits::REQUEST_BYTES_MAX as u64),
        ("RETENTION_MS", limits::RETENTION_MS),
        ("RETENTION_MS_MIN", limits::RETENTION_MS_MIN),
        ("SCAN_KEYS_LOOKED_AT_MAX", limits::SCAN_KEYS_LOOKED_AT_MAX as u64),
        ("SCAN_PAGE_BYTES_MAX", u64::from(limits::SCAN_PAGE_BYTES_MAX)),
        ("SCAN_ROWS_MAX", u64::from(limits::SCAN_ROWS_MAX)),
        ("SESSIONS_MAX", limits::SESSIONS_MAX as u64),
        ("SESSION_AGE_MS_MAX", limits::SESSION_AGE_MS_MAX),
        ("SESSION_BYTES_MAX", limits::SESSION_BYTES_MAX as u64),
        ("SESSION_REPLIES_MAX", limits::SESSION_REPLIES_MAX as u64),
        ("SESSION_TABLE_BYTES_MAX", limits::SESSION_TABLE_BYTES_MAX as u64),
        ("TOKEN_PARTITIONS_MAX", limits::TOKEN_PARTITIONS_MAX as u64),
        ("VALUE_BYTES_MAX", limits::VALUE_BYTES_MAX as u64),
        ("WRITE_CONDITIONS_MAX", limits::WRITE_CONDITIONS_MAX as u64),
        ("WRITE_OPS_MAX", limits::WRITE_OPS_MAX as u64),
    ])
}

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("invariant: tests/ lies in the workspace").to_path_buf()
}

fn document(name: &str) -> String {
    let path = root().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

/// The rows `| words | value | `CONSTANT` |` of a document.
fn stated_limits(text: &str) -> Vec<(String, u64)> {
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
        let [_, value, constant] = cells[..] else { return None };
        let constant = constant.strip_prefix('`')?.strip_suffix('`')?;
        Some((constant.to_owned(), number(value).unwrap_or_else(|| panic!("`{value}` of {constant} is no number that is known"))))
    });
    rows.collect()
}

fn number(value: &str) -> Option<u64> {
    let (digits, unit) = value.split_once(' ').unwrap_or((value, ""));
    let scale = match unit {
        "" | "ms" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        _ => return None,
    };
    digits.parse::<u64>().ok().map(|digits| digits * scale)
}

#[test]
fn the_limits_table_says_what_the_code_does() {
    let constants = constants();
    let stated = stated_limits(&document("README.md"));
    for (constant, value) in &stated {
        let known = constants.get(constant.as_str());
        assert_eq!(known, Some(value), "README.md states {value} for {constant}");
    }
    let named: Vec<&str> = stated.iter().map(|(constant, _)| constant.as_str()).collect();
    let missing: Vec<_> = constants.keys().filter(|constant| !named.contains(constant)).collect();
    assert!(missing.is_empty(), "README.md does not state {missing:?}");
}

/// Limits that no caller ever meets: how the node works inside.
const INSIDE: [&str; 11] = [
    "APPEND_BYTES_MAX",
    "ENTRIES_IN_FLIGHT_MAX",
    "ENTRY_BYTES_MAX",
    "ENTRY_WRITES_MAX",
    "FRAME_BYTES_MAX",
    "LOG_CACHE_BYTES_PER_GROUP",
    "LOG_RECORD_BYTES_MAX",
    "LOG_STATE_BYTES_MAX",
    "PEER_MESSAGE_BYTES_MAX",
    "SEGMENTS_SPARE_MAX",
    "SEGMENT_BYTES",
];

#[test]
fn every_limit_is_stated_or_is_nobodys_business() {
    let source = document("crates/kontiki-types/src/limits.rs");
    let names = source.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
    let known = constants();
    let forgotten: Vec<_> = names.filter(|name| !known.contains_key(name) && !INSIDE.contains(name)).collect();
    assert!(
        forgotten.is_empty(),
        "{forgotten:?} of limits.rs: state them in README.md and `constants`, or name them in `INSIDE`"
    );
}

#[test]
fn the_table_reader_reads_units_and_leaves_other_tables_alone() {
    let text =
        "| limit | value | constant |\n|---|---|---|\n| key | 16 KiB | `K` |\n| age | 5 ms | `A` |\n| a | b |\n| n | 7 | `N` |";
    let expected = [("K", 16 * 1024), ("A", 5), ("N", 7)].map(|(name, value)| (name.to_owned(), value));
    assert_eq!(stated_limits(text), expected);
}

/// Words in backquotes, and targets of links, that look like a path from the root: they have a `/` and start with a top-level name.
fn named_paths(text: &str) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let linked = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let tops =
        ["bench", "crates", "docs", "proto", "scripts", "tests", "Makefile", "ARCHITECTURE.md", "CHANGELOG.md", "README.md"];
    let names_top = |word: &&str| tops.iter().any(|top| word == top || word.starts_with(&format!("{top}/")));
    let plain = |word: &&str| !word.contains([' ', '*', '{', '<', '\n']);
    quoted.chain(linked).filter(names_top).filter(plain).map(str::to_owned).collect()
}

#[test]
fn the_files_that_the_documents_name_are_there() {
    for name in ["README.md", "ARCHITECTURE.md"] {
        let paths = named_paths(&document(name));
        assert!(paths.len() > 3, "{name} names only {paths:?}: the search looks in the wrong place");
        let missing: Vec<_> = paths.iter().filter(|path| !root().join(path).exists()).collect();
        assert!(missing.is_empty(), "{name} names {missing:?}, which is not there");
    }
}

#[test]
fn a_path_is_told_from_other_words() {
    let text = "see `crates/x/src/lib.rs`, `a/b`, `make test`, [it](docs/adr) and [that](https://docs/y); `crates/*` is many";
    assert_eq!(named_paths(text), ["crates/x/src/lib.rs", "docs/adr"]);
}
