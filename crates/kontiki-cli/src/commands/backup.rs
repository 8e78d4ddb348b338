//! `backup`: all partitions at one version, while they serve; `backup verify`: reads a backup back.
//!
//! ```text
//!   cluster ── pages at version T ──> channel ──> parts (a thread that may wait for the disk) ──> manifest
//!                                                   └── progress after each part: the same command goes on
//! ```

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use kontiki::{Change, ChangesOptions, Error, ErrorKind, PartitionId, ReadLevel, key};
use kontiki_client::{Client, ScanOptions};
use serde_json::json;
use tokio::sync::mpsc;

use super::import::bar;
use crate::args::BackupTo;
use crate::backup::{Backup, Chain, Manifest, PART_BYTES, PARTS, PartWriter, Progress, sync_folder};
use crate::failure::Failure;
use crate::output::{self, Output, Stop};
use crate::values::{show_bytes, show_rows};

/// Pages that wait for the disk: each is at most 1 MiB.
const PAGES_WAITING_MAX: usize = 4;

/// One page on its way to the disk: its entries, and the key at which the next page starts (empty: there is none).
struct Page {
    changes: Vec<Change>,
    next: Bytes,
}

/// Makes a backup, or completes one that was interrupted.
pub async fn run(client: &Client, output: Output, asked: BackupTo) -> Result<(), Stop> {
    let base = asked.base.as_deref().map(Backup::open).transpose()?;
    let progress = match resumable(&asked.to)? {
        Some(progress) => resumed(client, progress, base.as_ref(), &asked.to)?,
        None => begun(client, base.as_ref(), &asked.to).await?,
    };
    let manifest = match progress.next() {
        Some(from) => copy(client, &asked, progress, from).await?,
        None => progress.manifest,
    };
    manifest.save(&asked.to)?;
    Progress::remove(&asked.to)?;
    told(output, "made", &asked.to, &manifest)
}

/// Reads what is left and writes it. The manifest of all of it.
async fn copy(client: &Client, asked: &BackupTo, progress: Progress, from: Bytes) -> Result<Manifest, Failure> {
    let parts = asked.to.join(PARTS);
    let pages = pages(client, &progress.manifest, from);
    let (sender, receiver) = mpsc::channel(PAGES_WAITING_MAX);
    let to = asked.to.clone();
    let part_bytes = asked.part_bytes.unwrap_or(PART_BYTES);
    let writing = tokio::task::spawn_blocking(move || write(&to, &parts, progress, part_bytes, receiver));
    let read = read(pages, sender).await;
    let written = writing.await.map_err(|error| Failure::internal(format!("writing the backup: {error}")))?;
    // A writer that failed has closed the channel, and says why.
    match (written, read) {
        (Err(failure), _) => Err(failure),
        (Ok(_), Err(failure)) => Err(advised(failure, &asked.to)),
        (Ok(manifest), Ok(())) => Ok(manifest),
    }
}

/// What an interrupted backup in this directory has done; `None` if the directory is new or empty.
fn resumable(to: &Path) -> Result<Option<Progress>, Failure> {
    if Manifest::is_in(to) {
        return Err(Failure::bad_file(format!("{} holds a complete backup already; give a new directory", to.display())));
    }
    if let Some(progress) = Progress::load(to)? {
        return Ok(Some(progress));
    }
    let entries = match std::fs::read_dir(to) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        entries => entries.and_then(Iterator::collect::<Result<Vec<_>, _>>),
    };
    let entries = entries.map_err(|error| Failure::file(format!("listing {}", to.display()), &error))?;
    match entries.iter().map(|entry| entry.file_name()).find(|name| name != PARTS && name != "PROGRESS.new") {
        None => Ok(None),
        Some(name) => Err(Failure::bad_file(format!(
            "{} is not empty: it holds `{}`; give a new directory",
            to.display(),
            name.to_string_lossy()
        ))),
    }
}

