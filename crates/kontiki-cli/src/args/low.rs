//! What was typed: the command line as clap reads it, before anything is checked against anything else. `high` makes of it what
//! the commands work with.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use kontiki::{NodeId, PartitionId, ReadLevel};

use super::server::ServerArgs;
use crate::encoding::Encoding;
use crate::values;

/// The heading of what every command but `server` takes. They are global all the same, so that they may stand before the command.
const CLIENT_OPTIONS: &str = "Global options, of every command but server";

const AFTER_HELP: &str = "\
Exit codes:
  0    done
  1    the key is not there, or a condition (--if-...) did not hold; nothing was written
  2    the request, the options or the settings make no sense or exceed a limit; nothing was written
  3    unavailable or overloaded, and certainly not done: safe to try again
  4    ambiguous: it may have been done, also if its session has expired; read before you decide
  5    a file, the data directory, or an address that is taken
  70   a defect of Kontiki
  130  stopped by a signal

Keys and values:
  Text is taken exactly as it is typed, without escapes. Tables show \\xNN for what is not printable text.
  JSON output is exact: the field's name says the encoding (key, key_hex, key_base64); import reads all three.

Start one node on this machine, and use it:
  kontiki server --data ./data
  kontiki put greeting hello
  kontiki get greeting";

/// Kontiki: an ordered key-value store, cut into partitions, each replicated by Raft. This is its server and its client.
#[derive(Debug, Parser)]
#[command(name = "kontiki", version, after_help = AFTER_HELP, disable_help_subcommand = true, max_term_width = 110)]
pub struct LowArgs {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl LowArgs {
    /// Parses what was typed. A server asks no cluster for anything: a client option that was typed for it is a misunderstanding, and
    /// told. (In the environment the same option may be meant for other commands.)
    pub fn parse_typed(typed: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches_from(typed)?;
        if let Some(server) = matches.subcommand_matches("server") {
            let typed = |option: &&&str| server.value_source(option) == Some(ValueSource::CommandLine);
            if let Some(option) = ["endpoints", "timeout"].iter().find(typed) {
                let message = format!(
                    "--{option} is an option of the commands that talk to a cluster; a server does not: leave it out (--listen says where it \
                     serves, --members who else there is)"
                );
                return Err(Self::command().error(clap::error::ErrorKind::ArgumentConflict, message));
            }
        }
        Self::from_arg_matches(&matches)
    }
}

/// Options that every command takes, before or after its name.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Nodes to ask, as HOST:PORT separated by commas. One that answers is enough: it tells of the others
    #[arg(
        long,
        help_heading = CLIENT_OPTIONS,
        global = true,
        env = "KONTIKI_ENDPOINTS",
        hide_env_values = true,
        default_value = "127.0.0.1:7601",
        value_delimiter = ',',
        value_name = "ADDRS"
    )]
    pub endpoints: Vec<String>,
    /// How long one call may take with all its retries: 500ms, 10s, 2m
    #[arg(long, global = true, help_heading = CLIENT_OPTIONS, default_value = "10s", value_parser = values::duration, value_name = "TIME")]
    pub timeout: Duration,
    /// How to print: a table for people, or JSON for programs (one document, or one per line for scan; errors too)
    #[arg(
        long,
        short,
        global = true,
        env = "KONTIKI_OUTPUT",
        hide_env_values = true,
        default_value = "table",
        value_name = "FORMAT"
    )]
    pub output: OutputFormat,
    /// How keys and values are typed and shown
    #[arg(long, short, global = true, default_value = "text", value_name = "ENCODING")]
    pub encoding: Encoding,
    /// What to log on stderr: a level, or a filter such as info,kontiki_raft=debug [default: info,openraft=error for server, warn for the others]
    #[arg(long, global = true, env = "KONTIKI_LOG", hide_env_values = true, value_name = "FILTER")]
    pub log: Option<String>,
    /// How to write the log
    #[arg(
        long,
        global = true,
        env = "KONTIKI_LOG_FORMAT",
        hide_env_values = true,
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    // No doc comments here: they would make clap print every option's help in its long form.
    Table,
    Json,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node until it gets SIGINT or SIGTERM
    Server(Box<ServerArgs>),
    /// Print the value of a key
    Get(GetArgs),
    /// Set a key, to a value that is typed or to the content of --value-file
    Put(PutArgs),
    /// Remove a key, or many: --prefix, --range, or --all
    Delete(DeleteArgs),
    /// List keys and values in key order: one snapshot of all partitions
    Scan(ScanArgs),
    /// Put the rows of a JSON-lines file; after an interruption, run it again and it goes on
    Import(ImportArgs),
    /// Write rows as JSON lines: one snapshot, in key order
    Export(ExportArgs),
    /// Write one snapshot of all partitions into a directory, while the cluster serves; or check one that was written
    Backup(BackupArgs),
    /// Build the data directory of a new cluster from a backup
    Restore(RestoreArgs),
    /// Build the data directory of a new cluster from what is left of one that has lost its majority
    Recover(RecoverArgs),
    /// Show how each node does
    Status,
    /// Show the partitions: what each holds, who leads it, how far its replicas are
    Partitions,
    /// Show the nodes of the cluster (the same as node list)
    Nodes,
    /// Show nodes, empty one so that it can be switched off, or give one up that is lost
    #[command(subcommand)]
    Node(NodeCommand),
    /// Make another node lead a partition
    TransferLeader(TransferLeaderArgs),
    /// Print a completion script for a shell, such as: source <(kontiki completions bash)
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Show the nodes of the cluster: where they are, what they hold, what is to become of them
    List,
    /// Empty a node, so that it can be switched off: what it holds moves to other nodes while everything goes on
    Decommission(DecommissionArgs),
    /// Give up a node that does not answer and will not come back: what it held is rebuilt on other nodes from the replicas they have
    Remove(RemoveArgs),
}

