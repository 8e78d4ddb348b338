//! Jepsen's form of a history: EDN maps, one per event, in the order of time, as its checkers (Knossos, Elle, jepsen.checker) read
//! them: <https://github.com/jepsen-io/jepsen>, `jepsen.history`. Only written, never read.
//!
//! - `:value` is `[key value]`, as `jepsen.independent` has it; lists are Elle's `:txn` of `:append` and `:r`.
//! - times are ns; a delete is a `:write` of `nil`.
//! - a process whose call ended as `:info` is dead for Jepsen, so what it calls later gets a number of its own.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::{Call, Operation, Outcome, Reply};

/// One event.
struct Event<'a> {
    at_us: u64,
    process: u64,
    kind: &'static str,
    operation: &'a Operation,
}

/// Writes a history as Jepsen has it, one map per line.
///
/// # Errors
/// What the writer says.
pub fn write_edn(mut to: impl Write, operations: &[Operation]) -> io::Result<()> {
    for (index, event) in events(operations).iter().enumerate() {
        let Event { at_us, process, kind, operation } = event;
        let (f, value) = call(operation, *kind == "ok");
        write!(to, "{{:index {index}, :time {}, :type :{kind}, :process {process}, :f :{f}, :value {value}", at_us * 1000)?;
        if let (Some(version), "ok") = (operation.version(), *kind) {
            write!(to, ", :version {version}")?;
        }
        match &operation.outcome {
            Outcome::Refused if *kind == "fail" => write!(to, ", :error :refused")?,
            Outcome::Failed { error } | Outcome::Unknown { error } if *kind != "invoke" => {
                write!(to, ", :error {}", string(error))?;
            }
            _ => {}
        }
        writeln!(to, "}}")?;
    }
    to.flush()
}

fn events(operations: &[Operation]) -> Vec<Event<'_>> {
    let mut ordered: Vec<&Operation> = operations.iter().collect();
    ordered.sort_by_key(|operation| operation.start_us);
    let mut fresh = ordered.iter().map(|operation| operation.process + 1).max().unwrap_or(0);
    let mut numbers: BTreeMap<u64, u64> = BTreeMap::new();
    let mut events = Vec::with_capacity(2 * ordered.len());
    for operation in ordered {
        let process = *numbers.entry(operation.process).or_insert(operation.process);
        let event = |at_us, kind| Event { at_us, process, kind, operation };
        events.push(event(operation.start_us, "invoke"));
        let kind = match operation.outcome {
            Outcome::Ok { .. } => "ok",
            Outcome::Refused | Outcome::Failed { .. } => "fail",
            Outcome::Unknown { .. } => "info",
        };
        if let Some(end) = operation.end_us {
            events.push(event(end, kind));
        }
        if kind == "info" {
            numbers.insert(operation.process, fresh);
            fresh += 1;
        }
    }
    // Stable: of one process, a call stays before its return, and a return before the next call.
    events.sort_by_key(|event| event.at_us);
    events
}

/// `:f` and `:value` of an event; what was returned only if it is `answered`.
fn call(operation: &Operation, answered: bool) -> (&'static str, String) {
    let key = &operation.key;
    let pair = |value: &str| format!("[{} {value}]", string(key));
    let reply = match &operation.outcome {
        Outcome::Ok { reply, .. } if answered => Some(reply),
        _ => None,
    };
    let number = |reply: Option<&Reply>| match reply {
        Some(Reply::Number(number)) => number.to_string(),
        _ => "nil".to_owned(),
    };
    match &operation.call {
        Call::Get => match reply {
            Some(Reply::Value(value)) => ("read", pair(&optional(value.as_deref()))),
            _ => ("read", pair("nil")),
        },
        Call::Put { value } => ("write", pair(&string(value))),
        Call::Delete => ("write", pair("nil")),
        Call::Cas { expected, value } => ("cas", pair(&format!("[{} {}]", optional(expected.as_deref()), string(value)))),
        Call::CasVersion { expected, value } => ("cas-version", pair(&format!("[{expected} {}]", string(value)))),
        Call::Increment => ("add", pair("1")),
        Call::Count => ("read", pair(&number(reply))),
        Call::Add { element } => ("add", pair(&string(element))),
        Call::Members => match reply {
            Some(Reply::Members(members)) => ("read", pair(&format!("#{{{}}}", strings(members)))),
            _ => ("read", pair("nil")),
        },
        Call::Append { list, element } => ("txn", format!("[[:append {} {}]]", string(list), string(element))),
        Call::Lists => match reply {
            Some(Reply::Lists(lists)) => {
                let reads = lists.iter().map(|(list, elements)| format!("[:r {} [{}]]", string(list), strings(elements)));
                ("txn", format!("[{}]", reads.collect::<Vec<_>>().join(" ")))
            }
            _ => ("txn", "[]".to_owned()),
        },
        Call::Snapshot => match reply {
            Some(Reply::Rows(rows)) => {
                let rows = rows.iter().map(|(key, (value, version))| format!("{} [{} {version}]", string(key), string(value)));
                ("snapshot", pair(&format!("{{{}}}", rows.collect::<Vec<_>>().join(", "))))
            }
            _ => ("snapshot", pair("nil")),
        },
    }
}

fn strings(texts: &[String]) -> String {
    texts.iter().map(|text| string(text)).collect::<Vec<_>>().join(" ")
}

fn optional(text: Option<&str>) -> String {
    text.map_or_else(|| "nil".to_owned(), string)
}

/// An EDN string: quotes, backslashes and control characters escaped.
fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            char if char.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(char))),
            char => out.push(char),
        }
    }
    out.push('"');
    out
}