/// Goes on with what was begun, if it is the same backup that is asked for.
fn resumed(client: &Client, progress: Progress, base: Option<&Backup>, to: &Path) -> Result<Progress, Failure> {
    let manifest = &progress.manifest;
    let other =
        |what: String| Failure::bad_file(format!("{} holds an interrupted backup {what}; give a new directory", to.display()));
    if Some(manifest.cluster) != client.cluster() {
        return Err(other(format!("of the cluster {}, and this is another one", manifest.cluster)));
    }
    if manifest.base.as_ref().map(|base| base.manifest_crc32) != base.map(|base| base.manifest_crc32) {
        return Err(other("with another --base".to_owned()));
    }
    eprintln!("kontiki: going on with the backup of version {} after {} parts", manifest.version, manifest.parts.len());
    Ok(progress)
}

/// Chooses the version, and makes the directory.
async fn begun(client: &Client, base: Option<&Backup>, to: &Path) -> Result<Progress, Failure> {
    let cluster = client.cluster().ok_or_else(|| Failure::internal("the cluster did not say which one it is"))?;
    if let Some(base) = base.filter(|base| base.manifest.cluster != cluster) {
        let (dir, other) = (base.dir.display(), base.manifest.cluster);
        return Err(Failure::bad_file(format!(
            "the base {dir} is a backup of the cluster {other}, and this is {cluster}; make a full backup, without --base"
        )));
    }
    let version = client.snapshot_version().await?;
    let map = client.map();
    let users = map.partitions.iter().filter(|descriptor| descriptor.id != PartitionId::SYSTEM);
    let boundaries =
        users.skip(1).filter_map(|user| key::split_internal(&user.range.start)).map(|(_, user)| Bytes::copy_from_slice(user));
    let base = base.map(|base| base.as_base_of(to)).transpose()?;
    let progress = Progress::start(Manifest::new(cluster, version, base, boundaries.collect()));
    let made = std::fs::create_dir_all(to.join(PARTS));
    made.map_err(|error| Failure::file(format!("making {}", to.display()), &error))?;
    sync_folder(to)?;
    progress.save(to)?;
    Ok(progress)
}

/// The pages that are left, each with the key after it.
fn pages(client: &Client, manifest: &Manifest, from: Bytes) -> futures::stream::BoxStream<'static, Result<Page, Error>> {
    if manifest.base.is_some() {
        let changes = client.changes(ChangesOptions::after(manifest.after()).at(manifest.version).range(from, ""));
        return changes.map_ok(|page| Page { changes: page.changes, next: page.resume.unwrap_or_default() }).boxed();
    }
    let scan = ScanOptions::range(from, "").level(ReadLevel::Snapshot(manifest.version));
    let put = |row: kontiki::Row| Change { key: row.key, value: Some(row.value), version: row.version };
    let pages = client.scan_pages(scan);
    pages
        .map_ok(move |page| Page { changes: page.rows.into_iter().map(put).collect(), next: page.resume.unwrap_or_default() })
        .boxed()
}

async fn read(mut pages: impl Stream<Item = Result<Page, Error>> + Unpin, sender: mpsc::Sender<Page>) -> Result<(), Failure> {
    let bar = bar(None);
    let mut rows = 0;
    loop {
        let page = tokio::select! {
            page = pages.next() => page,
            Ok(()) = tokio::signal::ctrl_c() => return Err(Failure::interrupted("interrupted")),
        };
        let Some(page) = page else { break };
        let page = page?;
        rows += page.changes.len() as u64;
        let bytes =
            page.changes.iter().map(|change| change.key.len() + change.value.as_ref().map_or(0, Bytes::len)).sum::<usize>();
        if sender.send(page).await.is_err() {
            break;
        }
        bar.inc(bytes as u64);
        bar.set_message(show_rows(rows));
    }
    bar.finish_and_clear();
    Ok(())
}

