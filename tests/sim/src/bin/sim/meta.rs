//! `sim meta`: the test of the tests. Each seed runs in two processes at once, and their complete traces must be equal, line by line.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader};
use std::process::ChildStdout;

use crate::args;
use crate::sweep::start;

/// Equal lines that are shown before the first that differs.
const LINES_BEFORE: usize = 3;

/// Compares; false: a seed gave two traces.
pub(crate) fn run(meta: &args::Meta) -> Result<bool, String> {
    let mut equal = true;
    for seed in meta.from..meta.from + meta.seeds {
        equal &= compare(seed, meta.unseeded)?;
    }
    Ok(equal)
}

fn compare(seed: u64, unseeded: bool) -> Result<bool, String> {
    let more: &[&str] = if unseeded { &["--trace", "--unseeded"] } else { &["--trace"] };
    let mut children = [start(seed, "", more)?, start(seed, "", more)?];
    let outputs = children.each_mut().map(|child| child.stdout.take());
    // What they say beside the trace is not compared; but it must be read, or they wait for ever.
    let errors = children.each_mut().map(|child| child.stderr.take());
    let drains = errors.map(|from| std::thread::spawn(move || from.map(|from| BufReader::new(from).lines().count())));
    let [Some(first), Some(second)] = outputs else { return Err("a run has no output".to_owned()) };
    let difference = first_difference(BufReader::new(first), BufReader::new(second))?;
    for mut child in children {
        if matches!(difference, Traces::Differ(_)) {
            let _ = child.kill();
        }
        child.wait().map_err(|error| format!("waiting for a run: {error}"))?;
    }
    drop(drains);
    match difference {
        Traces::Equal { lines, hash } => {
            println!("seed {seed}: equal, {lines} lines, {hash:016x}");
            Ok(true)
        }
        Traces::Differ(text) => {
            println!("seed {seed}: NOT EQUAL\n{text}");
            Ok(false)
        }
    }
}

enum Traces {
    Equal { lines: u64, hash: u64 },
    Differ(String),
}

fn first_difference(first: BufReader<ChildStdout>, second: BufReader<ChildStdout>) -> Result<Traces, String> {
    let (mut first, mut second) = (first.split(b'\n'), second.split(b'\n'));
    let mut before = std::collections::VecDeque::new();
    let (mut lines, mut hash) = (0, DefaultHasher::new());
    loop {
        let failed = |error| format!("reading a trace: {error}");
        let (one, other) = (first.next().transpose().map_err(failed)?, second.next().transpose().map_err(failed)?);
        if one != other {
            let text = |line: Option<Vec<u8>>| {
                line.map_or_else(|| "(the end)".to_owned(), |line| String::from_utf8_lossy(&line).into_owned())
            };
            let before: String = before.into_iter().map(|line| format!("    {}\n", text(Some(line)))).collect();
            return Ok(Traces::Differ(format!(
                "{before}{lines} lines are equal, and then\n  1 {}\n  2 {}",
                text(one),
                text(other)
            )));
        }
        let Some(line) = one else { return Ok(Traces::Equal { lines, hash: hash.finish() }) };
        line.hash(&mut hash);
        lines += 1;
        before.push_back(line);
        if before.len() > LINES_BEFORE {
            before.pop_front();
        }
    }
}
