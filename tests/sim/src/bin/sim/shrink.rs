//! `sim shrink`: makes a failing run smaller while it still fails in the same way: a shorter faulty phase, fewer faults, clients and partitions.
//!
//! Delta debugging (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002) over the numbers of the faults; the rest by halving. A run
//! that lacks a fault is another run, for all that follows is timed anew: so what is left need not be the smallest, only small.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kontiki_sim::plan::{Cuts, Plan};

use crate::args;
use crate::sweep::one;

/// It is given up after this long, with what was reached.
const SHRINK_WITHIN: Duration = Duration::from_secs(900);

struct Shrinking {
    seed: u64,
    /// How it fails: the first words of its first failure.
    how: String,
    cuts: Cuts,
    begun: Instant,
    runs: u32,
}

/// Shrinks; false, as for every failing run: it still fails. True: it did not fail to begin with.
pub(crate) fn run(args: &args::Shrink) -> Result<bool, String> {
    let cuts = args.cut.cuts()?;
    let first = one(args.seed, &cuts.to_string());
    if first.fine {
        println!("seed {}{cuts} does not fail", args.seed);
        return Ok(true);
    }
    let mut shrinking = Shrinking { seed: args.seed, how: how(&first.output), cuts, begun: Instant::now(), runs: 1 };
    println!("seed {} fails: {}", args.seed, shrinking.how);
    shrinking.shorter(&first.output);
    shrinking.fewer_faults();
    shrinking.fewer(|cuts| &mut cuts.clients, |plan| plan.clients);
    shrinking.fewer(|cuts| &mut cuts.partitions, |plan| plan.partitions);
    shrinking.fewer_faults();
    let Shrinking { seed, cuts, runs, .. } = &shrinking;
    println!("after {runs} runs:\n{}", one(*seed, &cuts.to_string()).output.trim_end());
    Ok(false)
}

/// The words by which two failures are the same: up to the first digit or colon of the first failure.
fn how(output: &str) -> String {
    let line = output.lines().find_map(|line| line.strip_prefix("FAILED ")).unwrap_or("it did not end");
    line.split(|c: char| c == ':' || c.is_ascii_digit()).next().unwrap_or_default().trim().to_owned()
}

impl Shrinking {
    fn plan(&self) -> Plan {
        Plan::draw(self.seed, &self.cuts)
    }

    /// Whether it still fails with these cuts; then they are kept.
    fn keeps(&mut self, cuts: Cuts) -> bool {
        if self.begun.elapsed() > SHRINK_WITHIN {
            return false;
        }
        self.runs += 1;
        let ended = one(self.seed, &cuts.to_string());
        let same = !ended.fine && how(&ended.output) == self.how;
        if same {
            println!("still fails:{cuts}");
            self.cuts = cuts;
        }
        same
    }

    fn shorter(&mut self, output: &str) {
        // It takes a second or two until clients begin; what comes after the failure is not needed.
        let failed_ms = output.lines().find_map(|line| line.split_once(" ms simulated")?.0.parse::<u64>().ok());
        let mut ms = self.plan().safety_ms;
        if let Some(failed_ms) = failed_ms.filter(|failed| *failed < ms)
            && self.keeps(Cuts { safety_ms: Some(failed_ms), ..self.cuts.clone() })
        {
            ms = failed_ms;
        }
        while ms > 500 && self.keeps(Cuts { safety_ms: Some(ms / 2), ..self.cuts.clone() }) {
            ms /= 2;
        }
    }

    fn fewer_faults(&mut self) {
        let mut kept: Vec<usize> = self.plan().faults.iter().map(|(number, _)| *number).collect();
        if kept.is_empty() {
            return;
        }
        let mut piece = kept.len();
        while piece > 0 {
            let mut from = 0;
            while from < kept.len() {
                let to = (from + piece).min(kept.len());
                let rest: Vec<usize> = kept[..from].iter().chain(&kept[to..]).copied().collect();
                let keep: BTreeSet<usize> = rest.iter().copied().collect();
                if self.keeps(Cuts { keep: Some(keep), ..self.cuts.clone() }) {
                    kept = rest;
                } else {
                    from = to;
                }
            }
            piece /= 2;
        }
    }

    fn fewer(&mut self, cut: fn(&mut Cuts) -> &mut Option<usize>, now: fn(&Plan) -> usize) {
        loop {
            let count = now(&self.plan());
            let smaller = [1, count / 2, count - 1].into_iter().filter(|smaller| (1..count).contains(smaller));
            let tries: BTreeSet<usize> = smaller.collect();
            let kept = tries.into_iter().any(|smaller| {
                let mut cuts = self.cuts.clone();
                *cut(&mut cuts) = Some(smaller);
                self.keeps(cuts)
            });
            if !kept {
                return;
            }
        }
    }
}