/// Arguments of `node remove`.
#[derive(Debug, Args)]
#[command(after_help = "\
The node takes part no more from that moment on, also if it comes back. To empty a node that works, and then to switch it off, is \
`kontiki node decommission`. It is refused if a partition would lose its last majority by it: --force does not override that.")]
pub struct RemoveArgs {
    /// The node, such as 4 or n4
    #[arg(value_parser = values::node)]
    pub node: NodeId,
    /// Give it up also if it still answers
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `node decommission`.
#[derive(Debug, Args)]
#[command(after_help = "\
The node serves what it has until that has moved. When `kontiki node list` says that it is gone, it holds nothing: stop its process. Its \
number is never given again. It is refused if the other nodes could not hold what it has: add a node first (kontiki server --join).")]
pub struct DecommissionArgs {
    /// The node, such as 4 or n4
    #[arg(value_parser = values::node)]
    pub node: NodeId,
    /// Wait until it holds nothing, however long that takes
    #[arg(long)]
    pub wait: bool,
}

/// At which level to read.
#[derive(Debug, Args)]
pub struct LevelArgs {
    /// What the read promises: linearizable (sees every write acknowledged before), stale:MS (any replica at most so old),
    /// at-least:TOKEN (any replica that has the write the token came from), snapshot:VERSION (the state at a version)
    #[arg(long, default_value = "linearizable", value_parser = values::level, value_name = "LEVEL")]
    pub level: ReadLevel,
}

/// Which keys: a prefix, or a range.
#[derive(Debug, Default, Args)]
pub struct RangeArgs {
    /// Only keys that start so
    #[arg(long, value_name = "PREFIX", conflicts_with_all = ["start", "end"])]
    pub prefix: Option<String>,
    /// From this key on
    #[arg(long, value_name = "KEY")]
    pub start: Option<String>,
    /// Up to this key, itself left out
    #[arg(long, value_name = "KEY")]
    pub end: Option<String>,
}

/// Conditions of a write. All must hold, or nothing is written and the exit code is 1.
#[derive(Debug, Args)]
#[command(next_help_heading = "Conditions (if one does not hold, nothing is written and the exit code is 1)")]
pub struct ConditionArgs {
    /// Only if the key has no value
    #[arg(long, conflicts_with_all = ["if_exists", "if_version", "if_value"])]
    pub if_absent: bool,
    /// Only if the key has a value
    #[arg(long)]
    pub if_exists: bool,
    /// Only if the value was set by the write with this version
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<u64>,
    /// Only if the key has exactly this value
    #[arg(long, value_name = "VALUE")]
    pub if_value: Option<String>,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The key
    pub key: String,
    /// Write the value's bytes as they are, with no line break after them
    #[arg(long)]
    pub raw: bool,
    #[command(flatten)]
    pub level: LevelArgs,
}

/// Arguments of `put`.
#[derive(Debug, Args)]
pub struct PutArgs {
    /// The key
    pub key: String,
    /// The value
    #[arg(required_unless_present = "value_file", conflicts_with = "value_file", allow_hyphen_values = true)]
    pub value: Option<String>,
    /// Take the value from a file, byte for byte; - is standard input
    #[arg(long, value_name = "FILE")]
    pub value_file: Option<PathBuf>,
    #[command(flatten)]
    pub conditions: ConditionArgs,
}

/// Arguments of `delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The key
    #[arg(required_unless_present_any = ["prefix", "range", "all"])]
    pub key: Option<String>,
    /// Remove every key
    #[arg(long, conflicts_with_all = ["key", "prefix", "range"])]
    pub all: bool,
    /// Remove all keys that start so
    #[arg(long, value_name = "PREFIX", conflicts_with_all = ["key", "range"])]
    pub prefix: Option<String>,
    /// Remove all keys from START up to END, which stays
    #[arg(long, num_args = 2, value_names = ["START", "END"], conflicts_with = "key")]
    pub range: Option<Vec<String>>,
    #[command(flatten)]
    pub conditions: ConditionArgs,
}