/// Writes pages into parts until no more come. Only parts that are complete count; an interruption costs at most one.
fn write(
    to: &Path,
    folder: &Path,
    mut progress: Progress,
    part_bytes: u64,
    mut pages: mpsc::Receiver<Page>,
) -> Result<Manifest, Failure> {
    let mut part: Option<PartWriter> = None;
    while let Some(page) = pages.blocking_recv() {
        let number = progress.manifest.parts.len() as u32 + 1;
        let mut writer = match part.take() {
            Some(writer) => writer,
            None => PartWriter::create(folder, &progress.manifest.header(number))?,
        };
        for change in &page.changes {
            writer.push(change)?;
        }
        if writer.bytes() < part_bytes && !page.next.is_empty() {
            part = Some(writer);
            continue;
        }
        progress.done(writer.finish()?, page.next);
        progress.save(to)?;
    }
    Ok(progress.manifest)
}

/// What to do about a backup that did not come to its end.
fn advised(failure: Failure, to: &Path) -> Failure {
    if failure.kind == ErrorKind::Version.name() {
        // The same command would only meet the same end.
        return failure.with_advice(
            "the cluster does not keep the history that this backup needs any more: begin a full backup in a new directory, and let the cluster \
             keep old versions for longer than a backup takes (and than lies between two, for --base)",
        );
    }
    failure.with_advice(format!("what is done is in {}: the same command goes on from there", to.display()))
}

/// Reads a backup and all that it rests on back, every byte.
pub async fn verify(output: Output, dir: PathBuf, bases: Vec<PathBuf>) -> Result<(), Stop> {
    let checked = tokio::task::spawn_blocking(move || {
        let chain = Chain::open(&dir, &bases)?;
        for backup in chain.links() {
            backup.entries().try_for_each(|entry| entry.map(drop))?;
        }
        Ok::<_, Failure>((dir, chain))
    });
    let (dir, chain) = checked.await.map_err(|error| Failure::internal(format!("reading the backup: {error}")))??;
    let rows = chain.links().iter().map(|backup| {
        let (rows, removed, bytes) = backup.manifest.totals();
        vec![
            backup.dir.display().to_string(),
            if backup.manifest.base.is_some() { "incremental" } else { "full" }.to_owned(),
            backup.manifest.version.to_string(),
            rows.to_string(),
            removed.to_string(),
            show_bytes(bytes),
        ]
    });
    let header = ["BACKUP", "KIND", "VERSION", "ROWS", "REMOVED", "BYTES"];
    output.print(
        || output::table(Some(&header), rows) + &format!("\n{} is whole", dir.display()),
        || json!({ "ok": true, "backups": chain.links().iter().map(|backup| described(&backup.dir, &backup.manifest)).collect::<Vec<_>>() }),
    )
}

fn described(dir: &Path, manifest: &Manifest) -> serde_json::Value {
    let (rows, removed, bytes) = manifest.totals();
    json!({
        "directory": dir.display().to_string(),
        "cluster": manifest.cluster.to_string(),
        "version": output::version(manifest.version),
        "after": manifest.base.as_ref().map(|base| output::version(base.version)),
        "rows": rows,
        "removed": removed,
        "bytes": bytes,
        "parts": manifest.parts.len(),
    })
}

fn told(output: Output, done: &str, dir: &Path, manifest: &Manifest) -> Result<(), Stop> {
    let (rows, removed, bytes) = manifest.totals();
    output.print(
        || {
            let removed = if removed > 0 { format!(", {removed} removed") } else { String::new() };
            let (kind, version) = (if manifest.base.is_some() { "incremental" } else { "full" }, manifest.version);
            format!(
                "{done}: {kind} backup of version {version} in {}: {}{removed}, {}",
                dir.display(),
                show_rows(rows),
                show_bytes(bytes)
            )
        },
        || described(dir, manifest),
    )
}
