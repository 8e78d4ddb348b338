//! Histories that a person has drawn, each with the verdict that it must get, and with the wrong judges that it fools.
//!
//! ```text
//!   == name                     what the history shows
//!   p1  [put x 1]               lanes, as kontiki_checker::timeline has them
//!   => linearizable             what the judge of this file says, word for word
//!   fools: forgets-open-calls   the wrong judges that say something else
//! ```

use std::collections::BTreeSet;
use std::path::Path;

use kontiki_checker::explain::explain;
use kontiki_checker::history::Operation;
use kontiki_checker::linear::{self, Budget, Verdict};
use kontiki_checker::{cut, session, timeline};

use crate::naive::{Judge, WRONG};

struct Case {
    name: String,
    lanes: String,
    expected: String,
    fools: Vec<String>,
}

fn cases(file: &str) -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let case = |part: &str| {
        let (name, body) = part.split_once('\n').expect("a case has a name and a body");
        let (lanes, verdict) = body.split_once("=>").unwrap_or_else(|| panic!("`{name}` of {file} has no `=>`"));
        let is_fools = |line: &&str| line.starts_with("fools: ");
        let fools = verdict.lines().filter(is_fools).flat_map(|line| line["fools: ".len()..].split(", "));
        let expected: Vec<_> = verdict.lines().filter(|line| !is_fools(line)).collect();
        let lines = |text: &str| text.trim_end().to_owned();
        let expected = lines(expected.join("\n").trim_start_matches(' '));
        Case { name: name.trim().to_owned(), lanes: lanes.to_owned(), expected, fools: fools.map(str::to_owned).collect() }
    };
    let cases: Vec<_> = text.split("\n== ").skip(1).map(case).collect();
    assert!(cases.len() > 2, "{file} has {} cases: it is not read rightly", cases.len());
    cases
}

fn judge(file: &str, verdict: impl Fn(&[Operation]) -> String) {
    let mut wrong = Vec::new();
    for case in cases(file) {
        let history = timeline::parse(&case.lanes).unwrap_or_else(|why| panic!("`{}` of {file}: {why}", case.name));
        let found = verdict(&history);
        if found.trim_end() != case.expected {
            wrong.push(format!("== {}\nexpected:\n{}\nfound:\n{found}", case.name, case.expected));
        }
    }
    assert!(wrong.is_empty(), "{file}:\n{}", wrong.join("\n"));
}

fn linear(history: &[Operation]) -> String {
    let report = linear::check(history, Budget::default());
    match report.verdict() {
        Verdict::Linearizable => "linearizable".to_owned(),
        Verdict::Violated => format!("violated: {}", report.violations[0].why),
        Verdict::Undecided => format!("undecided: {}", report.undecided[0].why),
    }
}

#[test]
fn registers() {
    judge("registers.txt", linear);
}

#[test]
fn finals() {
    judge("finals.txt", linear);
}

#[test]
fn counters() {
    judge("counters.txt", linear);
}

#[test]
fn sets_and_lists() {
    judge("sets-and-lists.txt", linear);
}

#[test]
fn explanations() {
    judge("explanations.txt", |history| {
        let report = linear::check(history, Budget::default());
        explain(history, &report.violations[0], Budget::default()).to_string()
    });
}

#[test]
fn sessions() {
    judge("sessions.txt", |history| {
        let report = session::check(history);
        let checked = format!("{} checked", report.checked);
        std::iter::once(checked).chain(report.violations).collect::<Vec<_>>().join("\n")
    });
}

#[test]
fn cuts() {
    judge("cuts.txt", |history| {
        let report = cut::check(history);
        let checked = format!("{} snapshots, {} rows", report.snapshots, report.rows);
        std::iter::once(checked).chain(report.violations).collect::<Vec<_>>().join("\n")
    });
}

/// Each drawn history that the search judges is judged by the reference too, and fools exactly the wrong judges that it says; every
/// wrong judge is caught by one that it wrongly accepts or by one that it wrongly rejects.
#[test]
fn wrong_judges_are_caught() {
    let mut caught = BTreeSet::new();
    let mut wrong = Vec::new();
    for file in ["registers.txt", "counters.txt", "sets-and-lists.txt", "finals.txt"] {
        for case in cases(file).into_iter().filter(|case| !case.expected.starts_with("undecided")) {
            let history = timeline::parse(&case.lanes).expect("judged above");
            let right = case.expected.starts_with("linearizable");
            assert_eq!(Judge::Right.accepts(&history), right, "the reference on `{}` of {file}", case.name);
            let fooled: Vec<String> =
                WRONG.iter().filter(|judge| judge.accepts(&history) != right).map(|judge| judge.name()).collect();
            if fooled != case.fools {
                wrong.push(format!("`{}` of {file} fools: {}", case.name, fooled.join(", ")));
            }
            caught.extend(fooled);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let all: BTreeSet<String> = WRONG.iter().map(|judge| judge.name()).collect();
    assert_eq!(caught, all);
}
