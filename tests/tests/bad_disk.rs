//! Damaged, foreign and unusable data directories, through the real program: each is refused with an exit code and a sentence that
//! names the file, and nothing else is lost: with the damage undone, every acknowledged write is served.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test: it damages files and takes ports")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use kontiki_client::{Client, ScanOptions};
use kontiki_tests::ports::free_addr;
use kontiki_tests::processes::{DEADLINE, Server};
use kontiki_types::Row;

use futures::TryStreamExt as _;

/// The exit code for files, settings and addresses.
const STORAGE: Option<i32> = Some(5);

/// A lone server with some acknowledged writes, killed so that the newest of them are nowhere but in the raft log.
struct Fixture {
    server: Server,
    rows: Vec<Row>,
    _folder: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Server::alone(folder.path());
        server.start();
        ready(&mut server).await;
        let client = connect(&server).await;
        for at in 0..40 {
            // Alternating between the two partitions, one after the other: each has a frame and an fsync of its own.
            let key = format!("{}/{at:02}", if at % 2 == 0 { "a" } else { "\u{ff}" });
            client.put(key, format!("value {at}")).await.expect("put");
        }
        let rows = everything(&client).await;
        assert_eq!(rows.len(), 40);
        server.kill().await;
        Self { server, rows, _folder: folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.server.data().join(name)
    }

    /// Raft log segments, oldest first.
    fn segments(&self) -> Vec<PathBuf> {
        segments(self.server.data())
    }

    /// The server refuses to start: exit code 5, one sentence with all the words, no panic.
    async fn refused(&mut self, words: &[&str]) {
        let (code, said) = self.server.refuses().await;
        assert_eq!(code, STORAGE, "{said}");
        for word in words {
            assert!(said.contains(word), "`{word}` is missing in:\n{said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    }

    /// Changes a file, sees the server refuse it, and undoes the change.
    async fn refused_with(&mut self, path: &Path, change: impl FnOnce(&mut Vec<u8>), words: &[&str]) {
        let good = fs::read(path).expect("the file can be read");
        let mut bad = good.clone();
        change(&mut bad);
        assert!(good != bad, "{} must change", path.display());
        fs::write(path, &bad).expect("the file can be written");
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let words: Vec<&str> = words.iter().copied().chain([name.as_str()]).collect();
        self.refused(&words).await;
        assert!(fs::read(path).expect("it is still there") == bad, "what was refused is left as it was found");
        fs::write(path, &good).expect("the file can be written");
    }

    /// Sees the server refuse to start while a file or folder is away, and puts it back.
    async fn refused_without(&mut self, path: &Path, words: &[&str]) {
        let away = path.with_extension("away");
        let aside = self.server.data().with_file_name(away.file_name().expect("a name"));
        fs::rename(path, &aside).expect("it can be moved");
        self.refused(words).await;
        fs::rename(&aside, path).expect("it can be moved back");
    }

    /// The server starts, has everything, and takes writes; then it is killed again.
    async fn serves(&mut self) {
        self.server.start();
        ready(&mut self.server).await;
        let client = connect(&self.server).await;
        assert_eq!(everything(&client).await, self.rows, "nothing is lost");
        let row = &mut self.rows[0];
        row.version = client.put(row.key.clone(), row.value.clone()).await.expect("it takes writes");
        self.server.kill().await;
    }
}

async fn ready(server: &mut Server) {
    if let Err(why) = server.ready().await {
        panic!("{why}");
    }
}

async fn connect(server: &Server) -> Client {
    Client::connect([server.addr()]).await.expect("it answers").with_timeout(DEADLINE)
}

async fn everything(client: &Client) -> Vec<Row> {
    client.scan(ScanOptions::all()).try_collect().await.expect("scan")
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join("log")).expect("there is a log").map(|entry| entry.expect("readable").path());
    let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|extension| extension == "segment")).collect();
    found.sort();
    found
}

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")) as usize
}

