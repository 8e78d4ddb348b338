//! Runs scripts about the state machine and its sessions (`scripts/machine`, `scripts/sessions`). Every command that changes
//! something is one log entry, encoded and decoded as on the way through a log.
//!
//! ```text
//!   create [id=2] [start=a] [end=z] [clock=counter]      a replica; user keys, namespace `default`; id=1 is the system's
//!   wall 1000                                            the leader's wall clock from now on, in ms
//!   write [by=alice seq=1 ack=1] [bounds=1] ARGS         one write; ARGS in order, any of
//!         put=k/v delete=k range=a/z exists=k absent=k version=k/V value=k/v system=name/value raw=KEY/v
//!   begin ... apply                                      what lies between is applied in one call
//!   pack                                                 inside begin: what follows is one entry of several writes
//!   session alice                                        opens a session of that name
//!   advance V        horizon V        compact          describe [start= end= conf= bounds= clock= id=]        member NAME        blank
//!   get k... [at=V]  scan a z [at=V rows= bytes= reverse= keys_only=]       clock [at=V]
//!   changes a z after=V [at=V rows= bytes=]
//!   status           sessions        dump                entry INDEX        garbage
//!   flush, crash, reopen, list
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;

use bytes::Bytes;
use goldenscript::{Argument, Block, Command as Line, Context, Runner};
use kontiki_storage::machine::{Applied, Entry, Machine};
use kontiki_storage::{mvcc, schema, system};
use kontiki_types::read::{Change, Changes, ReadData, Scan};
use kontiki_types::{
    CallError, ClockKind, Command, Condition, Descriptor, Epoch, KeyRange, NamespaceId, NodeId, Op, OpResult, PartitionId, Read,
    Reject, ReplicaId, Reply, RequestId, SessionId, Version, Write, WriteReply, encoding, key,
};

use super::engine_runner::show_page;
use super::{On, Place, bytes, echo, parse, show, text};

type Output = Result<String, Box<dyn Error>>;

pub(crate) struct MachineRunner {
    place: Place,
    machine: Option<Machine>,
    partition: PartitionId,
    wall_ms: u64,
    sessions: BTreeMap<String, SessionId>,
    next_index: u64,
    /// Entries that `apply` will give to the machine; `None` outside of `begin`.
    batch: Option<Vec<Queued>>,
    packing: bool,
    echo: bool,
}

enum Queued {
    Command(Command<Bytes>),
    Member(String),
    Blank,
}

impl MachineRunner {
    pub(crate) fn new(on: On) -> Self {
        Self {
            place: Place::new(on),
            machine: None,
            partition: PartitionId(2),
            wall_ms: 0,
            sessions: BTreeMap::new(),
            next_index: 1,
            batch: None,
            packing: false,
            echo: false,
        }
    }

    fn machine(&self) -> Result<&Machine, Box<dyn Error>> {
        self.machine.as_ref().ok_or_else(|| "create a replica first".into())
    }

    fn create(&mut self, line: &Line) -> Output {
        let mut args = line.consume_args();
        let id = args.take_key("id").map_or(2, |id| id.parse().expect("an id"));
        let mut range = KeyRange::in_namespace(NamespaceId::DEFAULT, b"", b"");
        if id == 1 {
            range = KeyRange::new("", range.start);
        }
        if let Some(start) = args.take_key("start") {
            range.start = internal(start);
        }
        if let Some(end) = args.take_key("end") {
            range.end = if end == "none" { Bytes::new() } else { internal(end) };
        }
        let mut descriptor = Descriptor::new(PartitionId(id), range, &[NodeId(1), NodeId(2), NodeId(3)]);
        if args.take_key("clock") == Some("counter") {
            descriptor.clock = ClockKind::Counter;
        }
        args.reject_next()?;
        self.partition = PartitionId(id);
        self.machine = Some(Machine::create(self.place.engine(), descriptor, ReplicaId(1))?);
        self.next_index = 1;
        Ok(String::new())
    }

    fn push(&mut self, queued: Queued) -> Output {
        match &mut self.batch {
            None => self.apply(&[queued]),
            Some(batch) => {
                if let (
                    true,
                    Some(Queued::Command(Command::Writes { writes, .. })),
                    Queued::Command(Command::Writes { writes: more, .. }),
                ) = (self.packing, batch.last_mut(), &queued)
                {
                    writes.extend(more.iter().cloned());
                    return Ok(String::new());
                }
                batch.push(queued);
                Ok(String::new())
            }
        }
    }

