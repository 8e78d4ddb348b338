//! What scripts cannot say of the machine: what it asks of the engine, its formats, its limits, and reading beside applying. The rules are
//! in `tests/scripts/machine`, the whole against a model in `tests/machine_model.rs`.

use std::sync::atomic::{AtomicU64, Ordering};

use kontiki_types::limits::{self, DELETE_RANGE_KEYS_MAX, SCAN_KEYS_LOOKED_AT_MAX};
use kontiki_types::read::{ReadData, Scan};
use kontiki_types::{
    ClockKind, Command, Condition, Epoch, KeyRange, NamespaceId, NodeId, NodeInfo, Op, OpResult, Read, Reject, Write, encoding,
    key,
};
use proptest::prelude::*;

use super::*;
use crate::engine::{Cursor, EngineStats, Horizons, MemoryEngine, Part, Sample, Stage, View};
use crate::system;

fn descriptor(id: u64) -> Descriptor {
    Descriptor::new(PartitionId(id), KeyRange::namespace(NamespaceId::DEFAULT), &[NodeId(1)])
}

fn machine(engine: &Arc<impl Engine>) -> Machine {
    Machine::create(engine.clone(), descriptor(2), ReplicaId(1)).expect("creates")
}

fn user(key: impl AsRef<[u8]>) -> Bytes {
    key::internal(NamespaceId::DEFAULT, key.as_ref())
}

fn put(key: impl AsRef<[u8]>, value: &'static str) -> Op<Bytes> {
    Op::Put { key: user(key), value: value.into() }
}

fn write(conditions: Vec<Condition<Bytes>>, ops: Vec<Op<Bytes>>) -> Command<Bytes> {
    let write = Write { epoch: Epoch { conf: 1, bounds: 1 }, request: None, conditions, ops };
    Command::Writes { stamp_ms: 1, writes: vec![write] }
}

/// Applies commands in one call.
fn apply(machine: &mut Machine, commands: &[Command<Bytes>]) -> Applied {
    let encoded: Vec<_> = commands.iter().map(encoding::encode).collect();
    let next = machine.applied_index() + 1;
    let entry = |(index, command)| Entry { index, position: b"p", membership: None, command: Some(command) };
    let entries: Vec<_> = (next..).zip(encoded.iter().map(Vec::as_slice)).map(entry).collect();
    machine.apply(&entries).expect("applies")
}

fn results(reply: &Reply) -> &[OpResult] {
    match reply {
        Reply::Writes(outcomes) => &outcomes[0].as_ref().expect("accepted").results,
        other => panic!("writes: {other:?}"),
    }
}

fn page(machine: &Machine, range: KeyRange, reverse: bool) -> (Vec<Bytes>, Option<Bytes>) {
    let scan = Scan { range, reverse, keys_only: true, rows_max: 16_000, bytes_max: 1_000_000 };
    match machine.reader().read(&Read::Scan(scan), None).expect("reads").data {
        ReadData::Page { rows, resume } => (rows.into_iter().map(|row| row.key).collect(), resume),
        other => panic!("a page: {other:?}"),
    }
}

/// An engine that counts what it is asked.
#[derive(Default)]
struct Counting {
    inner: MemoryEngine,
    reads: AtomicU64,
    writes: AtomicU64,
}

impl Engine for Counting {
    fn write(&self, batch: &Batch) -> Result<(), Fault> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.inner.write(batch)
    }
    fn flush(&self) -> Result<(), Fault> {
        self.inner.flush()
    }
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.get(key)
    }
    fn first(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, Fault> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.first(from, to)
    }
    fn cursor<'a>(&'a self, from: &[u8], to: &[u8]) -> Result<Box<dyn Cursor + 'a>, Fault> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.cursor(from, to)
    }
    fn view(&self) -> Arc<dyn View> {
        self.inner.view()
    }
    fn stage(&self) -> Result<Box<dyn Stage>, Fault> {
        self.inner.stage()
    }
    fn horizons(&self) -> &Horizons {
        self.inner.horizons()
    }
    fn parts(&self, from: &[u8], to: &[u8], part_bytes: u64) -> Result<Vec<Part>, Fault> {
        self.inner.parts(from, to, part_bytes)
    }
    fn sample(&self, from: &[u8], to: &[u8], records_max: usize) -> Result<Sample, Fault> {
        self.inner.sample(from, to, records_max)
    }
    fn compact(&self, from: &[u8], to: &[u8]) -> Result<(), Fault> {
        self.inner.compact(from, to)
    }
    fn stats(&self) -> EngineStats {
        self.inner.stats()
    }
}

