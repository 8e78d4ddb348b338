//! The bytes of a backup, the chain of increments, and damage: every flipped bit is found.

use std::path::PathBuf;

use bytes::Bytes;
use kontiki::{Change, ClusterId, Version};

use super::*;

const CLUSTER: ClusterId = ClusterId([0xc1; 16]);

fn put(key: &'static str, value: &'static str, version: u64) -> Change {
    Change { key: key.into(), value: Some(value.into()), version: Version(version) }
}

fn removed(key: &'static str, version: u64) -> Change {
    Change { key: key.into(), value: None, version: Version(version) }
}

/// A complete backup, one part for each slice.
fn made(dir: &Path, version: u64, base: Option<&Backup>, parts: &[&[Change]]) -> Backup {
    let base = base.map(|base| base.as_base_of(dir).expect("a base"));
    let mut progress = Progress::start(Manifest::new(CLUSTER, Version(version), base, vec![Bytes::from_static(b"m")]));
    std::fs::create_dir_all(dir.join(PARTS)).expect("made");
    for (number, entries) in (1..).zip(parts) {
        let mut writer = PartWriter::create(&dir.join(PARTS), &progress.manifest.header(number)).expect("begins");
        entries.iter().for_each(|entry| writer.push(entry).expect("pushes"));
        progress.done(writer.finish().expect("ends"), Bytes::new());
    }
    progress.manifest.save(dir).expect("saves");
    Backup::open(dir).expect("opens")
}

fn rows(dir: &Path, bases: &[PathBuf]) -> Result<Vec<String>, Failure> {
    let chain = Chain::open(dir, bases)?;
    let told = |(key, value, version): (Bytes, Bytes, Version)| {
        format!("{}={}@{version}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value))
    };
    chain.rows().map(|row| row.map(told)).collect()
}

#[test]
fn golden_bytes_of_a_part() {
    let folder = tempfile::tempdir().expect("a folder");
    made(folder.path(), 9, None, &[&[put("a", "one", 7)]]);
    let bytes = std::fs::read(folder.path().join("parts/000001")).expect("readable");
    let expected =
        ["4b4f4e54494b4942", "01000000", "01000000", "c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1", "0000000000000000", "0900000000000000"]
            .concat();
    assert_eq!(hex::encode(&bytes[..48]), expected);
    assert_eq!(bytes[48..52], crc32fast::hash(&bytes[..48]).to_le_bytes());
    let body = ["01", "01000000", "03000000", "0700000000000000", "61", "6f6e65"].concat();
    assert_eq!((hex::encode(&bytes[52..56]), hex::encode(&bytes[60..81])), ("15000000".to_owned(), body));
    assert_eq!(bytes[56..60], crc32fast::hash(&bytes[60..81]).to_le_bytes());
    assert_eq!(hex::encode(&bytes[81..93]), "ffffffff0100000000000000");
    assert_eq!(bytes[93..], crc32fast::hash(&bytes[81..93]).to_le_bytes());
}

#[test]
fn every_flipped_bit_of_every_file_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    made(folder.path(), 9, None, &[&[put("a", "one", 7), put("b", "", 8)], &[put("c", "three", 9)]]);
    assert_eq!(rows(folder.path(), &[]).expect("whole"), ["a=one@7", "b=@8", "c=three@9"]);
    for name in ["MANIFEST", "parts/000001", "parts/000002"] {
        let path = folder.path().join(name);
        let good = std::fs::read(&path).expect("readable");
        for bit in 0..8 * good.len() {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bad).expect("writable");
            let failure = rows(folder.path(), &[]).expect_err("damaged");
            assert!(
                failure.exit as u8 == 5 && failure.message.contains(&*folder.path().to_string_lossy()),
                "{name}, bit {bit}: {failure}"
            );
        }
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).expect("writable");
            rows(folder.path(), &[]).expect_err("cut");
        }
        std::fs::write(&path, good).expect("writable");
    }
    std::fs::remove_file(folder.path().join("parts/000002")).expect("removed");
    assert!(rows(folder.path(), &[]).expect_err("missing").message.contains("is missing"));
}

