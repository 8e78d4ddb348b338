//! What only shows on the wire: gRPC codes and reasons, calls with routes, forwarding by any node, and requests that no client of ours
//! would send.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use kontiki_proto::v1::cluster_client::ClusterClient;
use kontiki_proto::v1::kv_client::KvClient;
use kontiki_proto::{convert, v1};
use kontiki_types::command::Route;
use kontiki_types::{Bytes, CallError, Epoch, NodeId, PartitionId, Reject, Retry};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::case::{Case, is_like, until_refused};
use crate::raw::{RawCodec, unary};
use crate::unrouted::{connect, kv};

/// A node to talk to directly, and what it is to the keys that are used here.
pub struct Door {
    /// Its id.
    pub node: u64,
    /// Its address.
    pub addr: String,
    /// Whether it leads the partition of [`Door::key`].
    pub leads: bool,
}

/// Checks the code, the reason (`google.rpc.ErrorInfo`) and the sentence of a status.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, reason: &str, sentence: &str) -> Status {
    let status = result.expect_err("this must be refused");
    assert_eq!(status.code(), code, "{status:?}");
    assert!(is_like(sentence, status.message()), "expected: {sentence}\n   found: {}", status.message());
    let details = String::from_utf8_lossy(status.details());
    assert!(details.contains(reason) && details.contains("kontiki.v1"), "the reason {reason} is missing in {details}");
    status
}

impl Door {
    async fn kv(&self) -> KvClient<Channel> {
        kv(connect(&self.addr).await)
    }

    /// Everything that the wire has of its own.
    pub async fn check(&self, case: &Case) {
        let key = Bytes::from(case.key("a/wire"));
        self.every_call(case, &key).await;
        self.routes(case, &key).await;
        self.codes(case, &key).await;
        self.nonsense(&key).await;
        self.broken_protobuf().await;
        self.garbage().await;
        self.too_large(&key).await;
        // After all that it serves as before.
        let mut kv = self.kv().await;
        kv.put(v1::PutRequest { key: key.clone(), value: "alive".into(), ..Default::default() }).await.expect("it serves");
    }

    /// Each call without a route: any node serves it, and says what was seen.
    async fn every_call(&self, case: &Case, key: &Bytes) {
        let mut kv = self.kv().await;
        let put =
            kv.put(v1::PutRequest { key: key.clone(), value: "1".into(), ..Default::default() }).await.expect("put").into_inner();
        let header = put.header.expect("a header");
        assert_eq!((header.node_id, header.clock), (self.node, put.version));
        let seen = header.token.expect("a token without a route");
        assert_eq!(seen.seen.get(&header.partition_id), Some(&put.version));
        let level = v1::read_level::Level::AtLeast(seen);
        let request = v1::GetRequest { key: key.clone(), level: Some(v1::ReadLevel { level: Some(level) }), route: None };
        let row = kv.get(request).await.expect("get").into_inner().row.expect("it was put");
        assert_eq!((row.value.as_ref(), row.version), (&b"1"[..], put.version));

        let other = Bytes::from(case.key("q/wire"));
        let (one, two) = (v1::PutOp { key: other.clone(), value: "2".into() }, v1::DeleteOp { key: other.clone() });
        let ops = [v1::op::Op::Put(one.clone()), v1::op::Op::Delete(two), v1::op::Op::Put(one)];
        let ops = ops.map(|op| v1::Op { op: Some(op) }).to_vec();
        let written = kv.write(v1::WriteRequest { ops, ..Default::default() }).await.expect("write").into_inner();
        assert_eq!(written.results.len(), 3);
        let keys = vec![other.clone(), key.clone(), Bytes::from(case.key("k/none"))];
        let lookups =
            kv.batch_get(v1::BatchGetRequest { keys, ..Default::default() }).await.expect("batch get").into_inner().lookups;
        let found: Vec<_> = lookups.into_iter().map(|lookup| lookup.row.map(|row| row.version)).collect();
        assert_eq!(found, [Some(written.version), Some(put.version), None]);

        let clock = kv.clock(v1::ClockRequest { key: other.clone(), ..Default::default() }).await.expect("clock").into_inner();
        assert!(clock.header.expect("a header").clock >= written.version);
        let scan =
            v1::ScanRequest { start: key.clone(), end: Bytes::from(case.key("q/wire0")), keys_only: true, ..Default::default() };
        let mut pages = kv.scan(scan).await.expect("scan").into_inner();
        let (mut keys, mut versions) = (Vec::new(), Vec::new());
        while let Some(page) = pages.message().await.expect("a page") {
            versions.push(page.snapshot_version);
            keys.extend(page.rows.into_iter().map(|row| row.key));
        }
        assert!(keys.contains(key) && keys.contains(&other) && keys.is_sorted(), "{keys:?}");
        assert!(versions.iter().all(|version| *version == versions[0] && *version >= written.version), "{versions:?}");

        let deleted =
            kv.delete(v1::DeleteRequest { key: other.clone(), ..Default::default() }).await.expect("delete").into_inner();
        assert!(deleted.existed && deleted.version > written.version);
        let range = v1::DeleteRangeRequest { start: key.clone(), end: Bytes::from(case.key("a/wire0")), ..Default::default() };
        let deleted = kv.delete_range(range).await.expect("delete range").into_inner();
        assert_eq!((deleted.deleted, deleted.resume), (1, None));
    }