    fn apply(&mut self, queued: &[Queued]) -> Output {
        let encoded: Vec<Option<Vec<u8>>> = queued
            .iter()
            .map(|queued| if let Queued::Command(command) = queued { Some(encoding::encode(command)) } else { None })
            .collect();
        let positions: Vec<String> = (self.next_index..).take(queued.len()).map(|index| format!("T1-{index}")).collect();
        let entries: Vec<Entry<'_>> = (self.next_index..)
            .zip(queued)
            .zip(encoded.iter().zip(&positions))
            .map(|((index, queued), (command, position))| Entry {
                index,
                position: position.as_bytes(),
                membership: if let Queued::Member(name) = queued { Some(name.as_bytes()) } else { None },
                command: command.as_deref(),
            })
            .collect();
        let Applied { replies, effects } = self.machine.as_mut().ok_or("create a replica first")?.apply(&entries)?;
        self.next_index += queued.len() as u64;
        let mut out = String::new();
        for reply in replies {
            writeln!(out, "{}", show_reply(&reply))?;
        }
        for effect in effects {
            match effect {
                kontiki_types::Effect::MapChanged => writeln!(out, "effect: map changed")?,
                kontiki_types::Effect::DescriptorChanged(now) => {
                    writeln!(out, "effect: descriptor is {}", show_descriptor(&now))?
                }
            }
        }
        Ok(out)
    }

    fn write(&self, line: &Line) -> Result<Command<Bytes>, Box<dyn Error>> {
        let epoch = self.machine()?.descriptor().epoch;
        let mut write = Write { epoch, request: None, conditions: vec![], ops: vec![] };
        let mut request: Option<RequestId> = None;
        for argument in &line.args {
            let Argument::KeyValue(name, value) = argument else { return Err(format!("what is {argument}?").into()) };
            let (first, second) = value.split_once('/').unwrap_or((value, ""));
            let (key, rest) = (internal(first), Bytes::from(bytes(second)));
            match name.as_str() {
                "by" => {
                    let unknown = SessionId { partition: self.partition, opened: Version(9) };
                    let session = self.sessions.get(value).copied().unwrap_or(unknown);
                    request = Some(RequestId { session, sequence: 1, acknowledged_below: 1 });
                }
                "seq" => request.as_mut().ok_or("by= comes first")?.sequence = value.parse()?,
                "ack" => request.as_mut().ok_or("by= comes first")?.acknowledged_below = value.parse()?,
                "bounds" => write.epoch = Epoch { bounds: value.parse()?, ..epoch },
                "conf" => write.epoch = Epoch { conf: value.parse()?, ..epoch },
                "put" => write.ops.push(Op::Put { key, value: rest }),
                "system" => write.ops.push(Op::Put { key: key::internal(NamespaceId::SYSTEM, first.as_bytes()), value: rest }),
                "raw" => write.ops.push(Op::Put { key: Bytes::from(bytes(first)), value: rest }),
                "delete" => write.ops.push(Op::Delete { key }),
                "range" => {
                    let end = if second == "end" { self.machine()?.descriptor().range.end.clone() } else { internal(second) };
                    write.ops.push(Op::DeleteRange { start: key, end });
                }
                "exists" => write.conditions.push(Condition::Exists { key }),
                "absent" => write.conditions.push(Condition::Absent { key }),
                "version" => write.conditions.push(Condition::VersionIs { key, version: parse(second) }),
                "value" => write.conditions.push(Condition::ValueIs { key, value: rest }),
                _ => return Err(format!("what is {name}?").into()),
            }
        }
        write.request = request;
        Ok(Command::Writes { stamp_ms: self.wall_ms, writes: vec![write] })
    }

    fn describe(&self, line: &Line) -> Result<Command<Bytes>, Box<dyn Error>> {
        let mut descriptor = Descriptor::clone(&*self.machine()?.descriptor());
        for argument in &line.args {
            let Argument::KeyValue(name, value) = argument else { return Err("name=value".into()) };
            match name.as_str() {
                "id" => descriptor.id = PartitionId(value.parse()?),
                "conf" => descriptor.epoch.conf = value.parse()?,
                "bounds" => descriptor.epoch.bounds = value.parse()?,
                "start" => descriptor.range.start = internal(value),
                "end" => descriptor.range.end = internal(value),
                "clock" => descriptor.clock = ClockKind::Counter,
                _ => return Err(format!("what is {name}?").into()),
            }
        }
        Ok(Command::SetDescriptor { descriptor })
    }

