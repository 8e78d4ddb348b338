//! From text to operations. It is strict: what it does not know is an error, because a golden history that is half read proves nothing.

use std::collections::BTreeMap;

use crate::history::{self, Call, Operation, Outcome, Reply};

/// How long a column is.
const COLUMN_US: u64 = 10;

/// Reads lanes. Empty lines and lines that begin with `#` are let be; several lanes may have the same name.
///
/// # Errors
/// The line, and what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Operation>, String> {
    let mut operations = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        lane(line, &mut operations).map_err(|why| format!("line {}: {why}", at + 1))?;
    }
    operations.sort_by_key(|operation| operation.start_us);
    history::validate(&operations)?;
    Ok(operations)
}

fn lane(line: &str, operations: &mut Vec<Operation>) -> Result<(), String> {
    let name = line.split_whitespace().next().unwrap_or_default();
    let number = name.strip_prefix('p').and_then(|number| number.parse().ok());
    let process = number.ok_or_else(|| format!("a lane begins with `p1` or the like, not with `{name}`"))?;
    let chars: Vec<char> = line.chars().collect();
    let mut at = line.find('p').unwrap_or(0) + name.len();
    while at < chars.len() {
        match chars[at] {
            ' ' => at += 1,
            '[' => {
                let length = chars[at..].iter().position(|c| "])?".contains(*c));
                let end = at + length.ok_or("a call has no end: `]`, `)` or `?`")?;
                let text: String = chars[at + 1..end].iter().collect();
                let parsed = operation(&text, chars[end]).map_err(|why| format!("`{}`: {why}", text.trim()))?;
                let (start_us, end_us) = (at as u64 * COLUMN_US, Some(end as u64 * COLUMN_US));
                operations.push(Operation { process, start_us, end_us, ..parsed });
                at = end + 1;
            }
            other => return Err(format!("`{other}` in column {at} belongs to no call")),
        }
    }
    Ok(())
}

/// The signs at the end of a call.
#[derive(Default)]
struct Marks {
    version: Option<u64>,
    session: Option<u64>,
    group: Option<u64>,
    refused: bool,
}

impl Marks {
    fn take(words: &mut Vec<&str>) -> Result<Self, String> {
        let mut marks = Self::default();
        while let Some(last) = words.last() {
            let number = |text: &str| text.parse::<u64>().map_err(|why| format!("{last}: {why}"));
            match (*last, last.split_at_checked(1)) {
                ("no", _) => marks.refused = true,
                (_, Some(("@", text))) => marks.version = Some(number(text)?),
                (_, Some(("#", text))) => marks.session = Some(number(text)?),
                (_, Some(("%", text))) => marks.group = Some(number(text)?),
                _ => break,
            }
            words.pop();
        }
        Ok(marks)
    }
}

fn operation(text: &str, closing: char) -> Result<Operation, String> {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    let marks = Marks::take(&mut words)?;
    let [name, key, rest @ ..] = words.as_slice() else { return Err("a call has a name and a key".to_owned()) };
    let (name, stale) = name.strip_suffix('~').map_or((*name, false), |name| (name, true));
    let ok = closing == ']' && !marks.refused;
    let (call, reply) = call(name, rest, ok)?;
    let outcome = match closing {
        ']' if marks.refused => Outcome::Refused,
        ']' => Outcome::Ok { reply, version: marks.version },
        ')' => Outcome::Failed { error: String::new() },
        _ => Outcome::Unknown { error: String::new() },
    };
    let key = (*key).to_owned();
    let (group, session) = (marks.group, marks.session);
    Ok(Operation { process: 0, key, call, outcome, start_us: 0, end_us: None, group, session, stale })
}

fn optional(word: &str) -> Option<String> {
    (word != "-").then(|| word.to_owned())
}

fn list(word: &str) -> Vec<String> {
    if word == "-" { Vec::new() } else { word.split(',').map(str::to_owned).collect() }
}

/// What the words after the key say. What a call returned is read only of one that is `ok`.
fn call(name: &str, words: &[&str], ok: bool) -> Result<(Call, Reply), String> {
    let number = |text: &str| text.parse::<u64>().map_err(|why| format!("{text}: {why}"));
    let done = |call| Ok((call, Reply::Done));
    match (name, words) {
        ("put", [value]) => done(Call::Put { value: (*value).to_owned() }),
        ("del", []) => done(Call::Delete),
        ("cas", [expected, value]) => {
            let value = (*value).to_owned();
            match expected.strip_prefix('=') {
                Some(version) => done(Call::CasVersion { expected: number(version)?, value }),
                None => done(Call::Cas { expected: optional(expected), value }),
            }
        }
        ("inc", []) => done(Call::Increment),
        ("inc", [made]) if ok => Ok((Call::Increment, Reply::Number(number(made)?))),
        ("add", [element]) => done(Call::Add { element: (*element).to_owned() }),
        ("append", [both]) => {
            let (list, element) = both.split_once(':').ok_or("append takes list:element")?;
            done(Call::Append { list: list.to_owned(), element: element.to_owned() })
        }
        ("get", [value]) if ok => Ok((Call::Get, Reply::Value(optional(value)))),
        ("count", [made]) if ok => Ok((Call::Count, Reply::Number(number(made)?))),
        ("members", [members]) if ok => Ok((Call::Members, Reply::Members(list(members)))),
        ("lists", lists) if ok => {
            let pairs = lists.iter().map(|word| word.split_once(':').ok_or("lists are given as list:element,element"));
            let all: Result<BTreeMap<_, _>, _> = pairs.map(|pair| pair.map(|(name, all)| (name.to_owned(), list(all)))).collect();
            Ok((Call::Lists, Reply::Lists(all?)))
        }
        ("snapshot", rows) if ok => {
            let mut all = BTreeMap::new();
            for row in rows {
                let parts = row.split_once('=').and_then(|(key, rest)| Some((key, rest.split_once('@')?)));
                let (key, (value, version)) = parts.ok_or("rows are given as key=value@version")?;
                all.insert(key.to_owned(), (value.to_owned(), number(version)?));
            }
            Ok((Call::Snapshot, Reply::Rows(all)))
        }
        ("get", []) if !ok => done(Call::Get),
        ("count", []) if !ok => done(Call::Count),
        ("members", []) if !ok => done(Call::Members),
        ("lists", []) if !ok => done(Call::Lists),
        ("snapshot", []) if !ok => done(Call::Snapshot),
        _ => Err(format!("there is no call `{name}` with {} words behind its key", words.len())),
    }
}