    /// Calls with a route are answered here or not at all.
    async fn routes(&self, case: &Case, key: &Bytes) {
        let mut kv = self.kv().await;
        let home = case.client.map().get(case.partition("a/wire")).cloned().expect("on the map");
        let route = |partition: u64, bounds: u64| {
            let epoch = Epoch { conf: home.epoch.conf, bounds };
            Some(convert::route_to(Route { partition: PartitionId(partition), epoch }))
        };
        let (id, bounds) = (home.id.0, home.epoch.bounds);
        let put = |route| v1::PutRequest { key: key.clone(), value: "r".into(), route, request_id: None };
        let routed = kv.put(put(route(id, bounds))).await;
        if self.leads {
            assert_eq!(routed.expect("the leader answers").into_inner().header.expect("a header").token, None);
        } else {
            let sentence = format!("this node does not lead partition p{id}; ask n*");
            let status = refused(routed, Code::Unavailable, "NOT_LEADER", &sentence);
            let error = kontiki_proto::error::from_status(&status, true);
            assert!(matches!(error, CallError::Retry(Retry::NotLeader { leader: Some(_), .. })), "{error:?}");
            let get = v1::GetRequest { key: key.clone(), level: None, route: route(id, bounds) };
            refused(kv.get(get).await, Code::Unavailable, "NOT_LEADER", &sentence);
        }
        let unknown = "this node holds no replica of partition p999; refresh the map";
        refused(kv.put(put(route(999, bounds))).await, Code::Unavailable, "UNKNOWN_PARTITION", unknown);
        let stale = format!(
            "the map used for partition p{id} is out of date: it is now p{id} * at epoch {}; refresh the map",
            home.epoch
        );
        let status = refused(kv.put(put(route(id, bounds + 1))).await, Code::Aborted, "STALE_EPOCH", &stale);
        match kontiki_proto::error::from_status(&status, true) {
            CallError::Reject(Reject::StaleEpoch { descriptors, .. }) => assert_eq!(descriptors, std::slice::from_ref(&home)),
            other => panic!("the typed cause is {other:?}"),
        }
        if self.leads {
            // The right epoch, but a key that lies elsewhere.
            let foreign = v1::PutRequest { key: Bytes::from(case.key("q/wire")), ..put(route(id, bounds)) };
            refused(kv.put(foreign).await, Code::Aborted, "STALE_EPOCH", "the map used for partition *");
        }
        let mut cluster = ClusterClient::new(connect(&self.addr).await);
        let transfer = |partition_id, to_node_id| v1::TransferLeaderRequest { partition_id, to_node_id, local_only: false };
        let sentence = "invalid request: partition p999 is not on the map; `partitions` lists those that are";
        refused(cluster.transfer_leader(transfer(999, 1)).await, Code::InvalidArgument, "INVALID", sentence);
        refused(cluster.transfer_leader(transfer(id, 99)).await, Code::InvalidArgument, "INVALID", "invalid request: *n99*");
    }

