//! Every check is fed a good record, which passes, and records that are each wrong in one way, which do not.

use super::*;

fn operation(key: &str, value: Option<&str>, invoked_us: u64, completed_us: u64, outcome: Outcome) -> Operation {
    let action = value.map_or(Action::Read, |value| Action::Write { value: value.to_owned() });
    Operation { client: 1, key: key.to_owned(), action, invoked_us, completed_us, outcome }
}

fn write(value: &str, at: u64, version: u64) -> Operation {
    operation("k", Some(value), at, at + 5, Outcome::Ok { version, value: None })
}

fn read(value: &str, at: u64, version: u64) -> Operation {
    operation("k", None, at, at + 5, Outcome::Ok { version, value: Some(value.to_owned()) })
}

fn open(value: &str, at: u64) -> Operation {
    operation("k", Some(value), at, at + 5, Outcome::Unknown { why: "no answer".into() })
}

fn failed(value: &str, at: u64, kind: &str) -> Operation {
    operation("k", Some(value), at, at + 5, Outcome::Failed { kind: kind.into(), why: "said no".into() })
}

fn finals(value: &str, version: u64) -> Finals {
    Finals::from([("k".to_owned(), (value.to_owned(), version))])
}

#[track_caller]
fn one(violations: &[String], words: &str) {
    assert_eq!(violations.len(), 1, "{violations:#?}");
    assert!(violations[0].contains(words), "`{words}` is missing in {violations:?}");
}

fn nothing(violations: &[String]) {
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn a_register_that_behaves_passes() {
    let history =
        [write("a", 0, 1), read("a", 10, 1), open("b", 20), read("b", 30, 4), failed("x", 40, "unavailable"), write("c", 50, 7)];
    nothing(&registers(&history, &finals("c", 7)));
    // What was left open may come late, and may win.
    nothing(&registers(&history, &finals("b", 9)).into_iter().filter(|v| !v.contains("applied twice")).collect::<Vec<_>>());
    nothing(&registers(&[write("a", 0, 1), open("b", 10)], &finals("b", 9)));
    nothing(&registers(&[failed("a", 0, "unavailable")], &Finals::new()));
    // Calls that overlap may come back in any order.
    let slow = operation("k", None, 0, 100, Outcome::Ok { version: 0, value: None });
    nothing(&registers(&[write("a", 10, 1), slow], &finals("a", 1)));
}

#[test]
fn a_lost_register_write_is_found() {
    one(&registers(&[write("a", 0, 1), write("b", 10, 2)], &finals("a", 1)), "a write is lost");
    one(&registers(&[write("a", 0, 1)], &Finals::new()), "a write is lost");
}

#[test]
fn an_invented_value_and_an_invented_key_are_found() {
    one(&registers(&[write("a", 0, 1)], &finals("z", 2)), "no write of it was acknowledged");
    one(&registers(&[write("a", 0, 1), failed("f", 10, "unavailable")], &finals("f", 2)), "no write of it was acknowledged");
    let mut extra = finals("a", 1);
    extra.insert("other".into(), ("a".into(), 1));
    one(&registers(&[write("a", 0, 1)], &extra), "nobody wrote it");
}

#[test]
fn a_version_with_two_values_and_a_write_applied_twice_are_found() {
    let both =
        registers(&[write("a", 0, 1), operation("k", Some("b"), 0, 5, Outcome::Ok { version: 1, value: None })], &finals("b", 1));
    one(&both, "version 1 was seen with the value a and with b");
    one(&registers(&[write("a", 0, 1)], &finals("a", 3)), "applied twice");
}

#[test]
fn a_stale_read_and_a_write_into_the_past_are_found() {
    one(&registers(&[write("a", 0, 1), write("b", 10, 2), read("a", 20, 1)], &finals("b", 2)), "has read version 1");
    one(&registers(&[write("a", 0, 5), write("b", 10, 3)], &finals("a", 5)), "has written version 3");
}

#[test]
fn counters_hold_between_acknowledged_and_open() {
    let history = [write("1", 0, 1), open("2", 10), failed("2", 20, "condition_failed"), write("2", 30, 3)];
    nothing(&counters(&history, &finals("2", 3)));
    nothing(&counters(&history, &finals("3", 4)));
    one(&counters(&history, &finals("1", 1)), "some are lost");
    one(&counters(&history, &finals("4", 9)), "applied twice");
    one(&counters(&history, &finals("two", 9)), "not a number");
    one(&counters(&[write("1", 0, 1), write("1", 10, 2)], &finals("2", 2)), "updates are lost");
    one(&counters(&[write("1", 0, 1)], &Finals::new()), "some are lost");
}

#[test]
fn a_failed_condition_of_a_lone_writer_is_found() {
    nothing(&unfailed(&[write("1", 0, 1), open("2", 10), failed("2", 20, "unavailable")]));
    one(&unfailed(&[write("1", 0, 1), failed("2", 20, "condition_failed")]), "applied twice");
}

#[test]
fn claims_are_there_once_or_not_at_all() {
    nothing(&claims(&[write("a", 0, 3)], &finals("a", 3)));
    nothing(&claims(&[open("a", 0)], &finals("a", 3)));
    nothing(&claims(&[open("a", 0)], &Finals::new()));
    nothing(&claims(&[failed("a", 0, "unavailable")], &Finals::new()));
    one(&claims(&[write("a", 0, 3)], &Finals::new()), "the store has None");
    one(&claims(&[write("a", 0, 3)], &finals("a", 4)), "at version 3");
    one(&claims(&[write("a", 0, 3)], &finals("b", 3)), "acknowledged as a");
    one(&claims(&[failed("a", 0, "condition_failed")], &finals("a", 3)), "applied twice");
    one(&claims(&[failed("a", 0, "unavailable")], &finals("a", 3)), "certainly not applied");
    one(&claims(&[open("a", 0)], &finals("b", 3)), "only a was ever written");
    one(&claims(&[], &finals("b", 3)), "nobody wrote it");
    one(&claims(&[write("a", 0, 3), write("a", 9, 4)], &finals("a", 3)), "the test is wrong");
}

#[test]
fn rows_out_of_order_or_above_the_snapshot_are_found() {
    let row = |key: &str, version| (key.to_owned(), version);
    nothing(&ordered(&[row("a", 1), row("b", 9)], 9));
    one(&ordered(&[row("b", 1), row("a", 1)], 9), "`b` comes before `a`");
    one(&ordered(&[row("a", 1), row("a", 1)], 9), "comes before");
    one(&ordered(&[row("a", 10)], 9), "above the snapshot");
}
