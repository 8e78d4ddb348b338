//! Round trips: what goes to the wire comes back as it was; what is wrong is refused with a reason. Messages go through their bytes,
//! as they do in life.

use kontiki_types::limits::SCAN_ROWS_MAX;
use kontiki_types::partition::initial_partitions;
use kontiki_types::read::{ReadData, Scan};
use kontiki_types::{
    ClockKind, Condition, Descriptor, Incarnation, NodeInfo, NodeState, Op, OpResult, PartitionMap, Read, ReadLevel, ReadReply,
    Replica, ReplicaId, Role, Row, StoreId, Write, WriteReply,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message;

use super::*;

fn over_the_wire<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).expect("its own bytes")
}

fn bytes(least: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), least..20).prop_map(Bytes::from)
}

fn internal() -> impl Strategy<Value = Bytes> {
    bytes(1).prop_map(|user| internal_key(&user))
}

fn version() -> impl Strategy<Value = Version> {
    any::<u64>().prop_map(Version)
}

fn route() -> impl Strategy<Value = Route> {
    any::<(u64, u64, u64)>().prop_map(|(id, conf, bounds)| Route { partition: PartitionId(id), epoch: Epoch { conf, bounds } })
}

fn range() -> impl Strategy<Value = KeyRange> {
    (bytes(0), bytes(0)).prop_map(|(a, b)| {
        let (start, end) = if b.is_empty() || a <= b { (a, b) } else { (b, a) };
        internal_range(&start, &end)
    })
}

fn condition() -> impl Strategy<Value = Condition<Bytes>> {
    prop_oneof![
        internal().prop_map(|key| Condition::Exists { key }),
        internal().prop_map(|key| Condition::Absent { key }),
        (internal(), version()).prop_map(|(key, version)| Condition::VersionIs { key, version }),
        (internal(), bytes(0)).prop_map(|(key, value)| Condition::ValueIs { key, value }),
    ]
}

fn op() -> impl Strategy<Value = Op<Bytes>> {
    prop_oneof![
        3 => (internal(), bytes(0)).prop_map(|(key, value)| Op::Put { key, value }),
        1 => internal().prop_map(|key| Op::Delete { key }),
    ]
}

fn write() -> impl Strategy<Value = (Route, Write<Bytes>)> {
    let request = (any::<(u64, u64)>(), 1..u64::MAX, any::<u64>()).prop_map(|((partition, opened), sequence, below)| {
        let session = SessionId { partition: PartitionId(partition), opened: Version(opened) };
        RequestId { session, sequence, acknowledged_below: below % sequence }
    });
    let ranges = vec(range().prop_map(|range| Op::DeleteRange { start: range.start, end: range.end }), 0..3);
    (route(), option::of(request), vec(condition(), 0..4), vec(op(), 1..5), ranges).prop_map(
        |(route, request, conditions, mut ops, ranges)| {
            ops.extend(ranges);
            (route, Write { epoch: route.epoch, request, conditions, ops })
        },
    )
}

fn level() -> impl Strategy<Value = ReadLevel> {
    let seen = proptest::collection::btree_map(any::<u64>().prop_map(PartitionId), version(), 0..4);
    prop_oneof![
        Just(ReadLevel::Linearizable),
        (seen, proptest::option::of(any::<[u8; 16]>()))
            .prop_map(|(seen, cluster)| ReadLevel::AtLeast(Token { seen, cluster: cluster.map(ClusterId) })),
        any::<u64>().prop_map(|age_ms_max| ReadLevel::BoundedStale { age_ms_max }),
        version().prop_map(ReadLevel::Snapshot),
    ]
}

fn a_row() -> impl Strategy<Value = Row> {
    (internal(), bytes(0), version()).prop_map(|(key, value, version)| Row { key, value, version })
}

const FROM: Answerer = Answerer { node: NodeId(3), partition: PartitionId(9) };

