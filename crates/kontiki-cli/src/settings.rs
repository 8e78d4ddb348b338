//! The settings of `server`: flag over environment over file over default. This is the one place of Kontiki that reads a
//! settings file; clap has already put the environment behind the flags.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use kontiki::{NodeId, limits};
use serde::Deserialize;

use crate::args::ServerArgs;
use crate::encoding::Encoding;
use crate::failure::Failure;

/// A node that is silent for so long is given up, if nothing else is said.
const DEAD_AFTER: Duration = Duration::from_secs(600);
/// Old versions can be read for so long, if nothing else is said.
const RETENTION: Duration = Duration::from_millis(limits::RETENTION_MS);

/// The settings of one node, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// The data directory.
    pub data: PathBuf,
    /// This node.
    pub node_id: NodeId,
    /// gRPC.
    pub listen: String,
    /// gRPC as others reach it.
    pub advertise: Option<String>,
    /// HTTP, if served.
    pub http: Option<String>,
    /// First members; empty for a cluster of one.
    pub members: Vec<(NodeId, String)>,
    /// Nodes of a cluster to join; empty: none.
    pub join: Vec<String>,
    /// Where the node stands.
    pub zone: String,
    /// Replicas of each partition of a new cluster.
    pub replicas: u32,
    /// When a silent node is given up.
    pub dead_after: Duration,
    /// How long old versions can be read.
    pub retention: Duration,
    /// Bytes per second that are sent while other nodes are caught up; none: the default.
    pub snapshot_rate: Option<u64>,
    /// How a new cluster is cut.
    pub cut: Cut,
    /// The cluster's name.
    pub cluster_name: String,
}

/// How a new cluster is cut into partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Even parts of the byte space.
    Even(u32),
    /// At these keys.
    At(Vec<Bytes>),
}

/// The settings file. Names are those of the flags, with underscores; a name that is not known is an error, because a setting
/// with a typing mistake would otherwise be left at its default in silence.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsFile {
    data: Option<PathBuf>,
    node_id: Option<u64>,
    listen: Option<String>,
    advertise: Option<String>,
    http: Option<String>,
    members: Option<Vec<String>>,
    join: Option<Vec<String>>,
    zone: Option<String>,
    replicas: Option<u32>,
    dead_after: Option<String>,
    retention: Option<String>,
    snapshot_rate: Option<String>,
    partitions: Option<u32>,
    boundaries: Option<Vec<String>>,
    cluster_name: Option<String>,
}

impl SettingsFile {
    fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::file(format!("reading the settings {}", path.display()), &error))?;
        let mut file: Self = toml::from_str(&text).map_err(|error| {
            Failure::config(format!("the settings {} do not parse: {}", path.display(), error.to_string().trim_end()))
        })?;
        if file.partitions.is_some() && file.boundaries.is_some() {
            return Err(Failure::config(format!(
                "the settings {} give both partitions and boundaries; give one of them",
                path.display()
            )));
        }
        // A path in a file is meant from where the file lies, not from where the program was started.
        if let (Some(data), Some(folder)) = (&file.data, path.parent()) {
            file.data = Some(folder.join(data));
        }
        Ok(file)
    }
}

impl ServerSettings {
    /// Merges what was typed with the file and the defaults. Whether the values make sense together, the node itself checks.
    pub fn load(args: ServerArgs, encoding: Encoding) -> Result<Self, Failure> {
        let file = args.config.as_deref().map_or_else(|| Ok(SettingsFile::default()), SettingsFile::read)?;
        Self::merge(args, file, encoding)
    }

    fn merge(args: ServerArgs, file: SettingsFile, encoding: Encoding) -> Result<Self, Failure> {
        let Some(data) = args.data.or(file.data) else {
            return Err(Failure::config(
                "no data directory is given: say --data DIR, KONTIKI_DATA, or data = \"DIR\" in the settings file",
            ));
        };
        let node_id = args.node_id.unwrap_or(NodeId(file.node_id.unwrap_or(1)));
        // What was typed wins as a whole: --partitions also over boundaries in the file, and the other way round.
        let typed = args.partitions.is_some() || args.boundaries.is_some();
        let (partitions, boundaries) =
            if typed { (args.partitions, args.boundaries) } else { (file.partitions, file.boundaries) };
        Ok(Self {
            data,
            node_id,
            listen: args.listen.or(file.listen).unwrap_or_else(|| "127.0.0.1:7601".to_owned()),
            advertise: args.advertise.or(file.advertise),
            http: args.http.or(file.http),
            members: members(&args.members.or(file.members).unwrap_or_default())?,
            join: args.join.or(file.join).unwrap_or_default(),
            zone: args.zone.or(file.zone).unwrap_or_default(),
            replicas: args.replicas.or(file.replicas).unwrap_or(3),
            dead_after: time("dead_after", args.dead_after, file.dead_after.as_deref(), DEAD_AFTER)?,
            retention: time("retention", args.retention, file.retention.as_deref(), RETENTION)?,
            snapshot_rate: snapshot_rate(args.snapshot_rate, file.snapshot_rate.as_deref())?,
            cut: cut(partitions, boundaries, encoding)?,
            cluster_name: args.cluster_name.or(file.cluster_name).unwrap_or_else(|| "kontiki".to_owned()),
        })
    }
}