/// Where the frames of a segment begin, and where the last one ends: by `docs/log-format.md`, and not by the code that wrote them.
fn frames(segment: &[u8]) -> (Vec<usize>, usize) {
    let (mut starts, mut at) = (Vec::new(), number(segment, 12));
    while at + 24 <= segment.len() && number(segment, at + 4) > 0 {
        starts.push(at);
        at += (24 + number(segment, at + 4)).next_multiple_of(8);
    }
    (starts, at)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_named_and_nothing_else_is_lost() {
    let mut node = Fixture::new().await;
    let log = node.segments().pop().expect("a segment");
    let name = log.file_name().expect("a name").to_string_lossy().into_owned();
    let (starts, end) = frames(&fs::read(&log).expect("readable"));
    assert!(starts.len() > 40, "only {} frames: this is not the log's format", starts.len());

    // A byte of what was durable: in the middle, in the length, in the first frame.
    let middle = starts[starts.len() / 2];
    for at in [middle + 30, middle + 4, starts[0] + 24] {
        node.refused_with(&log, |bytes| bytes[at] ^= 0x40, &["is corrupt", "at byte", "this is damage"]).await;
    }
    node.refused_with(&log, |bytes| bytes[starts[3]..end - 4096 / 8].fill(0), &["is corrupt", "at byte"]).await;
    // The header: a newer format, another kind of file, a flipped byte.
    node.refused_with(&log, |bytes| bytes[0] = 9, &["has format 9, this program knows 2", "newer"]).await;
    node.refused_with(&log, |bytes| bytes[1..8].copy_from_slice(b"ELF\0\0\0\0"), &["no segment of a Kontiki raft log"]).await;
    node.refused_with(&log, |bytes| bytes[40] ^= 1, &["is corrupt", "CRC-32"]).await;
    // A file that was cut, down to nothing.
    for length in [end, starts[5] + 7, 20, 0] {
        node.refused_with(&log, |bytes| bytes.truncate(length), &["is corrupt", "truncated"]).await;
    }
    // A file that does not belong there, one that was renamed, and one that is gone.
    let foreign = node.path("log/notes.txt");
    fs::write(&foreign, "mine").expect("writable");
    node.refused(&["notes.txt", "move the file away"]).await;
    fs::remove_file(&foreign).expect("removable");
    let renamed = log.with_file_name("0000000099.segment");
    fs::rename(&log, &renamed).expect("it can be moved");
    node.refused(&["0000000099.segment", "renamed or copied"]).await;
    fs::rename(&renamed, &log).expect("it can be moved back");
    // Twice: the first refusal must not leave a new log behind that the second start would take for the real one.
    for _ in 0..2 {
        node.refused_without(&log, &["node-1/log", "its segments are missing"]).await;
        node.refused_without(&node.path("log"), &["node-1/log", "its segments are missing"]).await;
    }

    // Log and data are gone, and only who it was is left: that is no new node. Twice, for the same reason.
    let away = |name: &str| node.server.data().with_file_name(format!("{name}.away"));
    for name in ["log", "data"] {
        fs::rename(node.path(name), away(name)).expect("it can be moved");
    }
    for _ in 0..2 {
        node.refused(&["node-1/log", "its segments are missing", "replace this node by a new one"]).await;
    }
    for name in ["log", "data"] {
        fs::remove_dir_all(node.path(name)).expect("what the attempts have made goes");
        fs::rename(node.server.data().with_file_name(format!("{name}.away")), node.path(name)).expect("it can be moved back");
    }

    // What an interrupted write leaves behind the last frame is no damage.
    let mut torn = fs::read(&log).expect("readable");
    let (last, half) = (starts[starts.len() - 1], (end - starts[starts.len() - 1]) / 2);
    torn.copy_within(last..last + half, end);
    fs::write(&log, &torn).expect("writable");
    node.serves().await;
    assert!(fs::metadata(&log).is_ok() || !node.segments().is_empty(), "{name}");
    node.serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_gone_from_the_middle_of_the_log_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::alone(folder.path());
    server.start();
    ready(&mut server).await;
    let client = connect(&server).await;
    let value = vec![b'v'; 1024 * 1024];
    let mut keys = 0;
    while segments(server.data()).len() < 2 {
        client.put(format!("key/{keys:04}"), value.clone()).await.expect("put");
        keys += 1;
        assert!(keys < 200, "200 MiB do not fill a segment of 64 MiB");
    }
    client.put("last", "one").await.expect("put");
    server.kill().await;
    let found = segments(server.data());
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    let (gone, next) = (&found[found.len() - 2], &found[found.len() - 1]);
    let aside = folder.path().join("aside");
    fs::rename(gone, &aside).expect("it can be moved");
    let (code, said) = server.refuses().await;
    assert_eq!(code, STORAGE, "{said}");
    for word in [name(gone), name(next), "the file is missing".to_owned()] {
        assert!(said.contains(&word), "`{word}` is missing in:\n{said}");
    }
    fs::rename(&aside, gone).expect("it can be moved back");
    server.start();
    ready(&mut server).await;
    let client = connect(&server).await;
    let rows: Vec<Row> = client.scan(ScanOptions::all().keys_only()).try_collect().await.expect("scan");
    assert_eq!(rows.len(), keys + 1, "nothing is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_or_newer_data_directory_is_refused() {
    let mut node = Fixture::new().await;
    let identity = node.path("IDENTITY");
    node.refused_with(&identity, |bytes| bytes[0] = 9, &["is damaged", "checksum"]).await;
    node.refused_with(&identity, |bytes| *bytes = b"junk that nobody knows".to_vec(), &["is damaged", "checksum"]).await;
    let length = fs::read(&identity).expect("readable").len();
    node.refused_with(&identity, |bytes| bytes[length / 2] ^= 1, &["is damaged", "checksum"]).await;
    node.refused_with(&identity, |bytes| bytes.truncate(2), &["is damaged"]).await;
    node.refused_with(&identity, Vec::clear, &["is damaged"]).await;
    node.refused_without(&identity, &["no IDENTITY", "restore the file"]).await;

    let data = node.server.data().to_string_lossy().into_owned();
    node.server.set("--node-id", "2");
    node.refused(&[&data, "belongs to node n1, this is node n2"]).await;
    node.server.set("--node-id", "1");

    // Somebody else's directory: nothing is put into it.
    let foreign = node.server.data().with_file_name("foreign");
    fs::create_dir(&foreign).expect("a folder");
    fs::write(foreign.join("thesis.tex"), "precious").expect("writable");
    node.server.set("--data", &foreign.to_string_lossy());
    node.refused(&["foreign", "thesis.tex", "not a Kontiki data directory"]).await;
    let left: Vec<_> = fs::read_dir(&foreign).expect("readable").map(|entry| entry.expect("readable").file_name()).collect();
    assert!(left.iter().all(|name| name == "thesis.tex" || name == "LOCK"), "{left:?}");
    node.server.set("--data", &data);

    // The state machine's own files.
    let current = node.path("data/CURRENT");
    let good = fs::read(&current).expect("readable");
    fs::write(&current, "MANIFEST-999999\n").expect("writable");
    node.refused(&["node-1/data", "MANIFEST-999999"]).await;
    fs::write(&current, good).expect("writable");
    node.serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_used_is_named() {
    let mut node = Fixture::new().await;
    let data = node.server.data().to_path_buf();
    let file = data.with_file_name("a-file");
    fs::write(&file, "x").expect("writable");
    let circle = data.with_file_name("circle");
    std::os::unix::fs::symlink(&circle, &circle).expect("a link");
    for (path, word) in [(file.clone(), "a-file"), (file.join("inside"), "inside"), (circle, "circle")] {
        node.server.set("--data", &path.to_string_lossy());
        node.refused(&[word, "data directory"]).await;
    }
    assert_eq!(fs::read(&file).expect("it is still there"), b"x");
    // A folder of the directory that is no folder.
    node.server.set("--data", &data.to_string_lossy());
    for name in ["log", "data"] {
        let (folder, aside) = (data.join(name), data.with_file_name("aside"));
        fs::rename(&folder, &aside).expect("it can be moved");
        fs::write(&folder, "no folder").expect("writable");
        node.refused(&[name]).await;
        fs::remove_file(&folder).expect("removable");
        fs::rename(&aside, &folder).expect("it can be moved back");
    }
    node.serves().await;

    // In use by another process, which goes on undisturbed.
    node.server.start();
    ready(&mut node.server).await;
    let mut second = Server::alone(data.parent().expect("a folder"));
    let (code, said) = second.refuses().await;
    assert_eq!(code, STORAGE, "{said}");
    assert!(said.contains("is in use") && said.contains("LOCK"), "{said}");
    let client = connect(&node.server).await;
    assert_eq!(everything(&client).await, node.rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named() {
    let mut node = Fixture::new().await;
    let free = node.server.addr().to_owned();
    let taken = free_addr();
    let _holder = TcpListener::bind(&taken).expect("it is free");
    for option in ["--listen", "--http"] {
        let before = if option == "--listen" { free.clone() } else { free_addr() };
        node.server.set(option, &taken);
        node.refused(&[&taken, "another process uses that port"]).await;
        node.server.set(option, &before);
    }
    node.server.set("--listen", "192.0.2.1:7601");
    node.refused(&["listen is 192.0.2.1:7601", "no such address"]).await;
    // What cannot be right on any machine is a wrong argument.
    for (bad, word) in [("nowhere", "which has no port"), ("127.0.0.1:99999", "whose port is not 0 to 65535")] {
        node.server.set("--listen", bad);
        let (code, said) = node.server.refuses().await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(bad) && said.contains(word), "{said}");
    }
    node.server.set("--listen", &free);
    // The HTTP port of a server is fixed for its readiness probe, so only what it serves is looked at.
    node.server.start();
    let client = connect_when_up(&free).await;
    assert_eq!(everything(&client).await, node.rows);
}

/// Connects to a server whose readiness cannot be asked: connecting itself waits until it answers.
async fn connect_when_up(addr: &str) -> Client {
    let options = kontiki_client::ClientOptions { timeout: DEADLINE, ..Default::default() };
    Client::connect_with([addr], options).await.expect("it answers")
}
