//! What `server` can be told on its command line. Every flag has a name in the environment and in the settings file too.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kontiki::NodeId;

use crate::values;

/// Flags of `server`. What is not given here is taken from the environment, then from the file of `--config`, then from the
/// defaults.
#[derive(Debug, Default, Args)]
pub struct ServerArgs {
    /// A TOML file with the settings below, named as the flags are, with underscores: node_id = 1
    #[arg(long, env = "KONTIKI_CONFIG", hide_env_values = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The folder that holds everything this node stores; created if it is not there
    #[arg(long, env = "KONTIKI_DATA", hide_env_values = true, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The number of this node in its cluster, from 1; never reused [default: 1]
    #[arg(long, env = "KONTIKI_NODE_ID", hide_env_values = true, value_name = "N", value_parser = values::node)]
    pub node_id: Option<NodeId>,
    /// Where to serve gRPC, to clients and to the other nodes [default: 127.0.0.1:7601]
    #[arg(long, env = "KONTIKI_LISTEN", hide_env_values = true, value_name = "ADDR")]
    pub listen: Option<String>,
    /// The address that others reach this node at, if it is not the one it listens at
    #[arg(long, env = "KONTIKI_ADVERTISE", hide_env_values = true, value_name = "ADDR")]
    pub advertise: Option<String>,
    /// Where to serve /metrics, /livez and /readyz; not served if not given
    #[arg(long, env = "KONTIKI_HTTP", hide_env_values = true, value_name = "ADDR")]
    pub http: Option<String>,
    /// All first members of a new cluster, this one too: 1=HOST:PORT,2=HOST:PORT,... The same on every node. Not given: a cluster of one
    #[arg(long, env = "KONTIKI_MEMBERS", hide_env_values = true, value_delimiter = ',', value_name = "ID=ADDR")]
    pub members: Option<Vec<String>>,
    /// Into how many even parts a new cluster cuts its keys [default: 1]
    #[arg(long, env = "KONTIKI_PARTITIONS", hide_env_values = true, value_name = "N", conflicts_with = "boundaries")]
    pub partitions: Option<u32>,
    /// The keys at which a new cluster cuts, instead of even parts; typed as --encoding says
    #[arg(long, env = "KONTIKI_BOUNDARIES", hide_env_values = true, value_delimiter = ',', value_name = "KEY")]
    pub boundaries: Option<Vec<String>>,
    /// Nodes of a running cluster, HOST:PORT,...: a node with an empty data directory joins it and is given a number. One that answers is enough
    #[arg(long, env = "KONTIKI_JOIN", hide_env_values = true, value_delimiter = ',', value_name = "ADDRS", conflicts_with_all = ["members", "node_id"])]
    pub join: Option<Vec<String>>,
    /// Where the node stands, such as a rack: replicas of a partition are put in different zones where that can be
    #[arg(long, env = "KONTIKI_ZONE", hide_env_values = true, value_name = "NAME")]
    pub zone: Option<String>,
    /// How many replicas a partition of a new cluster has, as soon as there are nodes for them; the same on every node [default: 3]
    #[arg(long, env = "KONTIKI_REPLICAS", hide_env_values = true, value_name = "N")]
    pub replicas: Option<u32>,
    /// How long a node may be silent before what it held is rebuilt on others; the same on every node [default: 10m]
    #[arg(long, env = "KONTIKI_DEAD_AFTER", hide_env_values = true, value_parser = values::duration, value_name = "TIME")]
    pub dead_after: Option<Duration>,
    /// How long a version of a key can be read after a newer one took its place (snapshots, backups); the same on every node [default: 1h]
    #[arg(long, env = "KONTIKI_RETENTION", hide_env_values = true, value_parser = values::duration, value_name = "TIME")]
    pub retention: Option<Duration>,
    /// Bytes per second that this node sends at most while it catches other nodes up, so that its clients keep the rest [default: 64MiB]
    #[arg(long, env = "KONTIKI_SNAPSHOT_RATE", hide_env_values = true, value_parser = values::bytes, value_name = "BYTES")]
    pub snapshot_rate: Option<u64>,
    /// The name of the cluster, the same on every node: nodes of another cluster are refused [default: kontiki]
    #[arg(long, env = "KONTIKI_CLUSTER_NAME", hide_env_values = true, value_name = "NAME")]
    pub cluster_name: Option<String>,
}
