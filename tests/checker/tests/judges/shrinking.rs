//! Explanations: whatever may be dropped leaves a linearizable history linearizable, and what is left of a bad one is bad.

use kontiki_checker::explain::{explain, may_drop};
use kontiki_checker::history::Operation;
use kontiki_checker::linear::{Budget, Verdict, check};
use kontiki_checker::timeline;

use crate::naive::Judge;
use crate::simulate::{Dice, KINDS, Plan, execution, spoil};

#[test]
fn what_may_be_dropped_does_not_make_a_good_history_bad() {
    let mut dropped_writes = 0;
    for seed in 0..20_000 {
        let mut dice = Dice::new(seed);
        let kind = KINDS[(seed % 4) as usize];
        let versions = dice.percent(50);
        let plan = Plan { kind, keys: 1, processes: 3, calls: 8, lost: 15, versions, long: 8 };
        let history = execution(plan, &mut dice);
        let (kept, dropped): (Vec<&Operation>, Vec<&Operation>) = history.iter().partition(|_| dice.percent(60));
        if !may_drop(&dropped, &kept) {
            continue;
        }
        dropped_writes += dropped.iter().filter(|operation| operation.may_have_applied()).count();
        let kept: Vec<Operation> = kept.into_iter().cloned().collect();
        let report = check(&kept, Budget::default());
        let whole = timeline::render(&history);
        assert_eq!(report.verdict(), Verdict::Linearizable, "seed {seed}: {report}\n{whole}\n{}", timeline::render(&kept));
    }
    assert!(dropped_writes > 2000, "only {dropped_writes} writes were dropped: this tests nothing");
}

#[test]
fn explanations_are_bad_by_themselves_and_small() {
    let (mut explained, mut calls) = (0, 0);
    for seed in 0..400 {
        let mut dice = Dice::new(seed);
        let kind = KINDS[(seed % 4) as usize];
        let plan = Plan { kind, keys: 2, processes: 4, calls: 60, lost: 5, versions: dice.percent(50), long: 6 };
        let mut history = execution(plan, &mut dice);
        spoil(&mut history, &mut dice);
        let report = check(&history, Budget::default());
        let Some(violation) = report.violations.first() else { continue };
        let explanation = explain(&history, violation, Budget::default());
        let text = explanation.to_string();
        assert!(explanation.operations.iter().all(|operation| history.contains(operation)), "seed {seed}:\n{text}");
        assert!(explanation.smallest, "seed {seed}:\n{text}");
        if explanation.operations.len() <= 8 {
            assert!(!Judge::Right.accepts(&explanation.operations), "seed {seed}:\n{text}");
        }
        if kind == KINDS[0] {
            explained += 1;
            calls += explanation.operations.len();
        }
    }
    assert!(explained > 15, "only {explained} histories were explained");
    assert!(calls < 6 * explained, "{calls} calls for {explained} registers: that is not small");
}
