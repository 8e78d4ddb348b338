//! Replicas that come and go: what is exported from one engine and installed in another is the same replica, whatever happens on the way, and
//! what is destroyed is gone for ever. On both engines.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::model::{Model, Plan, any_plans, descriptor};
use common::{BOTH, On, Place};
use kontiki_storage::engine::{Batch, Engine};
use kontiki_storage::machine::{Chunk, Entry, Export, Header, Import, Machine, Rows};
use kontiki_storage::schema::Key;
use kontiki_types::read::{ReadData, Scan};
use kontiki_types::{
    Command, Descriptor, Effect, Epoch, Fault, KeyRange, NamespaceId, NodeId, Op, PartitionId, Read, ReplicaId, Row, Version,
    Write, encoding, key,
};
use proptest::prelude::*;

fn user(key: &str) -> Bytes {
    key::internal(NamespaceId::DEFAULT, key.as_bytes())
}

fn puts(rows: &[(&str, &str)]) -> Command<Bytes> {
    let ops =
        rows.iter().map(|(key, value)| Op::Put { key: user(key), value: Bytes::copy_from_slice(value.as_bytes()) }).collect();
    Command::Writes {
        stamp_ms: 1,
        writes: vec![Write { epoch: Epoch { conf: 1, bounds: 1 }, request: None, conditions: vec![], ops }],
    }
}

fn apply(machine: &mut Machine, command: &Command<Bytes>) {
    let command = encoding::encode(command);
    let index = machine.applied_index() + 1;
    let position = format!("at {index}");
    let entry = Entry { index, position: position.as_bytes(), membership: Some(b"members"), command: Some(&command) };
    machine.apply(&[entry]).expect("applies");
}

fn rows_at(machine: &Machine, at: Option<Version>) -> Vec<Row> {
    let range = machine.descriptor().range.clone();
    let scan = Scan { range, reverse: false, keys_only: false, rows_max: 1000, bytes_max: 1_000_000 };
    match machine.reader().read(&Read::Scan(scan), at).expect("reads").data {
        ReadData::Page { rows, resume: None } => rows,
        other => panic!("one page: {other:?}"),
    }
}

/// Every record of an engine.
fn dump(engine: &dyn Engine) -> Vec<(Bytes, Bytes)> {
    let mut cursor = engine.cursor(b"", b"").expect("opens");
    cursor.seek(b"\0").expect("seeks");
    let mut all = Vec::new();
    while cursor.valid() {
        all.push((Bytes::copy_from_slice(cursor.key()), Bytes::copy_from_slice(cursor.value())));
        cursor.next().expect("moves");
    }
    all
}

fn export(machine: &Machine, engine: &dyn Engine) -> Export {
    Machine::export(engine.view(), machine.partition()).expect("exports").expect("is there")
}

/// Everything that an export gives, in chunks as small as wanted; each as it would come over a wire.
fn import(export: &Export, engine: &dyn Engine, bytes_max: usize) -> Import {
    let header = Header::decode(&export.header().encode()).expect("decodes");
    let mut import = Import::begin(engine, header).expect("begins");
    while let Some(from) = import.next() {
        let chunk = export.chunk(from, bytes_max).expect("reads").expect("there is more");
        let rows = Rows::new(chunk.rows.bytes().clone()).expect("whole rows");
        import.add(&Chunk { rows, ..chunk }).expect("takes the chunk");
    }
    import
}

/// A replica with sessions and data that were in part overwritten and deleted.
fn filled(engine: &Arc<dyn Engine>) -> Machine {
    let mut machine = Machine::create(engine.clone(), descriptor(), ReplicaId(1)).expect("creates");
    apply(&mut machine, &Command::OpenSession { stamp_ms: 9 });
    apply(&mut machine, &puts(&[("b", "1"), ("c", "1"), ("xx", "1")]));
    apply(&mut machine, &puts(&[("c", "2")]));
    machine
}

/// The same partition, with other data, on the node that will receive.
fn stale(engine: &Arc<dyn Engine>) -> Machine {
    let wide = Descriptor { range: KeyRange::in_namespace(NamespaceId::DEFAULT, b"a", b"z"), ..descriptor() };
    let mut machine = Machine::create(engine.clone(), wide, ReplicaId(5)).expect("creates");
    apply(&mut machine, &puts(&[("a", "old"), ("c", "old"), ("d", "old"), ("yy", "old")]));
    machine
}

