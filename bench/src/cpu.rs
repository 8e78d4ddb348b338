//! CPU time of processes, from `/proc/PID/stat`: the steadiest figure on a machine that is shared.

use std::path::PathBuf;
use std::time::Duration;

use crate::Failure;

/// Length of a tick in `/proc/PID/stat`. Linux reports to user space in hundredths of a second on every platform that we build for.
const TICK: Duration = Duration::from_millis(10);

/// User and system time that a set of processes has used so far.
pub fn used(pids: &[u32]) -> Result<Duration, Failure> {
    pids.iter().map(|pid| of_process(*pid)).sum()
}

fn of_process(pid: u32) -> Result<Duration, Failure> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let text = std::fs::read_to_string(&path).map_err(Failure::doing(format!("reading {}", path.display())))?;
    let ticks = ticks(&text).ok_or_else(|| Failure::new(format!("{} has not the shape of proc(5): {text}", path.display())))?;
    Ok(TICK * ticks)
}

/// utime + stime, fields 14 and 15. The second field, the program's name, may hold spaces and brackets: count from its end.
fn ticks(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// How many programs wanted to run in the last minute; `None` if the kernel does not say.
pub fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 7 5 0 0 20 0 3 0 99 1000 10";
        assert_eq!(ticks(stat), Some(12));
        assert_eq!(ticks("42 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_a_figure_and_a_missing_one_an_error() {
        used(&[std::process::id()]).expect("our own entry is readable");
        let error = used(&[u32::MAX]).expect_err("no such process");
        assert!(error.to_string().contains("/proc/4294967295/stat"), "{error}");
    }
}