proptest! {
    #[test]
    fn writes_come_back((route, write) in write()) {
        let wire = over_the_wire(&write_request(route, &write).expect("default namespace"));
        let asked = write_of(wire).expect("within the limits");
        prop_assert_eq!(asked.route, Some(route));
        prop_assert_eq!(asked.body, write);
    }

    #[test]
    fn write_replies_come_back(version in version(), existed: bool, count: u64, resume in option::of(internal())) {
        let results = vec![OpResult::Put, OpResult::Deleted { existed }, OpResult::DeletedRange { count, resume }];
        let reply = WriteReply { version, results };
        let wire = write_response(FROM, &reply).expect("default namespace");
        prop_assert_eq!(write_reply(over_the_wire(&wire)).expect("complete"), reply);
    }

    #[test]
    fn reads_come_back(route in route(), level in level(), keys in vec(internal(), 1..5), range in range(), reverse: bool, keys_only: bool, rows_max in 1..=SCAN_ROWS_MAX, bytes_max in 1..1000u32) {
        let one = read_of_get(over_the_wire(&get_request(route, &level, &keys[0]).expect("default namespace"))).expect("fine");
        prop_assert_eq!(one, Asked { route: Some(route), body: (level.clone(), Read::Get { keys: vec![keys[0].clone()] }) });
        let many = read_of_batch_get(over_the_wire(&batch_get_request(route, &level, &keys).expect("default namespace")));
        prop_assert_eq!(many.expect("fine").body, (level.clone(), Read::Get { keys }));
        let scan = Scan { range, reverse, keys_only, rows_max, bytes_max };
        let page = read_of_scan(over_the_wire(&scan_request(route, &level, &scan).expect("default namespace")));
        prop_assert_eq!(page.expect("fine").body, (level.clone(), Read::Scan(scan)));
        let clock = read_of_clock(&over_the_wire(&clock_request(route, &level, Version::ZERO)));
        prop_assert_eq!(clock.expect("fine").body, (level, Read::Clock));
    }

    #[test]
    fn read_replies_come_back(clock in version(), age_ms: u64, values in vec(option::of(a_row()), 1..5), rows in vec(a_row(), 0..5), resume in option::of(internal())) {
        let reply = |data| ReadReply { clock, age_ms, data };
        let one = reply(ReadData::Values(vec![values[0].clone()]));
        let wire = over_the_wire(&get_response(FROM, one.clone()).expect("default namespace"));
        prop_assert_eq!(reply_of_get(wire).expect("complete"), one);
        let many = reply(ReadData::Values(values));
        let wire = over_the_wire(&batch_get_response(FROM, many.clone()).expect("default namespace"));
        prop_assert_eq!(reply_of_batch_get(wire).expect("complete"), many);
        let page = reply(ReadData::Page { rows, resume });
        let wire = over_the_wire(&scan_response(FROM, page.clone()).expect("default namespace"));
        prop_assert_eq!(reply_of_scan(wire).expect("complete"), page);
        let wire = over_the_wire(&clock_response(FROM, clock, age_ms));
        prop_assert_eq!(reply_of_clock(wire).expect("complete"), reply(ReadData::Clock));
    }

    #[test]
    fn descriptors_come_back(id: u64, start: Vec<u8>, end: Vec<u8>, conf: u64, bounds: u64, counter: bool, replicas in vec(any::<(u64, u64, u8)>(), 0..4), next: u64) {
        let role = |number| [Role::Joining, Role::Voter, Role::Leaving][usize::from(number) % 3];
        let replica = |(id, node, number)| Replica { id: ReplicaId(id), node: NodeId(node), role: role(number) };
        let one = Descriptor {
            id: PartitionId(id),
            range: KeyRange::new(start, end),
            epoch: Epoch { conf, bounds },
            clock: if counter { ClockKind::Counter } else { ClockKind::Hybrid },
            replicas: replicas.into_iter().map(replica).collect(),
            next_replica: ReplicaId(next),
        };
        prop_assert_eq!(descriptor(over_the_wire(&descriptor_to(&one))), one);
    }

    #[test]
    fn any_bytes_are_refused_or_within_the_limits(noise: Vec<u8>) {
        if let Ok(wire) = v1::WriteRequest::decode(noise.as_slice()) {
            let _ = write_of(wire);
        }
        if let Ok(wire) = v1::ScanRequest::decode(noise.as_slice()) {
            let _ = read_of_scan(wire);
        }
        if let Ok(wire) = v1::PartitionsResponse::decode(noise.as_slice()) {
            let _ = partition_map(wire);
        }
    }

    #[test]
    fn uuids_come_back(id: [u8; 16]) {
        prop_assert_eq!(parse_uuid(&StoreId(id).to_string()), Some(id));
    }
}

