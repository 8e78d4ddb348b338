//! `kontiki`: the one binary. It runs a node, and it is the client and the admin tool of a cluster. It is the only part of Kontiki
//! that reads files and the environment, and the only one that ends its process.
//!
//! ```text
//!   argv, env ── LowArgs (typed) ── HighArgs (checked; settings file) ── commands ── stdout: results
//!                                                                             └───── stderr: one sentence, exit code
//! ```
#![allow(
    unreachable_pub,
    reason = "nothing of a program is reached from outside; `pub` marks what a module offers to the others"
)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program, not the library: it reads files, the environment and standard input for the user"
)]

mod args;
mod backup;
mod checkpoint;
mod commands;
mod encoding;
mod failure;
mod log;
mod output;
mod rebuild;
mod settings;
mod values;

use std::process::ExitCode;

use args::{HighArgs, LowArgs, OutputFormat};
use failure::{Exit, Failure};
use output::Stop;

fn main() -> ExitCode {
    let low = match LowArgs::parse_typed(std::env::args_os()) {
        Ok(low) => low,
        Err(error) => return refused(&error),
    };
    let format = low.global.output;
    match HighArgs::from_low(low).map_err(Stop::Failed).and_then(run) {
        Ok(()) | Err(Stop::ReaderGone) => ExitCode::SUCCESS,
        Err(Stop::Failed(failure)) => {
            tell(format, &failure);
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(args: HighArgs) -> Result<(), Stop> {
    log::start(&args.log, args.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::file("starting the runtime", &error))?;
    let result = runtime.block_on(commands::run(args));
    // Reading standard input may hang in a thread of its own; nothing else is left to wait for.
    runtime.shutdown_background();
    result
}

fn tell(format: OutputFormat, failure: &Failure) {
    match format {
        OutputFormat::Json => eprintln!("{}", failure.to_json()),
        OutputFormat::Table => eprintln!("kontiki: {failure}"),
    }
}

/// What clap has to say: help and version on stdout, mistakes on stderr; as JSON if JSON was asked for in so many words.
fn refused(error: &clap::Error) -> ExitCode {
    let typed: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let json = typed.windows(2).any(|pair| matches!(pair[0].as_str(), "-o" | "--output") && pair[1] == "json")
        || typed.iter().any(|arg| arg == "--output=json" || arg == "-ojson");
    if error.use_stderr() && json {
        // clap says what is wrong in the lines before the first blank one; the rest is usage.
        let text = error.render().to_string();
        let lines: Vec<_> = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
        let sentence = lines.join(" ").trim_start_matches("error: ").to_owned();
        tell(OutputFormat::Json, &Failure::usage(sentence));
        return ExitCode::from(Exit::Usage as u8);
    }
    // A closed stdout is no reason to fail while printing help.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8))
}
