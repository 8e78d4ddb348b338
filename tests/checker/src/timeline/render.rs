//! From operations to text. Columns are as wide as the texts need; only the order of the events is kept, not their distance.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Call, Operation, Outcome, Reply};

/// Lanes wider than this are unreadable: then each call gets a line.
const COLUMNS_MAX: usize = 180;

/// A value as one word of the notation.
fn word(text: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "_./-+".contains(c) { c } else { '_' };
    if text.is_empty() { "_".to_owned() } else { text.chars().map(plain).collect() }
}

fn words(texts: &[String]) -> String {
    let all: Vec<_> = texts.iter().map(|text| word(text)).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(",") }
}

fn optional(text: Option<&str>) -> String {
    text.map_or_else(|| "-".to_owned(), word)
}

/// One operation as one text: what stands between the brackets. Signs in values that mean something here are shown as `_`.
pub fn notation(operation: &Operation) -> String {
    let reply = match &operation.outcome {
        Outcome::Ok { reply, .. } => Some(reply),
        _ => None,
    };
    let returned = match reply {
        None | Some(Reply::Done) => String::new(),
        Some(Reply::Value(value)) => format!(" {}", optional(value.as_deref())),
        Some(Reply::Number(number)) => format!(" {number}"),
        Some(Reply::Members(members)) => format!(" {}", words(members)),
        Some(Reply::Lists(lists)) => lists.iter().map(|(list, all)| format!(" {}:{}", word(list), words(all))).collect(),
        Some(Reply::Rows(rows)) => {
            rows.iter().map(|(key, (value, version))| format!(" {}={}@{version}", word(key), word(value))).collect()
        }
    };
    let (name, given) = match &operation.call {
        Call::Get => ("get", String::new()),
        Call::Put { value } => ("put", format!(" {}", word(value))),
        Call::Delete => ("del", String::new()),
        Call::Cas { expected, value } => ("cas", format!(" {} {}", optional(expected.as_deref()), word(value))),
        Call::CasVersion { expected, value } => ("cas", format!(" ={expected} {}", word(value))),
        Call::Increment => ("inc", String::new()),
        Call::Count => ("count", String::new()),
        Call::Add { element } => ("add", format!(" {}", word(element))),
        Call::Members => ("members", String::new()),
        Call::Append { list, element } => ("append", format!(" {}:{}", word(list), word(element))),
        Call::Lists => ("lists", String::new()),
        Call::Snapshot => ("snapshot", String::new()),
    };
    let stale = if operation.stale { "~" } else { "" };
    let mut text = format!("{name}{stale} {}{given}{returned}", word(&operation.key));
    if operation.outcome == Outcome::Refused {
        text.push_str(" no");
    }
    for (sign, number) in [('@', operation.version()), ('#', operation.session), ('%', operation.group)] {
        if let Some(number) = number {
            text.push_str(&format!(" {sign}{number}"));
        }
    }
    text
}

fn closing(operation: &Operation) -> char {
    match operation.outcome {
        Outcome::Ok { .. } | Outcome::Refused => ']',
        Outcome::Failed { .. } => ')',
        Outcome::Unknown { .. } => '?',
    }
}

/// All operations in lanes. Reading it back gives the same calls in the same order and overlap, at other times.
pub fn render(operations: &[Operation]) -> String {
    let mut ordered: Vec<&Operation> = operations.iter().collect();
    ordered.sort_by_key(|operation| (operation.start_us, operation.process));
    let columns = columns(&ordered);
    if columns.values().max().is_some_and(|last| *last > COLUMNS_MAX) {
        return lines(&ordered);
    }
    let mut lanes: BTreeMap<u64, String> = BTreeMap::new();
    let name_width = ordered.iter().map(|operation| operation.process.to_string().len()).max().unwrap_or(1) + 2;
    for operation in ordered {
        let lane = lanes.entry(operation.process).or_default();
        let from = columns[&operation.start_us];
        pad(lane, from);
        lane.push('[');
        lane.push_str(&notation(operation));
        if let Some(end) = operation.end_us {
            pad(lane, columns[&end]);
        }
        lane.push(closing(operation));
    }
    let lane = |(process, lane): (&u64, &String)| format!("{:<name_width$} {lane}\n", format!("p{process}"));
    lanes.iter().map(lane).collect()
}

fn pad(lane: &mut String, to: usize) {
    let wide = lane.chars().count();
    lane.extend(std::iter::repeat_n(' ', to.saturating_sub(wide)));
}

/// A column for each moment, in their order, so that every text fits between its ends.
fn columns(ordered: &[&Operation]) -> BTreeMap<u64, usize> {
    let mut moments: BTreeSet<u64> = ordered.iter().map(|operation| operation.start_us).collect();
    moments.extend(ordered.iter().filter_map(|operation| operation.end_us));
    let mut ending: BTreeMap<u64, Vec<&Operation>> = BTreeMap::new();
    let mut starting: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for operation in ordered {
        if let Some(end) = operation.end_us {
            ending.entry(end).or_default().push(operation);
        }
        starting.entry(operation.start_us).or_default().push(operation.process);
    }
    let mut columns: BTreeMap<u64, usize> = BTreeMap::new();
    // Where each lane is free again.
    let mut free: BTreeMap<u64, usize> = BTreeMap::new();
    let mut next = 0;
    for moment in moments {
        let mut column = next;
        let ends = ending.get(&moment).map_or(&[][..], Vec::as_slice);
        for operation in ends {
            // A call that begins where the one before it ended is drawn one column later.
            let beside = usize::from(ending.get(&operation.start_us).is_some_and(|ends| {
                ends.iter().any(|other| other.process == operation.process && other.start_us < operation.start_us)
            }));
            let from = columns.get(&operation.start_us);
            column = column.max(from.map_or(0, |from| from + 1 + beside + notation(operation).chars().count()));
        }
        let starts = starting.get(&moment).map_or(&[][..], Vec::as_slice);
        for process in starts {
            column = column.max(free.get(process).copied().unwrap_or(0));
        }
        columns.insert(moment, column);
        // What begins and ends in this moment takes all of its room here, so that what comes later is seen to be later.
        let instant = ends.iter().filter(|operation| operation.start_us == moment);
        let room = instant.map(|operation| notation(operation).chars().count() + 2).sum::<usize>();
        next = column + 2 + room;
        for operation in ends {
            free.insert(operation.process, next);
        }
    }
    columns
}

/// One line per call, with the times themselves.
fn lines(ordered: &[&Operation]) -> String {
    let end = |operation: &Operation| operation.end_us.map_or_else(|| "open".to_owned(), |end| end.to_string());
    let line = |operation: &&Operation| {
        let lane = format!("p{}", operation.process);
        format!("{:>12} .. {:<12} {lane:<5} [{operation}{}\n", operation.start_us, end(operation), closing(operation))
    };
    ordered.iter().map(line).collect()
}