/// Arguments of `scan`.
#[derive(Debug, Args)]
pub struct ScanArgs {
    #[command(flatten)]
    pub range: RangeArgs,
    /// At most this many rows; 0 is all
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub limit: u64,
    /// From the end to the start
    #[arg(long)]
    pub reverse: bool,
    /// Without the values
    #[arg(long)]
    pub keys_only: bool,
    /// Print only how many rows there are
    #[arg(long, conflicts_with_all = ["keys_only", "reverse"])]
    pub count: bool,
    #[command(flatten)]
    pub level: LevelArgs,
}

/// Arguments of `import`.
#[derive(Debug, Args)]
#[command(after_help = "\
Each line is one row, such as {\"key\":\"a\",\"value\":\"b\"}. Bytes that are not text are given as key_hex, key_base64, \
value_hex or value_base64. Of two lines with one key, the later wins. What is acknowledged is noted in the checkpoint file: after an \
interruption the same command goes on from there, and the file is removed once all rows are in.")]
pub struct ImportArgs {
    /// The file; - is standard input
    pub file: PathBuf,
    /// The checkpoint file [default: FILE.kontiki-import; none for standard input]
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Forget the checkpoint and import from the start
    #[arg(long)]
    pub restart: bool,
    /// How many puts are under way at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096), value_name = "N")]
    pub concurrency: u32,
    /// How long to keep trying one row while the cluster does not answer
    #[arg(long, default_value = "30s", value_parser = values::duration, value_name = "TIME")]
    pub patience: Duration,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
#[command(after_help = "\
An export that was interrupted says after which key to go on: run it again with that --after KEY, and --append for a file. What \
comes after that key is then of a newer snapshot.")]
pub struct ExportArgs {
    /// The file to write; standard output if not given
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub range: RangeArgs,
    /// Go on after this key: the last one that was written; typed as --encoding says
    #[arg(long, value_name = "KEY", conflicts_with = "start")]
    pub after: Option<String>,
    /// Write at the end of the file, instead of refusing a file that is there
    #[arg(long, requires = "file")]
    pub append: bool,
    #[command(flatten)]
    pub level: LevelArgs,
}

/// Arguments of `backup`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
A backup that was interrupted goes on where it was, if the same command is run again. A directory is a backup once it holds the file \
MANIFEST. Keep the base of an incremental backup: it cannot be restored without."
)]
pub struct BackupArgs {
    /// The directory to write into: new, empty, or that of an interrupted backup
    #[arg(long, value_name = "DIR", required = true)]
    pub to: Option<PathBuf>,
    /// Only what was written since this backup, which may be an incremental one itself
    #[arg(long, value_name = "DIR")]
    pub base: Option<PathBuf>,
    /// Bytes after which a part is ended: what an interruption costs
    #[arg(long, value_name = "BYTES", hide = true)]
    pub part_bytes: Option<u64>,
    /// Something else about backups.
    #[command(subcommand)]
    pub other: Option<BackupCommand>,
}

/// What else there is to do about backups.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Read a backup, and all that it continues, back: every byte is checked
    Verify(VerifyArgs),
}

