//! The simulated disk against its promises.

use super::*;

fn disk_with(seed: u64, content: &[u8]) -> (SimulatedDisk, Arc<dyn DiskFile>) {
    let disk = SimulatedDisk::new(seed);
    let file = disk.open("f", true).expect("creates");
    file.write_at(0, content).expect("writes");
    (disk, file)
}

fn content(disk: &SimulatedDisk, name: &str) -> Option<Vec<u8>> {
    let file = disk.open(name, false).ok()?;
    let mut buf = vec![0; usize::try_from(file.len().expect("length")).expect("small")];
    file.read_at(0, &mut buf).expect("reads");
    Some(buf)
}

#[test]
fn what_was_synced_survives_every_crash() {
    for seed in 0..50 {
        let (disk, file) = disk_with(seed, b"synced");
        file.sync_data().expect("syncs");
        disk.sync_dir().expect("syncs");
        file.write_at(600, b"not").expect("writes");
        disk.crash();
        let found = content(&disk, "f").expect("is there");
        assert_eq!(&found[..6], b"synced");
        assert!(found.len() == 6 || found.len() == 603);
    }
}

#[test]
fn each_sector_and_each_name_has_its_own_fate() {
    let (mut sectors, mut names) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for seed in 0..200 {
        let disk = SimulatedDisk::new(seed);
        let file = disk.open("f", true).expect("creates");
        file.write_at(0, &[0; 1024]).expect("writes");
        file.sync_data().expect("syncs");
        disk.sync_dir().expect("syncs");
        file.write_at(0, &[1; 1024]).expect("writes");
        file.write_at(512, &[2; 512]).expect("writes");
        disk.rename("f", "g").expect("renames");
        disk.open("h", true).expect("creates");
        disk.crash();
        let mut found = disk.list().expect("lists");
        found.sort();
        let bytes = content(&disk, if found[0] == "f" { "f" } else { "g" }).expect("is there");
        assert!(bytes[..512].iter().all(|byte| *byte == bytes[0]), "a sector is whole");
        sectors.insert((bytes[0], bytes[512]));
        names.insert(found);
    }
    assert_eq!(sectors.len(), 6, "old or new, times old, middle or new: {sectors:?}");
    assert_eq!(names.len(), 4, "renamed or not, times created or not: {names:?}");
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let run = |seed| {
        let (disk, file) = disk_with(seed, &[7; 5000]);
        disk.sync_dir().expect("syncs");
        file.write_at(2000, &[8; 3000]).expect("writes");
        disk.crash();
        content(&disk, "f")
    };
    assert!((0..20).all(|seed| run(seed) == run(seed)));
    assert!((1..20).any(|seed| run(seed) != run(0)));
}

#[test]
fn a_failed_sync_loses_what_it_should_have_saved_though_later_syncs_succeed() {
    let mut lost = 0;
    for seed in 0..50 {
        let (disk, file) = disk_with(seed, b"old");
        file.sync_data().expect("syncs");
        disk.sync_dir().expect("syncs");
        file.write_at(0, b"new").expect("writes");
        disk.fail_next_sync();
        assert!(file.sync_data().is_err());
        assert_eq!(content(&disk, "f").as_deref(), Some(&b"new"[..]), "reads still show it");
        file.sync_data().expect("the next one succeeds");
        disk.crash();
        lost += usize::from(content(&disk, "f").as_deref() == Some(b"old"));
    }
    assert!((5..45).contains(&lost), "{lost} of 50");
}

#[test]
fn a_full_disk_takes_what_fits() {
    let (disk, file) = disk_with(1, &[1; 1000]);
    assert_eq!(disk.used_bytes(), 1024);
    disk.full(Some(1536));
    let error = file.write_at(900, &[2; 1000]).expect_err("no room");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(content(&disk, "f").map(|bytes| (bytes.len(), bytes[899], bytes[1535])), Some((1536, 1, 2)));
    file.write_at(0, &[3; 1536]).expect("overwriting needs no room");
    assert!(file.write_at(9000, b"x").is_err());
    disk.full(None);
    file.write_at(9000, b"x").expect("there is room again");
    assert_eq!((disk.used_bytes(), file.len().expect("length")), (2048, 9001));
}

#[test]
fn power_is_cut_at_the_call_asked_for_and_old_handles_stay_dead() {
    let (disk, file) = disk_with(1, b"x");
    let before = disk.operations();
    disk.cut_power_after(1);
    file.write_at(0, b"y").expect("one more");
    assert!(file.sync_data().is_err());
    assert!(disk.sync_dir().is_err() && disk.rename("f", "g").is_err() && disk.open("new", true).is_err());
    assert_eq!(disk.operations(), before + 1);
    disk.crash();
    assert!(file.write_at(0, b"z").is_err() && file.len().is_err());
    disk.open("f", true).expect("the power is back");
}

#[test]
fn bits_flip_and_files_shrink_on_the_platter_too() {
    let (disk, file) = disk_with(1, b"abc");
    file.sync_data().expect("syncs");
    disk.sync_dir().expect("syncs");
    disk.flip_bit("f", 8).expect("flips");
    disk.truncate("f", 2).expect("truncates");
    disk.crash();
    assert_eq!(content(&disk, "f").as_deref(), Some(&b"ac"[..]));
}

#[test]
fn a_removed_file_lives_as_long_as_its_handle() {
    let (disk, file) = disk_with(1, b"abc");
    disk.remove("f").expect("removes");
    disk.sync_dir().expect("syncs");
    assert_eq!(file.len().expect("length"), 3);
    drop(file);
    disk.open("g", true).expect("creates");
    assert_eq!(disk.used_bytes(), 0);
}

#[test]
fn a_process_that_dies_loses_nothing_and_makes_nothing_durable() {
    let (disk, file) = disk_with(1, b"abc");
    disk.cut_power_after(0);
    disk.restart();
    assert!(file.write_at(0, b"z").is_err(), "an old handle");
    assert_eq!(content(&disk, "f").as_deref(), Some(&b"abc"[..]));
    disk.lose_unsynced();
    assert_eq!(content(&disk, "f"), None);
}

#[test]
fn writes_and_reads_fail_on_demand_and_only_once() {
    let (disk, file) = disk_with(7, b"before");
    disk.fail_next_write();
    file.write_at(0, b"failed").expect_err("was asked to fail");
    file.write_at(0, b"behind").expect("only the next one fails");
    disk.fail_next_read();
    file.read_at(0, &mut [0; 6]).expect_err("was asked to fail");
    assert_eq!(content(&disk, "f").expect("is there"), b"behind");
    disk.fail_next_write();
    disk.fail_no_more();
    file.write_at(0, b"better").expect("it was taken back");
}

#[test]
fn survivors_are_what_is_durable_and_another_disk() {
    let (disk, file) = disk_with(7, b"synced");
    file.sync_data().expect("syncs");
    assert_eq!(content(&disk.survivors(), "f"), None, "its name is not durable");
    disk.sync_dir().expect("syncs");
    file.write_at(0, b"later!").expect("writes");
    let survivors = disk.survivors();
    assert_eq!(content(&survivors, "f").expect("is there"), b"synced");
    assert_eq!(content(&disk, "f").expect("is there"), b"later!");
    let other = survivors.open("f", false).expect("is there");
    other.write_at(0, b"OTHER!").expect("writes");
    other.sync_data().expect("syncs");
    disk.lose_unsynced();
    assert_eq!(content(&disk, "f").expect("is there"), b"synced");
}