/// A partition that must not notice.
fn neighbour(engine: &Arc<dyn Engine>) -> Machine {
    let descriptor = Descriptor::new(PartitionId(3), KeyRange::in_namespace(NamespaceId::DEFAULT, b"z", b""), &[NodeId(1)]);
    let mut machine = Machine::create(engine.clone(), descriptor, ReplicaId(1)).expect("creates");
    apply(&mut machine, &Command::OpenSession { stamp_ms: 3 });
    apply(&mut machine, &puts(&[("z", "mine"), ("zz", "mine")]));
    machine
}

#[test]
fn an_installed_replica_is_the_same_under_its_own_id() {
    for on in BOTH {
        for bytes_max in [0, 60, 1 << 20] {
            let (source, mut target) = (Place::new(on), Place::new(on));
            let from = filled(&source.engine());
            let other = neighbour(&target.engine());
            let mut to = stale(&target.engine());
            let reader = to.reader();
            let import = import(&export(&from, &*source.engine()), &*target.engine(), bytes_max);
            let expected = dump(&*source.engine()).iter().filter(|(key, _)| key[0] == 3 || key[0] == 0x10).count() as u64;
            assert_eq!(import.rows(), expected);
            assert_eq!(rows_at(&to, None).len(), 4, "nothing is touched before it is installed");
            let effects = to.install(import).expect("installs");
            assert_eq!(effects, [Effect::DescriptorChanged(descriptor())]);
            for at in [Version::from_ms(9), Version(Version::from_ms(9).0 + 1), from.reader().clock()] {
                assert_eq!(rows_at(&to, Some(at)), rows_at(&from, Some(at)));
            }
            assert_eq!((to.sessions(), to.membership()), (from.sessions(), from.membership()));
            assert_eq!((to.applied_index(), to.position(), to.floor()), (3, Some(&b"at 3"[..]), Some(3)));
            assert_eq!((reader.clock(), reader.applied_index()), (from.reader().clock(), 3));
            apply(&mut to, &puts(&[("d", "new")]));
            drop((to, reader));

            // It is durable, the write after it is not; what lay beyond the new range is gone, and the neighbour is there.
            target.engine().compact(b"", b"").expect("compacts");
            assert_eq!(rows_at(&other, None).len(), 2);
            drop(other);
            let to = Machine::open(target.engine(), PartitionId(2)).expect("opens").expect("is there");
            assert_eq!((to.applied_index(), to.replica(), to.floor()), (4, ReplicaId(5), Some(3)));
            drop(to);
            target.crash();
            let left: Vec<_> = dump(&*target.engine()).into_iter().map(|(key, _)| Key::decode(&key).expect("a key")).collect();
            assert!(
                !left.iter().any(|key| matches!(key, Key::Data { key, .. } if *key == user("a") || *key == user("yy"))),
                "{left:?}"
            );
        }
    }
}

#[test]
fn a_crash_before_the_installation_leaves_the_old_state_and_after_it_the_new() {
    for on in BOTH {
        let (source, mut target) = (Place::new(on), Place::new(on));
        let from = filled(&source.engine());
        let to = stale(&target.engine());
        target.engine().flush().expect("flushes");
        let before = dump(&*target.engine());
        let unfinished = Import::begin(&*target.engine(), from_header(&from, &source)).expect("begins");
        let finished = import(&export(&from, &*source.engine()), &*target.engine(), 60);
        drop((to, unfinished, finished));
        target.crash();
        assert_eq!(dump(&*target.engine()), before);

        let mut to = Machine::open(target.engine(), PartitionId(2)).expect("opens").expect("is there");
        let import = import(&export(&from, &*source.engine()), &*target.engine(), 60);
        to.install(import).expect("installs");
        let after = dump(&*target.engine());
        drop(to);
        target.crash();
        assert_eq!(dump(&*target.engine()), after);
    }
}

fn from_header(machine: &Machine, place: &Place) -> Header {
    export(machine, &*place.engine()).header().clone()
}

