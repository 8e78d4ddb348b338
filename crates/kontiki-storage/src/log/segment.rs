//! Segment files: their names, and reading them in large pieces.
//!
//! `0000000007.segment` is segment 7; `0000000003.spare` is a file that waits to become a segment. Ids only grow and are never used
//! twice on one disk; the numbers of spares mean nothing.

use std::sync::Arc;

use kontiki_types::Fault;

use super::header::{Header, PREFIX_BYTES};
use crate::disk::{Disk, DiskFile};

/// Read at once while a segment is scanned: large enough that calls do not count, small enough that memory does not.
const WINDOW_BYTES: usize = 256 * 1024;

/// What a file in the log's directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    Segment(u64),
    Spare(u64),
}

impl FileKind {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Segment(id) => format!("{id:010}.segment"),
            Self::Spare(number) => format!("{number:010}.spare"),
        }
    }

    /// `None` for a name that the log does not give.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (number, kind) = name.split_once('.')?;
        let number = number.parse().ok()?;
        let file = match kind {
            "segment" => Self::Segment(number),
            "spare" => Self::Spare(number),
            _ => return None,
        };
        (file.name() == name).then_some(file)
    }
}

/// An open segment. Readers hold it while they read: a segment that somebody holds is removed, never recycled.
pub(crate) struct Segment {
    pub(crate) id: u64,
    pub(crate) size: u64,
    pub(crate) file: Arc<dyn DiskFile>,
    /// How the file is called in messages.
    pub(crate) place: String,
}

impl Segment {
    /// Opens a segment that must be there and reads its header.
    pub(crate) fn open(disk: &dyn Disk, id: u64) -> Result<(Self, Header), Fault> {
        let name = FileKind::Segment(id).name();
        let place = disk.place(&name);
        let file = disk.open(&name, false).map_err(|error| Fault::io(format!("opening {place}"), error))?;
        let length = file.len().map_err(|error| Fault::io(format!("reading the length of {place}"), error))?;
        let mut segment = Self { id, size: length, file, place };
        let mut window = Window::new(&segment);
        let header_bytes = Header::length(&segment.place, window.get(0, PREFIX_BYTES)?)?;
        let header = Header::decode(&segment.place, window.get(0, usize::try_from(header_bytes).unwrap_or(usize::MAX))?)?;
        if header.id != id {
            let detail = format!("it holds segment {}, so the file was renamed or copied; {}", header.id, super::ADVICE);
            return Err(Fault::corrupt(format!("{} at byte 16", segment.place), detail));
        }
        if length < header.size {
            let detail =
                format!("the file ends here, but it was {} bytes long: it was truncated; {}", header.size, super::ADVICE);
            return Err(Fault::corrupt(format!("{} at byte {length}", segment.place), detail));
        }
        segment.size = header.size;
        Ok((segment, header))
    }
}

/// A segment seen through a buffer that moves over it.
pub(crate) struct Window<'a> {
    segment: &'a Segment,
    start: u64,
    buffer: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(crate) fn new(segment: &'a Segment) -> Self {
        Self { segment, start: 0, buffer: Vec::new() }
    }

    pub(crate) fn segment(&self) -> &'a Segment {
        self.segment
    }

    /// The bytes at an offset; fewer than asked only where the segment ends.
    pub(crate) fn get(&mut self, offset: u64, count: usize) -> Result<&[u8], Fault> {
        let left = usize::try_from(self.segment.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = count.min(left);
        let buffered = |window: &Self| {
            let at = usize::try_from(offset.checked_sub(window.start)?).ok()?;
            (at.checked_add(count)? <= window.buffer.len()).then_some(at)
        };
        let at = match buffered(self) {
            Some(at) => at,
            None => {
                self.start = offset;
                self.buffer.resize(count.max(WINDOW_BYTES.min(left)), 0);
                let read = self.segment.file.read_at(offset, &mut self.buffer);
                let read = read.map_err(|error| Fault::io(format!("reading {} at byte {offset}", self.segment.place), error))?;
                self.buffer.truncate(read);
                0
            }
        };
        Ok(self.buffer.get(at..).map_or(&[], |found| &found[..count.min(found.len())]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_are_not_ours() {
        for kind in [FileKind::Segment(7), FileKind::Spare(0), FileKind::Segment(u64::MAX)] {
            assert_eq!(FileKind::parse(&kind.name()), Some(kind));
        }
        for name in
            ["", "7.segment", "0000000007", "0000000007.segment.bak", "+000000007.segment", "00000000007.segment", "notes.txt"]
        {
            assert_eq!(FileKind::parse(name), None, "{name}");
        }
    }
}
