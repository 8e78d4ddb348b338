//! The input of an import: lines of bounded length, each with the place after it and the fingerprint up to it, so that the place can
//! be noted once the line is acknowledged.

use std::path::Path;

use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::checkpoint::{Checkpoint, Fingerprint};
use crate::encoding::take_field;
use crate::failure::Failure;

/// Longest line: the largest key and value with every byte escaped in JSON (six characters each), and room for the rest.
const LINE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Read at once from files and pipes.
const BUFFER_BYTES: usize = 256 * 1024;

/// A row of the input, and how far the input is read with it.
#[derive(Debug)]
pub struct Line {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The checkpoint once this row, and all before it, are acknowledged.
    pub after: Checkpoint,
}

/// The input.
pub struct Lines {
    name: String,
    reader: Box<dyn AsyncBufRead + Send + Unpin>,
    /// A line that is being read. It outlives a read that was given up, which makes `next` safe to give up.
    partial: Vec<u8>,
    place: Checkpoint,
    fingerprint: Fingerprint,
    /// All bytes, if the input is a file.
    pub size_bytes: Option<u64>,
}

impl Lines {
    /// Opens a file, or standard input.
    pub async fn open(file: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = file else {
            return Ok(Self::new("standard input", BufReader::with_capacity(BUFFER_BYTES, tokio::io::stdin()), None));
        };
        let fail = |error| Failure::file(format!("opening {}", path.display()), &error);
        let open = tokio::fs::File::open(path).await.map_err(fail)?;
        let metadata = open.metadata().await.map_err(fail)?;
        if metadata.is_dir() {
            return Err(Failure::bad_file(format!("{} is a folder; give a file of JSON lines", path.display())));
        }
        let size = metadata.is_file().then_some(metadata.len());
        Ok(Self::new(&path.display().to_string(), BufReader::with_capacity(BUFFER_BYTES, open), size))
    }

    fn new(name: &str, reader: impl AsyncBufRead + Send + Unpin + 'static, size_bytes: Option<u64>) -> Self {
        let fingerprint = Fingerprint::default();
        Self {
            name: name.to_owned(),
            reader: Box::new(reader),
            partial: Vec::new(),
            place: Checkpoint::start(),
            fingerprint,
            size_bytes,
        }
    }

    /// Reads over what a checkpoint says is done, and makes sure that it is the same input.
    pub async fn skip_to(&mut self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let mut left = checkpoint.offset_bytes;
        while left > 0 {
            let buffer = self.reader.fill_buf().await.map_err(|error| Failure::file(format!("reading {}", self.name), &error))?;
            let take = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if take == 0 {
                break;
            }
            self.fingerprint.add(&buffer[..take]);
            self.reader.consume(take);
            left -= take as u64;
        }
        if left > 0 || self.fingerprint.0 != checkpoint.fingerprint {
            return Err(Failure::bad_file(format!(
                "the checkpoint is about another input: the first {} bytes of {} are not those that were imported; say --restart to import it from the start",
                checkpoint.offset_bytes, self.name
            )));
        }
        self.place = *checkpoint;
        Ok(())
    }

    /// The next row; `None` at the end. Blank lines are passed over. May be given up and called again.
    pub async fn next(&mut self) -> Result<Option<Line>, Failure> {
        loop {
            let room = LINE_BYTES_MAX + 1 - self.partial.len() as u64;
            let read = (&mut self.reader).take(room).read_until(b'\n', &mut self.partial).await;
            read.map_err(|error| Failure::file(format!("reading {}", self.name), &error))?;
            if self.partial.is_empty() {
                return Ok(None);
            }
            let number = self.place.lines + 1;
            if self.partial.len() as u64 > LINE_BYTES_MAX {
                return Err(self.wrong(number, &format!("it is longer than {LINE_BYTES_MAX} bytes")));
            }
            let line = std::mem::take(&mut self.partial);
            self.fingerprint.add(&line);
            self.place.offset_bytes += line.len() as u64;
            self.place.lines = number;
            self.place.fingerprint = self.fingerprint.0;
            if line.trim_ascii().is_empty() {
                continue;
            }
            self.place.rows += 1;
            let (key, value) = parse(&line).map_err(|reason| self.wrong(number, &reason))?;
            return Ok(Some(Line { key, value, after: self.place }));
        }
    }

