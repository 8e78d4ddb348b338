//! Availability, on times that a person can add up.

use kontiki_checker::availability::{Row, Window, report};
use kontiki_checker::history::{Call, Operation, Outcome, Reply};

fn put(group: u64, start_us: u64, end_us: u64, ok: bool) -> Operation {
    let outcome = if ok { Outcome::Ok { reply: Reply::Done, version: None } } else { Outcome::Unknown { error: "?".into() } };
    let call = Call::Put { value: "v".into() };
    let (key, group) = ("k".into(), Some(group));
    Operation { process: 1, key, call, outcome, start_us, end_us: Some(end_us), group, session: None, stale: false }
}

fn window(from_us: u64, to_us: u64) -> Window {
    Window { name: "leader alone".into(), from_us, to_us }
}

fn only(rows: Vec<Row>) -> Row {
    let [row] = rows.try_into().expect("one row");
    row
}

#[test]
fn the_longest_gap_reaches_from_the_fault_to_the_recovery() {
    let history = [
        put(4, 0, 90, true),
        put(4, 95, 130, true),    // called before the fault, acknowledged in it
        put(4, 140, 900, false),  // nobody knows
        put(4, 300, 350, true),   // served in the fault
        put(4, 450, 620, true),   // called in the fault, acknowledged after it
        put(4, 700, 1450, true),  // the first that was called after it
        put(4, 1500, 1501, true), // too late to matter
    ];
    let row = only(report(&history, &[window(100, 500)], 2000, |_| true));
    assert_eq!((row.group, row.successes), (Some(4), 4));
    assert_eq!((row.longest_gap_us, row.gap_from_us), (830, 620));
    assert_eq!((row.first_success_us, row.recovery_us), (Some(250), Some(950)));
    assert_eq!(row.to_string(), "leader alone, partition 4: longest gap 0.8 ms, recovered after 0.9 ms");
}

#[test]
fn what_never_comes_back_is_told_and_counted_to_the_end() {
    let history = [put(4, 0, 90, true), put(4, 250, 400, false), put(4, 260, 300, true)];
    let row = only(report(&history, &[window(100, 280)], 5000, |_| true));
    assert_eq!((row.longest_gap_us, row.gap_from_us, row.recovery_us), (4700, 300, None));
    assert!(row.to_string().ends_with("never recovered"), "{row}");
    // Nothing but failures: a row all the same.
    let row = only(report(&history[1..2], &[window(100, 280)], 5000, |_| true));
    assert_eq!((row.successes, row.longest_gap_us, row.first_success_us), (0, 4900, None));
}

#[test]
fn partitions_and_windows_are_told_apart_and_calls_can_be_picked() {
    let mut history = vec![put(1, 110, 120, true), put(2, 350, 400, true), put(1, 500, 510, true), put(2, 500, 510, true)];
    let windows = [window(100, 100), window(450, 460)];
    let rows = report(&history, &windows, 600, |_| true);
    let gaps: Vec<_> = rows.iter().map(|row| (row.group, row.longest_gap_us, row.recovery_us)).collect();
    assert_eq!(gaps, [(Some(1), 20, Some(20)), (Some(1), 60, Some(50)), (Some(2), 300, Some(300)), (Some(2), 60, Some(50))]);
    history.push(Operation { call: Call::Get, ..put(2, 101, 102, true) });
    let writes = report(&history, &windows[..1], 600, |operation| operation.call.changes());
    assert_eq!(writes[1].recovery_us, Some(300));
    assert_eq!(report(&history, &windows[..1], 600, |_| true)[1].recovery_us, Some(2));
}