#[test]
fn a_blind_put_never_reads_and_an_apply_is_one_batch() {
    let engine = Arc::new(Counting::default());
    let mut machine = machine(&engine);
    let count = || (engine.reads.swap(0, Ordering::Relaxed), engine.writes.swap(0, Ordering::Relaxed));
    count();

    let Reply::SessionOpened(session) = apply(&mut machine, &[Command::OpenSession { stamp_ms: 1 }]).replies.remove(0) else {
        panic!("a session")
    };
    let mut asked = write(vec![], vec![put("a", "1"), put("b", "2")]);
    if let Command::Writes { writes, .. } = &mut asked {
        writes[0].request = Some(kontiki_types::RequestId { session, sequence: 1, acknowledged_below: 1 });
    }
    count();
    apply(&mut machine, &[write(vec![], vec![put("a", "0")]), asked.clone(), asked.clone(), write(vec![], vec![put("c", "3")])]);
    assert_eq!(count(), (0, 1), "four writes, one of them a retry");

    // What has to look, looks: once for each key, and not for what the same apply wrote.
    let absent = |key| Condition::Absent { key: user(key) };
    apply(&mut machine, &[write(vec![absent("x")], vec![put("x", "1")]), write(vec![], vec![Op::Delete { key: user("x") }])]);
    assert_eq!(count(), (1, 1));
    apply(&mut machine, &[write(vec![], vec![Op::DeleteRange { start: user("a"), end: user("z") }])]);
    assert_eq!(count(), (1, 1));
    assert_eq!(machine.apply(&[]).expect("nothing to do"), Applied::default());
    assert_eq!(count(), (0, 0));
}

#[test]
fn golden_records() {
    let engine = MemoryEngine::new();
    let mut machine = machine(&engine);
    let read = |key: Key<&[u8]>| hex::encode(engine.get(&key.encode()).expect("reads").expect("is there"));
    let partition = PartitionId(2);
    assert_eq!(read(Key::Applied { partition }), "010000000000");
    assert_eq!(read(Key::Replica { partition }), "01020400000001040000000201010001010101 0201".replace(' ', ""));
    let command = encoding::encode(&write(vec![], vec![put("k", "v")]));
    let entry = Entry { index: 1, position: b"pos", membership: Some(b"mem"), command: Some(&command) };
    machine.apply(&[entry]).expect("applies");
    assert_eq!(read(Key::Applied { partition }), "0101fc000001000103706f7301036d656d00");
}

#[test]
fn damaged_records_are_faults_that_name_them() {
    let partition = PartitionId(2);
    let open = |key: Key<&[u8]>, value: Option<&[u8]>| {
        let engine = MemoryEngine::new();
        machine(&engine);
        let mut batch = Batch::new();
        match value {
            Some(value) => batch.put(&key.encode(), value),
            None => batch.delete(&key.encode()),
        }
        engine.write(&batch).expect("writes");
        Machine::open(engine, partition).expect_err("damaged").to_string()
    };
    let key = |kind: &str| format!("record `\\x0{kind}\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02` is corrupt: ");
    assert_eq!(open(Key::Applied { partition }, None), key("2") + "p2 has a replica here but no applied record");
    assert_eq!(open(Key::Applied { partition }, Some(b"")), key("2") + "it is empty");
    assert_eq!(
        open(Key::Replica { partition }, Some(b"\x07")),
        key("1") + "its format byte is 7, this program knows 1; upgrade this node"
    );
    let other = encoding::encode(&(descriptor(3), ReplicaId(1)));
    assert_eq!(open(Key::Replica { partition }, Some(&other)), key("1") + "it describes p3, not p2");
}

