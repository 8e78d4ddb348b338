//! What was meant: keys and values as bytes, ranges with both ends, settings merged. Made from `low` once; whoever holds a
//! `HighArgs` need not check anything again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use kontiki::{NodeId, PartitionId, ReadLevel, Version, key};

use super::low::{
    BackupArgs, BackupCommand, Command, ConditionArgs, DeleteArgs, ExportArgs, ImportArgs, LogFormat, LowArgs, NodeCommand,
    OutputFormat, PutArgs, RangeArgs, RecoverArgs, VerifyArgs,
};
use crate::encoding::Encoding;
use crate::failure::Failure;
use crate::settings::{Cut, ServerSettings};

/// What a server logs if it is not told. openraft tells at `info` every step of every group.
const SERVER_LOG: &str = "info,openraft=error";
/// What the other commands log.
const CLIENT_LOG: &str = "warn";

/// Everything that one run needs to know.
#[derive(Debug)]
pub struct HighArgs {
    /// The addresses to try.
    pub endpoints: Vec<String>,
    /// How to print.
    pub output: OutputFormat,
    /// How keys and values are shown.
    pub encoding: Encoding,
    /// The whole of one call.
    pub timeout: Duration,
    /// The log filter.
    pub log: String,
    /// The log's form.
    pub log_format: LogFormat,
    /// What to do.
    pub task: Task,
}

/// What to do, checked.
#[derive(Debug)]
pub enum Task {
    /// Run a node.
    Server(Box<ServerSettings>),
    /// Read one key.
    Get {
        /// The key.
        key: Bytes,
        /// Bytes as they are.
        raw: bool,
        /// The promise.
        level: ReadLevel,
    },
    /// Set one key.
    Put {
        /// The key.
        key: Bytes,
        /// The value, or where it is.
        value: Source,
        /// Conditions on that key.
        conditions: Vec<Condition>,
    },
    /// Remove one key.
    Delete {
        /// The key.
        key: Bytes,
        /// Conditions on that key.
        conditions: Vec<Condition>,
    },
    /// Remove a range.
    DeleteRange(KeySpan),
    /// List rows.
    Scan(Scan),
    /// Put the rows of a file.
    Import(Import),
    /// Write rows to a file.
    Export(Export),
    /// Make a backup.
    Backup(BackupTo),
    /// Check a backup.
    VerifyBackup {
        /// Where it is.
        dir: PathBuf,
        /// Where those that it continues are.
        bases: Vec<PathBuf>,
    },
    /// A new cluster from a backup.
    Restore(Restore),
    /// A new cluster from what is left of one.
    Recover(Recover),
    /// How nodes do.
    Status,
    /// The partitions.
    Partitions,
    /// The nodes.
    Nodes,
    /// Empty a node.
    Decommission {
        /// Which.
        node: NodeId,
        /// Until it holds nothing.
        wait: bool,
    },
    /// Give a node up.
    RemoveNode {
        /// The node.
        node: NodeId,
        /// Also if it answers.
        force: bool,
    },
    /// Move leadership.
    TransferLeader {
        /// Which.
        partition: PartitionId,
        /// To whom.
        node: NodeId,
    },
    /// A completion script.
    Completions(clap_complete::Shell),
}

/// What to list.
#[derive(Debug)]
pub struct Scan {
    /// Which keys.
    pub span: KeySpan,
    /// `None` is all.
    pub limit: Option<u64>,
    /// From the end.
    pub reverse: bool,
    /// Without values.
    pub keys_only: bool,
    /// Only the number.
    pub count: bool,
    /// The promise.
    pub level: ReadLevel,
}

/// What to import, and how.
#[derive(Debug)]
pub struct Import {
    /// The file; `None` is standard input.
    pub file: Option<PathBuf>,
    /// Where the checkpoint is kept, if at all.
    pub state: Option<PathBuf>,
    /// Start anew.
    pub restart: bool,
    /// Puts under way.
    pub concurrency: usize,
    /// For one row.
    pub patience: Duration,
}

/// What to export, and where to.
#[derive(Debug)]
pub struct Export {
    /// Where to.
    pub target: Target,
    /// Which keys.
    pub span: KeySpan,
    /// The promise.
    pub level: ReadLevel,
}

/// Which backup to make.
#[derive(Debug)]
pub struct BackupTo {
    /// Its directory.
    pub to: PathBuf,
    /// What it continues.
    pub base: Option<PathBuf>,
    /// Bytes of a part, if not as many as usual.
    pub part_bytes: Option<u64>,
}