/// Arguments of `backup verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The backup
    pub dir: PathBuf,
    /// Where a backup that it continues lies now, if it has moved; may be given several times
    #[arg(long, value_name = "DIR")]
    pub base: Vec<PathBuf>,
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
#[command(after_help = "\
The new cluster has one node, number 1, and an id of its own: clients and tokens of the old one are refused. Start it with `kontiki server \
--data DIR`, and let other nodes join it. A restore that was interrupted leaves a directory in which no node starts; the same command \
begins it anew.")]
pub struct RestoreArgs {
    /// The backup
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// Where a backup that it continues lies now, if it has moved; may be given several times
    #[arg(long, value_name = "DIR")]
    pub base: Vec<PathBuf>,
    /// The new data directory: new or empty
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Into how many even parts the new cluster cuts its keys [default: cut as the old one was]
    #[arg(long, value_name = "N", conflicts_with = "boundaries", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub partitions: Option<u32>,
    /// The keys at which the new cluster cuts; typed as --encoding says
    #[arg(long, value_delimiter = ',', value_name = "KEY")]
    pub boundaries: Option<Vec<String>>,
    /// The new cluster's name
    #[arg(long, default_value = "kontiki", value_name = "NAME")]
    pub cluster_name: String,
}

/// Arguments of `recover`.
#[derive(Debug, Args)]
#[command(after_help = "\
For a cluster that has lost the majority of a partition's replicas for good. Of each partition the replica with the newest log is taken, to \
the end of its log. What only the lost nodes knew is lost; what that may be is printed. The directories are locked while they are copied, \
and are not changed. The new cluster has an id of its own: clients, tokens and nodes of the old one are refused.")]
pub struct RecoverArgs {
    /// The data directory of a node that is left; its node must not run. Give all of them
    #[arg(long, value_name = "DIR", required = true)]
    pub from: Vec<PathBuf>,
    /// The data directory of the new cluster: new or empty
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Go on although every partition has its majority here, so that the cluster could go on by itself
    #[arg(long)]
    pub force: bool,
    /// Go on although of some keys no replica is left: they are then gone
    #[arg(long)]
    pub accept_loss: bool,
    /// The new cluster's name [default: that of the old one]
    #[arg(long, value_name = "NAME")]
    pub cluster_name: Option<String>,
}

/// Arguments of `transfer-leader`.
#[derive(Debug, Args)]
pub struct TransferLeaderArgs {
    /// The partition, such as 3 or p3
    #[arg(value_parser = values::partition)]
    pub partition: PartitionId,
    /// The node that shall lead it, such as 2 or n2
    #[arg(value_parser = values::node)]
    pub node: NodeId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        LowArgs::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        for line in ["kontiki -o json --endpoints a:1,b:2 get k", "kontiki get k -o json --endpoints a:1,b:2"] {
            let args = LowArgs::try_parse_from(line.split(' ')).expect("parses");
            assert_eq!(args.global.output, OutputFormat::Json);
            assert_eq!(args.global.endpoints, ["a:1", "b:2"]);
        }
    }

    #[test]
    fn a_server_takes_no_client_options() {
        for line in
            ["kontiki server --data d --endpoints a:1", "kontiki --endpoints a:1 server --data d", "kontiki server --timeout 1s"]
        {
            let error = LowArgs::parse_typed(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("a server does not"), "{error}");
        }
        LowArgs::parse_typed("kontiki server --data d --log info".split(' ')).expect("its own options");
        LowArgs::parse_typed("kontiki get k --endpoints a:1".split(' ')).expect("a client's options");
    }

    #[test]
    fn help_names_the_ways_to_use_a_command() {
        let help = LowArgs::command().render_help().to_string();
        for word in ["--value-file", "--prefix, --range, or --all", "also if its session has expired"] {
            assert!(help.contains(word), "{word}: {help}");
        }
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        for line in [
            "put k",
            "put k v --value-file f",
            "put k v --if-absent --if-exists",
            "delete",
            "delete k --prefix p",
            "delete --range a",
            "delete --all k",
            "scan --prefix p --start s",
            "export --after a --start s",
            "export --append",
            "import f --concurrency 0",
            "get k --level eventual",
            "get k --timeout 0",
            "transfer-leader 0 1",
            "backup",
            "backup --base b",
            "backup verify",
            "backup --to d verify e",
            "restore --from b",
            "restore --from b --data d --partitions 2 --boundaries m",
            "restore --from b --data d --partitions 0",
            "recover --to d",
            "server --partitions 2 --boundaries m",
            "server --join a:1 --members 1=b:1",
            "server --join a:1 --node-id 4",
            "node",
            "node decommission",
            "node remove zero",
            "node remove --force",
        ] {
            let typed = std::iter::once("kontiki").chain(line.split(' '));
            let error = LowArgs::try_parse_from(typed).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_value_may_start_with_a_dash() {
        let args = LowArgs::try_parse_from(["kontiki", "put", "k", "-5"]).expect("parses");
        assert!(matches!(args.command, Command::Put(PutArgs { value: Some(value), .. }) if value == "-5"));
    }
}
