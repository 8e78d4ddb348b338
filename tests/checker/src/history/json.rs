//! JSON lines, one operation each, as `docs/history-format.md` describes them. The format is for other programs too: a change needs
//! a word there.

use std::fmt;
use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Call, Operation, Outcome, Reply};

/// One line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    process: u64,
    #[serde(rename = "type")]
    kind: Kind,
    f: Function,
    key: String,
    value: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(default, skip_serializing_if = "is_false")]
    refused: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    stale: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<u64>,
    start: u64,
    end: Option<u64>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Ok,
    Fail,
    Info,
    Invoke,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Function {
    Get,
    Put,
    Delete,
    Cas,
    CasVersion,
    Increment,
    Count,
    Add,
    Members,
    Append,
    Lists,
    Snapshot,
}

/// Why a history could not be read.
#[derive(Debug)]
pub struct ReadError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of the history: {}", self.line, self.why)
    }
}

impl std::error::Error for ReadError {}

/// Writes a history, one line per operation, in the order given.
///
/// # Errors
/// What the writer says.
pub fn write_json(mut to: impl Write, operations: &[Operation]) -> io::Result<()> {
    for operation in operations {
        serde_json::to_writer(&mut to, &line(operation))?;
        to.write_all(b"\n")?;
    }
    to.flush()
}

/// Reads a history. Empty lines are let be.
///
/// # Errors
/// The first line that is no operation, and why.
pub fn read_json(from: impl BufRead) -> Result<Vec<Operation>, ReadError> {
    let mut operations = Vec::new();
    for (at, text) in from.lines().enumerate() {
        let error = |why: String| ReadError { line: at + 1, why };
        let text = text.map_err(|why| error(why.to_string()))?;
        if text.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(&text).map_err(|why| error(why.to_string()))?;
        let operation = operation(line).map_err(error)?;
        operation.validate().map_err(error)?;
        operations.push(operation);
    }
    Ok(operations)
}

fn line(operation: &Operation) -> Line {
    let (kind, error) = match &operation.outcome {
        Outcome::Ok { .. } => (Kind::Ok, None),
        Outcome::Refused => (Kind::Fail, None),
        Outcome::Failed { error } => (Kind::Fail, Some(error.clone())),
        Outcome::Unknown { .. } if operation.end_us.is_none() => (Kind::Invoke, None),
        Outcome::Unknown { error } => (Kind::Info, Some(error.clone())),
    };
    let (f, value) = function(operation);
    Line {
        process: operation.process,
        kind,
        f,
        key: operation.key.clone(),
        value,
        version: operation.version(),
        refused: operation.outcome == Outcome::Refused,
        stale: operation.stale,
        error,
        group: operation.group,
        session: operation.session,
        start: operation.start_us,
        end: operation.end_us,
    }
}

/// The name of the call, and its one value: what it was given, or what it returned.
fn function(operation: &Operation) -> (Function, Value) {
    let returned = match &operation.outcome {
        Outcome::Ok { reply, .. } => match reply {
            Reply::Done => Value::Null,
            Reply::Value(value) => json!(value),
            Reply::Number(number) => json!(number),
            Reply::Members(members) => json!(members),
            Reply::Lists(lists) => json!(lists),
            Reply::Rows(rows) => json!(rows),
        },
        _ => Value::Null,
    };
    match &operation.call {
        Call::Get => (Function::Get, returned),
        Call::Put { value } => (Function::Put, json!(value)),
        Call::Delete => (Function::Delete, Value::Null),
        Call::Cas { expected, value } => (Function::Cas, json!([expected, value])),
        Call::CasVersion { expected, value } => (Function::CasVersion, json!([expected, value])),
        Call::Increment => (Function::Increment, returned),
        Call::Count => (Function::Count, returned),
        Call::Add { element } => (Function::Add, json!(element)),
        Call::Members => (Function::Members, returned),
        Call::Append { list, element } => (Function::Append, json!([list, element])),
        Call::Lists => (Function::Lists, returned),
        Call::Snapshot => (Function::Snapshot, returned),
    }
}

fn parse<T: serde::de::DeserializeOwned>(f: Function, value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|why| format!("the value does not fit {f:?}: {why}"))
}

fn operation(line: Line) -> Result<Operation, String> {
    let Line { process, kind, f, key, value, version, refused, stale, error, group, session, start, end } = line;
    let ok = kind == Kind::Ok;
    let mut reply = Reply::Done;
    let call = match f {
        Function::Get => Call::Get,
        Function::Put => Call::Put { value: parse(f, value.clone())? },
        Function::Delete => Call::Delete,
        Function::Cas => parse(f, value.clone()).map(|(expected, value)| Call::Cas { expected, value })?,
        Function::CasVersion => parse(f, value.clone()).map(|(expected, value)| Call::CasVersion { expected, value })?,
        Function::Increment => Call::Increment,
        Function::Count => Call::Count,
        Function::Add => Call::Add { element: parse(f, value.clone())? },
        Function::Members => Call::Members,
        Function::Append => parse(f, value.clone()).map(|(list, element)| Call::Append { list, element })?,
        Function::Lists => Call::Lists,
        Function::Snapshot => Call::Snapshot,
    };
    if ok {
        reply = match f {
            Function::Get => Reply::Value(parse(f, value)?),
            Function::Increment => parse::<Option<u64>>(f, value)?.map_or(Reply::Done, Reply::Number),
            Function::Count => Reply::Number(parse(f, value)?),
            Function::Members => Reply::Members(parse(f, value)?),
            Function::Lists => Reply::Lists(parse(f, value)?),
            Function::Snapshot => Reply::Rows(parse(f, value)?),
            _ => Reply::Done,
        };
    }
    if refused && kind != Kind::Fail {
        return Err("`refused` belongs to the type fail".to_owned());
    }
    let error = error.unwrap_or_default();
    let outcome = match kind {
        Kind::Ok => Outcome::Ok { reply, version },
        Kind::Fail if refused => Outcome::Refused,
        Kind::Fail => Outcome::Failed { error },
        Kind::Info | Kind::Invoke => Outcome::Unknown { error },
    };
    if kind == Kind::Invoke && end.is_some() {
        return Err("an operation that only was invoked has no end; one that ended without a known outcome is `info`".to_owned());
    }
    Ok(Operation { process, key, call, outcome, start_us: start, end_us: end, group, session, stale })
}
