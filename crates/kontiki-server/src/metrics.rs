//! What a node counts, for Prometheus. One registry per node, because one process may hold several. Counters and histograms are
//! fed as things happen; gauges are read from the node when somebody asks.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use kontiki_client::NodeStatus;
use kontiki_raft::Groups;
use kontiki_types::{CallError, Error};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use crate::local::Local;

/// What this node's replicas were asked, embedded or over gRPC.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DurationLabels {
    operation: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct GrpcLabels {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PartitionLabels {
    partition: u64,
}

type PartitionGauge = Family<PartitionLabels, Gauge<u64, AtomicU64>>;
type NodeGauge = Gauge<u64, AtomicU64>;

/// The counters of one node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    operations: Family<OperationLabels, Counter>,
    durations: Family<DurationLabels, Histogram>,
    grpc: Family<GrpcLabels, Counter>,
    node: NodeGauges,
    partition: PartitionGauges,
    raft: RaftGauges,
}

#[derive(Default)]
struct NodeGauges {
    ready: NodeGauge,
    fault: NodeGauge,
    uptime: Gauge<f64, AtomicU64>,
    partitions: NodeGauge,
    partitions_led: NodeGauge,
    log_bytes: NodeGauge,
    data_bytes: NodeGauge,
}

#[derive(Default)]
struct PartitionGauges {
    leads: PartitionGauge,
    term: PartitionGauge,
    applied_index: PartitionGauge,
    committed_index: PartitionGauge,
    last_index: PartitionGauge,
    fault: PartitionGauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("kontiki");
        let (operations, grpc) = (Family::default(), Family::default());
        // 50 us to 26 s: a local read to a call at its deadline.
        let durations =
            Family::new_with_constructor((|| Histogram::new(exponential_buckets(0.000_05, 2.0, 20))) as fn() -> Histogram);
        registry.register("operations", "What this node's replicas were asked, by outcome", Family::clone(&operations));
        let help = "Time from a request's admission to its answer";
        registry.register_with_unit("operation_duration", help, Unit::Seconds, Family::clone(&durations));
        registry.register("grpc_requests", "gRPC calls answered, by status code", Family::clone(&grpc));
        let (node, partition, raft) = (NodeGauges::default(), PartitionGauges::default(), RaftGauges::default());
        node.register(&mut registry);
        partition.register(&mut registry);
        raft.register(&mut registry);
        Self { inner: Arc::new(Inner { registry, operations, durations, grpc, node, partition, raft }) }
    }
}

/// What is kept of the log, and what is sent of it in one piece.
#[derive(Default)]
struct RaftGauges {
    entries: NodeGauge,
    entries_bytes: NodeGauge,
    segments: NodeGauge,
    trims: NodeGauge,
    reclaims: NodeGauge,
    flushes: NodeGauge,
    flushed_ago_ms: NodeGauge,
    sending: NodeGauge,
    receiving: NodeGauge,
    sent: NodeGauge,
    installed: NodeGauge,
    failed: NodeGauge,
    sent_bytes: NodeGauge,
    received_bytes: NodeGauge,
}

impl RaftGauges {
    fn register(&self, registry: &mut Registry) {
        registry.register("log_entries", "Entries kept in the raft log", self.entries.clone());
        registry.register("log_entries_bytes", "Bytes of these entries", self.entries_bytes.clone());
        registry.register("log_segments", "Files of the raft log", self.segments.clone());
        registry.register("log_trims", "How often the log of a partition was trimmed", self.trims.clone());
        registry.register("data_rewrites", "Parts of the data rewritten to remove old versions", self.reclaims.clone());
        registry.register("flushes", "Flushes of the storage engine for the sake of the log", self.flushes.clone());
        registry.register(
            "flushed_ago_milliseconds",
            "Time since the last of them; 0 if there was none",
            self.flushed_ago_ms.clone(),
        );
        registry.register("snapshots_sending", "Snapshots being sent", self.sending.clone());
        registry.register("snapshots_receiving", "Snapshots being received", self.receiving.clone());
        registry.register("snapshots_sent", "Snapshots sent and installed by their receivers", self.sent.clone());
        registry.register("snapshots_installed", "Snapshots received and installed", self.installed.clone());
        registry.register("snapshots_failed", "Attempts that broke, each way; most go on where they broke", self.failed.clone());
        registry.register("snapshots_sent_bytes", "Bytes of rows sent in snapshots", self.sent_bytes.clone());
        registry.register("snapshots_received_bytes", "Bytes of rows received in snapshots", self.received_bytes.clone());
    }

