//! What a run of `bench nodes` says: a table for people, JSON for programs.

use std::fmt::Write as _;
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{Figure, Plan};
use crate::Failure;
use crate::disk::Disk;
use crate::report::{FSYNC, LOAD_AVERAGE_QUIET};

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Kontiki's version.
    pub version: &'static str,
    /// How this program was built: `release` or `dev`.
    pub profile: &'static str,
    /// The server binary.
    pub server: String,
    /// Processors that the servers and the load share.
    pub processors: usize,
    /// Programs that wanted to run at the start. Figures taken beside others are worse than they should be.
    pub load_average: Option<f64>,
    /// The disk under the data.
    pub disk: Disk,
    /// When a write is acknowledged.
    pub fsync: &'static str,
    /// Bytes of the replica that was wiped.
    pub bytes: u64,
    /// Leaders stopped, and restarts of each kind.
    pub rounds: usize,
    /// User partitions of the cluster that grew.
    pub partitions: u32,
    /// The table.
    pub figures: Vec<Figure>,
    /// How long the whole run took, in ms.
    pub took_ms: u128,
}

impl Report {
    pub(super) fn new(plan: &Plan, disk: Disk, load_average: Option<f64>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            profile: if cfg!(debug_assertions) { "dev" } else { "release" },
            server: plan.server.display().to_string(),
            processors: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            load_average,
            disk,
            fsync: FSYNC,
            bytes: plan.bytes,
            rounds: plan.rounds,
            partitions: plan.partitions,
            figures: Vec::new(),
            took_ms: 0,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let (version, profile, processors, disk) = (self.version, self.profile, self.processors, &self.disk);
        let _ = writeln!(out, "Kontiki {version}, {profile} build, {processors} processors shared by all servers and the load");
        let _ = writeln!(
            out,
            "data on {}: 4 KiB write + fdatasync p50 {} us, p99 {} us",
            disk.file_system, disk.fdatasync_p50_us, disk.fdatasync_p99_us
        );
        if let Some(load) = self.load_average.filter(|load| *load > LOAD_AVERAGE_QUIET) {
            let _ = writeln!(out, "WARNING: the load average was {load:.1} at the start: other programs ran beside");
        }
        if disk.is_memory() {
            let _ = writeln!(out, "WARNING: the data lies in memory, where fdatasync is free. Use --dir.");
        }
        let _ = writeln!(out, "fsync: {}", self.fsync);
        let _ = writeln!(
            out,
            "data set {:.2} GB, {} rounds, {} partitions while nodes come and go",
            self.bytes as f64 / 1e9,
            self.rounds,
            self.partitions
        );
        out.push_str(&self.table().to_string());
        out.push('\n');
        for figure in self.figures.iter().filter(|figure| !figure.note.is_empty()) {
            let _ = writeln!(out, "{}, {}: {}", figure.experiment, figure.name, figure.note);
        }
        out
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header(["experiment", "what", "figure", "limit", "met"]);
        for figure in &self.figures {
            let (shown, limit) = (figure.shown(), figure.limit_shown());
            table.add_row([figure.experiment, &figure.name, &shown, &limit, figure.verdict()]);
        }
        if let Some(column) = table.column_mut(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    /// For programs.
    pub fn json(&self) -> Result<String, Failure> {
        serde_json::to_string_pretty(self).map_err(Failure::doing("encoding the report"))
    }

    /// The same, in a file.
    pub fn write_json(&self, path: &Path) -> Result<(), Failure> {
        std::fs::write(path, self.json()? + "\n").map_err(Failure::doing(format!("writing {}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::Limit;

    fn report() -> Report {
        let plan = Plan {
            server: "kontiki".into(),
            directory: ".".into(),
            experiments: vec![],
            bytes: 200_000_000,
            rounds: 2,
            partitions: 64,
            overwrites: 1,
            seed: 1,
        };
        let disk = Disk { file_system: "tmpfs".into(), fdatasync_p50_us: 1, fdatasync_p99_us: 2 };
        let mut report = Report::new(&plan, disk, Some(3.0));
        report.figures.push(Figure {
            experiment: "hand-over",
            name: "longest stall".into(),
            value: 120.0,
            unit: "ms",
            limit: Limit::AtMost(100.0),
            note: "round 2".into(),
        });
        report
    }

    #[test]
    fn the_text_holds_each_figure_with_its_limit_and_warns() {
        let text = report().text();
        for expected in ["lies in memory", "load average was 3.0", "at most 100 ms", "MISSED", "longest stall: round 2"] {
            assert!(text.contains(expected), "`{expected}` is missing in:\n{text}");
        }
    }

    #[test]
    fn the_json_holds_the_limits() {
        let json: serde_json::Value = serde_json::from_str(&report().json().expect("encodes")).expect("parses");
        assert_eq!(json["figures"][0]["limit"]["at_most"], 100.0);
        assert_eq!(json["bytes"], 200_000_000);
    }
}
