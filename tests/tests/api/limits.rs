//! Limits: the largest that is allowed is served, one more is refused with a sentence that says the size found, the limit, and what to do.

use kontiki_client::{ScanOptions, WriteBatch};
use kontiki_types::limits::{BATCH_GET_KEYS_MAX, KEY_BYTES_MAX, REQUEST_BYTES_MAX, VALUE_BYTES_MAX};
use kontiki_types::{Bytes, Error, ErrorKind, ReadLevel, Version};

use crate::case::{Case, refused};
use futures::TryStreamExt as _;

const EMPTY_KEY: &str = "invalid request: the key is empty; a key has 1 byte or more";
const LONG_KEY: &str = "key size in bytes is 16385, the limit is 16384; split it or make it smaller";

fn long(case: &Case, bytes: usize) -> Bytes {
    let mut key = case.key("a/long/").into_bytes();
    key.resize(bytes, b'k');
    key.into()
}

/// Keys: 1 B to 16 KiB.
pub async fn keys(case: &Case) {
    let client = &case.client;
    let longest = long(case, KEY_BYTES_MAX);
    client.put(longest.clone(), "v").await.expect("the longest key");
    assert_eq!(client.get(longest.clone()).await.expect("get").expect("it was put").key, longest);
    assert_eq!(case.rows(case.starting("a/long/")).await.len(), 1);
    assert!(client.delete(longest).await.expect("delete").existed);

    let too_long = || long(case, KEY_BYTES_MAX + 1);
    for (key, sentence) in [(Bytes::new(), EMPTY_KEY), (too_long(), LONG_KEY)] {
        refused(client.put(key.clone(), "v").await, ErrorKind::Invalid, sentence);
        refused(client.get(key.clone()).await, ErrorKind::Invalid, sentence);
        refused(client.delete(key.clone()).await, ErrorKind::Invalid, sentence);
        refused(
            client.batch_get(vec![case.key("a").into(), key.clone()], ReadLevel::Linearizable).await,
            ErrorKind::Invalid,
            sentence,
        );
        let good = || WriteBatch::new().put(case.key("a/never"), "v");
        for batch in [
            good().put(key.clone(), "v"),
            good().delete(key.clone()),
            good().if_absent(key.clone()),
            good().if_exists(key.clone()),
            good().if_version(key.clone(), Version::ZERO),
            good().if_value(key.clone(), "v"),
        ] {
            refused(client.write(batch).await, ErrorKind::Invalid, sentence);
        }
    }
    assert_eq!(case.get("a/never").await, None, "nothing is half applied");
}

/// Values: 0 B to 1 MiB.
pub async fn values(case: &Case) {
    let largest = Bytes::from(vec![7; VALUE_BYTES_MAX]);
    case.client.put(case.key("i/large"), largest.clone()).await.expect("the largest value");
    assert_eq!(case.client.get(case.key("i/large")).await.expect("get").expect("it was put").value, largest);
    case.client.write(WriteBatch::new().if_value(case.key("i/large"), largest)).await.expect("it is compared whole");
    let too_large = Bytes::from(vec![7; VALUE_BYTES_MAX + 1]);
    let sentence = "value size in bytes is 1048577, the limit is 1048576; split it or make it smaller";
    refused(case.client.put(case.key("i/large"), too_large.clone()).await, ErrorKind::Invalid, sentence);
    let condition = WriteBatch::new().if_value(case.key("i/large"), too_large);
    refused(case.client.write(condition).await, ErrorKind::Invalid, sentence);
    case.client.put(case.key("i/large"), "small again").await.expect("put");
}

/// Requests: 4 MiB of keys and values.
pub async fn requests(case: &Case) {
    let name = |at: usize| case.key(&format!("j/request/{at}"));
    // Each key counts with its namespace of 4 bytes.
    let overhead: usize = (0..5).map(|at| name(at).len() + 4).sum();
    let values = |spare: usize| {
        let last = REQUEST_BYTES_MAX - overhead - 4 * 1_000_000 - spare;
        let batch = (0..4).fold(WriteBatch::new(), |batch, at| batch.put(name(at), vec![at as u8; 1_000_000]));
        batch.put(name(4), vec![4; last])
    };
    let reply = case.client.write(values(0)).await.expect("the largest request");
    assert_eq!(reply.results.len(), 5);
    let rows = case.rows(case.starting("j/request/")).await;
    assert_eq!(rows.iter().map(|row| row.value.len()).sum::<usize>() + overhead, REQUEST_BYTES_MAX);
    let more = values(0).put(name(0), Bytes::new());
    let size = REQUEST_BYTES_MAX + name(0).len() + 4;
    let sentence = format!("request size in bytes is {size}, the limit is 4194304; split it or make it smaller");
    refused(case.client.write(more).await, ErrorKind::Invalid, &sentence);
    assert_eq!(case.rows(case.starting("j/request/").keys_only()).await, keys_of(&rows), "a refused request changes nothing");
    case.client.delete_range(name(0), name(9)).await.expect("tidied");
}