/// A time: as typed, or as in the file.
fn time(name: &str, typed: Option<Duration>, file: Option<&str>, default: Duration) -> Result<Duration, Failure> {
    let (None, Some(text)) = (typed, file) else { return Ok(typed.unwrap_or(default)) };
    crate::values::duration(text).map_err(|why| Failure::config(format!("{name} = \"{text}\" is not a time: {why}")))
}

fn snapshot_rate(typed: Option<u64>, file: Option<&str>) -> Result<Option<u64>, Failure> {
    let (None, Some(text)) = (typed, file) else { return Ok(typed) };
    let read = crate::values::bytes(text);
    read.map(Some).map_err(|why| Failure::config(format!("snapshot_rate = \"{text}\" is not a number of bytes: {why}")))
}

fn members(typed: &[String]) -> Result<Vec<(NodeId, String)>, Failure> {
    let mut members: Vec<(NodeId, String)> = Vec::new();
    for member in typed {
        let parsed = member.split_once('=').and_then(|(id, addr)| Some((crate::values::node(id.trim()).ok()?, addr.trim())));
        let Some((id, addr)) = parsed.filter(|(_, addr)| addr.contains(':')) else {
            return Err(Failure::config(format!(
                "the member `{member}` is not of the form ID=HOST:PORT, such as 1=127.0.0.1:7601"
            )));
        };
        members.push((id, addr.to_owned()));
    }
    members.sort_by_key(|(id, _)| *id);
    Ok(members)
}

fn cut(partitions: Option<u32>, boundaries: Option<Vec<String>>, encoding: Encoding) -> Result<Cut, Failure> {
    let Some(typed) = boundaries else { return Ok(Cut::Even(partitions.unwrap_or(1))) };
    Ok(Cut::At(typed.iter().map(|key| encoding.decode("boundary", key)).collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> SettingsFile {
        toml::from_str(text).expect("parses")
    }

    fn merge(args: ServerArgs, text: &str) -> Result<ServerSettings, Failure> {
        ServerSettings::merge(args, file(text), Encoding::Text)
    }

    #[test]
    fn what_is_typed_wins_over_the_file_and_the_file_over_the_default() {
        let args = ServerArgs { listen: Some("0.0.0.0:1".into()), ..Default::default() };
        let settings =
            merge(args, "data = \"d\"\nlisten = \"0.0.0.0:2\"\nhttp = \"0.0.0.0:3\"\nsnapshot_rate = \"8MiB\"").expect("merges");
        assert_eq!(settings.listen, "0.0.0.0:1");
        assert_eq!(settings.http.as_deref(), Some("0.0.0.0:3"));
        assert_eq!(settings.snapshot_rate, Some(8 << 20));
        assert_eq!(settings.cluster_name, "kontiki");
        assert_eq!(settings.node_id, NodeId(1));
        assert_eq!(settings.cut, Cut::Even(1));
    }

    #[test]
    fn a_cut_that_was_typed_replaces_the_files_whole() {
        let args = || ServerArgs { partitions: Some(4), ..Default::default() };
        assert_eq!(merge(args(), "data = \"d\"\nboundaries = [\"m\"]").expect("merges").cut, Cut::Even(4));
        let cut = merge(ServerArgs::default(), "data = \"d\"\nboundaries = [\"g\", \"p\"]").expect("merges").cut;
        assert_eq!(cut, Cut::At(vec![Bytes::from_static(b"g"), Bytes::from_static(b"p")]));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("", "no data directory"),
            ("data = \"d\"\nmembers = [\"1\"]", "ID=HOST:PORT"),
            ("data = \"d\"\nmembers = [\"0=a:1\"]", "ID=HOST:PORT"),
            ("data = \"d\"\nmembers = [\"1=a\"]", "ID=HOST:PORT"),
            ("data = \"d\"\ndead_after = \"soon\"", "dead_after"),
            ("data = \"d\"\nretention = \"long\"", "retention"),
            ("data = \"d\"\nsnapshot_rate = \"fast\"", "snapshot_rate"),
        ] {
            let failure = merge(ServerArgs::default(), text).expect_err(text);
            assert!(failure.message.contains(word), "{text}: {failure}");
            assert_eq!(failure.exit as u8, 2);
        }
    }

    #[test]
    fn a_file_is_read_from_where_it_lies_and_its_mistakes_name_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("node.toml");
        let args = || ServerArgs { config: Some(path.clone()), ..Default::default() };
        std::fs::write(&path, "data = \"here\"\nmembers = [\"2=b:1\", \"1=a:1\"]").expect("writes");
        let settings = ServerSettings::load(args(), Encoding::Text).expect("loads");
        assert_eq!(settings.data, folder.path().join("here"));
        assert_eq!(settings.members, [(NodeId(1), "a:1".to_owned()), (NodeId(2), "b:1".to_owned())]);
        for (text, word) in
            [("data = 1", "do not parse"), ("dataa = \"x\"", "dataa"), ("partitions = 2\nboundaries = [\"m\"]", "both")]
        {
            std::fs::write(&path, text).expect("writes");
            let failure = ServerSettings::load(args(), Encoding::Text).expect_err(text);
            assert!(failure.message.contains(word) && failure.message.contains("node.toml"), "{failure}");
        }
        std::fs::remove_file(&path).expect("removes");
        assert!(ServerSettings::load(args(), Encoding::Text).expect_err("gone").message.contains("node.toml"));
    }
}
