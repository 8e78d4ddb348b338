//! Read levels: what each promises, and what each says when it cannot keep it.

use std::time::Duration;

use kontiki_client::ScanOptions;
use kontiki_types::{Bytes, ErrorKind, ReadLevel, Token, Version};

use crate::case::{Case, refused, until_refused};

/// A linearizable read sees every write acknowledged before.
pub async fn linearizable(case: &Case) {
    for number in 0..30 {
        let version = case.put("a/linear", number.to_string()).await;
        let seen = case.client.get_with(case.key("a/linear"), ReadLevel::Linearizable).await.expect("get");
        let row = seen.value.expect("it was put");
        assert_eq!((row.value, row.version, seen.age_ms), (Bytes::from(number.to_string()), version, 0));
        assert!(seen.token.at(case.partition("a/linear")) >= version);
    }
}

/// With the token of a write any replica answers, and has that write.
pub async fn at_least(case: &Case) {
    for number in 0..30 {
        let version = case.put("i/token", number.to_string()).await;
        let mut token = Token::default();
        token.observe(case.partition("i/token"), version);
        let seen = case.client.get_with(case.key("i/token"), ReadLevel::AtLeast(token)).await.expect("get");
        let row = seen.value.expect("it was put");
        assert!(row.version >= version, "{} is older than {version}", row.version);
        let own = ReadLevel::AtLeast(case.client.token());
        let rows = case.client.batch_get(vec![Bytes::from(case.key("i/token"))], own).await.expect("batch get");
        assert_eq!(rows[0].as_ref().map(|row| row.value.clone()), Some(Bytes::from(number.to_string())));
    }
    // Nobody has what nobody wrote: the wait ends with the caller's time.
    let mut future = Token::default();
    future.observe(case.partition("i/token"), Version(u64::MAX - 1));
    let client = case.client.with_timeout(Duration::from_millis(600));
    let waited = client.get_with(case.key("i/token"), ReadLevel::AtLeast(future)).await;
    refused(waited, ErrorKind::Unavailable, "unavailable: no answer within 600ms, after * attempts; the last: *");
}

/// A bounded-stale read says how old it is, and that is within the bound.
pub async fn bounded_stale(case: &Case) {
    let first = case.put("q/stale", "1").await;
    let level = || ReadLevel::BoundedStale { age_ms_max: 30_000 };
    // Every replica has it soon; a token says when.
    case.client.get_with(case.key("q/stale"), ReadLevel::AtLeast(case.client.token())).await.expect("get");
    for _ in 0..20 {
        let seen = case.client.get_with(case.key("q/stale"), level()).await.expect("get");
        assert!(seen.age_ms <= 30_000, "{} ms old", seen.age_ms);
        if let Some(row) = seen.value {
            assert_eq!((row.value.as_ref(), row.version), (&b"1"[..], first));
        }
    }
    let names = case.names(case.starting("q/stale").level(level())).await;
    assert!(names.len() <= 1, "{names:?}");
}

/// A snapshot is the state at its version, for every kind of read, whatever was written since.
pub async fn snapshot(case: &Case) {
    let key = case.key("a/snap");
    let first = case.put("a/snap", "1").await;
    let second = case.put("a/snap", "2").await;
    let deleted = case.client.delete(key.clone()).await.expect("delete").version;
    let third = case.put("a/snap", "3").await;
    let before = Version(first.0 - 1);
    for (at, value) in [(before, None), (first, Some("1")), (second, Some("2")), (deleted, None), (third, Some("3"))] {
        let seen = case.client.get_with(key.clone(), ReadLevel::Snapshot(at)).await.expect("get");
        let found = seen.value.map(|row| String::from_utf8_lossy(&row.value).into_owned());
        assert_eq!(found.as_deref(), value, "at {at}");
        let rows = case.rows(ScanOptions::prefix(key.clone()).level(ReadLevel::Snapshot(at))).await;
        assert_eq!(rows.first().map(|row| row.value.clone()), value.map(Bytes::from), "scan at {at}");
    }
    let future = case.client.get_with(key.clone(), ReadLevel::Snapshot(Version(u64::MAX - 7))).await;
    let sentence = "version 18446744073709551608 lies in the future: the newest is *; read at a version that a reply has named";
    refused(future, ErrorKind::Version, sentence);
    let past = until_refused(async || case.client.get_with(key.clone(), ReadLevel::Snapshot(Version(1))).await).await;
    refused(past, ErrorKind::Version, "version 1 is older than the oldest one kept, *; read at a newer version");
}

/// A clock moves forward on request, and what is read there later cannot change any more.
pub async fn clocks(case: &Case) {
    let key = case.key("a/clock");
    let now = case.client.clock(key.clone(), ReadLevel::Linearizable).await.expect("clock").value;
    let ahead = Version::from_ms(now.ms() + 5);
    let moved = case.client.advance_clock(key.clone(), ahead).await.expect("advance");
    assert!(moved.value >= ahead);
    assert!(case.put("a/clock", "x").await > ahead, "a write is newer than a clock that was moved");
    assert_eq!(case.client.get_with(key.clone(), ReadLevel::Snapshot(ahead)).await.expect("get").value, None);
    let year = Version::from_ms(now.ms() + 365 * 24 * 3600 * 1000);
    let refusal = case.client.advance_clock(key, year).await;
    refused(
        refusal,
        ErrorKind::Version,
        "version * lies in the future: the newest is *; read at a version that a reply has named",
    );
}
