//! `export`: rows as JSON lines, in key order, at one version. What was interrupted says after which key to go on.

use std::io::IsTerminal as _;

use bytes::Bytes;
use futures::StreamExt as _;
use kontiki::Row;
use kontiki_client::{Client, ScanOptions};
use tokio::io::{AsyncWrite, AsyncWriteExt as _, BufWriter};

use super::import::bar;
use crate::args::{Export, OutputFormat, Target};
use crate::encoding::Encoding;
use crate::failure::Failure;
use crate::output::{Output, Stop};
use crate::values::show_rows;

/// Where rows go, and what is certainly there.
struct Sink {
    writer: BufWriter<Box<dyn AsyncWrite + Send + Unpin>>,
    name: String,
    stdout: bool,
    rows: u64,
    bytes: u64,
    last: Option<Bytes>,
}

impl Sink {
    async fn open(target: &Target) -> Result<Self, Failure> {
        let options = |path: &std::path::Path, append: bool| {
            let mut options = tokio::fs::OpenOptions::new();
            let path = path.to_path_buf();
            options.append(append).write(true).create_new(!append).create(append);
            async move { (options.open(&path).await, path) }
        };
        let (opened, path) = match target {
            Target::Stdout => return Ok(Self::new(Box::new(tokio::io::stdout()), "standard output", true)),
            Target::New(path) => options(path, false).await,
            Target::Append(path) => options(path, true).await,
        };
        match opened {
            Ok(file) => Ok(Self::new(Box::new(file), &path.display().to_string(), false)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Failure::bad_file(format!(
                "{} is there already; remove it, give another name, or say --append (with --after KEY to go on)",
                path.display()
            ))),
            Err(error) => Err(Failure::file(format!("opening {}", path.display()), &error)),
        }
    }

    fn new(writer: Box<dyn AsyncWrite + Send + Unpin>, name: &str, stdout: bool) -> Self {
        Self {
            writer: BufWriter::with_capacity(256 * 1024, writer),
            name: name.to_owned(),
            stdout,
            rows: 0,
            bytes: 0,
            last: None,
        }
    }

    fn failed(&self, error: &std::io::Error) -> Stop {
        if self.stdout { Stop::of_stdout(error) } else { Failure::file(format!("writing {}", self.name), error).into() }
    }

    async fn write(&mut self, output: Output, row: Row) -> Result<(), Stop> {
        let line = format!("{}\n", output.row(&row, true));
        let written = self.writer.write_all(line.as_bytes()).await;
        written.map_err(|error| self.failed(&error))?;
        self.rows += 1;
        self.bytes += line.len() as u64;
        self.last = Some(row.key);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Stop> {
        let flushed = self.writer.flush().await;
        flushed.map_err(|error| self.failed(&error))
    }

    /// How to go on after what was written.
    fn advice(&self, encoding: Encoding) -> String {
        let Some(last) = &self.last else { return "no row was written".to_owned() };
        let (encoding, typed) = encoding.to_type(last);
        let encoding = if encoding == Encoding::Text { String::new() } else { format!(" --encoding {}", encoding.name()) };
        let file = if self.stdout { String::new() } else { " --append".to_owned() };
        format!("{} written: to go on, add{encoding} --after '{}'{file}", show_rows(self.rows), typed.replace('\'', "'\\''"))
    }
}

/// Exports, to the end or to the first failure.
pub async fn run(client: &Client, output: Output, export: Export) -> Result<(), Stop> {
    let mut sink = Sink::open(&export.target).await?;
    let mut rows = client.scan(ScanOptions::range(export.span.start, export.span.end).level(export.level));
    // Rows scroll by on a terminal: a bar would only be in their way.
    let bar = if sink.stdout && std::io::stdout().is_terminal() { indicatif::ProgressBar::hidden() } else { bar(None) };
    let ended = loop {
        tokio::select! {
            row = rows.next() => match row {
                None => break Ok(()),
                Some(Ok(row)) => sink.write(output, row).await?,
                Some(Err(error)) => break Err(Failure::from(error)),
            },
            Ok(()) = tokio::signal::ctrl_c() => break Err(Failure::interrupted("interrupted")),
        }
        bar.set_position(sink.bytes);
        bar.set_message(show_rows(sink.rows));
    };
    sink.flush().await?;
    bar.finish_and_clear();
    if let Err(failure) = ended {
        if let (Target::New(path), 0) = (&export.target, sink.rows) {
            // Nothing was written: an empty file would only be in the way of the next try.
            let _ = tokio::fs::remove_file(path).await;
        }
        return Err(failure.with_advice(sink.advice(output.encoding)).into());
    }
    // On standard output the rows are the result; what is said about them goes beside it.
    let version = rows.version().map_or_else(String::new, |version| format!(" at version {version}"));
    let summary = format!("exported {}{version}", show_rows(sink.rows));
    match (sink.stdout, output.format) {
        (true, _) => eprintln!("kontiki: {summary}"),
        (false, OutputFormat::Table) => crate::output::line(&summary)?,
        (false, OutputFormat::Json) => {
            let version = rows.version().map(|version| version.to_string());
            crate::output::line(&serde_json::json!({ "rows": sink.rows, "version": version }).to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki::Version;

    fn sink(path: &std::path::Path) -> Target {
        Target::New(path.to_path_buf())
    }

    #[tokio::test]
    async fn a_file_that_is_there_is_not_overwritten_but_can_be_appended_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows.jsonl");
        let output = Output { format: OutputFormat::Table, encoding: Encoding::Text };
        let row = |key: &'static str| Row { key: key.into(), value: "v".into(), version: Version(7) };
        let mut first = Sink::open(&sink(&path)).await.expect("is new");
        first.write(output, row("a")).await.map_err(|_| "failed").expect("writes");
        first.flush().await.map_err(|_| "failed").expect("flushes");
        let error = Sink::open(&sink(&path)).await.err().expect("is there");
        assert!(error.message.contains("is there already") && error.exit as u8 == 5, "{error}");
        let mut second = Sink::open(&Target::Append(path.clone())).await.expect("appends");
        second.write(output, row("b")).await.map_err(|_| "failed").expect("writes");
        second.flush().await.map_err(|_| "failed").expect("flushes");
        let text = std::fs::read_to_string(&path).expect("reads");
        assert_eq!(
            text,
            "{\"key\":\"a\",\"value\":\"v\",\"version\":\"7\"}\n{\"key\":\"b\",\"value\":\"v\",\"version\":\"7\"}\n"
        );
    }

    #[tokio::test]
    async fn advice_can_be_typed_as_it_is() {
        let mut sink = Sink::new(Box::new(Vec::new()), "x", true);
        assert_eq!(sink.advice(Encoding::Text), "no row was written");
        sink.last = Some(Bytes::from_static(b"it's"));
        assert!(sink.advice(Encoding::Text).ends_with(r"add --after 'it'\''s'"), "{}", sink.advice(Encoding::Text));
        sink.last = Some(Bytes::from_static(b"\xff"));
        assert!(sink.advice(Encoding::Text).ends_with("add --encoding base64 --after '/w=='"));
    }
}