/// An export is of its moment, and each chunk can be asked for again.
#[test]
fn an_export_does_not_change() {
    for on in BOTH {
        let place = Place::new(on);
        let mut machine = filled(&place.engine());
        let export = export(&machine, &*place.engine());
        let all = |export: &Export| {
            let (mut chunks, mut from) = (Vec::new(), Bytes::new());
            while let Some(chunk) = export.chunk(&from, 50).expect("reads") {
                from = chunk.to.clone();
                chunks.push(chunk);
            }
            chunks
        };
        let before = all(&export);
        apply(&mut machine, &puts(&[("c", "3"), ("e", "3")]));
        place.engine().flush().expect("flushes");
        place.engine().compact(b"", b"").expect("compacts");
        assert_eq!(all(&export), before);
        assert_eq!(export.header().applied_index, 3);
        assert!(before.len() > 3 && before.windows(2).all(|pair| pair[0].to <= pair[1].from));
        assert!(Machine::export(place.engine().view(), PartitionId(9)).expect("reads").is_none());
    }
}

#[test]
fn chunks_that_do_not_fit_are_refused_and_the_right_one_is_taken() {
    let (source, target) = (Place::new(On::Memory), Place::new(On::Memory));
    let from = filled(&source.engine());
    let export = export(&from, &*source.engine());
    let mut import = Import::begin(&*target.engine(), export.header().clone()).expect("begins");
    let sessions = export.chunk(b"", 1 << 20).expect("reads").expect("sessions");
    let data = export.chunk(&sessions.to, 1 << 20).expect("reads").expect("data");
    assert_eq!((sessions.rows.len(), data.rows.len()), (1, 4));
    let refused = |import: &mut Import, chunk: &Chunk| match import.add(chunk).expect_err("refused") {
        Fault::Corrupt { detail, .. } => detail,
        other => panic!("{other}"),
    };
    assert!(refused(&mut import, &data).contains("the next one begins at"));
    import.add(&sessions).expect("the right one");
    assert!(refused(&mut import, &sessions).contains("the next one begins at"), "repeated");
    assert!(refused(&mut import, &Chunk { to: data.from.clone(), ..data.clone() }).contains("it ends at"));
    let too_far = Chunk { to: Bytes::from_static(b"\xff"), ..data.clone() };
    assert!(refused(&mut import, &too_far).contains("it ends at"));
    let mut rows: Vec<_> = data.rows.iter().collect();
    rows.reverse();
    let reversed = Rows::new(raw(&rows)).expect("whole rows");
    assert!(refused(&mut import, &Chunk { rows: reversed, ..data.clone() }).contains("out of order"));
    let foreign = Rows::new(raw(&[(b"\x01", b"")])).expect("whole rows");
    assert!(refused(&mut import, &Chunk { rows: foreign, ..data.clone() }).contains("outside"));
    import.add(&data).expect("the right one, at last");
    assert_eq!(import.next(), None);
    assert!(refused(&mut import, &data).contains("nothing was missing"));
    for cut in 1..data.rows.bytes().len() {
        let rows = Rows::new(data.rows.bytes().slice(..cut));
        assert!(rows.is_err() || rows.is_ok_and(|rows| rows.len() < data.rows.len()), "cut at {cut}");
    }
}

fn raw(rows: &[(&[u8], &[u8])]) -> Bytes {
    let row = |(key, value): &(&[u8], &[u8])| {
        [&(key.len() as u32).to_le_bytes()[..], &(value.len() as u32).to_le_bytes(), key, value].concat()
    };
    rows.iter().flat_map(row).collect()
}

#[test]
fn a_state_that_does_not_belong_here_is_refused_and_changes_nothing() {
    for on in BOTH {
        let (source, target) = (Place::new(on), Place::new(on));
        let from = filled(&source.engine());
        let mut to = stale(&target.engine());
        let mut other = neighbour(&target.engine());
        let before = dump(&*target.engine());
        let refused = |machine: &mut Machine, import: Import| match machine.install(import).expect_err("refused") {
            Fault::Invariant(why) => why,
            other => panic!("{other}"),
        };
        let whole = || import(&export(&from, &*source.engine()), &*target.engine(), 60);
        assert!(refused(&mut other, whole()).contains("another partition"));
        let begun = Import::begin(&*target.engine(), from_header(&from, &source)).expect("begins");
        assert!(refused(&mut to, begun).contains("not complete"));
        let header = Header { applied_index: 0, ..from_header(&from, &source) };
        assert!(refused(&mut to, empty(&*target.engine(), header)).contains("entry 0, and 1 was applied here"));
        let mut header = from_header(&from, &source);
        header.descriptor.range = KeyRange::in_namespace(NamespaceId::DEFAULT, b"b", b"zz");
        assert!(refused(&mut to, empty(&*target.engine(), header)).contains("overlaps that of p3"));
        assert_eq!(dump(&*target.engine()), before);
        to.install(whole()).expect("the machine lives, and takes the right one");
    }
}