    fn set(&self, groups: &Groups) {
        let (log, snapshots) = (groups.log_stats(), groups.snapshot_stats());
        self.entries.set(log.entries);
        self.entries_bytes.set(log.entries_bytes);
        self.segments.set(log.segments as u64);
        self.trims.set(log.trims);
        self.reclaims.set(groups.reclaims());
        self.flushes.set(log.flushes);
        self.flushed_ago_ms.set(log.flushed_ago_ms.unwrap_or_default());
        self.sending.set(snapshots.sending);
        self.receiving.set(snapshots.receiving);
        self.sent.set(snapshots.sent);
        self.installed.set(snapshots.installed);
        self.failed.set(snapshots.failed);
        self.sent_bytes.set(snapshots.sent_bytes);
        self.received_bytes.set(snapshots.received_bytes);
    }
}

impl NodeGauges {
    fn register(&self, registry: &mut Registry) {
        registry.register("ready", "1 if the node serves everything it should", self.ready.clone());
        registry.register("fault", "1 if the node as a whole does not work", self.fault.clone());
        registry.register_with_unit("uptime", "Time since the node was started", Unit::Seconds, self.uptime.clone());
        registry.register("partitions", "Replicas held", self.partitions.clone());
        registry.register("partitions_led", "Replicas that lead, as they believe", self.partitions_led.clone());
        registry.register("log_bytes", "Bytes of the raft log on disk", self.log_bytes.clone());
        registry.register("data_bytes", "Bytes of the data on disk, estimated", self.data_bytes.clone());
    }

    fn set(&self, status: &NodeStatus) {
        let led = status.partitions.iter().filter(|partition| partition.leader == Some(status.node.id)).count();
        self.ready.set(status.ready.into());
        self.fault.set(status.fault.is_some().into());
        self.uptime.set(Duration::from_millis(status.uptime_ms).as_secs_f64());
        self.partitions.set(status.partitions.len() as u64);
        self.partitions_led.set(led as u64);
        self.log_bytes.set(status.log_bytes);
        self.data_bytes.set(status.data_bytes);
    }
}

impl PartitionGauges {
    fn register(&self, registry: &mut Registry) {
        registry.register("partition_leads", "1 if this node's replica leads, as it believes", self.leads.clone());
        registry.register("partition_term", "The raft term", self.term.clone());
        registry.register("partition_applied_index", "The last log entry applied", self.applied_index.clone());
        registry.register("partition_committed_index", "The last log entry known to be committed", self.committed_index.clone());
        registry.register("partition_last_index", "The last log entry", self.last_index.clone());
        registry.register("partition_fault", "1 if the replica has stopped", self.fault.clone());
    }

    /// Replicas that have gone since the last time are forgotten.
    fn set(&self, status: &NodeStatus) {
        for family in [&self.leads, &self.term, &self.applied_index, &self.committed_index, &self.last_index, &self.fault] {
            family.clear();
        }
        for partition in &status.partitions {
            let labels = PartitionLabels { partition: partition.id.0 };
            self.leads.get_or_create(&labels).set((partition.leader == Some(status.node.id)).into());
            self.term.get_or_create(&labels).set(partition.term);
            self.applied_index.get_or_create(&labels).set(partition.applied_index);
            self.committed_index.get_or_create(&labels).set(partition.committed_index);
            self.last_index.get_or_create(&labels).set(partition.last_index);
            self.fault.get_or_create(&labels).set(partition.fault.is_some().into());
        }
    }
}

