//! What a run says: a table for people, JSON for programs, and the settings under which every figure was taken.

use std::fmt::Write as _;
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::Failure;
use crate::disk::Disk;
use crate::load::{Operation, Tally};
use crate::stall::Stall;

/// Where the callers sit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In this process, over gRPC, to three server processes.
    Grpc,
    /// In the process of a single node.
    EmbeddedSingle,
    /// In the process of the node that leads the one user partition; the other two nodes are server processes.
    EmbeddedLeader,
}

impl Place {
    /// The words for it in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "gRPC, 3 nodes",
            Self::EmbeddedSingle => "embedded, 1 node",
            Self::EmbeddedLeader => "embedded, leader of 3",
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Where the callers sat.
    pub place: Place,
    /// What they did.
    pub operation: Operation,
    /// How many of them.
    pub clients: usize,
    /// Connections to each node; 0 where the leader is in the callers' own process.
    pub connections_per_node: usize,
    /// User partitions.
    pub partitions: u32,
    /// Succeeded in the window.
    pub operations: u64,
    /// Per second.
    pub per_second: f64,
    /// Median latency, in us.
    pub p50_us: f64,
    /// 99th percentile of the latency, in us.
    pub p99_us: f64,
    /// Longest latency, in us.
    pub max_us: f64,
    /// CPU time for one operation, in us, of every process that `cpu_counted` names.
    pub cpu_us: Option<f64>,
    /// What `cpu_us` counts.
    pub cpu_counted: &'static str,
    /// CPU time of the load generator's own process for one operation, in us.
    pub load_process_cpu_us: Option<f64>,
    /// Failed operations, warm-up included.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
}

impl Cell {
    /// A line from what was counted.
    pub fn new(place: Place, operation: Operation, clients: usize, connections: usize, partitions: u32, tally: &Tally) -> Self {
        let cpu_counted = match place {
            Place::Grpc => "the three server processes",
            Place::EmbeddedSingle => "the one process: node and load generator",
            Place::EmbeddedLeader => "all three nodes, and the load generator, which shares a process with one of them",
        };
        Self {
            place,
            operation,
            clients,
            connections_per_node: connections,
            partitions,
            operations: tally.operations,
            per_second: tally.per_second(),
            p50_us: tally.latency_us(0.5),
            p99_us: tally.latency_us(0.99),
            max_us: tally.latency.max() as f64 / 1000.0,
            cpu_us: tally.server_us(),
            cpu_counted,
            load_process_cpu_us: tally.own_us(),
            errors: tally.errors,
            first_error: tally.first_error.clone(),
        }
    }
}

/// What the figures depend on.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// Kontiki's version.
    pub version: &'static str,
    /// How this program was built: `release` or `dev`. The servers come from the same build unless `--server` says otherwise.
    pub profile: &'static str,
    /// The server binary.
    pub server: String,
    /// Processors that this process may use; load and servers share them.
    pub processors: usize,
    /// Programs that wanted to run at the start, averaged over a minute. Figures taken beside others are low.
    pub load_average: Option<f64>,
    /// The disk under the data.
    pub disk: Disk,
    /// When a write is acknowledged.
    pub fsync: &'static str,
    /// Bytes of a key and of a value.
    pub key_bytes: usize,
    /// See `key_bytes`.
    pub value_bytes: usize,
    /// Counted part of a cell, in ms.
    pub window_ms: u128,
    /// Uncounted part of a cell, in ms.
    pub warm_up_ms: u128,
}

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What the figures depend on.
    pub settings: Settings,
    /// From the start of three processes on empty disks until every node is ready and knows every leader, in ms.
    pub cold_start_ms: Option<f64>,
    /// Nodes that led the user partitions of the gRPC cluster when it was measured, by partition.
    pub grpc_leaders: Vec<u64>,
    /// The table.
    pub cells: Vec<Cell>,
    /// Leaders killed.
    pub stalls: Vec<Stall>,
    /// How long the whole run took, in ms.
    pub took_ms: u128,
}

/// A machine below this load average is quiet.
pub const LOAD_AVERAGE_QUIET: f64 = 0.5;

