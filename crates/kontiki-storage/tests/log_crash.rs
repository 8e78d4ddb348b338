//! Power cuts at every call that a log makes to its disk, and the disk's other faults. What must hold, in one sentence: after any
//! crash the log holds exactly what a prefix of the writes leaves, and that prefix holds everything that was synced.
//! (So a vote that is found proves the appends before it, nothing is invented, and no write is found in part.)

#[path = "log/model.rs"]
mod model;

use bytes::Bytes;
use kontiki_storage::disk::{Disk, FileDisk, SimulatedDisk};
use kontiki_storage::log::{Log, LogOptions, Record, Recovered};
use kontiki_types::{Fault, PartitionId};
use model::{Model, Random, open};

/// A workload that runs until it is done or the disk fails it.
struct Run {
    disk: SimulatedDisk,
    options: LogOptions,
    random: Random,
    /// What the log may hold: after each write begun (or each record of it, if a write takes several frames).
    prefixes: Vec<Model>,
    /// The first of `prefixes` that may be found: what was synced last.
    synced: usize,
}

fn options(seed: u64) -> LogOptions {
    let frame_bytes_max = if seed.is_multiple_of(3) { 200 } else { 1 << 20 };
    LogOptions { segment_bytes: 1024 + 512 * (seed % 3 % 2), spare_segments: (seed % 5).min(3) as usize, frame_bytes_max }
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            disk: SimulatedDisk::new(seed),
            options: options(seed),
            random: Random(seed),
            prefixes: vec![Model::default()],
            synced: 0,
        }
    }

    fn newest(&self) -> Model {
        self.prefixes.last().expect("there is always one").clone()
    }

    fn write(&mut self, log: &mut Log) -> Result<(), Fault> {
        let mut model = self.newest();
        let records = self.random.records(&mut model);
        if self.options.frame_bytes_max < 1000 {
            let mut partial = self.newest();
            for record in &records {
                partial.apply(record);
                self.prefixes.push(partial.clone());
            }
        }
        self.prefixes.push(model);
        log.write(&records)
    }

    fn sync(&mut self, log: &mut Log) -> Result<(), Fault> {
        log.sync()?;
        self.synced = self.prefixes.len() - 1;
        Ok(())
    }

    fn steps(&mut self, log: &mut Log, count: u64) -> Result<(), Fault> {
        for _ in 0..count {
            match self.random.below(10) {
                0..6 => self.write(log)?,
                6..9 => self.sync(log)?,
                _ => log.prepare_spare()?,
            }
        }
        Ok(())
    }

    fn whole(&mut self, count: u64) -> Result<Log, Fault> {
        let (mut log, _) = open(&self.disk, &self.options)?;
        self.steps(&mut log, count)?;
        Ok(log)
    }

    /// Asserts that what was recovered is one of the prefixes, from the synced one on, and goes on from there.
    fn check(&mut self, log: &Log, recovered: &Recovered, context: &str) {
        let reader = log.reader();
        let found = (self.synced..self.prefixes.len()).find(|at| self.prefixes[*at].equals(&reader, recovered));
        let Some(found) = found else {
            let anywhere = self.prefixes.iter().position(|prefix| prefix.equals(&reader, recovered));
            panic!("{context}: recovered no prefix from {} on, but {anywhere:?}: {recovered:#?}", self.synced);
        };
        // A successful open promises that what it returned is durable.
        self.prefixes = vec![self.prefixes[found].clone()];
        self.synced = 0;
    }

    fn reopen(&mut self, context: &str) -> Log {
        let (log, recovered) = open(&self.disk, &self.options).unwrap_or_else(|fault| panic!("{context}: {fault}"));
        self.check(&log, &recovered, context);
        log
    }
}

const STEPS: u64 = 60;

