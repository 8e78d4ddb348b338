//! Runs scripts about engines and about versions of keys (`scripts/engine`, `scripts/mvcc`).
//!
//! ```text
//!   write a=1 b c=          one batch: with `=` a put, without a delete
//!   get a b                 first FROM TO          scan FROM TO [reverse=true]       (TO `end` is no bound)
//!   cursor FROM TO          holds a view; then: seek K, seek_for_prev K, next, prev
//!   record a@20=new b@10    one batch of versions, likewise
//!   value a@25              page FROM TO at=V [reverse=true] [keys_only=true] [rows=N] [bytes=N]
//!   stage a..f a=1 c=2      stages that [a, f) holds a and c; once more: more ranges; then: install, or unstage
//!   view NAME               holds a view; then: look NAME FROM TO, unview NAME
//!   compact FROM TO         flush, crash
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use goldenscript::{Argument, Block, Command, Context, Runner};
use kontiki_storage::engine::{Batch, Cursor, Stage, View};
use kontiki_storage::{mvcc, schema};
use kontiki_types::read::Scan;
use kontiki_types::{KeyRange, NamespaceId, Row, key};

use super::{On, Place, bytes, echo, parse, show, text};

pub(crate) struct EngineRunner {
    place: Place,
    /// Moves of the cursor since it was opened are replayed on it: a cursor cannot be kept beside the engine that it borrows.
    moves: Vec<Command>,
    stage: Option<Box<dyn Stage>>,
    views: BTreeMap<String, Arc<dyn View>>,
    echo: bool,
}

type Output = Result<String, Box<dyn Error>>;

impl EngineRunner {
    pub(crate) fn new(on: On) -> Self {
        Self { place: Place::new(on), moves: Vec::new(), stage: None, views: BTreeMap::new(), echo: false }
    }

    fn positional(command: &Command) -> Vec<String> {
        let value = |argument: &Argument| match argument {
            Argument::Positional(value) => Some(value.clone()),
            _ => None,
        };
        command.args.iter().filter_map(value).collect()
    }

    fn option(command: &Command, name: &str) -> Option<String> {
        command.consume_args().take_key(name).map(str::to_owned)
    }

    fn bounds(command: &Command) -> (Vec<u8>, Vec<u8>) {
        let args = Self::positional(command);
        (bytes(&args[0]), if args[1] == "end" { vec![] } else { bytes(&args[1]) })
    }

    fn write(&self, command: &Command) -> Output {
        let mut batch = Batch::new();
        for argument in &command.args {
            match argument {
                Argument::KeyValue(key, value) => batch.put(&bytes(key), &bytes(value)),
                Argument::Positional(key) => batch.delete(&bytes(key)),
                _ => return Err("not an argument".into()),
            }
        }
        self.place.engine().write(&batch)?;
        Ok(String::new())
    }

    fn scan(&self, command: &Command) -> Output {
        let (from, to) = Self::bounds(command);
        let engine = self.place.engine();
        let mut cursor = engine.cursor(&from, &to)?;
        let reverse = Self::option(command, "reverse").is_some();
        let mut out = String::new();
        if reverse {
            cursor.seek_for_prev(&[0xff; 32])?
        } else {
            cursor.seek(b"\0")?
        }
        while cursor.valid() {
            writeln!(out, "{}={}", text(cursor.key()), text(cursor.value()))?;
            if reverse { cursor.prev()? } else { cursor.next()? }
        }
        Ok(out)
    }

    fn stage(&mut self, command: &Command) -> Output {
        let mut stage = self.stage.take().map_or_else(|| self.place.engine().stage(), Ok)?;
        for argument in &command.args {
            match argument {
                Argument::KeyValue(key, value) => stage.put(&bytes(key), &bytes(value))?,
                Argument::Positional(range) => {
                    let (from, to) = range.split_once("..").ok_or("from..to")?;
                    stage.replace(&bytes(from), &bytes(to))?;
                }
                _ => return Err("not an argument".into()),
            }
        }
        self.stage = Some(stage);
        Ok(String::new())
    }

    fn look(&self, command: &Command) -> Output {
        let args = Self::positional(command);
        let to = if args[2] == "end" { vec![] } else { bytes(&args[2]) };
        let view = self.views.get(&args[0]).ok_or("no such view")?;
        let mut cursor = view.cursor(&bytes(&args[1]), &to)?;
        let mut out = String::new();
        cursor.seek(b"\0")?;
        while cursor.valid() {
            assert_eq!(view.get(cursor.key())?.as_deref(), Some(cursor.value()));
            writeln!(out, "{}={}", text(cursor.key()), text(cursor.value()))?;
            cursor.next()?;
        }
        Ok(if out.is_empty() { "nothing".to_owned() } else { out })
    }

    fn step(cursor: &mut dyn Cursor, command: &Command) -> Output {
        let key = Self::positional(command).first().map(|key| bytes(key)).unwrap_or_default();
        match command.name.as_str() {
            "seek" => cursor.seek(&key)?,
            "seek_for_prev" => cursor.seek_for_prev(&key)?,
            "next" => cursor.next()?,
            _ => cursor.prev()?,
        }
        Ok(if cursor.valid() { format!("{}={}", text(cursor.key()), text(cursor.value())) } else { "nowhere".to_owned() })
    }

