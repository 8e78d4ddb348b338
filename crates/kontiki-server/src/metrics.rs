//! What a node counts, for Prometheus. One registry per node, because one process may hold several. Counters and histograms are
//! fed as things happen; gauges are read from the node when somebody asks.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use kontiki_client::NodeStatus;
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
}

#[derive(Default)]
struct NodeGauges {
    ready: NodeGauge,
    fault: NodeGauge,
    uptime_ms: NodeGauge,
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
        let (node, partition) = (NodeGauges::default(), PartitionGauges::default());
        node.register(&mut registry);
        partition.register(&mut registry);
        Self { inner: Arc::new(Inner { registry, operations, durations, grpc, node, partition }) }
    }
}

impl NodeGauges {
    fn register(&self, registry: &mut Registry) {
        registry.register("ready", "1 if the node serves everything it should", self.ready.clone());
        registry.register("fault", "1 if the node as a whole does not work", self.fault.clone());
        registry.register("uptime_milliseconds", "Time since the node was started", self.uptime_ms.clone());
        registry.register("partitions", "Replicas held", self.partitions.clone());
        registry.register("partitions_led", "Replicas that lead, as they believe", self.partitions_led.clone());
        registry.register("log_bytes", "Bytes of the raft log on disk", self.log_bytes.clone());
        registry.register("data_bytes", "Bytes of the data on disk, estimated", self.data_bytes.clone());
    }

    fn set(&self, status: &NodeStatus) {
        let led = status.partitions.iter().filter(|partition| partition.leader == Some(status.node.id)).count();
        self.ready.set(status.ready.into());
        self.fault.set(status.fault.is_some().into());
        self.uptime_ms.set(status.uptime_ms);
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
        let mut text = String::new();
        encode(&mut text, &self.inner.registry).expect("invariant: writing to a String does not fail");
        text
    }
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