impl Metrics {
    /// Counts one operation on this node's replicas.
    pub(crate) fn operation<T>(&self, operation: &'static str, since: Instant, result: &Result<T, CallError>) {
        let outcome = match result {
            Ok(_) => "ok",
            Err(error) => Error::from(error.clone()).kind().name(),
        };
        self.inner.operations.get_or_create(&OperationLabels { operation, outcome }).inc();
        self.inner.durations.get_or_create(&DurationLabels { operation }).observe(since.elapsed().as_secs_f64());
    }

    /// Counts one gRPC call.
    pub(crate) fn grpc<T>(&self, method: &'static str, result: &Result<T, tonic::Status>) {
        let code = result.as_ref().err().map_or(tonic::Code::Ok, tonic::Status::code);
        self.inner.grpc.get_or_create(&GrpcLabels { method, code: code_name(code) }).inc();
    }

    /// Everything, as Prometheus reads it.
    pub(crate) fn text(&self, local: &Local) -> String {
        let status = local.now();
        self.inner.node.set(&status);
        self.inner.partition.set(&status);
        if let Some(groups) = local.groups() {
            self.inner.raft.set(&groups);
        }
        let mut text = String::new();
        encode(&mut text, &self.inner.registry).expect("invariant: writing to a String does not fail");
        in_order(&text)
    }
}

/// The rows of each metric in the order of their labels. The registry keeps them in hash maps, so that two looks at one node would show
/// them in two orders. The rows of one histogram stay as they are among themselves.
fn in_order(text: &str) -> String {
    let (mut ordered, mut rows) = (String::with_capacity(text.len()), Vec::new());
    let flush = |rows: &mut Vec<&str>, ordered: &mut String| {
        rows.sort_by_cached_key(|row| labels_of(row));
        ordered.extend(rows.drain(..).flat_map(|row| [row, "\n"]));
    };
    for line in text.lines() {
        if line.starts_with('#') {
            flush(&mut rows, &mut ordered);
            ordered.extend([line, "\n"]);
        } else {
            rows.push(line);
        }
    }
    flush(&mut rows, &mut ordered);
    ordered
}

/// What tells a row from the others of its metric: its labels, but not a bucket's bound; numbers compare as numbers.
fn labels_of(row: &str) -> String {
    let labels = row.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
    let kept = labels.split(',').filter(|label| !label.starts_with("le="));
    let padded =
        kept.map(|label| match label.split_once("=\"").and_then(|(name, value)| Some((name, value.strip_suffix('"')?))) {
            Some((name, value)) if value.bytes().all(|byte| byte.is_ascii_digit()) => format!("{name}={value:0>20},"),
            _ => format!("{label},"),
        });
    padded.collect()
}

fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_their_labels_and_buckets_keep_theirs() {
        let text = "\
# TYPE term gauge
term{partition=\"10\"} 1
term{partition=\"2\"} 1
# TYPE took histogram
took_sum{operation=\"write\"} 1
took_bucket{le=\"9.0\",operation=\"write\"} 1
took_bucket{le=\"10.0\",operation=\"write\"} 1
took_sum{operation=\"read\"} 1
took_bucket{le=\"9.0\",operation=\"read\"} 1
# TYPE up gauge
up 1
# EOF
";
        let expected = "\
# TYPE term gauge
term{partition=\"2\"} 1
term{partition=\"10\"} 1
# TYPE took histogram
took_sum{operation=\"read\"} 1
took_bucket{le=\"9.0\",operation=\"read\"} 1
took_sum{operation=\"write\"} 1
took_bucket{le=\"9.0\",operation=\"write\"} 1
took_bucket{le=\"10.0\",operation=\"write\"} 1
# TYPE up gauge
up 1
# EOF
";
        assert_eq!(in_order(text), expected);
    }

    #[test]
    fn the_uptime_is_told_in_seconds() {
        let metrics = Metrics::default();
        metrics.inner.node.uptime.set(1.5);
        let mut text = String::new();
        encode(&mut text, &metrics.inner.registry).expect("a String takes everything");
        assert!(text.contains("# UNIT kontiki_uptime_seconds seconds\nkontiki_uptime_seconds 1.5\n"), "{text}");
    }
}