    fn wrong(&self, number: u64, reason: &str) -> Failure {
        let message =
            format!("line {number} of {} is not a row: {reason}; a row looks like {{\"key\":\"a\",\"value\":\"b\"}}", self.name);
        Failure::usage(message)
    }
}

/// A row: key and value, nothing else but the version that `export` adds.
fn parse(line: &[u8]) -> Result<(Bytes, Bytes), String> {
    let mut object: Map<String, Value> =
        serde_json::from_slice(line).map_err(|error| format!("it does not parse as a JSON object ({error})"))?;
    let key = take_field(&mut object, "key")?;
    if key.is_empty() {
        return Err("its key is empty".to_owned());
    }
    let value = take_field(&mut object, "value")?;
    object.remove("version");
    match object.keys().next() {
        Some(unknown) => Err(format!("`{unknown}` means nothing here")),
        None => Ok((key, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &'static str) -> Lines {
        Lines::new("rows.jsonl", text.as_bytes(), None)
    }

    async fn all(mut lines: Lines) -> Vec<Line> {
        let mut found = Vec::new();
        while let Some(line) = lines.next().await.expect("reads") {
            found.push(line);
        }
        found
    }

    const TEXT: &str = "{\"key\":\"a\",\"value\":\"1\"}\n\n{\"key_hex\":\"00ff\",\"value_base64\":\"aGk=\",\"version\":\"7\"}\r\n{\"key\":\"c\",\"value\":\"\"}";

    #[tokio::test]
    async fn rows_are_read_in_every_encoding_and_without_a_last_line_break() {
        let found = all(lines(TEXT)).await;
        let rows: Vec<_> = found.iter().map(|line| (line.key.as_ref(), line.value.as_ref())).collect();
        assert_eq!(rows, [(b"a".as_slice(), b"1".as_slice()), (b"\x00\xff", b"hi"), (b"c", b"")]);
        let last = found.last().expect("three rows").after;
        assert_eq!((last.lines, last.rows, last.offset_bytes), (4, 3, TEXT.len() as u64));
    }

    #[tokio::test]
    async fn going_on_from_any_row_gives_the_rest() {
        let whole = all(lines(TEXT)).await;
        for (at, line) in whole.iter().enumerate() {
            let mut rest = lines(TEXT);
            rest.skip_to(&line.after).await.expect("the same input");
            let rest = all(rest).await;
            assert_eq!(rest.len(), whole.len() - at - 1);
            assert_eq!(rest.last().map_or(line.after, |line| line.after), whole[whole.len() - 1].after);
        }
    }

    #[tokio::test]
    async fn another_input_is_refused() {
        let checkpoint = all(lines(TEXT)).await[1].after;
        for other in [
            "",
            "{\"key\":\"a\",\"value\":\"1\"}\n",
            "{\"key\":\"b\",\"value\":\"1\"}\n\n{\"key_hex\":\"00ff\",\"value_base64\":\"aGk=\",\"version\":\"7\"}\r\n{}",
        ] {
            let error = lines(other).skip_to(&checkpoint).await.expect_err("another input");
            assert!(error.message.contains("another input") && error.message.contains("--restart"), "{error}");
        }
    }

    #[tokio::test]
    async fn mistakes_name_the_line() {
        for (text, word) in [
            ("\n{\"key\":\"a\"", "line 2 of rows.jsonl is not a row: it does not parse"),
            ("[1]", "JSON object"),
            ("{\"key\":\"a\"}", "no `value`"),
            ("{\"key\":\"\",\"value\":\"\"}", "key is empty"),
            ("{\"key\":\"a\",\"value\":1}", "not a string"),
            ("{\"key\":\"a\",\"value\":\"b\",\"ttl\":1}", "`ttl` means nothing"),
        ] {
            let error = lines(text).next().await.expect_err(text);
            assert!(error.message.contains(word), "{text}: {error}");
            assert_eq!(error.exit as u8, 2);
        }
    }

    #[tokio::test]
    async fn an_endless_line_is_refused_before_it_fills_memory() {
        let mut lines = Lines::new("endless", BufReader::new(tokio::io::repeat(b'x')), None);
        let error = lines.next().await.expect_err("too long");
        assert!(error.message.contains("longer than 8388608 bytes"), "{error}");
    }
}
