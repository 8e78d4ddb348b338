//! `sim run`: one seed in this process.

use std::io::Write as _;
use std::panic;
use std::sync::Arc;

use kontiki_checker::history::write_json;
use kontiki_sim::clock;
use kontiki_sim::plan::Plan;
use kontiki_sim::run::{self, Report};
use kontiki_sim::story::Story;
use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::{args, interpose};

/// What a complete trace holds, beside the history.
const TRACE_FILTER: &str =
    "info,turmoil=trace,kontiki_server=debug,kontiki_raft=debug,kontiki_client=debug,kontiki_sim=debug,openraft=info";

/// The thread of the simulation runs everything of all machines.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Assertions of others that do not always hold, and that programs without debug assertions do not make (docs/adr/0026).
const KNOWN_PANICS: &[&str] = &["read_log_entries received reversed range"];

/// What has panicked. tokio keeps the panics of tasks to itself, and a broken node would look like a slow one.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Simulated time in log lines.
struct Simulated;

impl FormatTime for Simulated {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        let now = clock::now_us();
        write!(w, "{:>6}.{:03}", now / 1_000_000, now / 1000 % 1000)
    }
}

/// Runs a seed; false: something was wrong.
pub(crate) fn run(run: &args::Run) -> Result<bool, String> {
    let cuts = run.cut.cuts()?;
    panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        if KNOWN_PANICS.iter().all(|known| !text.contains(known)) {
            eprintln!("{text}");
            PANICS.lock().push(text);
        }
    }));
    if run.trace {
        log_to(TRACE_FILTER, std::io::stdout)?;
    } else if let Some(filter) = &run.log {
        log_to(filter, std::io::stderr)?;
    }
    let (seed, seeded, aloud, drawn) = (run.seed, !run.unseeded, !run.quiet && !run.trace, cuts.clone());
    // A thread of its own: what this one has done until here (the hash maps of the log's filters, for one) must not change the run.
    let running = std::thread::Builder::new().name("simulation".to_owned()).stack_size(STACK_BYTES).spawn(move || {
        interpose::begin(seeded.then_some(seed));
        let plan = Plan::draw(seed, &drawn);
        run::run(&plan, Arc::new(Story::new(aloud)), || PANICS.lock().clone())
    });
    let running = running.map_err(|error| format!("the thread of the simulation cannot be started: {error}"))?;
    let report = running.join().map_err(|_| "the simulation itself has panicked".to_owned())?;
    if run.trace {
        write_json(std::io::stdout(), &report.history).map_err(|error| format!("writing to stdout: {error}"))?;
    }
    if let Some(path) = &run.history {
        let file = std::fs::File::create(path);
        let written = file.and_then(|file| write_json(std::io::BufWriter::new(file), &report.history));
        written.map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    }
    println!("{report}");
    tell_replay(&report, &cuts.to_string());
    std::io::stdout().flush().map_err(|error| format!("writing to stdout: {error}"))?;
    // What is left of the cluster is not worth the time to take it apart.
    std::process::exit(i32::from(!report.failures.is_empty()));
}

fn tell_replay(report: &Report, cuts: &str) {
    if !report.failures.is_empty() {
        println!("replay: sim run --seed {}{cuts}", report.seed);
    }
}

fn log_to<W: for<'a> MakeWriter<'a> + Send + Sync + 'static>(filter: &str, writer: W) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("--log {filter}: {error}"))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_timer(Simulated).with_ansi(false).with_writer(writer);
    subscriber.try_init().map_err(|error| format!("the log cannot be set up: {error}"))
}
