//! Backups as they are read: one, and a chain of a full one and what continues it.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use kontiki::{Change, Version};

use super::part::PartReader;
use super::{Base, Manifest, PARTS};
use crate::failure::Failure;

/// No chain is longer: each link costs an open file, and every one must be kept.
const LINKS_MAX: usize = 1000;

/// One complete backup.
#[derive(Debug)]
pub struct Backup {
    /// Where it lies.
    pub dir: PathBuf,
    /// What it is.
    pub manifest: Manifest,
    /// Which one it is.
    pub manifest_crc32: u32,
}

impl Backup {
    /// Opens the backup in a directory. Its parts are checked when they are read.
    pub fn open(dir: &Path) -> Result<Self, Failure> {
        let (manifest, manifest_crc32) = Manifest::load(dir)?;
        Ok(Self { dir: dir.to_path_buf(), manifest, manifest_crc32 })
    }

    /// This backup as the base of one in `to`.
    pub fn as_base_of(&self, to: &Path) -> Result<Base, Failure> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|error| Failure::file(format!("looking for {}", path.display()), &error))
        };
        let (own, to) = (absolute(&self.dir)?, absolute(to)?);
        // Backups that lie side by side are found also when their folder has moved.
        let beside = own.parent().is_some() && own.parent() == to.parent();
        let directory = match own.file_name() {
            Some(name) if beside => Path::new("..").join(name),
            _ => own,
        };
        Ok(Base { version: self.manifest.version, manifest_crc32: self.manifest_crc32, directory })
    }

    /// Everything in it, in key order. Ends after an error.
    pub fn entries(&self) -> Entries<'_> {
        Entries { backup: self, number: 0, part: None, last: Bytes::new(), failed: false }
    }
}

/// The entries of one backup.
pub struct Entries<'a> {
    backup: &'a Backup,
    /// The part that is read, from 1.
    number: u32,
    part: Option<PartReader>,
    last: Bytes,
    failed: bool,
}

impl Entries<'_> {
    fn step(&mut self) -> Result<Option<Change>, Failure> {
        let manifest = &self.backup.manifest;
        loop {
            if let Some(change) = self.part.as_mut().and_then(Iterator::next) {
                let change = change?;
                if change.key <= self.last {
                    let dir = self.backup.dir.display();
                    return Err(Failure::bad_file(format!("{dir} is damaged: part {} is not in key order", self.number)));
                }
                self.last = change.key.clone();
                return Ok(Some(change));
            }
            let Some(part) = manifest.parts.get(self.number as usize) else { return Ok(None) };
            self.number += 1;
            let folder = self.backup.dir.join(PARTS);
            self.part = Some(PartReader::open(&folder, part, manifest.header(self.number))?);
        }
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Change, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        step.transpose()
    }
}

/// A full backup and those that continue it, oldest first.
#[derive(Debug)]
pub struct Chain {
    links: Vec<Backup>,
}

impl Chain {
    /// Opens the backup in `dir` and all that it rests on. A base is looked for in `bases` first, and then where it was.
    pub fn open(dir: &Path, bases: &[PathBuf]) -> Result<Self, Failure> {
        let given: Vec<Backup> = bases.iter().map(|dir| Backup::open(dir)).collect::<Result<_, _>>()?;
        let mut links = vec![Backup::open(dir)?];
        while let Some((newest, base)) = links.last().and_then(|last| Some((last, last.manifest.base.as_ref()?))) {
            if links.len() > LINKS_MAX {
                return Err(Failure::bad_file(format!("{} rests on more than {LINKS_MAX} backups", dir.display())));
            }
            let place = given.iter().find(|given| given.manifest_crc32 == base.manifest_crc32);
            let place = place.map_or_else(|| newest.dir.join(&base.directory), |given| given.dir.clone());
            let wanted = |why: String| {
                Failure::bad_file(format!(
                    "{} continues a backup of version {}, {why}; say where it is with --base DIR",
                    newest.dir.display(),
                    base.version
                ))
            };
            if !Manifest::is_in(&place) {
                return Err(wanted(format!("which is not in {}", place.display())));
            }
            let found = Backup::open(&place)?;
            if found.manifest_crc32 != base.manifest_crc32 || found.manifest.cluster != newest.manifest.cluster {
                return Err(wanted(format!("and what is in {} is another one", place.display())));
            }
            links.push(found);
        }
        links.reverse();
        Ok(Self { links })
    }

    /// The backups, oldest first.
    pub fn links(&self) -> &[Backup] {
        &self.links
    }

    /// The newest, which says what the whole chain is.
    pub fn newest(&self) -> Option<&Manifest> {
        self.links.last().map(|backup| &backup.manifest)
    }

    /// The rows at the version of the newest, in key order: of each key the newest entry, unless it was removed.
    pub fn rows(&self) -> Rows<'_> {
        Rows { sources: self.links.iter().map(|backup| backup.entries().peekable()).collect(), failed: false }
    }
}

/// The rows of a chain.
pub struct Rows<'a> {
    /// Oldest first.
    sources: Vec<std::iter::Peekable<Entries<'a>>>,
    failed: bool,
}

impl Rows<'_> {
    /// The newest entry of the smallest key that is left.
    fn step(&mut self) -> Option<Result<Change, Failure>> {
        let mut smallest: Option<Bytes> = None;
        for source in &mut self.sources {
            match source.peek() {
                Some(Ok(change)) if smallest.as_ref().is_none_or(|key| change.key < *key) => smallest = Some(change.key.clone()),
                Some(Err(_)) => return source.next(),
                _ => {}
            }
        }
        let key = smallest?;
        let entries =
            self.sources.iter_mut().filter_map(|source| source.next_if(|next| next.as_ref().is_ok_and(|next| next.key == key)));
        entries.last()
    }
}

impl Iterator for Rows<'_> {
    /// A key, its value, and the version that set it.
    type Item = Result<(Bytes, Bytes, Version), Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            match self.step()? {
                Ok(Change { key, value: Some(value), version }) => return Some(Ok((key, value, version))),
                Ok(_) => {}
                Err(failure) => {
                    self.failed = true;
                    return Some(Err(failure));
                }
            }
        }
        None
    }
}
