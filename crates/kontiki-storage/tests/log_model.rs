//! Random records against a model, with restarts and crashes, shrunk by proptest; and random bytes in the place of segments.

#[path = "log/model.rs"]
mod model;

use kontiki_storage::disk::{Disk, SimulatedDisk};
use kontiki_storage::log::LogOptions;
use model::{Model, Random, open};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// Writes records drawn from a seed.
    Write(u64),
    Sync,
    Prepare,
    Kill,
    /// Loses what was not synced.
    Crash,
    /// Reads a part: group, start, length, byte limit.
    Read(u64, u64, u64, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any::<u64>().prop_map(Step::Write),
        4 => Just(Step::Sync),
        1 => Just(Step::Prepare),
        1 => Just(Step::Kill),
        1 => Just(Step::Crash),
        3 => (1..4u64, 0..40u64, 0..20u64, 0..500usize).prop_map(|(group, from, count, bytes)| Step::Read(group, from, count, bytes)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_does_what_the_model_does(
        steps in prop::collection::vec(step(), 1..80),
        segment_bytes in 1024..3000u64,
        spare_segments in 0..3usize,
        frame_bytes_max in prop_oneof![Just(100), Just(1 << 20)],
    ) {
        let options = LogOptions { segment_bytes, spare_segments, frame_bytes_max };
        let disk = SimulatedDisk::new(0);
        let (mut log, _) = open(&disk, &options).expect("opens");
        let (mut model, mut synced) = (Model::default(), Model::default());
        for step in steps {
            match step {
                Step::Write(seed) => {
                    let records = Random(seed).records(&mut model);
                    log.write(&records).expect("writes");
                }
                Step::Sync => {
                    log.sync().expect("syncs");
                    synced = model.clone();
                }
                Step::Prepare => log.prepare_spare().expect("prepares"),
                Step::Kill | Step::Crash => {
                    let crash = matches!(step, Step::Crash);
                    if crash {
                        // Everything or nothing of what was not synced, by a sync or none.
                        if segment_bytes % 2 == 0 {
                            log.sync().expect("syncs");
                            synced = model.clone();
                        }
                        disk.lose_unsynced();
                    }
                    let (reopened, recovered) = open(&disk, &options).expect("opens again");
                    log = reopened;
                    if !crash || synced.equals(&log.reader(), &recovered) {
                        if crash {
                            model = synced.clone();
                        }
                        prop_assert!(model.equals(&log.reader(), &recovered), "{recovered:#?}");
                        synced = model.clone();
                    } else {
                        // A roll made more durable than was promised: log_crash.rs checks that it is a prefix. Begin anew.
                        return Ok(());
                    }
                }
                Step::Read(group, from, count, bytes_max) => {
                    let group = kontiki_types::PartitionId(group);
                    let found = log.reader().read(group, from..from + count, bytes_max).expect("reads");
                    let entries = model.groups.get(&group).map(|group| group.entries.clone()).unwrap_or_default();
                    let mut bytes = 0;
                    let expected: Vec<_> = entries
                        .range(from..from + count)
                        .enumerate()
                        .take_while(|(at, (_, value))| {
                            bytes += value.len();
                            *at == 0 || bytes <= bytes_max
                        })
                        .map(|(_, (index, value))| (*index, value.clone()))
                        .collect();
                    prop_assert_eq!(found, expected);
                }
            }
        }
        model.check_entries(&log.reader(), "in the end");
    }

    #[test]
    fn any_bytes_in_a_segment_give_an_error_or_a_log(bytes: Vec<u8>, at in 0..1200usize) {
        let options = LogOptions { segment_bytes: 1024, ..LogOptions::default() };
        let disk = SimulatedDisk::new(0);
        let (mut log, _) = open(&disk, &options).expect("opens");
        let mut model = Model::default();
        log.write(&Random(7).records(&mut model)).and_then(|()| log.sync()).expect("writes");
        drop(log);
        let name = disk.list().expect("lists").into_iter().find(|name| name.ends_with(".segment")).expect("there is one");
        disk.open(&name, false).expect("opens").write_at(at as u64, &bytes).expect("writes");
        let _ = open(&disk, &options);
    }
}
