//! The checker and the reference must agree on every short history; long ones that are linearizable must be accepted. A seed that
//! fails prints the history as lanes.

use kontiki_checker::history::{self, Call, Operation, Outcome};
use kontiki_checker::linear::{Budget, Verdict, check};
use kontiki_checker::timeline;

use crate::naive::Judge;
use crate::simulate::{Dice, KINDS, Kind, Plan, execution, spoil};

fn short(seed: u64, dice: &mut Dice) -> Plan {
    Plan {
        kind: KINDS[(seed % 4) as usize],
        keys: 1 + dice.below(8) / 7,
        processes: 2 + dice.below(3),
        calls: 2 + dice.below(5),
        lost: dice.below(3) * 20,
        versions: dice.percent(50),
        long: 1 + dice.below(12),
    }
}

/// A call that comes after all others, and whose answer is lost: it changes no verdict.
fn late(number: u64, like: &Operation) -> Operation {
    let element = format!("late{number}");
    let call = match &like.call {
        Call::Increment | Call::Count => Call::Increment,
        Call::Add { .. } | Call::Members => Call::Add { element },
        Call::Append { .. } | Call::Lists => Call::Append { list: "l0".to_owned(), element },
        _ => Call::Put { value: element },
    };
    let outcome = Outcome::Unknown { error: String::new() };
    let (process, start_us) = (5000 + number, 1_000_000);
    Operation { process, call, outcome, start_us, end_us: None, ..like.clone() }
}

#[test]
fn the_checker_agrees_with_trying_every_order() {
    let (mut accepted, mut rejected) = ([0_u32; 4], [0_u32; 4]);
    for seed in 0..40_000 {
        let mut dice = Dice::new(seed);
        let mut history = execution(short(seed, &mut dice), &mut dice);
        let spoiled = dice.below(4);
        for _ in 0..spoiled {
            spoil(&mut history, &mut dice);
        }
        let expected = Judge::Right.accepts(&history);
        let report = check(&history, Budget::default());
        let verdict = if expected { Verdict::Linearizable } else { Verdict::Violated };
        assert_eq!(report.verdict(), verdict, "seed {seed}: {report}\n{}", timeline::render(&history));
        // In a longer record the checker does not keep values apart that nobody has read.
        let late = (0..12).map(|number| late(number, &history[0]));
        let longer: Vec<_> = history.iter().cloned().chain(late).collect();
        let report = check(&longer, Budget::default());
        assert_eq!(report.verdict(), verdict, "seed {seed}, longer: {report}\n{}", timeline::render(&history));
        assert!(expected || spoiled > 0, "seed {seed}: the simulation itself is not linearizable");
        let count = if expected { &mut accepted } else { &mut rejected };
        count[(seed % 4) as usize] += 1;
    }
    // A comparison over histories that are all good, or all bad, would compare nothing.
    for (kind, (accepted, rejected)) in KINDS.iter().zip(accepted.iter().zip(&rejected)) {
        assert!(*accepted > 3000 && *rejected > 1000, "{kind:?}: {accepted} accepted, {rejected} rejected");
    }
}

#[test]
fn long_linearizable_executions_are_accepted() {
    for seed in 0..200 {
        let mut dice = Dice::new(seed);
        let kind = KINDS[(seed % 4) as usize];
        // Without versions every order of the writes that overlap is possible, so fewer overlap.
        let versions = dice.percent(50);
        let processes = if versions || kind != Kind::Register { 8 } else { 5 };
        let plan = Plan { kind, keys: 1 + dice.below(3), processes, calls: 400, lost: dice.below(20), versions, long: 12 };
        let history = execution(plan, &mut dice);
        history::validate(&history).expect("well-formed");
        let report = check(&history, Budget::default());
        assert_eq!(report.verdict(), Verdict::Linearizable, "seed {seed}, {plan:?}: {report}");
    }
}

#[test]
fn many_calls_without_an_answer_cost_little() {
    for seed in 0..8 {
        let mut dice = Dice::new(seed);
        let kind = KINDS[(seed % 4) as usize];
        let plan = Plan { kind, keys: 1, processes: 4, calls: 4000, lost: 25, versions: seed < 4, long: 6 };
        let history = execution(plan, &mut dice);
        let report = check(&history, Budget { configurations: 1_000_000 });
        println!("seed {seed}, {plan:?}: {report}");
        assert_eq!(report.verdict(), Verdict::Linearizable, "seed {seed}, {plan:?}: {report}");
    }
}

#[test]
fn a_search_that_is_given_up_is_undecided() {
    let mut dice = Dice::new(1);
    let plan = Plan { kind: Kind::Register, keys: 1, processes: 8, calls: 200, lost: 0, versions: false, long: 12 };
    let history = execution(plan, &mut dice);
    let enough = check(&history, Budget::default());
    assert_eq!(enough.verdict(), Verdict::Linearizable, "{enough}");
    let report = check(&history, Budget { configurations: enough.configurations - 1 });
    assert_eq!(report.verdict(), Verdict::Undecided, "{report}");
    assert!(report.to_string().contains("larger budget"), "{report}");
}

#[test]
fn a_record_that_cannot_be_judged_is_undecided() {
    let lane = |text: &str| timeline::parse(text).expect("parses");
    let mut busy = lane("p1  [put x 1]  [get x 1]\np2     [put x 2]");
    busy[1].process = 1;
    let mixed = lane("p1  [put x 1]  [inc x]");
    for (history, words) in [(busy, "while it waits"), (mixed, "a key is one object")] {
        let report = check(&history, Budget::default());
        assert_eq!(report.verdict(), Verdict::Undecided, "{report}");
        assert!(report.to_string().contains(words), "{report}");
    }
    let others = lane("p1  [put x 1]  [get~ x 7]  [snapshot x x=9@9 @9]");
    let report = check(&others, Budget::default());
    assert_eq!((report.verdict(), report.calls, report.left_out), (Verdict::Linearizable, 1, 2));
    assert!(report.to_string().contains("2 stale reads and snapshots are not judged here"), "{report}");
}

#[test]
fn what_is_drawn_and_read_back_gives_the_same_verdict() {
    for seed in 0..4000 {
        let mut dice = Dice::new(seed);
        let mut history = execution(short(seed, &mut dice), &mut dice);
        spoil(&mut history, &mut dice);
        let text = timeline::render(&history);
        let again = timeline::parse(&text).unwrap_or_else(|why| panic!("seed {seed}: {why}\n{text}"));
        let verdict = |history: &[history::Operation]| check(history, Budget::default()).verdict();
        assert_eq!(verdict(&again), verdict(&history), "seed {seed}:\n{text}\n{}", timeline::render(&again));
    }
}
