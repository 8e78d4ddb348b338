//! The raft log as scripts that a person can read. What a script says is changed with `UPDATE_GOLDENFILES=1`, and then read.
//!
//! | command | does |
//! |---|---|
//! | `open [segment=N] [spares=N] [store=N]` | opens the log and tells what it held |
//! | `write p1/5=v p1/5..9=v@100 p1/vote=v p1/committed=v p1/truncate=5 p1/purge=5 p1/forget` | one write |
//! | `sync`, `prepare` | fsync; prepare a spare |
//! | `read p1 FROM TO [bytes=N]`, `log`, `files` | entries; numbers; the directory |
//! | `kill`, `crash` | the process dies; the power goes and every unsynced byte is lost |
//! | `flip FILE BYTE [bit=N]`, `cut FILE LENGTH`, `remove FILE`, `copy FILE TO`, `put FILE TEXT` | damage; FILE is a name or a segment's id |
//! | `fail_sync`, `full BYTES`, `roomy` | the disk's faults |

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use goldenscript::{Argument, ArgumentConsumer, Command, Context};
use kontiki_storage::disk::{Disk, SimulatedDisk};
use kontiki_storage::log::{Log, LogOptions, Record, Recovered};
use kontiki_types::{PartitionId, StoreId};

type Output = Result<String, Box<dyn Error>>;

struct Runner {
    disk: SimulatedDisk,
    options: LogOptions,
    store: StoreId,
    log: Option<Log>,
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a test lists its own scripts")]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/log");
    let mut scripts: Vec<_> =
        std::fs::read_dir(folder).expect("the folder is there").map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(scripts.len() >= 10, "scripts are missing");
    for script in scripts {
        eprintln!("{}", script.display());
        // The seed matters for failed syncs only: `crash` here loses everything that was not synced.
        let options = LogOptions { segment_bytes: 1040, spare_segments: 1, ..LogOptions::default() };
        let mut runner = Runner { disk: SimulatedDisk::new(1), options, store: StoreId::default(), log: None };
        goldenscript::run(&mut runner, &script).unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    }
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn start_command(&mut self, command: &Command, context: &Context) -> Output {
        Ok(format!("> {}{command}", if context.fail { "!" } else { "" }))
    }

    fn run(&mut self, command: &Command, _context: &Context) -> Output {
        let mut args = command.consume_args();
        let output = self.dispatch(command, &mut args)?;
        args.reject_next()?;
        Ok(output)
    }
}

impl Runner {
    fn dispatch(&mut self, command: &Command, args: &mut ArgumentConsumer<'_>) -> Output {
        match command.name.as_str() {
            "open" => return self.open(args),
            "write" => return self.write(command, args),
            "sync" => self.log()?.sync()?,
            "prepare" => self.log()?.prepare_spare()?,
            "read" => return self.read(args),
            "log" => return self.numbers(),
            "files" => return self.files(),
            "kill" => self.log = None,
            "crash" => {
                self.log = None;
                self.disk.lose_unsynced();
            }
            _ => return self.damage(command, args),
        }
        Ok(String::new())
    }

    fn damage(&mut self, command: &Command, args: &mut ArgumentConsumer<'_>) -> Output {
        match command.name.as_str() {
            "flip" => {
                let bit: u64 = args.take_key("bit").map_or(Ok(0), str::parse)?;
                self.disk.flip_bit(&file(args)?, number(args)? * 8 + bit)?;
            }
            "cut" => self.disk.truncate(&file(args)?, number(args)?)?,
            "remove" => {
                self.disk.remove(&file(args)?)?;
                self.disk.sync_dir()?;
            }
            "copy" => {
                let from = self.disk.open(&file(args)?, false)?;
                let mut bytes = vec![0; usize::try_from(from.len()?)?];
                from.read_at(0, &mut bytes)?;
                self.put(&file(args)?, &bytes)?;
            }
            "put" => {
                let name = file(args)?;
                self.put(&name, args.next_pos().ok_or("a text")?.as_bytes())?;
            }
            "fail_sync" => self.disk.fail_next_sync(),
            "full" => self.disk.full(Some(self.disk.used_bytes() + number(args)?)),
            "roomy" => self.disk.full(None),
            other => return Err(format!("no command {other}").into()),
        }
        Ok(String::new())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let file = self.disk.open(name, true)?;
        file.write_at(0, bytes)?;
        file.sync_data()?;
        self.disk.sync_dir()
    }

    fn log(&mut self) -> Result<&mut Log, Box<dyn Error>> {
        self.log.as_mut().ok_or_else(|| "the log is not open".into())
    }

    fn open(&mut self, args: &mut ArgumentConsumer<'_>) -> Output {
        if let Some(bytes) = args.take_key("segment") {
            self.options.segment_bytes = bytes.parse()?;
        }
        if let Some(count) = args.take_key("spares") {
            self.options.spare_segments = count.parse()?;
        }
        if let Some(store) = args.take_key("store") {
            self.store = StoreId([store.parse()?; 16]);
        }
        self.log = None;
        let (log, recovered) = Log::open(Arc::new(self.disk.clone()), self.store, self.options.clone())?;
        self.log = Some(log);
        show(&recovered)
    }

