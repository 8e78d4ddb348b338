//! The machine against a model that is too simple to be wrong, on both engines: the same replies to the same commands, however
//! they are cut into applies, and the same rows at every version, in both directions, page by page.

mod common;

use bytes::Bytes;
use common::model::{Model, Plan, any_plans, descriptor};
use common::{BOTH, Place};
use kontiki_storage::machine::{Entry, Machine, MachineReader};
use kontiki_types::read::{ReadData, Scan};
use kontiki_types::{CallError, Command, KeyRange, NamespaceId, Read, Reject, Reply, Row, Version, encoding, key};
use proptest::prelude::*;

/// Applies commands that start at `index` as one call.
fn apply(machine: &mut Machine, index: u64, commands: &[Option<Command<Bytes>>]) -> Vec<Reply> {
    let encoded: Vec<_> = commands.iter().map(|command| command.as_ref().map(encoding::encode)).collect();
    let entries: Vec<Entry<'_>> = (index..)
        .zip(&encoded)
        .map(|(index, command)| Entry { index, position: b"p", membership: None, command: command.as_deref() })
        .collect();
    machine.apply(&entries).expect("applies").replies
}

/// Reads a whole range in pages.
fn scan(reader: &MachineReader, at: Version, reverse: bool, rows_max: u32, keys_only: bool) -> Vec<Row> {
    let mut range: KeyRange = reader.descriptor().range.clone();
    let mut all = Vec::new();
    loop {
        let scan = Scan { range: range.clone(), reverse, keys_only, rows_max, bytes_max: 400 };
        let ReadData::Page { rows, resume } = reader.read(&Read::Scan(scan), Some(at)).expect("reads").data else {
            panic!("a scan gives a page")
        };
        assert!(rows.len() <= rows_max as usize);
        all.extend(rows);
        match resume {
            None => return all,
            Some(resume) if reverse => range.end = resume,
            Some(resume) => range.start = resume,
        }
    }
}

fn check_reads(reader: &MachineReader, model: &Model, at: Version) {
    assert_eq!(reader.horizon(), model.horizon);
    if at < model.horizon {
        let refused = reader.read(&Read::Clock, Some(at)).expect_err("too old");
        let expected = Reject::VersionTooOld { version: at, oldest: model.horizon };
        assert!(matches!(refused, CallError::Reject(reject) if reject == expected));
        return;
    }
    let mut expected = model.rows(at);
    assert_eq!(scan(reader, at, false, 100, false), expected);
    assert_eq!(scan(reader, at, false, 2, false), expected);
    // One key that is never there: a get names at least one.
    let never = key::internal(NamespaceId::DEFAULT, b"never written");
    let keys = model.rows(Version::MAX).into_iter().map(|row| row.key).chain([never]).collect::<Vec<_>>();
    let ReadData::Values(values) = reader.read(&Read::Get { keys: keys.clone() }, Some(at)).expect("reads").data else {
        panic!("a get gives values")
    };
    for (key, value) in keys.iter().zip(values) {
        assert_eq!(value.as_ref(), expected.iter().find(|row| row.key == key));
    }
    expected.reverse();
    assert_eq!(scan(reader, at, true, 3, false), expected);
    for row in &mut expected {
        row.value = Bytes::new();
    }
    assert_eq!(scan(reader, at, true, 1, true), expected);
}

fn check(plans: &[Plan], cuts: &[usize], flush: bool, compact: &[bool]) {
    for on in BOTH {
        let place = Place::new(on);
        let mut machine = Machine::create(place.engine(), descriptor(), kontiki_types::ReplicaId(1)).expect("creates");
        let reader = machine.reader();
        let mut model = Model::new();
        let mut clocks = vec![Version::ZERO];
        let (mut index, mut cuts, mut compact) = (1, cuts.iter().cycle(), compact.iter().cycle());
        let mut rest = plans;
        while !rest.is_empty() {
            let (batch, tail) = rest.split_at((*cuts.next().expect("endless")).min(rest.len()));
            rest = tail;
            let mut commands = Vec::new();
            let mut expected = Vec::new();
            for plan in batch {
                let command = model.resolve(plan);
                expected.push(model.apply(command.as_ref()));
                commands.push(command);
            }
            assert_eq!(apply(&mut machine, index, &commands), expected, "on {on:?}, entries from {index}: {commands:#?}");
            index += batch.len() as u64;
            assert_eq!((reader.clock(), reader.applied_index()), (model.clock, index - 1));
            clocks.push(model.clock);
            if flush {
                place.engine().flush().expect("flushes");
            }
            if *compact.next().expect("endless") {
                place.engine().compact(b"", b"").expect("compacts");
                clocks.iter().for_each(|at| check_reads(&reader, &model, *at));
            }
        }
        for at in &clocks {
            check_reads(&reader, &model, *at);
        }
        let reopened = Machine::open(place.engine(), descriptor().id).expect("opens").expect("is there");
        assert_eq!(reopened.sessions(), machine.sessions());
        assert_eq!(reopened.descriptor(), machine.descriptor());
        check_reads(&reopened.reader(), &model, model.clock);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_machine_does_what_the_model_does(plans in any_plans(40), cuts in prop::collection::vec(1..6usize, 4), flush in prop::bool::weighted(0.2), compact in prop::collection::vec(prop::bool::weighted(0.3), 7)) {
        check(&plans, &cuts, flush, &compact);
    }
}