/// A complete import without rows.
fn empty(engine: &dyn Engine, header: Header) -> Import {
    let mut import = Import::begin(engine, header).expect("begins");
    while let Some(from) = import.next().map(Bytes::copy_from_slice) {
        let to = Bytes::copy_from_slice(import.end().expect("an end"));
        import.add(&Chunk { from, to, rows: Rows::default() }).expect("adds");
    }
    import
}

#[test]
fn a_destroyed_replica_is_gone_and_never_comes_back() {
    for on in BOTH {
        let mut place = Place::new(on);
        let other = neighbour(&place.engine());
        place.engine().flush().expect("flushes");
        let without = dump(&*place.engine());
        drop(stale(&place.engine()));
        place.engine().flush().expect("flushes");
        assert_eq!(Machine::destroy(&*place.engine(), PartitionId(2)).expect("destroys").map(|was| was.id), Some(PartitionId(2)));
        drop(other);
        for crash in [false, true] {
            if crash {
                place.crash();
            }
            let engine = place.engine();
            let left: Vec<_> = dump(&*engine).into_iter().filter(|row| !without.contains(row)).map(|(key, _)| key).collect();
            assert_eq!(left, [Key::<&[u8]>::Tombstone { partition: PartitionId(2) }.encode()], "on {on:?}");
            assert_eq!(Machine::list(&*engine).expect("lists"), [PartitionId(3)]);
            assert_eq!(Machine::tombstone(&*engine, PartitionId(2)).expect("reads"), Some(ReplicaId(5)));
            for old in [1, 5] {
                let error = Machine::create(engine.clone(), descriptor(), ReplicaId(old)).expect_err("refused").to_string();
                assert!(error.contains("p2 had replica r5 here, which was removed"), "{error}");
            }
            assert!(Machine::destroy(&*engine, PartitionId(2)).expect("nothing to do").is_none());
        }
        let engine = place.engine();
        let wide = Descriptor { range: KeyRange::in_namespace(NamespaceId::DEFAULT, b"b", b"zz"), ..descriptor() };
        let error = Machine::create(engine.clone(), wide, ReplicaId(6)).expect_err("refused").to_string();
        assert!(error.contains("overlaps that of p3"), "{error}");
        // A newer one begins with nothing; when it goes too, the tombstone rises.
        let machine = Machine::create(engine.clone(), descriptor(), ReplicaId(6)).expect("creates");
        assert_eq!((rows_at(&machine, None), machine.floor(), machine.sessions().len()), (vec![], None, 0));
        Machine::destroy(&*engine, PartitionId(2)).expect("destroys");
        assert_eq!(Machine::tombstone(&*engine, PartitionId(2)).expect("reads"), Some(ReplicaId(6)));
    }
}

/// A disk that fills while the last step is made: nothing is lost, and it works when there is room.
#[test]
fn a_full_disk_leaves_the_old_state_and_a_machine_that_lives() {
    let memory = kontiki_storage::engine::MemoryEngine::new();
    let engine: Arc<dyn Engine> = memory.clone();
    let source = Place::new(On::Memory);
    let from = filled(&source.engine());
    let mut to = stale(&engine);
    let before = dump(&*engine);
    let first = import(&export(&from, &*source.engine()), &*engine, 60);
    memory.fail_next(std::io::ErrorKind::StorageFull);
    assert!(to.install(first).expect_err("the disk is full").is_disk_full());
    assert_eq!(dump(&*engine), before);
    apply(&mut to, &puts(&[("d", "goes on")]));
    to.install(import(&export(&from, &*source.engine()), &*engine, 60)).expect("there is room again");
    memory.fail_next(std::io::ErrorKind::StorageFull);
    assert!(Machine::destroy(&*engine, PartitionId(2)).expect_err("the disk is full").is_disk_full());
    assert!(Machine::open(engine.clone(), PartitionId(2)).expect("opens").is_some());
}