    fn write(&mut self, command: &Command, args: &mut ArgumentConsumer<'_>) -> Output {
        while args.next().is_some() {}
        let records: Vec<Vec<Record>> = command.args.iter().map(records).collect::<Result<_, _>>()?;
        self.log()?.write(&records.concat())?;
        Ok(String::new())
    }

    fn read(&mut self, args: &mut ArgumentConsumer<'_>) -> Output {
        let bytes_max = args.take_key("bytes").map_or(Ok(usize::MAX), str::parse)?;
        let group = group(args.next_pos().ok_or("a group")?)?;
        let range = number(args)?..number(args)?;
        let mut out = String::new();
        for (index, value) in self.log()?.reader().read(group, range, bytes_max)? {
            writeln!(out, "{index}: {}", short(&value))?;
        }
        Ok(if out.is_empty() { "nothing".to_owned() } else { out })
    }

    fn numbers(&mut self) -> Output {
        let reader = self.log()?.reader();
        let pinned = reader.pinned_by().map_or("nobody".to_owned(), |group| group.to_string());
        let (segments, bytes, spares) = (reader.segments(), reader.size_bytes(), self.log()?.spares().ready());
        Ok(format!("{segments} segments, {bytes} bytes, pinned by {pinned}; {spares} spares"))
    }

    fn files(&self) -> Output {
        let mut out = String::new();
        for name in self.disk.list()? {
            writeln!(out, "{name}: {} bytes", self.disk.open(&name, false)?.len()?)?;
        }
        Ok(if out.is_empty() { "none".to_owned() } else { out })
    }
}

fn file(args: &mut ArgumentConsumer<'_>) -> Result<String, Box<dyn Error>> {
    let name = args.next_pos().ok_or("a file")?;
    Ok(name.parse::<u64>().map_or_else(|_| name.to_owned(), |id| format!("{id:010}.segment")))
}

fn number(args: &mut ArgumentConsumer<'_>) -> Result<u64, Box<dyn Error>> {
    Ok(args.next_pos().ok_or("a number")?.parse()?)
}

fn group(text: &str) -> Result<PartitionId, Box<dyn Error>> {
    Ok(PartitionId(text.strip_prefix('p').ok_or("a group such as p1")?.parse()?))
}

/// `v@100` is a hundred times `v`.
fn value(text: &str) -> Result<Bytes, Box<dyn Error>> {
    let repeated = text.split_once('@').map(|(unit, count)| count.parse().map(|count| unit.repeat(count))).transpose()?;
    Ok(Bytes::from(repeated.unwrap_or_else(|| text.to_owned())))
}

fn records(argument: &Argument) -> Result<Vec<Record>, Box<dyn Error>> {
    let (place, text) = match argument {
        Argument::KeyValue(place, text) => (place, text.as_str()),
        Argument::Positional(place) => (place, ""),
        _ => return Err("not an argument".into()),
    };
    let (name, what) = place.split_once('/').ok_or("GROUP/WHAT")?;
    let group = group(name)?;
    Ok(match what {
        "vote" => vec![Record::Vote { group, vote: value(text)? }],
        "committed" => vec![Record::Committed { group, committed: value(text)? }],
        "truncate" => vec![Record::Truncate { group, from: text.parse()? }],
        "purge" => vec![Record::Purge { group, upto: text.parse()?, state: Bytes::from(format!("at {text}")) }],
        "forget" => vec![Record::Forget { group }],
        indexes => {
            let (from, to) = indexes.split_once("..").unwrap_or((indexes, indexes));
            let body = value(text)?;
            let (head, body) = (body.slice(..body.len() / 2), body.slice(body.len() / 2..));
            let entry = |index| Record::Entry { group, index, head: head.clone(), body: body.clone() };
            (from.parse()?..=to.parse()?).map(entry).collect()
        }
    })
}

fn short(value: &[u8]) -> String {
    if value.len() <= 20 {
        return value.escape_ascii().to_string();
    }
    format!("{}... ({} bytes)", value[..8].escape_ascii(), value.len())
}

fn show(recovered: &Recovered) -> Output {
    let mut out = String::new();
    if let Some(torn) = &recovered.torn {
        writeln!(out, "an interrupted write was dropped: {} at byte {}", torn.file, torn.offset)?;
    }
    for (group, found) in &recovered.groups {
        let entries = match found.last_index {
            Some(last) => format!("entries {} to {last}", found.first_index),
            None => format!("no entries, next {}", found.first_index),
        };
        write!(out, "{group}: {entries}")?;
        if let Some((upto, state)) = &found.purged {
            write!(out, ", purged {upto} ({})", short(state))?;
        }
        for (name, bytes) in [("vote", &found.vote), ("committed", &found.committed)] {
            if let Some(bytes) = bytes {
                write!(out, ", {name} {}", short(bytes))?;
            }
        }
        out.push('\n');
    }
    Ok(if out.is_empty() { "empty".to_owned() } else { out })
}