    /// Replays the moves on a fresh cursor, so a script sees the place that they lead to.
    fn move_cursor(&mut self, command: &Command) -> Output {
        self.moves.push(command.clone());
        let (from, to) = Self::bounds(&self.moves[0]);
        let engine = self.place.engine();
        let mut cursor = engine.cursor(&from, &to)?;
        let mut out = String::new();
        for step in &self.moves[1..] {
            out = Self::step(&mut *cursor, step)?;
        }
        Ok(out)
    }

    fn record(&self, command: &Command) -> Output {
        let mut batch = Batch::new();
        for argument in &command.args {
            let (place, value) = match argument {
                Argument::KeyValue(place, value) => (place, Some(bytes(value))),
                Argument::Positional(place) => (place, None),
                _ => return Err("not an argument".into()),
            };
            let (user, version) = place.split_once('@').ok_or("key@version")?;
            let key = schema::Key::Data { key: internal(user), version: parse(version) };
            match value {
                Some(value) => batch.put_with(|out| key.encode_into(out), |out| mvcc::put_into(&value, out)),
                None => batch.put_with(|out| key.encode_into(out), mvcc::delete_into),
            }
        }
        self.place.engine().write(&batch)?;
        Ok(String::new())
    }

    fn value(&self, command: &Command) -> Output {
        let mut out = String::new();
        for place in Self::positional(command) {
            let (user, version) = place.split_once('@').ok_or("key@version")?;
            match mvcc::value_at(&*self.place.engine(), &internal(user), parse(version))? {
                Some((version, value)) => writeln!(out, "{}: {} of {}", text(&bytes(&place)), text(&value), show(version))?,
                None => writeln!(out, "{}: absent", text(&bytes(&place)))?,
            }
        }
        Ok(out)
    }

    fn page(&self, command: &Command) -> Output {
        let args = Self::positional(command);
        let end = if args[1] == "end" { "" } else { &args[1] };
        let number = |name: &str| Self::option(command, name).map(|text| text.parse::<u32>().expect("a number"));
        let scan = Scan {
            range: KeyRange::in_namespace(NamespaceId::DEFAULT, &bytes(&args[0]), &bytes(end)),
            reverse: Self::option(command, "reverse").is_some(),
            keys_only: Self::option(command, "keys_only").is_some(),
            rows_max: number("rows").unwrap_or(100),
            bytes_max: number("bytes").unwrap_or(10_000),
        };
        let at = parse(&Self::option(command, "at").ok_or("at=version")?);
        let (rows, resume) = mvcc::page(&*self.place.engine(), &scan, at)?;
        Ok(show_page(&rows, resume.as_ref()))
    }
}

fn internal(user: &str) -> Bytes {
    key::internal(NamespaceId::DEFAULT, &bytes(user))
}

/// Rows and the place to go on, with user keys.
pub(crate) fn show_page(rows: &[Row], resume: Option<&Bytes>) -> String {
    let user = |key: &[u8]| text(key::split_internal(key).map_or(key, |(_, user)| user));
    let mut lines: Vec<String> =
        rows.iter().map(|row| format!("{}={} of {}", user(&row.key), text(&row.value), show(row.version))).collect();
    if let Some(resume) = resume {
        lines.push(format!("resume {}", user(resume)));
    }
    if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n") }
}

impl Runner for EngineRunner {
    type Command = Command;

    fn start_block(&mut self, block: &Block) -> Output {
        self.echo = echo(block);
        Ok(String::new())
    }

    fn start_command(&mut self, command: &Command, _: &Context) -> Output {
        Ok(if self.echo { format!("> {command}") } else { String::new() })
    }

    fn run(&mut self, command: &Command, _: &Context) -> Output {
        match command.name.as_str() {
            "write" => self.write(command),
            "get" => {
                let engine = self.place.engine();
                let show = |key: &String| {
                    let value = engine.get(&bytes(key))?;
                    Ok::<_, kontiki_types::Fault>(format!(
                        "{key}: {}",
                        value.map_or("absent".to_owned(), |value| format!("`{}`", text(&value)))
                    ))
                };
                Ok(Self::positional(command).iter().map(show).collect::<Result<Vec<_>, _>>()?.join("\n"))
            }
            "first" => {
                let (from, to) = Self::bounds(command);
                let found = self.place.engine().first(&from, &to)?;
                Ok(found.map_or("nothing".to_owned(), |(key, value)| format!("{}={}", text(&key), text(&value))))
            }
            "scan" => self.scan(command),
            "cursor" => {
                self.moves = vec![command.clone()];
                Ok(String::new())
            }
            "seek" | "seek_for_prev" | "next" | "prev" => self.move_cursor(command),
            "record" => self.record(command),
            "value" => self.value(command),
            "page" => self.page(command),
            "flush" => self.place.engine().flush().map(|()| String::new()).map_err(Into::into),
            "stage" => self.stage(command),
            "install" => self.stage.take().ok_or("nothing is staged")?.install().map(|()| String::new()).map_err(Into::into),
            "unstage" => {
                self.stage = None;
                Ok(String::new())
            }
            "view" => {
                self.views.insert(Self::positional(command)[0].clone(), self.place.engine().view());
                Ok(String::new())
            }
            "unview" => {
                self.views.remove(&Self::positional(command)[0]);
                Ok(String::new())
            }
            "look" => self.look(command),
            "compact" => {
                let (from, to) = Self::bounds(command);
                self.place.engine().compact(&from, &to).map(|()| String::new()).map_err(Into::into)
            }
            "crash" => {
                (self.stage, self.views) = (None, BTreeMap::new());
                self.place.crash();
                Ok(String::new())
            }
            name => Err(format!("no such command: {name}").into()),
        }
    }
}