#[test]
fn the_map_comes_back_and_can_be_read() {
    let nodes = [NodeId(1), NodeId(2), NodeId(3)];
    let state = |id: NodeId| if id.0 > 2 { NodeState::Leaving } else { NodeState::Active };
    let info = |id: NodeId| NodeInfo {
        id,
        store: (id.0 > 1).then_some(StoreId([7; 16])),
        addr: format!("10.0.0.{}:7601", id.0),
        zone: "east".into(),
        incarnation: Incarnation { starts: id.0, nonce: 9 },
        state: state(id),
    };
    let map = PartitionMap::new(initial_partitions(&[Bytes::from_static(b"m")], &nodes), nodes.map(info).into());
    let leaders = std::collections::BTreeMap::from([(PartitionId(2), NodeId(1))]);
    let wire = over_the_wire(&partitions_response(&map, &leaders));
    let texts: Vec<_> = wire.partitions.iter().map(|one| one.range_text.as_str()).collect();
    assert_eq!(texts, ["start .. default:", "default: .. default:m", "default:m .. end"]);
    assert_eq!(wire.leaders, std::collections::BTreeMap::from([(2, 1)]));
    assert_eq!(partition_map(wire).expect("complete"), map);
}

#[test]
fn a_key_outside_of_the_default_namespace_has_no_place_on_the_wire() {
    let error = user_key(&key::internal(NamespaceId::SYSTEM, b"map")).expect_err("a system key");
    assert!(error.to_string().contains("default namespace"), "{error}");
    assert_eq!(user_key(&internal_key(b"k")), Ok(Bytes::from_static(b"k")));
}

#[test]
fn a_partition_that_reaches_beyond_the_namespace_is_cut_to_it() {
    assert_eq!(user_range(&KeyRange::all()), Ok((Bytes::new(), Bytes::new())));
    let tail = KeyRange::new(internal_key(b"m"), Bytes::new());
    assert_eq!(user_range(&tail), Ok((Bytes::from_static(b"m"), Bytes::new())));
}

#[test]
fn bad_requests_are_named() {
    let say = |result: Result<Asked<Write<Bytes>>, Reject>| result.expect_err("refused").to_string();
    let key = Bytes::from_static(b"k");
    let large = v1::PutRequest { key: key.clone(), value: vec![0; (1 << 20) + 1].into(), ..Default::default() };
    assert!(say(write_of_put(large)).contains("1048577, the limit is 1048576"));
    assert!(say(write_of_put(v1::PutRequest::default())).contains("the key is empty"));
    assert!(say(write_of(v1::WriteRequest::default())).contains("the write is empty"));
    let no_test = v1::Condition { key: key.clone(), test: None };
    assert!(
        say(write_of(v1::WriteRequest { conditions: vec![no_test], ..Default::default() })).contains("condition 0 has no test")
    );
    let false_test = v1::Condition { key: key.clone(), test: Some(v1::condition::Test::Exists(false)) };
    assert!(
        say(write_of(v1::WriteRequest { conditions: vec![false_test], ..Default::default() })).contains("say `absent: true`")
    );
    assert!(
        say(write_of(v1::WriteRequest { ops: vec![v1::Op { op: None }], ..Default::default() })).contains("operation 0 is empty")
    );
    let no_session = Some(v1::RequestId { session: None, sequence: 1, acknowledged_below: 0 });
    let put = v1::PutRequest { key: key.clone(), request_id: no_session, ..Default::default() };
    assert!(say(write_of_put(put)).contains("no session"));
    let reversed = v1::DeleteRangeRequest { start: "b".into(), end: "a".into(), ..Default::default() };
    assert!(say(write_of_delete_range(reversed)).contains("reversed"));

    let both = v1::ScanRequest { prefix: key.clone(), start: key.clone(), ..Default::default() };
    assert!(read_of_scan(both).expect_err("refused").to_string().contains("use one of them"));
    let long_page = v1::ScanRequest { limit: 99_999, route: Some(v1::Route::default()), ..Default::default() };
    assert!(read_of_scan(long_page).expect_err("refused").to_string().contains("the limit is 16384"));
    let many = v1::BatchGetRequest { keys: vec![key; 4097], ..Default::default() };
    assert!(read_of_batch_get(many).expect_err("refused").to_string().contains("is 4097, the limit is 4096"));
    let seen = (0..5000).map(|id| (id, 1)).collect();
    assert!(token(v1::Token { seen, ..Default::default() }).expect_err("refused").to_string().contains("the limit is 4096"));
}

#[test]
fn a_prefix_is_a_range_and_a_page_has_defaults() {
    let request = v1::ScanRequest { prefix: Bytes::from_static(b"a\xff"), limit: 1_000_000, ..Default::default() };
    let (_, read) = read_of_scan(request).expect("fine").body;
    let Read::Scan(scan) = read else { panic!("a scan") };
    assert_eq!(scan.range, internal_range(b"a\xff", b"b"));
    assert_eq!((scan.rows_max, scan.bytes_max), (SCAN_ROWS_MAX, 1024 * 1024));
}