/// Which cluster to build from which backup.
#[derive(Debug)]
pub struct Restore {
    /// The backup.
    pub from: PathBuf,
    /// Where those that it continues are.
    pub bases: Vec<PathBuf>,
    /// The new data directory.
    pub data: PathBuf,
    /// How it is cut; `None`: as the old one was.
    pub cut: Option<Cut>,
    /// The new cluster's name.
    pub cluster_name: String,
}

/// Which cluster to build from what is left of which.
#[derive(Debug)]
pub struct Recover {
    /// The directories that are left.
    pub from: Vec<PathBuf>,
    /// The new data directory.
    pub to: PathBuf,
    /// Also of a healthy cluster.
    pub force: bool,
    /// Also if keys are gone.
    pub accept_loss: bool,
    /// The new cluster's name; `None`: that of the old one.
    pub cluster_name: Option<String>,
}

/// Where a value comes from.
#[derive(Debug, PartialEq, Eq)]
pub enum Source {
    /// It was typed.
    Given(Bytes),
    /// A file, byte for byte.
    File(PathBuf),
    /// Standard input, to its end.
    Stdin,
}

/// Where an export goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// A file that must not be there yet.
    New(PathBuf),
    /// The end of a file.
    Append(PathBuf),
}

/// A half-open range of user keys; an empty end is no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySpan {
    /// First key inside.
    pub start: Bytes,
    /// First key outside.
    pub end: Bytes,
}

/// A condition on the key of the write.
#[derive(Debug, PartialEq, Eq)]
pub enum Condition {
    /// It has no value.
    Absent,
    /// It has one.
    Exists,
    /// Set by this version.
    Version(Version),
    /// Exactly this.
    Value(Bytes),
}

impl HighArgs {
    /// Checks what was typed, and reads the settings file if one was named.
    pub fn from_low(low: LowArgs) -> Result<Self, Failure> {
        let LowArgs { global, command } = low;
        let encoding = global.encoding;
        let is_server = matches!(command, Command::Server(_));
        let endpoints = endpoints(&global.endpoints)?;
        Ok(Self {
            endpoints,
            output: global.output,
            encoding,
            timeout: global.timeout,
            log: global.log.unwrap_or_else(|| if is_server { SERVER_LOG } else { CLIENT_LOG }.to_owned()),
            log_format: global.log_format,
            task: task(command, encoding)?,
        })
    }
}

fn endpoints(typed: &[String]) -> Result<Vec<String>, Failure> {
    let endpoints: Vec<String> = typed.iter().map(|typed| typed.trim().to_owned()).filter(|typed| !typed.is_empty()).collect();
    if endpoints.is_empty() {
        return Err(Failure::usage("--endpoints names no address; give HOST:PORT, or several separated by commas"));
    }
    for endpoint in &endpoints {
        let valid = endpoint
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
        if !valid {
            return Err(Failure::usage(format!(
                "the endpoint `{endpoint}` is not of the form HOST:PORT, such as 127.0.0.1:7601"
            )));
        }
    }
    Ok(endpoints)
}

fn task(command: Command, encoding: Encoding) -> Result<Task, Failure> {
    Ok(match command {
        Command::Server(args) => Task::Server(Box::new(ServerSettings::load(*args, encoding)?)),
        Command::Get(args) => {
            if args.raw && encoding != Encoding::Text {
                return Err(Failure::usage(format!(
                    "--raw writes bytes as they are, --encoding {} does not; give one of them",
                    encoding.name()
                )));
            }
            Task::Get { key: key_of(&args.key, encoding)?, raw: args.raw, level: args.level.level }
        }
        Command::Put(args) => put(args, encoding)?,
        Command::Delete(args) => delete(args, encoding)?,
        Command::Scan(args) => Task::Scan(Scan {
            span: span(&args.range, encoding)?,
            limit: (args.limit > 0).then_some(args.limit),
            reverse: args.reverse,
            keys_only: args.keys_only || args.count,
            count: args.count,
            level: args.level.level,
        }),
        Command::Import(args) => import(args),
        Command::Export(args) => export(args, encoding)?,
        Command::Backup(args) => backup(args)?,
        Command::Restore(args) => Task::Restore(Restore {
            cut: cut(args.partitions, args.boundaries, encoding)?,
            from: args.from,
            bases: args.base,
            data: args.data,
            cluster_name: args.cluster_name,
        }),
        Command::Recover(RecoverArgs { from, to, force, accept_loss, cluster_name }) => {
            Task::Recover(Recover { from, to, force, accept_loss, cluster_name })
        }
        Command::Status => Task::Status,
        Command::Partitions => Task::Partitions,
        Command::Nodes | Command::Node(NodeCommand::List) => Task::Nodes,
        Command::Node(NodeCommand::Decommission(args)) => Task::Decommission { node: args.node, wait: args.wait },
        Command::Node(NodeCommand::Remove(low)) => Task::RemoveNode { node: low.node, force: low.force },
        Command::TransferLeader(args) => Task::TransferLeader { partition: args.partition, node: args.node },
        Command::Completions { shell } => Task::Completions(shell),
    })
}