#[test]
fn a_range_delete_stops_at_its_limit_and_says_where() {
    let engine = MemoryEngine::new();
    let mut machine = machine(&engine);
    let name = |number: usize| format!("k{number:05}");
    let puts = |numbers: std::ops::Range<usize>| write(vec![], numbers.map(|number| put(name(number), "v")).collect());
    apply(&mut machine, &[puts(0..DELETE_RANGE_KEYS_MAX), write(vec![], vec![Op::Delete { key: user(name(7)) }])]);
    // Of the keys of the next apply, some are in the engine, some only in this apply; one of them is deleted again.
    let more = puts(DELETE_RANGE_KEYS_MAX..DELETE_RANGE_KEYS_MAX + 3);
    let gone = write(vec![], vec![Op::Delete { key: user(name(DELETE_RANGE_KEYS_MAX + 1)) }]);
    let all = |start: &Bytes| write(vec![], vec![Op::DeleteRange { start: start.clone(), end: user("z") }]);
    let applied = apply(&mut machine, &[more, gone, all(&user("a"))]);
    let next = user(name(DELETE_RANGE_KEYS_MAX + 2));
    let count = DELETE_RANGE_KEYS_MAX as u64;
    assert_eq!(results(&applied.replies[2]), [OpResult::DeletedRange { count, resume: Some(next.clone()) }]);
    assert_eq!(page(&machine, descriptor(2).range, false), (vec![next.clone()], None));
    let applied = apply(&mut machine, &[all(&next)]);
    assert_eq!(results(&applied.replies[0]), [OpResult::DeletedRange { count: 1, resume: None }]);
    assert_eq!(page(&machine, descriptor(2).range, false), (vec![], None));
}

#[test]
fn a_page_over_deleted_keys_ends_and_says_where() {
    let engine = MemoryEngine::new();
    let mut machine = machine(&engine);
    let name = |number: usize| format!("k{number:06}");
    let last = SCAN_KEYS_LOOKED_AT_MAX + 9;
    for chunk in (0..last).collect::<Vec<_>>().chunks(4096) {
        let both = chunk.iter().flat_map(|number| [put(name(*number), ""), Op::Delete { key: user(name(*number)) }]);
        apply(&mut machine, &[write(vec![], both.collect())]);
    }
    apply(&mut machine, &[write(vec![], vec![put("a", "first"), put("z", "last")])]);
    let whole = descriptor(2).range;
    let (rows, resume) = page(&machine, whole.clone(), false);
    // The first page looks at `a` and at all deleted keys but ten.
    assert_eq!((rows, resume.clone()), (vec![user("a")], Some(user(name(last - 10)))));
    let rest = KeyRange::new(resume.expect("more"), whole.end.clone());
    assert_eq!(page(&machine, rest, false), (vec![user("z")], None));
    let (rows, resume) = page(&machine, whole.clone(), true);
    assert_eq!((rows, resume.clone()), (vec![user("z")], Some(user(name(10)))));
    let rest = KeyRange::new(whole.start, resume.expect("more"));
    assert_eq!(page(&machine, rest, true), (vec![user("a")], None));
}

#[test]
fn a_batch_get_is_refused_before_its_answer_grows_too_large() {
    let engine = MemoryEngine::new();
    let mut machine = machine(&engine);
    let value = Bytes::from(vec![7; limits::VALUE_BYTES_MAX]);
    apply(&mut machine, &[write(vec![], vec![Op::Put { key: user("k"), value }])]);
    let get = |count: usize| machine.reader().read(&Read::Get { keys: vec![user("k"); count] }, None);
    assert!(get(3).is_ok());
    let error = get(limits::BATCH_GET_KEYS_MAX).expect_err("4 GiB");
    let kontiki_types::CallError::Reject(Reject::TooLarge { actual, limit, .. }) = error else { panic!("{error:?}") };
    assert_eq!(limit, limits::BATCH_GET_BYTES_MAX as u64);
    assert!(actual < 2 * limit, "it stopped at the limit");
}

