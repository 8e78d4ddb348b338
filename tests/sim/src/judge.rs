//! The judges of the history, together.

use kontiki_checker::history::Operation;
use kontiki_checker::linear::{self, Budget, Verdict};
use kontiki_checker::{cut, explain, session};

/// Violations that are explained in full; more are counted.
const EXPLAINED_MAX: usize = 2;

/// What the judges say.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// What is wrong. Empty: nothing.
    pub violations: Vec<String>,
    /// What was judged, in words.
    pub judged: Vec<String>,
}

/// Judges a history: each object linearizable, each snapshot one cut, each session true to its token.
pub fn judge(history: &[Operation]) -> Judgement {
    let mut judgement = Judgement::default();
    let budget = Budget::default();
    let report = linear::check(history, budget);
    judgement.judged.push(report.to_string().lines().next().unwrap_or_default().to_owned());
    match report.verdict() {
        Verdict::Linearizable => {}
        Verdict::Undecided => {
            let undecided = report.undecided.iter().map(|undecided| format!("undecided: {}: {}", undecided.key, undecided.why));
            judgement.violations.extend(undecided);
        }
        Verdict::Violated => {
            for violation in report.violations.iter().take(EXPLAINED_MAX) {
                let explained = explain::explain(history, violation, budget);
                judgement.violations.push(format!("not linearizable: {}\n{explained}", violation.key));
            }
            let more = report.violations.len().saturating_sub(EXPLAINED_MAX);
            if more > 0 {
                judgement.violations.push(format!("not linearizable: {more} objects more"));
            }
        }
    }
    let cuts = cut::check(history);
    judgement.judged.push(format!("{} scans at one version, {} rows", cuts.snapshots, cuts.rows));
    judgement.violations.extend(cuts.violations);
    let sessions = session::check(history);
    judgement.judged.push(format!("{} answers to sessions", sessions.checked));
    judgement.violations.extend(sessions.violations);
    judgement
}
