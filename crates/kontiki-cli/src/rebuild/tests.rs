//! A directory becomes a data directory by its last file, and only what is empty or was interrupted is taken for one.

use super::*;

fn folder_with(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in names {
        match name.strip_suffix('/') {
            Some(dir) => std::fs::create_dir_all(folder.path().join(dir)).expect("made"),
            None => std::fs::write(folder.path().join(name), "x").expect("written"),
        }
    }
    folder
}

#[test]
fn only_an_empty_directory_or_what_was_interrupted_is_taken() {
    for names in [&["thesis.tex"][..], &["IDENTITY", "data/", "log/"], &["IDENTITY", "restoring/"], &["data/"]] {
        let folder = folder_with(names);
        let failure = Place::claim(folder.path()).expect_err("not empty");
        assert!(failure.message.contains("is not empty") && failure.exit as u8 == 5, "{failure}");
        assert_eq!(super::names(folder.path()).expect("listed").len(), names.len(), "nothing is removed");
    }
    for names in [&[][..], &["lost+found/"], &["restoring/"], &["restoring/node/", "data/", "log/", "STARTS"]] {
        let folder = folder_with(names);
        let place = Place::claim(folder.path()).expect("taken");
        let mut left = super::names(folder.path()).expect("listed");
        left.retain(|name| name != "lost+found");
        assert_eq!(left, [UNFINISHED], "{names:?}");
        place.give_up().expect("left as it was");
    }
}

#[test]
fn the_identity_comes_last_and_the_mark_goes() {
    let folder = folder_with(&["restoring/node/data/", "restoring/node/log/", "restoring/sources/1/"]);
    let node = folder.path().join("restoring/node");
    for file in ["IDENTITY", "LOCK", "STARTS"] {
        std::fs::write(node.join(file), file).expect("written");
    }
    move_up(folder.path()).expect("moves");
    let mut left = names(folder.path()).expect("listed");
    left.sort();
    assert_eq!(left, ["IDENTITY", "STARTS", "data", "log"]);
}