/// What `Settings::fsync` says: not a choice, there is no other setting.
pub const FSYNC: &str = "every write is fdatasynced in the raft log of a majority before it is acknowledged; one fdatasync serves all \
writes and groups that wait on a node; log segments are pre-written, 64 MiB each; RocksDB's own log is off";

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let s = &self.settings;
        let _ =
            writeln!(out, "Kontiki {}, {} build, {} processors shared by servers and load", s.version, s.profile, s.processors);
        let _ = writeln!(
            out,
            "data on {}: 4 KiB write + fdatasync p50 {} us, p99 {} us",
            s.disk.file_system, s.disk.fdatasync_p50_us, s.disk.fdatasync_p99_us
        );
        if let Some(load) = s.load_average.filter(|load| *load > LOAD_AVERAGE_QUIET) {
            let _ = writeln!(
                out,
                "WARNING: the load average was {load:.1} at the start: other programs ran beside, and the figures are low"
            );
        }
        if s.disk.is_memory() {
            let _ = writeln!(
                out,
                "WARNING: the data lies in memory, where fdatasync is free: the put figures mean nothing. Use --dir."
            );
        }
        let _ = writeln!(out, "fsync: {}", s.fsync);
        let _ = writeln!(
            out,
            "load: closed loop, keys of {} B at random, values of {} B, {} ms counted after {} ms of warm-up",
            s.key_bytes, s.value_bytes, s.window_ms, s.warm_up_ms
        );
        let _ = writeln!(out, "gets are linearizable (read index confirmed by a majority)");
        if let Some(ms) = self.cold_start_ms {
            let _ = writeln!(out, "cold start of three processes until every node is ready: {ms:.0} ms");
        }
        if !self.grpc_leaders.is_empty() {
            let _ = writeln!(out, "gRPC cluster: leaders of the user partitions are nodes {:?}", self.grpc_leaders);
        }
        out.push_str(&self.table().to_string());
        out.push('\n');
        let _ =
            writeln!(out, "CPU us/op: gRPC counts the three server processes; embedded counts all nodes and the load generator");
        self.write_stalls(&mut out);
        self.write_errors(&mut out);
        out
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header(["callers", "op", "clients", "conns/node", "parts", "ops/s", "p50 us", "p99 us", "CPU us/op", "errors"]);
        for cell in &self.cells {
            table.add_row([
                cell.place.name().to_owned(),
                cell.operation.name().to_owned(),
                cell.clients.to_string(),
                cell.connections_per_node.to_string(),
                cell.partitions.to_string(),
                format!("{:.0}", cell.per_second),
                microseconds(cell.p50_us),
                microseconds(cell.p99_us),
                cell.cpu_us.map_or_else(|| "-".to_owned(), microseconds),
                cell.errors.to_string(),
            ]);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    fn write_stalls(&self, out: &mut String) {
        for stall in &self.stalls {
            let others = stall.others_gap_ms.map_or_else(|| "none".to_owned(), |ms| format!("longest gap {ms:.0} ms"));
            let _ = writeln!(
                out,
                "SIGKILL of node {}, leader of partitions {:?}: longest gap between acknowledged writes {:.0} ms (stated limit 2000 ms), \
                 first write after {:.0} ms; other partitions: {others}; failed writes {}",
                stall.node, stall.partitions, stall.gap_ms, stall.first_write_ms, stall.errors
            );
        }
    }

    fn write_errors(&self, out: &mut String) {
        let failed = self.cells.iter().filter_map(|cell| Some((cell, cell.first_error.as_ref()?)));
        for (cell, error) in failed {
            let _ = writeln!(
                out,
                "{} {} with {} clients: {} failed, first: {error}",
                cell.place.name(),
                cell.operation.name(),
                cell.clients,
                cell.errors
            );
        }
        for stall in &self.stalls {
            if let Some(error) = &stall.first_error {
                let _ = writeln!(out, "kill of node {}: first failed write: {error}", stall.node);
            }
        }
    }

    /// For programs.
    pub fn write_json(&self, path: &Path) -> Result<(), Failure> {
        let json = serde_json::to_string_pretty(self).map_err(Failure::doing("encoding the report"))?;
        std::fs::write(path, json + "\n").map_err(Failure::doing(format!("writing {}", path.display())))
    }
}

/// Tens of microseconds and more without a fraction.
fn microseconds(us: f64) -> String {
    if us < 20.0 { format!("{us:.1}") } else { format!("{us:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let disk = Disk { file_system: "tmpfs".into(), fdatasync_p50_us: 1, fdatasync_p99_us: 2 };
        let settings = Settings {
            version: "0.1.0",
            profile: "dev",
            server: "kontiki".into(),
            processors: 2,
            load_average: Some(3.0),
            disk,
            fsync: FSYNC,
            key_bytes: 16,
            value_bytes: 256,
            window_ms: 3000,
            warm_up_ms: 700,
        };
        let cell = Cell {
            place: Place::Grpc,
            operation: Operation::Put,
            clients: 16,
            connections_per_node: 12,
            partitions: 3,
            operations: 30,
            per_second: 10.0,
            p50_us: 12.34,
            p99_us: 99.9,
            max_us: 100.0,
            cpu_us: None,
            cpu_counted: "x",
            load_process_cpu_us: None,
            errors: 2,
            first_error: Some("no quorum".into()),
        };
        let stall = Stall {
            node: 3,
            partitions: vec![4],
            gap_ms: 1100.4,
            first_write_ms: 1000.0,
            others_gap_ms: None,
            errors: 0,
            first_error: None,
        };
        Report { settings, cold_start_ms: None, grpc_leaders: vec![], cells: vec![cell], stalls: vec![stall], took_ms: 1 }
    }

    #[test]
    fn the_text_warns_where_figures_mean_little_and_tells_failures() {
        let text = report().text();
        for expected in [
            "data lies in memory",
            "load average was 3.0",
            " 12.3 |",
            "2 failed, first: no quorum",
            "gap between acknowledged writes 1100 ms",
        ] {
            assert!(text.contains(expected), "`{expected}` is missing in:\n{text}");
        }
        assert!(!text.contains("other partitions: longest"), "it led them all");
    }

    #[test]
    fn the_json_holds_every_cell() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("report.json");
        report().write_json(&path).expect("written");
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("there")).expect("parses");
        assert_eq!(json["cells"][0]["place"], "grpc");
        assert_eq!(json["stalls"][0]["gap_ms"], 1100.4);
        let error = report().write_json(Path::new("/nowhere/report.json")).expect_err("no such directory");
        assert!(error.to_string().contains("/nowhere/report.json"), "{error}");
    }
}