    /// The codes and reasons of what the suite has seen as kinds.
    async fn codes(&self, case: &Case, key: &Bytes) {
        let mut kv = self.kv().await;
        kv.put(v1::PutRequest { key: key.clone(), value: "c".into(), ..Default::default() }).await.expect("put");
        let condition = |test| v1::Condition { key: key.clone(), test: Some(test) };
        let write = |conditions| v1::WriteRequest { conditions, ..Default::default() };
        let absent = vec![condition(v1::condition::Test::Exists(true)), condition(v1::condition::Test::Absent(true))];
        let sentence =
            format!("condition 1 on key `{}` failed: the key has version *; read it again and decide anew", case.key("a/wire"));
        refused(kv.write(write(absent)).await, Code::FailedPrecondition, "CONDITION_FAILED", &sentence);

        let op = |key: Bytes| v1::Op { op: Some(v1::op::Op::Put(v1::PutOp { key, value: Bytes::new() })) };
        let ops = vec![op(key.clone()), op(Bytes::from(case.key("q/wire")))];
        let across = v1::WriteRequest { ops, ..Default::default() };
        let sentence = "an atomic write must stay in one partition, but `*` is in p* and `*` in p*; write them separately";
        refused(kv.write(across).await, Code::InvalidArgument, "CROSS_PARTITION", sentence);

        let at = |version| Some(v1::ReadLevel { level: Some(v1::read_level::Level::SnapshotVersion(version)) });
        let get = |version| v1::GetRequest { key: key.clone(), level: at(version), route: None };
        let sentence = "version 1 is older than the oldest one kept, *; read at a newer version";
        refused(until_refused(async || kv.get(get(1)).await).await, Code::OutOfRange, "VERSION_TOO_OLD", sentence);
        let sentence = "version * lies in the future: the newest is *; read at a version that a reply has named";
        refused(kv.get(get(u64::MAX - 7)).await, Code::OutOfRange, "VERSION_IN_FUTURE", sentence);

        let opened =
            kv.open_session(v1::OpenSessionRequest { key: key.clone(), route: None }).await.expect("a session").into_inner();
        let limits = opened.limits.expect("the limits are stated");
        assert_eq!((limits.replies_max, limits.sessions_max, limits.idle_ms_max), (1024, 4096, 3_600_000));
        let id = |sequence, acknowledged_below| Some(v1::RequestId { session: opened.session, sequence, acknowledged_below });
        let put =
            |value: &'static str, request_id| v1::PutRequest { key: key.clone(), value: value.into(), request_id, route: None };
        let first = kv.put(put("s", id(3, 3))).await.expect("put").into_inner().version;
        assert_eq!(kv.put(put("s", id(3, 3))).await.expect("the first answer").into_inner().version, first);
        let sentence = "session * has used number 3 for a different request: two clients share one session; *";
        refused(kv.put(put("t", id(3, 3))).await, Code::FailedPrecondition, "SESSION_CONFLICT", sentence);
        let sentence = "session * or its request 2 is older than the store remembers: *";
        refused(kv.put(put("s", id(2, 2))).await, Code::Aborted, "SESSION_EXPIRED", sentence);
        refused(kv.put(put("s", id(0, 0))).await, Code::InvalidArgument, "INVALID", "invalid request: request number 0 *");
    }

    /// Requests that make no sense, each refused with a sentence.
    async fn nonsense(&self, key: &Bytes) {
        let mut kv = self.kv().await;
        let invalid = |result: Result<(), Status>, sentence: &str| {
            refused(result, Code::InvalidArgument, "INVALID", &format!("invalid request: {sentence}"))
        };
        let unit = |result: Result<tonic::Response<v1::WriteResponse>, Status>| result.map(|_| ());
        invalid(kv.put(v1::PutRequest::default()).await.map(|_| ()), "the key is empty; a key has 1 byte or more");
        invalid(kv.get(v1::GetRequest::default()).await.map(|_| ()), "the key is empty; a key has 1 byte or more");
        invalid(
            unit(kv.write(v1::WriteRequest::default()).await),
            "the write is empty; give at least one operation or condition",
        );
        let ops = vec![v1::Op { op: None }];
        invalid(unit(kv.write(v1::WriteRequest { ops, ..Default::default() }).await), "operation 0 is empty; *");
        let no_test = vec![v1::Condition { key: key.clone(), test: None }];
        invalid(
            unit(kv.write(v1::WriteRequest { conditions: no_test, ..Default::default() }).await),
            "condition 0 has no test; *",
        );
        let no = vec![v1::Condition { key: key.clone(), test: Some(v1::condition::Test::Exists(false)) }];
        invalid(
            unit(kv.write(v1::WriteRequest { conditions: no, ..Default::default() }).await),
            "condition 0 has `exists: false`; *",
        );
        let no_session = Some(v1::RequestId { session: None, sequence: 1, acknowledged_below: 0 });
        let put = v1::PutRequest { key: key.clone(), request_id: no_session, ..Default::default() };
        invalid(kv.put(put).await.map(|_| ()), "request_id has no session; open one with OpenSession");
        let session = Some(v1::Session { partition_id: 2, opened: 1 });
        let request_id = Some(v1::RequestId { session, sequence: 1, acknowledged_below: 0 });
        let range = v1::DeleteRangeRequest { request_id, ..Default::default() };
        invalid(kv.delete_range(range).await.map(|_| ()), "a request_id without a route: *");
        let both = v1::ScanRequest { prefix: key.clone(), start: key.clone(), ..Default::default() };
        invalid(kv.scan(both).await.map(|_| ()), "both a prefix and a start or end are given; use one of them");
        let reversed = v1::ScanRequest { start: "b".into(), end: "a".into(), ..Default::default() };
        invalid(kv.scan(reversed).await.map(|_| ()), "the range is reversed: *");
        let reversed = v1::DeleteRangeRequest { start: "b".into(), end: "a".into(), ..Default::default() };
        invalid(kv.delete_range(reversed).await.map(|_| ()), "the range is reversed: *");

        let large = |result: Result<(), Status>, sentence: &str| {
            refused(result, Code::InvalidArgument, "TOO_LARGE", &format!("{sentence}; split it or make it smaller"))
        };
        let put = v1::PutRequest { key: vec![1; 16_385].into(), ..Default::default() };
        large(kv.put(put).await.map(|_| ()), "key size in bytes is 16385, the limit is 16384");
        let put = v1::PutRequest { key: key.clone(), value: vec![1; 1_048_577].into(), ..Default::default() };
        large(kv.put(put).await.map(|_| ()), "value size in bytes is 1048577, the limit is 1048576");
        let keys = vec![key.clone(); 4097];
        let many = v1::BatchGetRequest { keys, ..Default::default() };
        large(kv.batch_get(many).await.map(|_| ()), "keys of one batch get is 4097, the limit is 4096");
        let seen = (0..4097).map(|partition| (partition, 1)).collect();
        let level = Some(v1::ReadLevel { level: Some(v1::read_level::Level::AtLeast(v1::Token { seen, ..Default::default() })) });
        let get = v1::GetRequest { key: key.clone(), level, route: None };
        large(kv.get(get).await.map(|_| ()), "partitions named by a token is 4097, the limit is 4096");
    }

