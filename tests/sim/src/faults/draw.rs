//! Draws the faults of a plan. Each kind has a stream of its own, so that switching one kind off leaves the faults of the others where
//! they are.

use super::{Fault, Kind, Set, What};
use crate::dice::Dice;
use crate::host::{Death, Pace};
use crate::plan::Plan;

/// All faults, in the order of their times.
pub fn faults(plan: &Plan) -> Vec<Fault> {
    let mut faults = Vec::new();
    for kind in &plan.kinds {
        let mut dice = Dice::of(plan.seed, kind.name());
        // Some seeds have much of a kind, some have one of it.
        let mean_gap_ms = *dice.pick(&[1_500, 4_000, 12_000]);
        let mut at_ms = dice.below(mean_gap_ms.min(plan.safety_ms));
        while at_ms < plan.safety_ms {
            let (for_ms, what) = draw(*kind, plan, &mut dice);
            faults.push(Fault { at_ms, for_ms, what });
            at_ms += for_ms.min(mean_gap_ms) + dice.between(mean_gap_ms / 4, mean_gap_ms * 2);
        }
    }
    faults.sort_by_key(|fault| fault.at_ms);
    faults
}

fn draw(kind: Kind, plan: &Plan, dice: &mut Dice) -> (u64, What) {
    let machines = plan.nodes + plan.client_hosts;
    let node = dice.below(plan.nodes as u64) as usize;
    let for_ms = *dice.pick(&[50, 300, 1_000, 3_000]);
    let for_ms = dice.between(for_ms / 2, for_ms * 2);
    let what = match kind {
        Kind::Cut => What::Cut { side: side(plan, dice) },
        Kind::OneWay => What::OneWay { side: side(plan, dice) },
        Kind::Bridge => What::Bridge { node, half: dice.some_of(plan.nodes) },
        Kind::Hold => {
            let other = (node + 1 + dice.below(machines as u64 - 1) as usize) % machines;
            What::Hold { a: node, b: other }
        }
        Kind::Delay => What::Delay { side: side(plan, dice), ms_max: *dice.pick(&[20, 100, 400, 1_500]) },
        Kind::Loss => What::Loss { side: side(plan, dice), one_in: *dice.pick(&[50, 300, 2_000]) },
        Kind::Crash => return (restart_ms(dice), crash(dice.some_of(plan.nodes), Death::PowerCut, dice)),
        Kind::Kill => return (restart_ms(dice), crash(dice.some_of(plan.nodes), Death::Killed, dice)),
        Kind::Blackout => return (restart_ms(dice), crash((1 << plan.nodes) - 1, Death::PowerCut, dice)),
        Kind::Freeze => What::Freeze { node },
        Kind::SlowDisk => {
            let ms = *dice.pick(&[20, 100, 500]);
            What::Disk { node, pace: Pace { sync_ms_max: ms, work_ms_max: ms } }
        }
        Kind::FullDisk => What::Full { node, room_bytes: dice.below(64 * 1024) },
        Kind::SyncError | Kind::WriteError | Kind::ReadError | Kind::EngineError => What::Error { node, kind },
        Kind::ClockJump => {
            let ms = *dice.pick(&[500, 10_000, 600_000, 86_400_000]) as i64;
            What::Jump { node, by_ms: if dice.chance(1, 2) { ms } else { -ms } }
        }
        Kind::ClockDrift => {
            let ppm = *dice.pick(&[1_000, 50_000, 500_000]);
            What::Drift { node, ppm: if dice.chance(1, 2) { ppm } else { -ppm } }
        }
        Kind::ClientCrash => What::ClientCrash { host: dice.below(plan.client_hosts as u64) as usize },
        Kind::SlowClient => {
            let host = plan.nodes + dice.below(plan.client_hosts as u64) as usize;
            What::Delay { side: 1 << host, ms_max: *dice.pick(&[200, 1_000]) }
        }
        Kind::Transfer => What::Transfer { node },
    };
    (for_ms, what)
}

/// One side of the network: some nodes, and of the machines with clients any.
fn side(plan: &Plan, dice: &mut Dice) -> Set {
    dice.some_of(plan.nodes) | dice.below(1 << plan.client_hosts) << plan.nodes
}

fn restart_ms(dice: &mut Dice) -> u64 {
    let most = *dice.pick(&[20, 500, 5_000]);
    dice.between(1, most)
}

fn crash(nodes: Set, death: Death, dice: &mut Dice) -> What {
    What::Crash { nodes, death, silent: dice.chance(1, 2) }
}