/// Cuts the power at every call of a workload; then again, somewhere in the recovery; then goes on working.
fn cut_everywhere(seed: u64) -> u64 {
    let mut complete = Run::new(seed);
    complete.whole(STEPS).expect("nothing fails without faults");
    let calls = complete.disk.operations();
    for at in 0..calls {
        let context = format!("seed {seed}, power cut at call {at} of {calls}");
        let mut run = Run::new(seed);
        run.disk.cut_power_after(at);
        assert!(run.whole(STEPS).is_err(), "{context}: the cut is noticed");
        // The process dies with the power, or alone: then the page cache lives until the next cut.
        let (killed, again) = (run.random.below(3) == 0, run.random.below(16));
        if killed {
            run.disk.restart();
        } else {
            run.disk.crash();
        }
        // Again while recovering, or just after. If the log opened, that state is promised from now on.
        run.disk.cut_power_after(again);
        if let Ok((log, recovered)) = open(&run.disk, &run.options) {
            run.check(&log, &recovered, &format!("{context}, then opened with a cut ahead"));
        }
        run.disk.crash();
        let mut log = run.reopen(&format!("{context}, then {again} in the recovery"));
        // And on: what is synced now survives the loss of everything that is not.
        run.steps(&mut log, 30).unwrap_or_else(|fault| panic!("{context}, going on: {fault}"));
        run.sync(&mut log).unwrap_or_else(|fault| panic!("{context}, going on: {fault}"));
        run.disk.lose_unsynced();
        let log = run.reopen(&format!("{context}, in the end"));
        run.newest().check_entries(&log.reader(), &context);
    }
    calls
}

#[test]
fn power_may_fail_at_every_call() {
    let calls: u64 = (0..40).map(cut_everywhere).sum();
    assert!(calls > 5000, "only {calls} calls were cut");
}

/// A process that dies leaves the page cache: nothing that was written is lost, and then the power may fail.
#[test]
fn a_killed_process_loses_nothing_that_it_wrote() {
    for seed in 0..300 {
        let mut run = Run::new(seed);
        drop(run.whole(STEPS).expect("nothing fails without faults"));
        run.synced = run.prefixes.len() - 1;
        drop(run.reopen(&format!("seed {seed}, killed")));
        run.disk.crash();
        run.reopen(&format!("seed {seed}, killed, opened, power cut"));
    }
}

/// After a failed fsync every call fails, for ever; what was synced before is there after a restart, with or without a power cut.
#[test]
fn a_failed_sync_ends_the_log_and_loses_nothing_that_was_synced() {
    for seed in 0..300 {
        let context = format!("seed {seed}");
        let mut run = Run::new(seed);
        let mut log = run.whole(20 + seed % 30).expect("nothing fails without faults");
        run.write(&mut log).expect("writes");
        run.disk.fail_next_sync();
        assert!(log.sync().is_err(), "{context}");
        for _ in 0..3 {
            assert!(log.sync().is_err() && log.write(&[]).is_err(), "{context}: the log has ended");
        }
        drop(log);
        if seed % 2 == 0 {
            run.disk.crash();
        }
        drop(run.reopen(&context));
        run.disk.crash();
        run.reopen(&format!("{context}, and a power cut after the restart"));
    }
}

/// A full disk refuses whole writes; the log is as before and goes on when there is room.
#[test]
fn a_full_disk_ends_nothing_that_it_refused_whole() {
    let (mut refused, mut ended) = (0, 0);
    for seed in 0..300 {
        let context = format!("seed {seed}");
        let mut run = Run::new(seed);
        let mut log = run.whole(20).expect("nothing fails without faults");
        run.disk.full(Some(run.disk.used_bytes() + seed % 20 * 512));
        for _ in 0..30 {
            let before = (run.prefixes.clone(), run.options.frame_bytes_max);
            match run.write(&mut log) {
                Ok(()) => {}
                Err(fault) => {
                    assert!(fault.is_disk_full(), "{context}: {fault}");
                    if log.sync().is_err() {
                        assert!(run.options.frame_bytes_max < 1000, "{context}: a write of one frame is refused whole");
                        ended += 1;
                        break;
                    }
                    refused += 1;
                    run.prefixes = before.0;
                    run.newest().check_entries(&log.reader(), &context);
                    if run.random.below(4) == 0 {
                        run.disk.full(None);
                    }
                }
            }
        }
        run.disk.full(None);
        if run.sync(&mut log).is_ok() {
            run.newest().check_entries(&log.reader(), &context);
        }
        drop(log);
        run.disk.lose_unsynced();
        run.reopen(&context);
    }
    assert!(refused > 100, "only {refused} writes were refused");
    assert!(ended < refused, "{ended} logs ended, {refused} writes were refused");
}