    /// Bytes that are no protobuf, methods that do not exist.
    async fn broken_protobuf(&self) {
        let channel = connect(&self.addr).await;
        for bytes in [&b"\xff\xff\xff\xff"[..], b"\x0a\xff\x01k", b"\x0b", b"\x00", &[0x0a; 301]] {
            let answer = unary(channel.clone(), "/kontiki.v1.Kv/Put", RawCodec::new(bytes)).await;
            let status = answer.expect_err("this is no PutRequest");
            assert!(matches!(status.code(), Code::Internal | Code::InvalidArgument), "{status:?}");
            assert!(status.message().contains("decode"), "{status:?}");
        }
        for path in ["/kontiki.v1.Kv/Nothing", "/kontiki.v9.Kv/Get", "/x"] {
            let status = unary(channel.clone(), path, RawCodec::new(b"")).await.expect_err("there is no such method");
            assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
        }
    }

    /// Bytes that are no HTTP/2 at all, and connections that say nothing or stop in the middle.
    async fn garbage(&self) {
        let addr = self.addr.clone();
        let exchange = move || {
            let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
            let endless_frame = [&http2[..], &[0xff; 64]].concat();
            let junk: Vec<u8> = (0..100_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let talks: [&[u8]; 5] = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0\0\0\0", &endless_frame, &junk, http2];
            for talk in talks {
                let mut stream = TcpStream::connect(&addr).expect("the port is open");
                stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a time-out can be set");
                // The other side may hang up at any moment.
                let _ = stream.write_all(talk);
                let _ = stream.read(&mut [0; 1024]);
            }
            TcpStream::connect(&addr).expect("the port is still open")
        };
        let silent = tokio::task::spawn_blocking(exchange).await.expect("no panic");
        // While one connection says nothing, others are served.
        let mut cluster = ClusterClient::new(connect(&self.addr).await);
        let status = cluster.status(v1::StatusRequest {}).await.expect("it serves").into_inner().status.expect("a status");
        assert!(status.ready && status.fault.is_none(), "{status:?}");
        assert_eq!(status.node.map(|node| NodeId(node.node_id)), Some(NodeId(self.node)));
        drop(silent);
    }

    /// A message above the limit of the connection is refused, with the limit, and changes nothing.
    async fn too_large(&self, key: &Bytes) {
        let mut kv = self.kv().await;
        let put = |at: u8| v1::PutOp { key: key.clone(), value: vec![at; 1_000_000].into() };
        let ops = (0..6).map(|at| v1::Op { op: Some(v1::op::Op::Put(put(at))) }).collect();
        let status = kv.write(v1::WriteRequest { ops, ..Default::default() }).await.expect_err("6 MB");
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        assert!(status.message().contains("5242880"), "the limit is missing in {status:?}");
        let row = kv.get(v1::GetRequest { key: key.clone(), ..Default::default() }).await.expect("get").into_inner().row;
        assert_eq!(row.map(|row| row.value.len()), Some(1), "nothing is half applied");
    }
}
