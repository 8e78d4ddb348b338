//! Where tracing goes: standard error, as text or JSON, filtered.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;
use crate::failure::Failure;

/// Starts logging. The filter is a level, or targets with levels: `info,kontiki_raft=debug`.
pub fn start(filter: &str, format: LogFormat) -> Result<(), Failure> {
    let parsed = EnvFilter::builder().parse(filter).map_err(|error| {
        Failure::usage(format!("the log filter `{filter}` does not parse ({error}); give a level (error, warn, info, debug, trace) or info,kontiki_raft=debug"))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::internal(format!("logging could not be started: {error}")))
}
