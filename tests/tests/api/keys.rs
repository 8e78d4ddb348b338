//! Single keys, batches of reads, and range deletes.

use kontiki_client::ScanOptions;
use kontiki_types::{Bytes, ErrorKind, ReadLevel, Version};

use crate::case::Case;

/// Put, get, overwrite, delete; any bytes.
pub async fn put_get_delete(case: &Case) {
    let key = case.key("a/one");
    assert_eq!(case.client.get(key.clone()).await.expect("get"), None);
    let first = case.put("a/one", "1").await;
    let row = case.client.get(key.clone()).await.expect("get").expect("it was put");
    assert_eq!((row.key.as_ref(), row.value.as_ref(), row.version), (key.as_bytes(), &b"1"[..], first));
    let second = case.put("a/one", "2").await;
    assert!(second > first, "{second} follows {first}");
    assert_eq!(case.get("a/one").await.as_deref(), Some("2"));

    let gone = case.client.delete(key.clone()).await.expect("delete");
    assert!(gone.existed && gone.version > second, "{gone:?}");
    assert_eq!(case.get("a/one").await, None);
    let again = case.client.delete(key.clone()).await.expect("delete");
    assert!(!again.existed && again.version > gone.version, "{again:?}");
    let third = case.put("a/one", "3").await;
    assert!(third > again.version);
    assert_eq!(case.get("a/one").await.as_deref(), Some("3"));
}

/// Keys and values are bytes: zeros, 0xff, empty values.
pub async fn any_bytes(case: &Case) {
    let odd: [&[u8]; 6] = [b"\x00", b"\x00\x00", b"\xff", b"\xff\xff", b"a\x00b", b"\x01\xfe"];
    let key = |tail: &[u8]| Bytes::from([case.key("b/").as_bytes(), tail].concat());
    for (at, tail) in odd.iter().enumerate() {
        let value = if at == 0 { Bytes::new() } else { Bytes::from(vec![at as u8, 0, 0xff]) };
        case.client.put(key(tail), value).await.expect("put");
    }
    for (at, tail) in odd.iter().enumerate() {
        let row = case.client.get(key(tail)).await.expect("get").expect("it was put");
        let value = if at == 0 { vec![] } else { vec![at as u8, 0, 0xff] };
        assert_eq!((row.key, row.value), (key(tail), Bytes::from(value)));
    }
    let mut sorted: Vec<Bytes> = odd.iter().map(|tail| key(tail)).collect();
    sorted.sort();
    let rows = case.rows(case.starting("b/")).await;
    assert_eq!(rows.into_iter().map(|row| row.key).collect::<Vec<_>>(), sorted);
}

/// Several keys, over partitions, in the order asked, with gaps and repeats.
pub async fn batch_get(case: &Case) {
    for name in ["c/1", "j/1", "r/1"] {
        case.put(name, format!("value of {name}")).await;
    }
    let asked = ["r/1", "c/1", "c/none", "j/1", "c/1"];
    let keys = asked.map(|name| Bytes::from(case.key(name))).to_vec();
    let rows = case.client.batch_get(keys.clone(), ReadLevel::Linearizable).await.expect("batch get");
    for (at, name) in asked.iter().enumerate() {
        match &rows[at] {
            Some(row) => {
                assert_eq!((row.key.clone(), row.value.clone()), (keys[at].clone(), Bytes::from(format!("value of {name}"))))
            }
            None => assert_eq!(*name, "c/none"),
        }
    }
    assert_eq!(rows.len(), asked.len());
    let error = case.client.batch_get(vec![], ReadLevel::Linearizable).await.expect_err("nothing asked");
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("names no key"), "{error}");

    // At one version: what comes later is not seen, in any partition.
    let seen = case.client.batch_get_with(keys.clone(), ReadLevel::Linearizable).await.expect("batch get");
    assert_eq!(seen.token.seen.len(), 3, "three partitions answered: {:?}", seen.token);
    let before = rows.iter().flatten().map(|row| row.version).max().expect("rows");
    // The first read at this version moves the clocks of the partitions there, and so fixes what it is.
    let fixed = case.client.batch_get(keys.clone(), ReadLevel::Snapshot(before)).await.expect("snapshot");
    assert_eq!(fixed, rows);
    case.put("c/1", "newer").await;
    case.put("r/1", "newer").await;
    let again = case.client.batch_get(keys, ReadLevel::Snapshot(before)).await.expect("snapshot");
    assert_eq!(again, rows);
}

/// Range deletes: exact bounds, over partitions, more keys than one page holds. Runs before others have put keys between its own.
pub async fn delete_range(case: &Case) {
    let names: Vec<String> = ["d", "i", "s"].iter().flat_map(|part| (0..20).map(move |at| format!("{part}/{at:03}"))).collect();
    for name in &names {
        case.put(name, "x").await;
    }
    let range = |start: &str, end: &str| (case.key(start), case.key(end));
    let (start, end) = range("d/005", "s/003");
    assert_eq!(case.client.delete_range(start.clone(), end.clone()).await.expect("delete range"), 15 + 20 + 3);
    assert_eq!(case.client.delete_range(start, end).await.expect("again"), 0);
    let mut left = case.names(case.starting("d/")).await;
    left.extend(case.names(case.starting("i/")).await);
    left.extend(case.names(case.starting("s/")).await);
    let expected: Vec<String> =
        names.iter().filter(|name| name.as_str() < "d/005" || name.as_str() >= "s/003").cloned().collect();
    assert_eq!(left, expected);
    let (same, _) = range("d/000", "");
    assert_eq!(case.client.delete_range(same.clone(), same).await.expect("an empty range"), 0);

    // 4500 keys are two pages of the limit of 4096.
    for page in 0..3 {
        let mut batch = kontiki_client::WriteBatch::new();
        for at in 0..1500 {
            batch = batch.put(case.key(&format!("e/{page}/{at:04}")), "y");
        }
        case.client.write(batch).await.expect("1500 puts in one write");
    }
    let (start, end) = range("e/", "e0");
    assert_eq!(case.client.delete_range(start.clone(), end.clone()).await.expect("two pages"), 4500);
    let options = ScanOptions::range(start, end);
    assert_eq!(case.rows(options).await, vec![]);
}

/// Versions of one partition rise with every write, whoever writes.
pub async fn versions_rise(case: &Case) {
    let mut last = Version::ZERO;
    for at in 0..50 {
        let version = case.put(&format!("f/{}", at % 3), "v").await;
        assert!(version > last, "{version} follows {last}");
        last = version;
    }
    let clock = case.client.clock(case.key("f/0"), ReadLevel::Linearizable).await.expect("clock");
    assert!(clock.value >= last);
}
