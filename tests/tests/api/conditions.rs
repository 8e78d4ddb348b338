//! Atomic writes and their conditions: each kind, held and not held, with the sentence that says what was found.

use futures::future::join_all;
use kontiki_client::WriteBatch;
use kontiki_types::{ErrorKind, OpResult, Reject, Version};

use crate::case::{Case, refused};

/// Every kind of condition, held and not held.
pub async fn each_kind(case: &Case) {
    let (there, absent) = (case.key("a/there"), case.key("a/absent"));
    let version = case.put("a/there", "v").await;
    let write = |batch: WriteBatch| case.client.write(batch.put(case.key("a/target"), "t"));
    let is =
        |key: &str, found: &str| format!("condition 0 on key `{key}` failed: the key {found}; read it again and decide anew");
    let has = format!("has version {version}");

    write(WriteBatch::new().if_exists(there.clone())).await.expect("it exists");
    refused(write(WriteBatch::new().if_exists(absent.clone())).await, ErrorKind::ConditionFailed, &is(&absent, "is absent"));
    write(WriteBatch::new().if_absent(absent.clone())).await.expect("it is absent");
    refused(write(WriteBatch::new().if_absent(there.clone())).await, ErrorKind::ConditionFailed, &is(&there, &has));
    write(WriteBatch::new().if_version(there.clone(), version)).await.expect("it has this version");
    let older = Version(version.0 - 1);
    refused(write(WriteBatch::new().if_version(there.clone(), older)).await, ErrorKind::ConditionFailed, &is(&there, &has));
    write(WriteBatch::new().if_version(absent.clone(), Version::ZERO)).await.expect("version 0 means absent");
    let zero = WriteBatch::new().if_version(there.clone(), Version::ZERO);
    refused(write(zero).await, ErrorKind::ConditionFailed, &is(&there, &has));
    write(WriteBatch::new().if_value(there.clone(), "v")).await.expect("it has this value");
    refused(write(WriteBatch::new().if_value(there.clone(), "w")).await, ErrorKind::ConditionFailed, &is(&there, &has));
    refused(write(WriteBatch::new().if_value(absent.clone(), "")).await, ErrorKind::ConditionFailed, &is(&absent, "is absent"));

    // A deleted key is absent, and the error carries what a program needs.
    case.client.delete(there.clone()).await.expect("delete");
    write(WriteBatch::new().if_absent(there.clone())).await.expect("deleted is absent");
    let error =
        refused(write(WriteBatch::new().if_exists(there.clone())).await, ErrorKind::ConditionFailed, &is(&there, "is absent"));
    match error.reject() {
        Some(Reject::ConditionFailed { index: 0, key, version: None }) => assert_eq!(key.as_ref(), there.as_bytes()),
        other => panic!("the typed cause is {other:?}"),
    }
}

/// All or nothing; conditions see the state before the first operation; operations see the ones before.
pub async fn all_or_nothing(case: &Case) {
    case.put("bx/x", "old").await;
    let (x, y, z) = (case.key("bx/x"), case.key("bx/y"), case.key("bx/z"));
    let failing = WriteBatch::new().if_exists(x.clone()).if_absent(x.clone()).put(x.clone(), "new").put(y.clone(), "new");
    let sentence = format!("condition 1 on key `{x}` failed: the key has version *; read it again and decide anew");
    refused(case.client.write(failing).await, ErrorKind::ConditionFailed, &sentence);
    assert_eq!((case.get("bx/x").await.as_deref(), case.get("bx/y").await), (Some("old"), None));

    let batch = WriteBatch::new()
        .if_value(x.clone(), "old")
        .if_absent(y.clone())
        .put(y.clone(), "1")
        .delete(y.clone())
        .delete(y.clone())
        .put(x.clone(), "new")
        .put(z.clone(), "1")
        .delete_range(case.key("bx/y"), case.key("bx/zz"))
        .put(z.clone(), "2");
    let reply = case.client.write(batch).await.expect("all conditions hold");
    let expected = vec![
        OpResult::Put,
        OpResult::Deleted { existed: true },
        OpResult::Deleted { existed: false },
        OpResult::Put,
        OpResult::Put,
        OpResult::DeletedRange { count: 1, resume: None },
        OpResult::Put,
    ];
    assert_eq!(reply.results, expected);
    let rows = case.rows(case.starting("bx/")).await;
    let found: Vec<_> = rows.iter().map(|row| (row.key.as_ref(), row.value.as_ref(), row.version)).collect();
    assert_eq!(found, [(x.as_bytes(), &b"new"[..], reply.version), (z.as_bytes(), &b"2"[..], reply.version)]);

    // Conditions alone are a check.
    let check = case.client.write(WriteBatch::new().if_value(z.clone(), "2")).await.expect("it holds");
    assert_eq!(check.results, vec![]);
    refused(case.client.write(WriteBatch::new().if_value(z, "3")).await, ErrorKind::ConditionFailed, "condition 0 on key *");
}

/// One atomic write stays in one partition, and says where the keys lie otherwise.
pub async fn one_partition(case: &Case) {
    let (left, right) = (case.key("c/l"), case.key("t/r"));
    let (first, second) = (case.partition("c/l"), case.partition("t/r"));
    assert_ne!(first, second);
    let sentence = format!(
        "an atomic write must stay in one partition, but `{left}` is in {first} and `{right}` in {second}; write them separately"
    );
    let batch = WriteBatch::new().put(left.clone(), "1").put(right.clone(), "1");
    let error = refused(case.client.write(batch).await, ErrorKind::Invalid, &sentence);
    assert!(matches!(error.reject(), Some(Reject::CrossPartition { .. })), "{error:?}");
    refused(
        case.client.write(WriteBatch::new().if_absent(right.clone()).put(left.clone(), "1")).await,
        ErrorKind::Invalid,
        "*in one partition*",
    );
    refused(case.client.write(WriteBatch::new().delete_range(left, right)).await, ErrorKind::Invalid, "*in one partition*");
    assert_eq!(case.get("c/l").await, None);
}

/// Many who add one to the same key, each under the condition of the version it read: none is lost.
pub async fn compare_and_set(case: &Case) {
    let add = async |_: usize| {
        let key = case.key("d/counter");
        loop {
            let row = case.client.get(key.clone()).await.expect("get");
            let count = row.as_ref().map_or(0, |row| String::from_utf8_lossy(&row.value).parse::<u64>().expect("a number"));
            let version = row.map_or(Version::ZERO, |row| row.version);
            let batch = WriteBatch::new().if_version(key.clone(), version).put(key.clone(), (count + 1).to_string());
            match case.client.write(batch).await {
                Ok(_) => return,
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConditionFailed, "{error}"),
            }
        }
    };
    join_all((0..20).map(add)).await;
    assert_eq!(case.get("d/counter").await.as_deref(), Some("20"));
}