fn keys_of(rows: &[kontiki_types::Row]) -> Vec<kontiki_types::Row> {
    rows.iter().map(|row| kontiki_types::Row { value: Bytes::new(), ..row.clone() }).collect()
}

/// How many operations, conditions, range deletes and keys one request has.
pub async fn counts(case: &Case) {
    let puts = |count: usize| (0..count).fold(WriteBatch::new(), |batch, _| batch.put(case.key("k/count"), "v"));
    assert_eq!(case.client.write(puts(4096)).await.expect("the most operations").results.len(), 4096);
    let sentence = "operations of one write is 4097, the limit is 4096; split it or make it smaller";
    refused(case.client.write(puts(4097)).await, ErrorKind::Invalid, sentence);

    let conditions = |count: usize| (0..count).fold(WriteBatch::new(), |batch, _| batch.if_exists(case.key("k/count")));
    case.client.write(conditions(1024)).await.expect("the most conditions");
    let sentence = "conditions of one write is 1025, the limit is 1024; split it or make it smaller";
    refused(case.client.write(conditions(1025)).await, ErrorKind::Invalid, sentence);

    let (start, end) = (case.key("k/count/"), case.key("k/count0"));
    let ranges = |count: usize| (0..count).fold(WriteBatch::new(), |batch, _| batch.delete_range(start.clone(), end.clone()));
    case.client.write(ranges(4)).await.expect("the most range deletes");
    let sentence = "range deletes of one write is 5, the limit is 4; split it or make it smaller";
    refused(case.client.write(ranges(5)).await, ErrorKind::Invalid, sentence);

    let sentence = "invalid request: the write is empty; give at least one operation or condition";
    refused(case.client.write(WriteBatch::new()).await, ErrorKind::Invalid, sentence);

    let keys = |count: usize| vec![Bytes::from(case.key("k/count")); count];
    let rows = case.client.batch_get(keys(BATCH_GET_KEYS_MAX), ReadLevel::Linearizable).await.expect("the most keys");
    assert!(rows.len() == BATCH_GET_KEYS_MAX && rows.iter().all(Option::is_some));
    let sentence = "keys of one batch get is 4097, the limit is 4096; split it or make it smaller";
    let more = case.client.batch_get(keys(BATCH_GET_KEYS_MAX + 1), ReadLevel::Linearizable).await;
    refused(more, ErrorKind::Invalid, sentence);
}

/// Ranges: reversed ones are named, bounds are as long as a key may be.
pub async fn ranges(case: &Case) {
    let (start, end) = (case.key("b"), case.key("a"));
    let reversed = format!("invalid request: the range is reversed: start `{start}` lies after end `{end}`");
    let scan = |options: ScanOptions| {
        let stream = case.client.scan(options);
        async move { stream.try_collect::<Vec<_>>().await }
    };
    refused(scan(ScanOptions::range(start.clone(), end.clone())).await, ErrorKind::Invalid, &reversed);
    refused(scan(ScanOptions::range(start.clone(), end.clone()).reverse()).await, ErrorKind::Invalid, &reversed);
    refused(case.client.delete_range(start.clone(), end.clone()).await, ErrorKind::Invalid, &reversed);
    refused(case.client.write(WriteBatch::new().delete_range(start, end)).await, ErrorKind::Invalid, &reversed);

    let (longest, too_long) = (long(case, KEY_BYTES_MAX + 1), long(case, KEY_BYTES_MAX + 2));
    let past: Result<_, Error> = scan(ScanOptions::range(longest.clone(), case.key("a/long0"))).await;
    assert_eq!(past.expect("a bound just behind the longest key"), vec![]);
    let sentence = "range bound size in bytes is 16390, the limit is 16389; split it or make it smaller";
    refused(scan(ScanOptions::range(too_long.clone(), case.key("a/long0"))).await, ErrorKind::Invalid, sentence);
    refused(case.client.delete_range(too_long, case.key("a/long0")).await, ErrorKind::Invalid, sentence);
}
