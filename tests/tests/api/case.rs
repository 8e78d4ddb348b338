//! What one case of the suite works with: a client, and a part of the key space of its own.

use kontiki_client::{Client, ScanOptions};
use kontiki_types::{Bytes, Error, ErrorKind, NamespaceId, PartitionId, Row, key};

use std::time::Duration;

use futures::TryStreamExt as _;
use tokio::time::{Instant, sleep};

/// Much longer than the first round of forgetting takes to come.
const FORGETS_WITHIN: Duration = Duration::from_secs(30);

/// A client and its keys. The cluster is cut at `<prefix>h` and `<prefix>p`, so that keys from `a`, from `h` and from `p` lie in
/// three partitions.
#[derive(Clone, Debug)]
pub struct Case {
    /// The way in.
    pub client: Client,
    /// What all keys start with.
    pub prefix: &'static str,
}

/// The boundaries that give a case of this prefix three partitions of its own.
pub fn cuts(prefix: &str) -> [String; 3] {
    [prefix.to_owned(), format!("{prefix}h"), format!("{prefix}p")]
}

impl Case {
    /// A key of this case.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The partition that holds a key of this case.
    pub fn partition(&self, name: &str) -> PartitionId {
        let internal = key::internal(NamespaceId::DEFAULT, self.key(name).as_bytes());
        self.client.map().lookup(&internal).expect("the map covers everything").id
    }

    /// Puts a key; returns its version.
    pub async fn put(&self, name: &str, value: impl Into<Bytes>) -> kontiki_types::Version {
        self.client.put(self.key(name), value).await.expect("put")
    }

    /// The value of a key, linearizable, as text.
    pub async fn get(&self, name: &str) -> Option<String> {
        let row = self.client.get(self.key(name)).await.expect("get");
        row.map(|row| String::from_utf8(row.value.to_vec()).expect("text"))
    }

    /// All rows of a scan.
    pub async fn rows(&self, options: ScanOptions) -> Vec<Row> {
        self.client.scan(options).try_collect().await.expect("scan")
    }

    /// The keys of a scan, without the prefix.
    pub async fn names(&self, options: ScanOptions) -> Vec<String> {
        let name = |row: Row| String::from_utf8_lossy(&row.key).strip_prefix(self.prefix).expect("own keys").to_owned();
        self.rows(options).await.into_iter().map(name).collect()
    }

    /// A scan of all keys that start with `name`.
    pub fn starting(&self, name: &str) -> ScanOptions {
        ScanOptions::prefix(self.key(name))
    }
}

/// Whether `text` is `pattern`, in which `*` stands for anything.
pub fn is_like(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut open_end = false;
    for piece in pieces {
        open_end = piece.is_empty();
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    open_end || rest.is_empty()
}

/// Checks that a call failed with this kind and this sentence, in which `*` stands for what differs from run to run.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, Error>, kind: ErrorKind, sentence: &str) -> Error {
    let error = result.expect_err("this must be refused");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(is_like(sentence, error.message()), "expected: {sentence}\n   found: {error}");
    error
}

/// Calls until it is refused: a new partition begins to forget in its first seconds, each replica when it applies that. Gives up after a while, with what was
/// answered last.
pub async fn until_refused<T, E>(mut call: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E> {
    let until = Instant::now() + FORGETS_WITHIN;
    loop {
        let answer = call().await;
        if answer.is_err() || Instant::now() > until {
            return answer;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn patterns_match_whole_sentences() {
    for (pattern, text, like) in [
        ("a b", "a b", true),
        ("a b", "a b c", false),
        ("a * c", "a b c", true),
        ("a * c", "a b d", false),
        ("a*", "abc", true),
        ("*c", "abc", true),
        ("*b", "abc", false),
        ("a*b*c", "axbyc", true),
    ] {
        assert_eq!(is_like(pattern, text), like, "{pattern} / {text}");
    }
}