fn backup(args: BackupArgs) -> Result<Task, Failure> {
    match (args.to, args.other) {
        (_, Some(BackupCommand::Verify(VerifyArgs { dir, base }))) => Ok(Task::VerifyBackup { dir, bases: base }),
        (Some(to), None) => Ok(Task::Backup(BackupTo { to, base: args.base, part_bytes: args.part_bytes })),
        (None, None) => Err(Failure::usage("say where the backup goes: --to DIR")),
    }
}

fn cut(partitions: Option<u32>, boundaries: Option<Vec<String>>, encoding: Encoding) -> Result<Option<Cut>, Failure> {
    let Some(typed) = boundaries else { return Ok(partitions.map(Cut::Even)) };
    Ok(Some(Cut::At(typed.iter().map(|key| encoding.decode("boundary", key)).collect::<Result<_, _>>()?)))
}

fn key_of(typed: &str, encoding: Encoding) -> Result<Bytes, Failure> {
    let key = encoding.decode("key", typed)?;
    if key.is_empty() {
        return Err(Failure::usage("the key is empty; a key has 1 byte or more"));
    }
    Ok(key)
}

fn put(args: PutArgs, encoding: Encoding) -> Result<Task, Failure> {
    let value = match (args.value, args.value_file) {
        (Some(typed), _) => Source::Given(encoding.decode("value", &typed)?),
        (None, Some(path)) if path == Path::new("-") => Source::Stdin,
        (None, Some(path)) => Source::File(path),
        (None, None) => return Err(Failure::usage("no value; give one, or --value-file")),
    };
    Ok(Task::Put { key: key_of(&args.key, encoding)?, value, conditions: conditions(args.conditions, encoding)? })
}

fn delete(args: DeleteArgs, encoding: Encoding) -> Result<Task, Failure> {
    let conditions = conditions(args.conditions, encoding)?;
    if let Some(typed) = args.key {
        return Ok(Task::Delete { key: key_of(&typed, encoding)?, conditions });
    }
    if !conditions.is_empty() {
        return Err(Failure::usage("conditions are about one key; they do not go with --prefix, --range or --all"));
    }
    if args.all {
        return Ok(Task::DeleteRange(KeySpan::default()));
    }
    let range = match args.range.as_deref() {
        Some([start, end]) => RangeArgs { prefix: None, start: Some(start.clone()), end: Some(end.clone()) },
        _ => RangeArgs { prefix: args.prefix, start: None, end: None },
    };
    let span = span(&range, encoding)?;
    if span.start.is_empty() && span.end.is_empty() {
        return Err(Failure::usage("this would remove every key; if that is meant, say --all"));
    }
    Ok(Task::DeleteRange(span))
}

fn conditions(args: ConditionArgs, encoding: Encoding) -> Result<Vec<Condition>, Failure> {
    let mut conditions = Vec::new();
    if args.if_absent {
        conditions.push(Condition::Absent);
    }
    if args.if_exists {
        conditions.push(Condition::Exists);
    }
    conditions.extend(args.if_version.map(|version| Condition::Version(Version(version))));
    if let Some(typed) = args.if_value {
        conditions.push(Condition::Value(encoding.decode("value of --if-value", &typed)?));
    }
    Ok(conditions)
}