    fn session(&mut self, name: &str) -> Output {
        let out = self.push(Queued::Command(Command::OpenSession { stamp_ms: self.wall_ms }))?;
        let opened = self.machine()?.reader().clock();
        self.sessions.insert(name.to_owned(), SessionId { partition: self.partition, opened });
        Ok(format!("{name}: {out}"))
    }

    fn get(&self, line: &Line) -> Output {
        let mut args = line.consume_args();
        let at = args.take_key("at").map(parse);
        let users: Vec<&str> = std::iter::from_fn(|| args.next_pos()).collect();
        let keys = users.iter().map(|user| internal(user)).collect();
        let reply = match self.machine()?.reader().read(&Read::Get { keys }, at) {
            Ok(reply) => reply,
            Err(error) => return Ok(show_error(&error)),
        };
        let ReadData::Values(values) = reply.data else { return Err("not values".into()) };
        let mut out = String::new();
        for (user, row) in users.iter().zip(values) {
            match row {
                Some(row) => writeln!(out, "{user}: {} of {}", text(&row.value), show(row.version))?,
                None => writeln!(out, "{user}: absent")?,
            }
        }
        Ok(out)
    }

    fn scan(&self, line: &Line) -> Output {
        let mut args = line.consume_args();
        let at = args.take_key("at").map(parse);
        let (rows_max, bytes_max) = (args.take_key("rows"), args.take_key("bytes"));
        let (reverse, keys_only) = (args.take_key("reverse").is_some(), args.take_key("keys_only").is_some());
        let own = self.machine()?.descriptor().range.clone();
        let start = args.next_pos().map_or(own.start, internal);
        let end = args.next_pos().map_or(own.end, internal);
        let number = |text: Option<&str>, or: u32| text.map_or(or, |text| text.parse().expect("a number"));
        let scan = Scan {
            range: KeyRange::new(start, end),
            reverse,
            keys_only,
            rows_max: number(rows_max, 100),
            bytes_max: number(bytes_max, 10_000),
        };
        match self.machine()?.reader().read(&Read::Scan(scan), at) {
            Err(error) => Ok(show_error(&error)),
            Ok(reply) => match reply.data {
                ReadData::Page { rows, resume } => Ok(show_page(&rows, resume.as_ref())),
                other => Err(format!("not a page: {other:?}").into()),
            },
        }
    }