#[test]
fn a_clock_that_is_used_up_refuses_and_goes_on_answering() {
    let engine = MemoryEngine::new();
    let mut machine = machine(&engine);
    let edge = Command::AdvanceClock { to: Version(u64::MAX - 1) };
    let replies = apply(&mut machine, &[edge, write(vec![], vec![put("a", "1")]), write(vec![], vec![put("a", "2")])]).replies;
    assert_eq!(replies[0], Reply::Clock(Version(u64::MAX - 1)));
    assert_eq!(results(&replies[1]), [OpResult::Put]);
    assert!(matches!(&replies[2], Reply::Writes(outcomes) if matches!(outcomes[0], Err(Reject::Invalid { .. }))));
    let replies = apply(&mut machine, &[Command::OpenSession { stamp_ms: 0 }]).replies;
    assert!(matches!(replies[0], Reply::Rejected(Reject::Invalid { .. })));
    assert_eq!(page(&machine, descriptor(2).range, false).0, [user("a")]);
}

#[test]
fn the_map_is_read_as_it_was_written() {
    let engine = MemoryEngine::new();
    let own =
        Descriptor::new(PartitionId::SYSTEM, KeyRange::new("", KeyRange::namespace(NamespaceId::DEFAULT).start), &[NodeId(1)]);
    let mut machine = Machine::create(engine, own.clone(), ReplicaId(1)).expect("creates");
    assert_eq!(system::read_map(&machine.reader()).expect("reads").partitions, []);
    let node = NodeInfo { id: NodeId(1), addr: "one:1".into(), ..NodeInfo::default() };
    // So long bounds that the map is read in several pages.
    let long = |id| Descriptor { range: KeyRange::new(user(format!("{id:08000}")), ""), ..descriptor(id) };
    let partitions: Vec<_> = [own].into_iter().chain((2..300).map(long)).collect();
    let ops = partitions
        .iter()
        .map(|one| Op::Put { key: system::map_key(one.id), value: system::encode_descriptor(one) })
        .chain([Op::Put { key: system::node_key(NodeId(1)), value: system::encode_node(&node) }])
        .chain([Op::Put { key: system::cluster_key(), value: Bytes::new() }]);
    let applied = apply(&mut machine, &[write(vec![Condition::Absent { key: system::cluster_key() }], ops.collect())]);
    assert_eq!(applied.effects, [Effect::MapChanged]);
    let map = system::read_map(&machine.reader()).expect("reads");
    assert_eq!((map.partitions.len(), map.node(NodeId(1))), (partitions.len(), Some(&node)));
    assert!(partitions.iter().all(|one| map.get(one.id) == Some(one)));

    let damaged = Op::Put { key: system::map_key(PartitionId(9)), value: "\x01".into() };
    apply(&mut machine, &[write(vec![], vec![damaged])]);
    assert!(matches!(system::read_map(&machine.reader()), Err(Fault::Corrupt { .. })));
}

