//! `sim sweep`: many seeds, one process for each, up to the first that fails.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::args;

/// A run that takes longer than this has hung.
const RUN_WITHIN: Duration = Duration::from_secs(600);

/// A run that has ended.
pub(crate) struct Ended {
    seed: u64,
    /// Nothing was wrong.
    pub(crate) fine: bool,
    /// Everything that it said.
    pub(crate) output: String,
}

/// Runs the seeds; false: one has failed.
pub(crate) fn run(sweep: &args::Sweep) -> Result<bool, String> {
    let cuts = sweep.cut.cuts()?.to_string();
    let jobs = sweep.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    let begun = Instant::now();
    let mut waiting = sweep.from..sweep.from + sweep.seeds;
    let (done, ended) = mpsc::channel();
    let (mut running, mut failed, mut count, mut simulated_ms) = (0, Vec::new(), 0_u64, 0);
    loop {
        while running < jobs && (failed.is_empty() || sweep.all) {
            let Some(seed) = waiting.next() else { break };
            running += 1;
            let (done, cuts) = (done.clone(), cuts.clone());
            std::thread::spawn(move || drop(done.send(one(seed, &cuts))));
        }
        if running == 0 {
            break;
        }
        let Ok(Ended { seed, fine, output }) = ended.recv() else { break };
        running -= 1;
        count += 1;
        simulated_ms += simulated(&output);
        if !fine {
            println!("seed {seed} FAILED\n{}", output.trim_end());
            failed.push(seed);
        }
        if count % (sweep.seeds / 10).max(1) == 0 {
            println!("{count} of {} seeds, {} failed, {} s", sweep.seeds, failed.len(), begun.elapsed().as_secs());
        }
    }
    let (wall_s, simulated_s) = (begun.elapsed().as_secs_f64(), simulated_ms as f64 / 1000.0);
    println!(
        "{count} seeds from {}: {simulated_s:.0} s simulated in {wall_s:.0} s by {jobs} processes: {:.1} simulated s per s and process, {:.0} seeds per hour",
        sweep.from,
        simulated_s / wall_s / jobs as f64,
        count as f64 / wall_s * 3600.0
    );
    if !failed.is_empty() {
        println!("failed: {failed:?}");
    }
    Ok(failed.is_empty())
}

/// Runs one seed in a process of its own, to its end.
pub(crate) fn one(seed: u64, cuts: &str) -> Ended {
    let output = start(seed, cuts, &["--quiet"]).and_then(wait);
    match output {
        Ok((fine, output)) => Ended { seed, fine, output },
        Err(error) => Ended { seed, fine: false, output: error },
    }
}

/// Starts `sim run` for a seed.
pub(crate) fn start(seed: u64, cuts: &str, more: &[&str]) -> Result<Child, String> {
    let program = std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
    let seed = seed.to_string();
    let mut command = Command::new(program);
    command.args(["run", "--seed", &seed]).args(cuts.split_whitespace()).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|error| format!("starting a run of seed {seed}: {error}"))
}

fn wait(mut child: Child) -> Result<(bool, String), String> {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let read = |from: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || BufReader::new(from).lines().map_while(Result::ok).map(|line| line + "\n").collect::<String>())
    };
    let readers: Vec<_> = out.map(|out| read(Box::new(out))).into_iter().chain(err.map(|err| read(Box::new(err)))).collect();
    let begun = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if begun.elapsed() > RUN_WITHIN => {
                let _ = child.kill();
                break child.wait().ok().filter(|_| false);
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(format!("waiting for a run: {error}")),
        }
    };
    let output: String = readers.into_iter().filter_map(|reader| reader.join().ok()).collect();
    match status {
        Some(status) => Ok((status.success(), output)),
        None => Ok((false, format!("{output}it has not ended within {} s, and was killed", RUN_WITHIN.as_secs()))),
    }
}

/// The simulated ms of a report.
fn simulated(output: &str) -> u64 {
    let line = output.lines().find(|line| line.contains(" ms simulated"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
