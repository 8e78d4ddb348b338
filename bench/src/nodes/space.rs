//! Whether the disk has room for a run, before anything is written.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::{Experiment, Plan};
use crate::Failure;

/// Bytes that a node takes beside its rows: raft log, memtables on their way, staged files.
const BESIDE_ROWS: u64 = 1_200_000_000;

/// Bytes that an experiment needs at its fullest moment.
fn need(experiment: Experiment, plan: &Plan) -> u64 {
    match experiment {
        // Three replicas, the copied file or what is staged beside them, and what compaction writes anew.
        Experiment::CatchUp => 9 * plan.bytes / 2 + 3 * BESIDE_ROWS.min(2 * plan.bytes + BESIDE_ROWS / 4),
        // One replica of twice the size, and what compaction writes anew.
        Experiment::Restart => 3 * plan.bytes + BESIDE_ROWS,
        // What is written within the retention, at most all of it, and what compaction writes anew.
        Experiment::Overwrite => 3 * (BESIDE_ROWS + 2 * 512 * plan.overwrites),
        Experiment::Grow | Experiment::HandOver => 2 * BESIDE_ROWS,
    }
}

/// `Err` says what is needed, what there is, and what to do.
pub(super) fn check(directory: &Path, plan: &Plan) -> Result<(), Failure> {
    let free = free(directory)?;
    let largest = plan.experiments.iter().map(|experiment| (need(*experiment, plan), *experiment)).max();
    match largest {
        Some((need, experiment)) if need > free => Err(Failure::new(format!(
            "{} needs {:.1} GB in {}, which has {:.1} GB free; free some, name another directory with --dir, or measure less with \
             --gigabytes (now {:.2}) or --only",
            experiment.name(),
            need as f64 / 1e9,
            directory.display(),
            free as f64 / 1e9,
            plan.bytes as f64 / 1e9,
        ))),
        _ => Ok(()),
    }
}

fn free(directory: &Path) -> Result<u64, Failure> {
    let about = statvfs(directory).map_err(Failure::doing(format!("asking for the free space of {}", directory.display())))?;
    Ok(about.blocks_available().saturating_mul(about.fragment_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(bytes: u64) -> Plan {
        Plan {
            server: "kontiki".into(),
            directory: ".".into(),
            experiments: Experiment::ALL.to_vec(),
            bytes,
            rounds: 1,
            partitions: 1,
            overwrites: 1,
            seed: 1,
        }
    }

    #[test]
    fn too_little_room_is_said_with_what_to_do() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = check(directory.path(), &plan(1 << 50)).expect_err("a petabyte");
        let said = error.to_string();
        assert!(said.contains("catch-up needs") && said.contains("free") && said.contains("--gigabytes"), "{said}");
    }

    #[test]
    fn the_full_run_needs_less_than_thirty_gigabytes() {
        let most = Experiment::ALL.iter().map(|experiment| need(*experiment, &plan(5_000_000_000))).max();
        assert!(most.is_some_and(|most| most < 30_000_000_000), "{most:?}");
    }
}