    fn changes(&self, line: &Line) -> Output {
        let mut args = line.consume_args();
        let (at, after) = (args.take_key("at").map(parse), parse(args.take_key("after").ok_or("changes after=VERSION")?));
        let mut number = |key: &str, or: u32| args.take_key(key).map_or(or, |text| text.parse().expect("a number"));
        let (rows_max, bytes_max) = (number("rows", 100), number("bytes", 10_000));
        let own = self.machine()?.descriptor().range.clone();
        let start = args.next_pos().map_or(own.start, internal);
        let end = args.next_pos().map_or(own.end, internal);
        args.reject_next()?;
        let asked = Changes { range: KeyRange::new(start, end), after, rows_max, bytes_max };
        let reply = match self.machine()?.reader().read(&Read::Changes(asked), at) {
            Err(error) => return Ok(show_error(&error)),
            Ok(reply) => reply,
        };
        let ReadData::Changes { changes, resume } = reply.data else { return Err("not changes".into()) };
        let user = |key: &[u8]| text(key::split_internal(key).map_or(key, |(_, user)| user));
        let told = |change: &Change| match &change.value {
            Some(value) => format!("{}={} of {}", user(&change.key), text(value), show(change.version)),
            None => format!("{} removed by {}", user(&change.key), show(change.version)),
        };
        let lines: Vec<String> = changes.iter().map(told).chain(resume.map(|key| format!("resume {}", user(&key)))).collect();
        Ok(if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n") })
    }

    fn status(&self) -> Output {
        let machine = self.machine()?;
        let show_bytes = |bytes: Option<&[u8]>| bytes.map_or("none".to_owned(), text);
        let (position, membership) = (show_bytes(machine.position()), show_bytes(machine.membership()));
        let (index, clock) = (machine.applied_index(), show(machine.reader().clock()));
        let descriptor = show_descriptor(&machine.descriptor());
        Ok(format!("{descriptor}: applied {index} at {position}, membership {membership}, clock {clock}"))
    }

    fn dump(&self) -> Output {
        let engine = self.place.engine();
        let mut cursor = engine.cursor(b"", b"")?;
        cursor.seek(b"\0")?;
        let mut out = String::new();
        while cursor.valid() {
            match schema::Key::decode(cursor.key())? {
                schema::Key::Replica { partition } => writeln!(out, "replica {partition}")?,
                schema::Key::Applied { partition } => writeln!(out, "applied {partition}")?,
                schema::Key::Floor { partition } => writeln!(out, "floor {partition}")?,
                schema::Key::Tombstone { partition } => writeln!(out, "tombstone {partition}")?,
                schema::Key::Session { partition, session } => {
                    let name = self.sessions.iter().find(|(_, id)| **id == session).map_or("?", |(name, _)| name);
                    writeln!(out, "session {partition} {name}: {} bytes", cursor.value().len())?;
                }
                schema::Key::Data { key, version } => {
                    let (namespace, user) = key::split_internal(&key).ok_or("a namespace")?;
                    let value = match mvcc::kind(cursor.key(), cursor.value())? {
                        mvcc::Kind::Put => format!("`{}`", text(&cursor.value()[mvcc::HEADER_BYTES..])),
                        mvcc::Kind::Delete => "deleted".to_owned(),
                    };
                    writeln!(out, "{namespace} {} @{} {value}", text(user), show(version))?;
                }
            }
            cursor.next()?;
        }
        Ok(out)
    }

    /// Closes the machine and opens it again, after a power cut or not; a replica that comes back has exactly the sessions it left.
    fn reopen(&mut self, crash: bool) -> Output {
        let before = self.machine.take().map(|machine| machine.sessions().clone());
        if crash {
            self.place.crash();
        }
        self.machine = Machine::open(self.place.engine(), self.partition)?;
        let Some(machine) = &self.machine else { return Ok("no replica".to_owned()) };
        self.next_index = machine.applied_index() + 1;
        if !crash {
            assert_eq!(Some(machine.sessions()), before.as_ref(), "the sessions read back are those in memory");
        }
        self.status()
    }

    fn faulty_entry(&mut self, line: &Line) -> Output {
        let garbage = line.name == "garbage";
        let index = line.consume_args().next_pos().map_or(Ok(self.next_index), str::parse)?;
        let command = garbage.then_some(b"\x01\xff\xff".as_slice());
        let entry = Entry { index, position: b"T1", membership: None, command };
        self.machine.as_mut().ok_or("create a replica first")?.apply(&[entry])?;
        self.next_index = index + 1;
        Ok(String::new())
    }
}

fn internal(user: &str) -> Bytes {
    key::internal(NamespaceId::DEFAULT, &bytes(user))
}

fn show_descriptor(descriptor: &Descriptor) -> String {
    format!("{} {} epoch {}", descriptor.id, show_range(&descriptor.range), descriptor.epoch)
}

fn show_range(range: &KeyRange) -> String {
    let user = |key: &[u8]| {
        key::split_internal(key).map_or_else(|| text(key), |(namespace, user)| format!("{namespace}/{}", text(user)))
    };
    let end = if range.end.is_empty() { "none".to_owned() } else { user(&range.end) };
    format!("[{}, {end})", user(&range.start))
}

fn show_reply(reply: &Reply) -> String {
    match reply {
        Reply::Writes(outcomes) => outcomes.iter().map(show_outcome).collect::<Vec<_>>().join("\n"),
        Reply::SessionOpened(session) => format!("opened at {}", show(session.opened)),
        Reply::Clock(clock) => format!("clock {}", show(*clock)),
        Reply::Descriptor(descriptor) => format!("now {}", show_descriptor(descriptor)),
        Reply::Rejected(reject) => show_reject(reject),
        Reply::None => "none".to_owned(),
        Reply::Horizon(version) => format!("horizon {}", show(*version)),
    }
}

fn show_outcome(outcome: &Result<WriteReply, Reject>) -> String {
    match outcome {
        Err(reject) => show_reject(reject),
        Ok(reply) => {
            let results = reply.results.iter().map(|result| match result {
                OpResult::Put => "put".to_owned(),
                OpResult::Deleted { existed } => format!("deleted existed={existed}"),
                OpResult::DeletedRange { count, resume: None } => format!("deleted {count}"),
                OpResult::DeletedRange { count, resume: Some(key) } => format!("deleted {count} resume {}", text(&key[4..])),
            });
            format!("{}: {}", show(reply.version), results.collect::<Vec<_>>().join(", "))
        }
    }
}

fn show_reject(reject: &Reject) -> String {
    match reject {
        Reject::ConditionFailed { index, key, version } => {
            let now = version.map_or("absent".to_owned(), show);
            format!("rejected: condition {index} on {} failed, it is {now}", text(&key[4..]))
        }
        Reject::SessionExpired { sequence, .. } => format!("rejected: request {sequence}: session expired"),
        Reject::SessionConflict { sequence, .. } => format!("rejected: request {sequence}: session conflict"),
        Reject::StaleEpoch { descriptors, .. } => format!("rejected: stale epoch, now {}", show_descriptor(&descriptors[0])),
        Reject::VersionInFuture { version, newest } => format!("rejected: {} is beyond {}", show(*version), show(*newest)),
        Reject::VersionTooOld { version, oldest } => format!("rejected: {} is older than {}", show(*version), show(*oldest)),
        other => format!("rejected: {other}"),
    }
}

fn show_error(error: &CallError) -> String {
    match error {
        CallError::Reject(reject) => show_reject(reject),
        other => format!("error: {other}"),
    }
}

impl Runner for MachineRunner {
    type Command = Line;