#[test]
fn golden_header() {
    let header = Header {
        descriptor: Descriptor::new(PartitionId(2), KeyRange::new("b", "y"), &[NodeId(1)]),
        applied_index: 7,
        clock: Version(9),
        horizon: Version(5),
        position: Some(Bytes::from_static(b"p")),
        membership: None,
    };
    assert_eq!(hex::encode(header.encode()), "010201620179010100010101010207090101700005");
    assert_eq!(Header::decode(&header.encode()).expect("decodes"), header);
    for cut in 0..header.encode().len() {
        assert!(Header::decode(&header.encode()[..cut]).is_err(), "cut at {cut}");
    }
}

fn check(plans: &[Plan], on: On, bytes_max: usize, flush: bool) {
    let (source, target) = (Place::new(on), Place::new(On::Rocks));
    let mut from = Machine::create(source.engine(), descriptor(), ReplicaId(1)).expect("creates");
    let mut model = Model::new();
    let mut clocks = vec![];
    for plan in plans {
        let command = model.resolve(plan);
        model.apply(command.as_ref());
        let command = command.as_ref().map(encoding::encode);
        let entry = Entry { index: from.applied_index() + 1, position: b"p", membership: None, command: command.as_deref() };
        from.apply(&[entry]).expect("applies");
        clocks.push(model.clock);
    }
    let mut to = stale(&target.engine());
    if to.applied_index() > from.applied_index() {
        return;
    }
    if flush {
        target.engine().flush().expect("flushes");
    }
    let import = import(&export(&from, &*source.engine()), &*target.engine(), bytes_max);
    to.install(import).expect("installs");
    for at in clocks {
        if at >= model.horizon {
            assert_eq!(rows_at(&to, Some(at)), model.rows(at));
        }
    }
    assert_eq!(to.sessions(), from.sessions());
    let data = |engine: Arc<dyn Engine>| {
        dump(&*engine).into_iter().filter(|(key, _)| matches!(key[0], 2 | 3 | 0x10)).collect::<Vec<_>>()
    };
    assert_eq!(data(target.engine()), data(source.engine()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_done_arrives(plans in any_plans(30), rocks: bool, bytes_max in 0..2000usize, flush: bool) {
        check(&plans, if rocks { On::Rocks } else { On::Memory }, bytes_max, flush);
    }

    #[test]
    fn any_bytes_are_rows_or_a_fault(bytes: Vec<u8>) {
        if let Ok(rows) = Rows::new(bytes.clone().into()) {
            prop_assert_eq!(rows.iter().count(), rows.len());
            prop_assert_eq!(&raw(&rows.iter().collect::<Vec<_>>()), &bytes);
        }
        let _ = Header::decode(&bytes);
    }
}

/// Leftovers of an interrupted start are removed when the engine is opened, and a table that is damaged before it is installed is found.
#[test]
#[allow(clippy::disallowed_methods, reason = "this test looks at files")]
fn staged_files_lie_in_the_engines_directory_and_are_cleared() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = common::open(dir.path());
    let staging = dir.path().join("staging");
    let mut stage = engine.stage().expect("stages");
    stage.replace(b"a", b"b").expect("begins");
    stage.put(b"a", b"1").expect("adds");
    stage.replace(b"x", b"y").expect("writes the first");
    let files = || std::fs::read_dir(&staging).map_or(0, |entries| entries.count());
    assert_eq!(files(), 1);
    std::mem::forget(stage.install());
    assert_eq!(files(), 0, "installed: nothing is left");
    let left = staging.join("0");
    std::fs::create_dir_all(&left).expect("creates");
    std::fs::write(left.join("1.sst"), "half a file").expect("writes");
    drop(engine);
    let engine = common::open(dir.path());
    assert!(!staging.exists(), "cleared at the start");
    assert_eq!(engine.get(b"a").expect("reads").as_deref(), Some(&b"1"[..]));

    let mut stage = engine.stage().expect("stages");
    stage.replace(b"a", b"b").expect("begins");
    stage.put(b"a", b"2").expect("adds");
    stage.replace(b"x", b"y").expect("writes the first");
    let table = std::fs::read_dir(&staging).expect("lists").next().expect("one").expect("an entry").path().join("1.sst");
    std::fs::write(&table, "damaged").expect("writes");
    stage.install().expect_err("the table is damaged");
    assert_eq!(engine.get(b"a").expect("reads").as_deref(), Some(&b"1"[..]));
    let mut batch = Batch::new();
    batch.put(b"a", b"3");
    engine.write(&batch).and_then(|()| engine.flush()).expect("the engine lives");
    assert_eq!(files(), 0, "failed: nothing is left");
}
