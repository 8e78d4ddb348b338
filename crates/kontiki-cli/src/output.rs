//! Results on standard output: tables for people, JSON for programs. A reader that has gone away (`kontiki scan | head`) ends the
//! program quietly.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use kontiki::{Error, Row, Version};
use serde_json::{Map, Value};

use crate::args::OutputFormat;
use crate::encoding::Encoding;
use crate::failure::Failure;

/// Widest value in a table, in characters: longer ones are cut, with their size. JSON has them whole.
const CELL_CHARS_MAX: usize = 120;

/// Where and how results are printed.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Table or JSON.
    pub format: OutputFormat,
    /// How bytes are shown.
    pub encoding: Encoding,
}

/// Why printing stopped.
#[derive(Debug)]
pub enum Stop {
    /// The reader went away: end quietly, there is nobody to tell.
    ReaderGone,
    /// Anything else.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error.into())
    }
}

impl Stop {
    /// What a failed write to standard output means.
    pub fn of_stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::Failed(Failure::file("writing to standard output", error)),
        }
    }
}

/// Writes a line to standard output.
pub fn line(text: &str) -> Result<(), Stop> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes bytes to standard output, at once.
pub fn bytes(bytes: &[u8]) -> Result<(), Stop> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| Stop::of_stdout(&error))
}

/// A table without frames, as `ls -l` has it: easy on the eyes, and on awk.
pub fn table(header: Option<&[&str]>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(header) = header {
        table.set_header(header);
    }
    table.add_rows(rows);
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    // Every cell has a space on both sides; the first one of a line says nothing.
    lines.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// A version in JSON is a string, as proto3's JSON has it: it exceeds the 53 bits that many readers of JSON keep of a number.
pub fn version(version: Version) -> Value {
    Value::String(version.to_string())
}

impl Output {
    /// Prints one of two things, as the format asks.
    pub fn print(self, human: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> Result<(), Stop> {
        match self.format {
            OutputFormat::Table => line(&human()),
            OutputFormat::Json => line(&json().to_string()),
        }
    }

    /// A row as JSON; exact.
    pub fn row(self, row: &Row, with_value: bool) -> Value {
        let mut object = Map::new();
        self.encoding.add_field(&mut object, "key", &row.key);
        if with_value {
            self.encoding.add_field(&mut object, "value", &row.value);
        }
        object.insert("version".to_owned(), version(row.version));
        Value::Object(object)
    }

    /// A value for a table: one line, cut if it is long.
    pub fn cell(self, bytes: &[u8]) -> String {
        let shown = self.encoding.show(bytes);
        match shown.char_indices().nth(CELL_CHARS_MAX) {
            None => shown,
            Some((cut, _)) => format!("{}... ({} bytes)", &shown[..cut], bytes.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_no_frame_and_no_trailing_spaces() {
        let text = table(Some(&["KEY", "VALUE"]), [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), String::new()]]);
        assert_eq!(text, "KEY   VALUE\na     1\nlong");
    }

    #[test]
    fn long_values_are_cut_in_tables_and_whole_in_json() {
        let output = Output { format: OutputFormat::Table, encoding: Encoding::Text };
        let value = "å".repeat(CELL_CHARS_MAX + 1);
        assert_eq!(output.cell(value.as_bytes()), format!("{}... ({} bytes)", "å".repeat(CELL_CHARS_MAX), value.len()));
        assert_eq!(output.cell(b"short"), "short");
        let row = Row { key: "k".into(), value: value.clone().into(), version: Version(7) };
        assert_eq!(output.row(&row, true), serde_json::json!({ "key": "k", "value": value, "version": "7" }));
        assert_eq!(output.row(&row, false), serde_json::json!({ "key": "k", "version": "7" }));
    }
}