    fn start_block(&mut self, block: &Block) -> Output {
        self.echo = echo(block);
        Ok(String::new())
    }

    fn start_command(&mut self, command: &Line, _: &Context) -> Output {
        Ok(if self.echo { format!("> {command}") } else { String::new() })
    }

    fn run(&mut self, line: &Line, _: &Context) -> Output {
        let first = || line.consume_args().next_pos().map(str::to_owned);
        match line.name.as_str() {
            "create" => self.create(line),
            "wall" => {
                self.wall_ms = first().ok_or("wall MS")?.parse()?;
                Ok(String::new())
            }
            "write" => {
                let command = self.write(line)?;
                self.push(Queued::Command(command))
            }
            "begin" => {
                self.batch = Some(Vec::new());
                self.packing = false;
                Ok(String::new())
            }
            "pack" => {
                self.packing = true;
                Ok(String::new())
            }
            "apply" => {
                let queued = self.batch.take().ok_or("begin first")?;
                self.apply(&queued)
            }
            "session" => self.session(&first().ok_or("session NAME")?),
            "advance" => {
                let to = parse(&first().ok_or("advance VERSION")?);
                self.push(Queued::Command(Command::AdvanceClock { to }))
            }
            "horizon" => {
                let to = parse(&first().ok_or("horizon VERSION")?);
                self.push(Queued::Command(Command::AdvanceHorizon { to }))
            }
            "compact" => self.place.engine().compact(b"", b"").map(|()| String::new()).map_err(Into::into),
            "describe" => {
                let command = self.describe(line)?;
                self.push(Queued::Command(command))
            }
            "member" => self.push(Queued::Member(first().ok_or("member NAME")?)),
            "blank" => self.push(Queued::Blank),
            "get" => self.get(line),
            "scan" => self.scan(line),
            "changes" => self.changes(line),
            "clock" => {
                let at = line.consume_args().take_key("at").map(parse);
                let reply = self.machine()?.reader().read(&Read::Clock, at);
                Ok(reply.map_or_else(|error| show_error(&error), |reply| show(reply.clock)))
            }
            "status" => self.status(),
            "sessions" => {
                let sessions = self.machine()?.sessions();
                Ok(format!("{} sessions, {} bytes", sessions.len(), sessions.size_bytes()))
            }
            "map" => {
                let map = system::read_map(&self.machine()?.reader())?;
                Ok(format!("{} partitions, {} nodes", map.partitions.len(), map.nodes.len()))
            }
            "dump" => self.dump(),
            "entry" | "garbage" => self.faulty_entry(line),
            "flush" => self.place.engine().flush().map(|()| String::new()).map_err(Into::into),
            "crash" => self.reopen(true),
            "reopen" => self.reopen(false),
            "list" => Ok(format!("{:?}", Machine::list(&*self.place.engine())?)),
            name => Err(format!("no such command: {name}").into()),
        }
    }
}