/// While one thread applies writes that set two keys to the same value, no reader ever sees two values.
#[test]
#[allow(clippy::disallowed_methods, reason = "this test is about threads")]
fn readers_beside_apply_see_whole_writes() {
    let engine = MemoryEngine::new();
    let mut machine = machine(&engine);
    apply(&mut machine, &[write(vec![], vec![put("a", "start"), put("b", "start")])]);
    let reader = machine.reader();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let keys = vec![user("a"), user("b")];
            let (mut last, mut changes) = (Version::ZERO, 0);
            while !stop.load(Ordering::Acquire) {
                let ReadData::Values(values) = reader.read(&Read::Get { keys: keys.clone() }, None).expect("reads").data else {
                    panic!("values")
                };
                let versions: Vec<_> = values.iter().map(|row| row.as_ref().expect("is there").version).collect();
                assert_eq!(versions[0], versions[1]);
                assert!(versions[0] >= last, "time went back");
                changes += u64::from(versions[0] > last);
                last = versions[0];
            }
            changes
        });
        for _ in 0..20_000 {
            apply(&mut machine, &[write(vec![], vec![put("a", "x"), put("b", "x")])]);
        }
        stop.store(true, Ordering::Release);
        assert!(reading.join().expect("no reader failed") > 1, "the reader saw changes");
    });
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    let edge = prop::sample::select(vec![
        &b""[..],
        b"\0",
        b"\0\0\0\x01",
        b"\0\0\0\x01\0",
        b"\0\0\0\x01k",
        b"\0\0\0\x02",
        b"\xff\xff\xff\xff\xff",
    ]);
    prop_oneof![edge.prop_map(Bytes::from_static), prop::collection::vec(any::<u8>(), 0..6).prop_map(Bytes::from)]
}

fn any_command() -> impl Strategy<Value = Command<Bytes>> {
    let op = prop_oneof![
        (any_bytes(), any_bytes()).prop_map(|(key, value)| Op::Put { key, value }),
        any_bytes().prop_map(|key| Op::Delete { key }),
        (any_bytes(), any_bytes()).prop_map(|(start, end)| Op::DeleteRange { start, end }),
    ];
    let condition = prop_oneof![
        any_bytes().prop_map(|key| Condition::Exists { key }),
        (any_bytes(), any::<u64>()).prop_map(|(key, version)| Condition::VersionIs { key, version: Version(version) }),
    ];
    let request =
        prop::option::of((any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(opened, sequence, acknowledged_below)| {
            let session = kontiki_types::SessionId { partition: PartitionId(2), opened: Version(opened % 4) };
            kontiki_types::RequestId { session, sequence: sequence % 3, acknowledged_below: acknowledged_below % 3 }
        }));
    let number = prop_oneof![Just(0), Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()];
    let one = (prop::collection::vec(op, 0..6), prop::collection::vec(condition, 0..2), request);
    prop_oneof![
        6 => (number.clone(), one).prop_map(|(stamp_ms, (ops, conditions, request))| {
            let epoch = Epoch { conf: 0, bounds: 1 };
            Command::Writes { stamp_ms, writes: vec![Write { epoch, request, conditions, ops }] }
        }),
        1 => number.clone().prop_map(|stamp_ms| Command::OpenSession { stamp_ms }),
        1 => number.clone().prop_map(|to| Command::AdvanceClock { to: Version(to) }),
        1 => number.clone().prop_map(|to| Command::AdvanceHorizon { to: Version(to) }),
        1 => (any_bytes(), any_bytes(), number).prop_map(|(start, end, conf)| {
            let mut descriptor = descriptor(2);
            descriptor.range = KeyRange { start, end };
            descriptor.epoch = Epoch { conf, bounds: 1 + conf % 2 };
            Command::SetDescriptor { descriptor }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    /// Apply is total: whatever decodes has a reply.
    #[test]
    fn any_command_has_a_reply(commands in prop::collection::vec(any_command(), 1..12), whole: bool, counter: bool) {
        let engine = MemoryEngine::new();
        let mut own = descriptor(2);
        if whole {
            own.range = KeyRange::all();
        }
        if counter {
            own.clock = ClockKind::Counter;
        }
        let mut machine = Machine::create(engine.clone(), own, ReplicaId(1)).expect("creates");
        let applied = apply(&mut machine, &commands);
        prop_assert_eq!(applied.replies.len(), commands.len());
        let reopened = Machine::open(engine.clone(), PartitionId(2)).expect("opens").expect("is there");
        prop_assert_eq!(reopened.sessions(), machine.sessions());
        // And everything on disk has a shape that is known.
        let mut cursor = engine.cursor(b"", b"").expect("opens");
        cursor.seek(b"\0").expect("seeks");
        while cursor.valid() {
            Key::decode(cursor.key()).expect("a known key");
            cursor.next().expect("moves");
        }
    }
}
