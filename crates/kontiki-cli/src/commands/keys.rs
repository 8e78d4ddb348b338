//! `get`, `put`, `delete`, `scan`: one call each.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use kontiki::{ReadLevel, Row};
use kontiki_client::{Client, ScanOptions, WriteBatch};
use serde_json::{Map, Value, json};

use crate::args::{Condition, KeySpan, OutputFormat, Scan, Source};
use crate::failure::Failure;
use crate::output::{self, Output, Stop};
use crate::values;

/// Rows laid out together as one table: enough for even columns, little enough to hold.
const TABLE_ROWS: usize = 1000;

/// Prints a value, or fails with exit code 1.
pub async fn get(client: &Client, output: Output, key: Bytes, raw: bool, level: ReadLevel) -> Result<(), Stop> {
    let seen = client.get_with(key.clone(), level).await?;
    let Some(row) = seen.value else {
        return Err(Failure::not_found(format!("the key `{}` is not there", output.encoding.show(&key))).into());
    };
    match output.format {
        _ if raw => output::bytes(&row.value),
        OutputFormat::Table => {
            let what = format!("the value of `{}`", output.encoding.show(&key));
            output::line(&output.encoding.exact(&what, &row.value)?)
        }
        OutputFormat::Json => {
            let mut object = output.row(&row, true);
            object["age_ms"] = seen.age_ms.into();
            object["token"] = values::show_token(&seen.token).into();
            output::line(&object.to_string())
        }
    }
}

/// Sets a key.
pub async fn put(client: &Client, output: Output, key: Bytes, value: Source, conditions: Vec<Condition>) -> Result<(), Stop> {
    let value = read_value(value).await?;
    let batch = add(WriteBatch::new(), &key, conditions).put(key.clone(), value);
    let seen = client.write_with(batch, None).await?;
    let version = seen.value.version;
    output.print(
        || format!("put `{}` at version {version}", output.encoding.show(&key)),
        || {
            let mut object = Map::new();
            output.encoding.add_field(&mut object, "key", &key);
            object.insert("version".to_owned(), output::version(version));
            object.insert("token".to_owned(), values::show_token(&seen.token).into());
            Value::Object(object)
        },
    )
}

async fn read_value(source: Source) -> Result<Bytes, Failure> {
    use tokio::io::AsyncReadExt as _;
    match source {
        Source::Given(value) => Ok(value),
        Source::File(path) => {
            let value = tokio::fs::read(&path).await;
            value.map(Bytes::from).map_err(|error| Failure::file(format!("reading the value from {}", path.display()), &error))
        }
        Source::Stdin => {
            let mut value = Vec::new();
            let read = tokio::io::stdin().read_to_end(&mut value).await;
            read.map_err(|error| Failure::file("reading the value from standard input", &error))?;
            Ok(Bytes::from(value))
        }
    }
}

fn add(batch: WriteBatch, key: &Bytes, conditions: Vec<Condition>) -> WriteBatch {
    conditions.into_iter().fold(batch, |batch, condition| match condition {
        Condition::Absent => batch.if_absent(key.clone()),
        Condition::Exists => batch.if_exists(key.clone()),
        Condition::Version(version) => batch.if_version(key.clone(), version),
        Condition::Value(value) => batch.if_value(key.clone(), value),
    })
}

/// Removes a key. That it was not there is not a failure: it is gone, as was asked.
pub async fn delete(client: &Client, output: Output, key: Bytes, conditions: Vec<Condition>) -> Result<(), Stop> {
    let batch = add(WriteBatch::new(), &key, conditions).delete(key.clone());
    let seen = client.write_with(batch, None).await?;
    let existed = matches!(seen.value.results.as_slice(), [kontiki::OpResult::Deleted { existed: true }]);
    let version = seen.value.version;
    output.print(
        || {
            let key = output.encoding.show(&key);
            if existed { format!("deleted `{key}` at version {version}") } else { format!("`{key}` was not there") }
        },
        || {
            let mut object = Map::new();
            output.encoding.add_field(&mut object, "key", &key);
            object.insert("existed".to_owned(), existed.into());
            object.insert("version".to_owned(), output::version(version));
            object.insert("token".to_owned(), values::show_token(&seen.token).into());
            Value::Object(object)
        },
    )
}

/// Removes a range.
pub async fn delete_range(client: &Client, output: Output, span: KeySpan) -> Result<(), Stop> {
    let done = client.delete_range(span.start, span.end).await;
    let count = done.map_err(|error| {
        Failure::from(error).with_advice("some keys of the range may be gone already: run it again to finish")
    })?;
    output.print(|| format!("deleted {count} {}", if count == 1 { "key" } else { "keys" }), || json!({ "deleted": count }))
}

/// Lists rows as they come.
pub async fn scan(client: &Client, output: Output, scan: Scan) -> Result<(), Stop> {
    let mut options = ScanOptions::range(scan.span.start, scan.span.end).level(scan.level);
    if scan.reverse {
        options = options.reverse();
    }
    if scan.keys_only {
        options = options.keys_only();
    }
    if let Some(limit) = scan.limit {
        options = options.limit(limit);
    }
    let rows = client.scan(options);
    if scan.count {
        let count = rows.try_fold(0_u64, |count, _| async move { Ok(count + 1) }).await?;
        return output.print(|| count.to_string(), || json!({ "count": count }));
    }
    let mut chunks = rows.ready_chunks(TABLE_ROWS);
    let mut held: Vec<Row> = Vec::new();
    let mut first = true;
    while let Some(chunk) = chunks.next().await {
        for row in chunk {
            // What came before an error is printed before it.
            match row {
                Ok(row) => held.push(row),
                Err(error) => {
                    print_rows(output, &held, scan.keys_only, first)?;
                    return Err(error.into());
                }
            }
        }
        if output.format == OutputFormat::Json || held.len() >= TABLE_ROWS {
            print_rows(output, &held, scan.keys_only, first)?;
            first = false;
            held.clear();
        }
    }
    print_rows(output, &held, scan.keys_only, first)
}

fn print_rows(output: Output, rows: &[Row], keys_only: bool, first: bool) -> Result<(), Stop> {
    if rows.is_empty() {
        return Ok(());
    }
    let text = match output.format {
        OutputFormat::Json => rows.iter().map(|row| output.row(row, !keys_only).to_string()).collect::<Vec<_>>().join("\n"),
        OutputFormat::Table => {
            let header: &[&str] = if keys_only { &["KEY", "VERSION"] } else { &["KEY", "VERSION", "VALUE"] };
            let cells = rows.iter().map(|row| {
                let mut cells = vec![output.cell(&row.key), row.version.to_string()];
                if !keys_only {
                    cells.push(output.cell(&row.value));
                }
                cells
            });
            output::table(first.then_some(header), cells)
        }
    };
    output::line(&text)
}