#[test]
fn a_chain_gives_the_newest_of_each_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let full = made(&at("full"), 10, None, &[&[put("a", "1", 1), put("b", "1", 2)], &[put("c", "1", 3), put("d", "1", 4)]]);
    let second = made(&at("second"), 20, Some(&full), &[&[put("a", "2", 11), removed("b", 12), put("e", "2", 13)]]);
    made(&at("third"), 30, Some(&second), &[&[put("b", "3", 21), removed("c", 22)], &[removed("e", 23), put("f", "3", 30)]]);
    assert_eq!(rows(&at("second"), &[]).expect("whole"), ["a=2@11", "c=1@3", "d=1@4", "e=2@13"]);
    assert_eq!(rows(&at("third"), &[]).expect("whole"), ["a=2@11", "b=3@21", "d=1@4", "f=3@30"]);

    std::fs::rename(at("second"), at("elsewhere")).expect("moves");
    let failure = rows(&at("third"), &[]).expect_err("its base is gone");
    assert!(failure.message.contains("continues a backup of version 20") && failure.message.contains("--base DIR"), "{failure}");
    assert_eq!(rows(&at("third"), &[at("elsewhere")]).expect("given").len(), 4);
    made(&at("second"), 20, Some(&full), &[&[put("a", "other", 11)]]);
    assert!(rows(&at("third"), &[]).expect_err("another one").message.contains("is another one"));
}

#[test]
fn what_is_no_backup_or_newer_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(Backup::open(folder.path()).expect_err("empty").message.contains("is not a backup"));
    Progress::start(Manifest::new(CLUSTER, Version(1), None, vec![])).save(folder.path()).expect("saves");
    assert!(Backup::open(folder.path()).expect_err("begun").message.contains("was interrupted"));
    let json = "{ \"format\": 2, \"what\": \"nobody knows\" }\n";
    let sealed = format!("{json}crc32 {:08x}\n", crc32fast::hash(json.as_bytes()));
    std::fs::write(folder.path().join("MANIFEST"), sealed).expect("writable");
    assert!(Backup::open(folder.path()).expect_err("newer").message.contains("has format 2, this program knows 1"));
}

#[test]
fn entries_out_of_order_or_out_of_their_versions_are_damage() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    made(&at("order"), 9, None, &[&[put("b", "1", 1)], &[put("a", "1", 1)]]);
    assert!(rows(&at("order"), &[]).expect_err("not in order").message.contains("not in key order"));
    made(&at("late"), 9, None, &[&[put("a", "1", 10)]]);
    assert!(rows(&at("late"), &[]).expect_err("newer than the backup").message.contains("makes no sense"));
}

#[test]
fn progress_goes_on_where_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(Progress::load(folder.path()).expect("none"), None);
    let mut progress = Progress::start(Manifest::new(CLUSTER, Version(5), None, vec![]));
    progress.save(folder.path()).expect("saves");
    assert_eq!(Progress::load(folder.path()).expect("there").expect("some").next(), Some(Bytes::new()));
    progress.done(Part { file: "000001".into(), bytes: 1, rows: 1, removed: 0, crc32: 7 }, Bytes::from_static(b"\x00k\xff"));
    progress.save(folder.path()).expect("saves");
    let found = Progress::load(folder.path()).expect("there").expect("some");
    assert_eq!((found.next(), &found), (Some(Bytes::from_static(b"\x00k\xff")), &progress));
    progress.done(Part { file: "000002".into(), bytes: 1, rows: 1, removed: 0, crc32: 7 }, Bytes::new());
    assert_eq!(progress.next(), None, "all is done: nothing is read twice");
    Progress::remove(folder.path()).expect("removed");
    Progress::remove(folder.path()).expect("twice does no harm");
}