/// Any one bit of any file flips while the log is closed: then the log does not open, or holds what it should; only the last frame
/// cannot be told from a torn one.
#[test]
fn a_flipped_bit_is_found_or_harms_nothing() {
    for seed in [1, 2] {
        let build = || {
            let mut run = Run::new(seed);
            let mut log = run.whole(25).expect("nothing fails without faults");
            run.sync(&mut log).expect("syncs");
            run.write(&mut log).expect("writes");
            run.sync(&mut log).expect("syncs");
            // The frame before the last is proven durable by the last one.
            run.synced = run.prefixes.len() - 2;
            run
        };
        let names = build().disk.list().expect("lists");
        let mut found = 0;
        for name in names.iter().filter(|name| name.ends_with(".segment")) {
            let run = build();
            let bytes = run.disk.open(name, false).and_then(|file| file.len()).expect("length");
            for byte in 0..bytes {
                let mut run = build();
                let context = format!("seed {seed}, {name}, byte {byte}");
                run.disk.flip_bit(name, byte * 8 + byte % 8).expect("flips");
                match open(&run.disk, &run.options) {
                    Ok((log, recovered)) => run.check(&log, &recovered, &context),
                    Err(fault) => {
                        found += 1;
                        assert!(fault.to_string().contains(name.as_str()), "{context}: the message names the file: {fault}");
                        assert!(matches!(fault, Fault::Corrupt { .. } | Fault::Format { .. }), "{context}: {fault:?}");
                    }
                }
            }
        }
        assert!(found > 500, "only {found} flips were found");
    }
}

/// The search for good frames behind a bad one reads in pieces: none is overlooked where two pieces meet.
#[test]
fn damage_is_found_wherever_the_next_frame_starts() {
    let options = LogOptions { segment_bytes: 256 * 1024, ..LogOptions::default() };
    for length in (65_300..65_600).step_by(8) {
        let disk = SimulatedDisk::new(1);
        let (mut log, _) = open(&disk, &options).expect("opens");
        for (index, length) in [(1, length), (2, 10)] {
            let body = vec![7; length].into();
            log.write(&[Record::Entry { group: PartitionId(1), index, head: Bytes::new(), body }]).expect("writes");
            log.sync().expect("syncs");
        }
        drop(log);
        disk.flip_bit("0000000001.segment", 8 * 1000).expect("flips");
        let fault = open(&disk, &options)
            .err()
            .unwrap_or_else(|| panic!("the damage is found, with {length} bytes before the next frame"));
        assert!(fault.to_string().contains("frame 1 is bad"), "{fault}");
    }
}

/// Real files behave as simulated ones do.
#[test]
fn the_log_works_on_real_files() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = LogOptions { segment_bytes: 4096, ..LogOptions::default() };
    let (mut model, mut random) = (Model::default(), Random(1));
    for _ in 0..10 {
        let disk = FileDisk::open(&dir.path().join("log")).expect("opens");
        let (mut log, recovered) =
            Log::open(std::sync::Arc::new(disk), kontiki_types::StoreId::default(), options.clone()).expect("opens");
        assert!(model.equals(&log.reader(), &recovered), "{recovered:?}");
        for _ in 0..40 {
            let records = random.records(&mut model);
            log.write(&records).and_then(|()| log.sync()).and_then(|()| log.prepare_spare()).expect("writes");
        }
        model.check_entries(&log.reader(), "on real files");
    }
}

/// Spares are prepared by another thread while the log is written, and readers read all the time, also what is being recycled.
#[test]
#[allow(clippy::disallowed_methods, reason = "a test of threads needs threads")]
fn readers_and_the_preparing_thread_do_not_disturb_the_writer() {
    use std::sync::atomic::{AtomicBool, Ordering};

    let disk = SimulatedDisk::new(1);
    let options = LogOptions { segment_bytes: 4096, spare_segments: 2, ..LogOptions::default() };
    let (mut log, _) = open(&disk, &options).expect("opens");
    let group = PartitionId(1);
    let done = AtomicBool::new(false);
    let value = |index: u64| Bytes::from(vec![index as u8; 300]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let reader = log.reader();
            let done = &done;
            scope.spawn(move || {
                let mut read = 0;
                while !done.load(Ordering::Relaxed) || read == 0 {
                    let last = reader.last_index(group).unwrap_or_default();
                    for (index, found) in reader.read(group, last.saturating_sub(60)..u64::MAX, usize::MAX).expect("reads") {
                        assert_eq!(found, value(index));
                        read += 1;
                    }
                }
            });
        }
        let (spares, done) = (log.spares(), &done);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                spares.prepare().expect("prepares");
                std::thread::yield_now();
            }
        });
        for index in 1..3000 {
            let entry = Record::Entry { group, index, head: Bytes::new(), body: value(index) };
            log.write(&[entry]).expect("writes");
            if index % 8 == 0 {
                let purge = Record::Purge { group, upto: index.saturating_sub(50), state: Bytes::new() };
                log.write(&[purge]).and_then(|()| log.sync()).expect("writes");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(log.segments() < 10, "{} segments are left", log.segments());
}