fn span(args: &RangeArgs, encoding: Encoding) -> Result<KeySpan, Failure> {
    if let Some(typed) = &args.prefix {
        let prefix = encoding.decode("prefix", typed)?;
        return Ok(KeySpan { end: key::prefix_end(&prefix), start: prefix });
    }
    let end_of =
        |what: &str, typed: &Option<String>| typed.as_deref().map_or(Ok(Bytes::new()), |typed| encoding.decode(what, typed));
    let span = KeySpan { start: end_of("start", &args.start)?, end: end_of("end", &args.end)? };
    if !span.end.is_empty() && span.start > span.end {
        let (start, end) = (encoding.show(&span.start), encoding.show(&span.end));
        return Err(Failure::usage(format!("the range is reversed: start `{start}` lies after end `{end}`")));
    }
    Ok(span)
}

fn import(args: ImportArgs) -> Task {
    let file = (args.file != Path::new("-")).then_some(args.file);
    let beside = || {
        let mut name = file.as_ref()?.as_os_str().to_owned();
        name.push(".kontiki-import");
        Some(PathBuf::from(name))
    };
    let state = args.state.or_else(beside);
    let (restart, concurrency, patience) = (args.restart, args.concurrency as usize, args.patience);
    Task::Import(Import { file, state, restart, concurrency, patience })
}

fn export(args: ExportArgs, encoding: Encoding) -> Result<Task, Failure> {
    let mut span = span(&args.range, encoding)?;
    if let Some(typed) = &args.after {
        span.start = key::successor(&key_of(typed, encoding)?).max(span.start);
    }
    let target = match args.file {
        None => Target::Stdout,
        Some(file) if args.append => Target::Append(file),
        Some(file) => Target::New(file),
    };
    Ok(Task::Export(Export { target, span, level: args.level.level }))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn task_of(line: &str) -> Result<Task, Failure> {
        let typed = std::iter::once("kontiki").chain(line.split(' '));
        HighArgs::from_low(LowArgs::try_parse_from(typed).unwrap_or_else(|error| panic!("{line}: {error}"))).map(|high| high.task)
    }

    #[test]
    fn keys_and_values_are_bytes_after_the_check() {
        let Task::Put { key, value, conditions } = task_of("put -e hex 6b 00ff --if-value 01 --if-version 7").expect("checks")
        else {
            panic!("not a put");
        };
        assert_eq!((key, value), (Bytes::from_static(b"k"), Source::Given(Bytes::from_static(b"\x00\xff"))));
        assert_eq!(conditions, [Condition::Version(Version(7)), Condition::Value(Bytes::from_static(b"\x01"))]);
    }

    #[test]
    fn ranges_have_both_ends() {
        let spans = [
            ("scan", "", ""),
            ("scan --prefix ab", "ab", "ac"),
            ("scan --start a", "a", ""),
            ("export --after a --end c", "a\0", "c"),
            ("export --prefix a --after ab", "ab\0", "b"),
            ("delete --range a b", "a", "b"),
            ("delete --prefix x", "x", "y"),
            ("delete --all", "", ""),
        ];
        for (line, start, end) in spans {
            let span = match task_of(line).expect(line) {
                Task::Scan(Scan { span, .. }) | Task::Export(Export { span, .. }) | Task::DeleteRange(span) => span,
                other => panic!("{line} is {other:?}"),
            };
            assert_eq!(span, KeySpan { start: Bytes::from(start.to_owned()), end: Bytes::from(end.to_owned()) }, "{line}");
        }
    }

    #[test]
    fn mistakes_are_found_before_anything_is_sent() {
        for (line, word) in [
            ("scan --start b --end a", "reversed"),
            ("get -e hex 6", "hexadecimal"),
            ("get -e hex 61 --raw", "one of them"),
            ("delete --prefix a --if-exists", "one key"),
            ("scan --endpoints ,", "names no address"),
            ("scan --endpoints a:1,b", "`b` is not of the form HOST:PORT"),
            ("scan --endpoints a:0", "`a:0` is not of the form HOST:PORT"),
            ("delete --prefix=", "every key"),
        ] {
            let failure = task_of(line).expect_err(line);
            assert_eq!(failure.exit as u8, 2, "{line}");
            assert!(failure.message.contains(word), "{line}: {failure}");
        }
    }

    #[test]
    fn an_import_keeps_its_checkpoint_beside_the_file_and_none_for_a_pipe() {
        let state_of = |line: &str| match task_of(line).expect(line) {
            Task::Import(import) => import.state,
            other => panic!("{line} is {other:?}"),
        };
        assert_eq!(state_of("import rows.jsonl"), Some(PathBuf::from("rows.jsonl.kontiki-import")));
        assert_eq!(state_of("import -"), None);
        assert_eq!(state_of("import - --state here"), Some(PathBuf::from("here")));
    }
}
