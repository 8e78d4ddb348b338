//! The real `kontiki` program: where it is, and running one command of it to its end.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

/// The longest that one command may take. Generous: the machine may be busy with something else.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// The `kontiki` program that was built beside this test or demo program.
///
/// # Panics
/// If it is missing: cargo does not build the programs of other packages for a test, so that must have been done before.
pub fn kontiki() -> PathBuf {
    let own = std::env::current_exe().expect("invariant: a running program has a path");
    // Tests run from target/<profile>/deps, programs from target/<profile>.
    let folders = own.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join("kontiki")).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("the program `kontiki` is not in {} or above it: run `make build` first", own.parent().unwrap_or(&own).display())
    })
}

/// What a command said, and how it ended.
#[derive(Clone, Debug)]
pub struct Said {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    fn new(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Standard output of a command that must have succeeded.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn expect_ok(self) -> String {
        assert_eq!(self.code, Some(0), "the command failed\n--- out\n{}\n--- err\n{}", self.out, self.err);
        self.out
    }

    /// Checks the exit code, and that standard error holds each of the words.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn expect_failure(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "another exit code was expected\n--- out\n{}\n--- err\n{}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "`{word}` is missing in what it said:\n{}", self.err);
        }
        assert!(!self.err.contains("panicked"), "a panic is no error message:\n{}", self.err);
    }
}

/// A command of the program, not started yet: no standard input, and it dies with its handle.
pub fn command<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(kontiki());
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    // Settings of the person who runs the tests must not reach them.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KONTIKI_")) {
        command.env_remove(name);
    }
    command
}

/// Runs one command to its end.
///
/// # Panics
/// If it does not end in time.
pub async fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Said {
    let output = command(args).output();
    let output = tokio::time::timeout(COMMAND_TIMEOUT, output).await.expect("the command ends within its time");
    Said::new(output.expect("the command can be started"))
}

/// Runs one command against a cluster.
///
/// # Panics
/// If it does not end in time.
pub async fn run_at(addrs: &[String], args: &[&str]) -> Said {
    let addrs = addrs.join(",");
    let all: Vec<&str> = ["--endpoints", &addrs].into_iter().chain(args.iter().copied()).collect();
    run(all).await
}

/// The last lines of a file, for a report; says so if it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return format!("({} cannot be read: {error})", path.display()),
    };
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
