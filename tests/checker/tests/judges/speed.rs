//! A million operations must be judged in the time in which one waits for it. The figure is printed, not asserted: machines differ.

use std::time::{Duration, Instant};

use kontiki_checker::history::{Call, Operation, Outcome, Reply};
use kontiki_checker::linear::{Budget, Verdict, check};

use crate::simulate::Dice;

/// A store of registers, and ten clients of each kind of day: reads, puts and compare-and-sets over 1000 keys, one answer of 500 lost.
fn million(calls: u64, keys: u64, versions: bool) -> Vec<Operation> {
    let mut dice = Dice::new(7);
    let mut store = vec![(None::<String>, 0_u64); keys as usize];
    // Ten processes call at every step and take effect somewhere in it, so that all ten calls of a step overlap.
    (0..calls)
        .map(|number| {
            let step = number / 10 * 100;
            let slot = dice.below(keys) as usize;
            let (value, version) = &mut store[slot];
            let lost = dice.below(500) == 0;
            let wanted = format!("v{number}");
            let (call, changes) = match dice.below(10) {
                0..5 => (Call::Get, false),
                5..9 => (Call::Put { value: wanted.clone() }, true),
                _ => (Call::Cas { expected: value.clone(), value: wanted.clone() }, true),
            };
            if changes {
                (*value, *version) = (Some(wanted), number + 1);
            }
            let reply = if changes { Reply::Done } else { Reply::Value(value.clone()) };
            let version = (versions && *version > 0).then_some(*version);
            let outcome = if lost { Outcome::Unknown { error: "lost".into() } } else { Outcome::Ok { reply, version } };
            let (start_us, end_us) = (step + dice.below(10), Some(step + 90 + dice.below(10)));
            let (process, key) = (number % 10, format!("key-{slot:04}"));
            Operation { process, key, call, outcome, start_us, end_us, group: None, session: None, stale: false }
        })
        .collect()
}

/// For how long this thread was on a CPU, as Linux counts it: what else the machine does is not in it. Elsewhere 0.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

fn judge(name: &str, calls: u64, keys: u64, versions: bool) {
    let history = million(calls, keys, versions);
    let (began, cpu_before) = (Instant::now(), cpu());
    let report = check(&history, Budget::default());
    println!("{name}: {report}, {:?}, on the CPU {:?}", began.elapsed(), cpu().saturating_sub(cpu_before));
    assert_eq!(report.verdict(), Verdict::Linearizable, "{report}");
}

#[test]
fn a_hundred_thousand_operations() {
    judge("1000 keys, versions", 100_000, 1000, true);
    judge("1000 keys, values only", 100_000, 1000, false);
}

#[test]
#[ignore = "takes seconds; prints the figures that the head of linear.rs states"]
fn a_million_operations() {
    judge("1000 keys, versions", 1_000_000, 1000, true);
    judge("1000 keys, values only", 1_000_000, 1000, false);
    judge("one key, versions", 100_000, 1, true);
    judge("one key, values only", 10_000, 1, false);
}
