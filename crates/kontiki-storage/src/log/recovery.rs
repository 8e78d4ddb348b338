//! Recovery: from the files of a log to its index, and to a fresh segment that the log goes on in.
//!
//! ```text
//!   list ─► newest header ─► walk back to `oldest` ─► replay forward ─► end of the newest ─► move it ─► remove the rest
//! ```
//!
//! - The chain: the newest segment's header names the oldest that is needed, and each names its predecessor. A file that is
//!   missing is found so; files outside of the chain are leftovers of an interrupted start or roll, and are removed unread.
//! - A segment that has a successor must be good up to the end that its successor recorded. Anything else is damage.
//! - The newest segment ends at its first bad frame, unless a good frame behind it proves that the bad one was durable once
//!   (see `frame`): that too is damage.
//! - Then the good frames of the newest segment are **moved**: written to a fresh file under the next id, synced, named. Nothing is ever
//!   appended behind a torn tail; what was read only from the page cache is durable before anyone acts on it, even if an fsync of
//!   the old file had failed; and many restarts do not make many segments.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kontiki_types::{Fault, StoreId};

use super::frame::{FRAME_ALIGN, FRAME_HEADER_BYTES, FrameBuffer, FrameHeader};
use super::header::Header;
use super::index::{Index, Location};
use super::record::decode;
use super::segment::{FileKind, Segment, Window};
use super::spares::{Draft, Retired, Spares};
use super::{ADVICE, LogOptions, TornTail};
use crate::disk::Disk;

/// Bytes that are searched at once for frames behind a bad one.
const SEARCH_BYTES: usize = 64 * 1024;
/// Where frames start.
const STEP: usize = FRAME_ALIGN as usize;
/// Bytes of moved frames that are written at once.
const MOVE_BYTES: usize = 1024 * 1024;

/// What the log goes on with.
pub(crate) struct Found {
    pub(crate) index: Index,
    pub(crate) segments: BTreeMap<u64, Arc<Segment>>,
    pub(crate) active: Arc<Segment>,
    /// Where the next frame goes in the active segment.
    pub(crate) tail: u64,
    /// Up to here the active segment has no holes.
    pub(crate) filled: u64,
    /// The number of the next frame. All earlier ones are durable.
    pub(crate) next_sequence: u64,
    pub(crate) spares: Spares,
    pub(crate) torn: Option<TornTail>,
}

/// A segment of the chain.
struct Link {
    segment: Segment,
    header: Header,
}

/// Recovers the log of a directory, or makes the first segment of a new one.
pub(crate) fn recover(disk: &Arc<dyn Disk>, store: StoreId, options: &LogOptions) -> Result<Found, Fault> {
    let (ids, spare_numbers) = list(disk.as_ref())?;
    let chain = walk(disk.as_ref(), &ids)?;
    check_store(&chain, store)?;
    // From here on the directory is changed.
    let spares = Spares::open(Arc::clone(disk), options.segment_bytes, options.spare_segments, &spare_numbers)?;
    let Some(newest) = chain.last() else { return fresh(store, spares) };

    let new_id = newest.segment.id + 1;
    let mut replay = Replay::start(&chain);
    for (at, link) in chain.iter().enumerate() {
        replay.check_header(link)?;
        match chain.get(at + 1) {
            Some(next) => replay.sealed(link, next.header.previous_end)?,
            None => replay.newest(link, new_id)?,
        }
    }
    replay.check_complete(disk.as_ref(), chain.first().map_or(0, |link| link.segment.id))?;
    let Replay { index, sequence, end: tail, torn } = replay;

    let oldest = index.oldest().map_or(new_id, |(_, segment)| segment);
    let header = Header { id: new_id, oldest, ..newest.header.clone() };
    let (active, filled) = move_newest(&newest.segment, tail, header, &spares)?;
    let active = Arc::new(active);
    let mut segments: BTreeMap<u64, Arc<Segment>> = BTreeMap::new();
    for link in chain {
        if (oldest..new_id - 1).contains(&link.segment.id) {
            segments.insert(link.segment.id, Arc::new(link.segment));
        }
    }
    spares.recycle(&leftovers(&ids, &segments))?;
    segments.insert(new_id, Arc::clone(&active));
    Ok(Found { index, segments, active, tail, filled, next_sequence: sequence, spares, torn })
}

/// Whether there is any segment.
pub(crate) fn has_segments(disk: &dyn Disk) -> Result<bool, Fault> {
    Ok(!list(disk)?.0.is_empty())
}

/// Segment ids and spare numbers. A file of another kind means that this is not, or not only, our directory.
fn list(disk: &dyn Disk) -> Result<(BTreeSet<u64>, Vec<u64>), Fault> {
    let names = disk.list().map_err(|error| Fault::io(format!("listing the raft log's directory {}", disk.place("")), error))?;
    let (mut ids, mut spares) = (BTreeSet::new(), Vec::new());
    for name in names {
        match FileKind::parse(&name) {
            Some(FileKind::Segment(id)) => {
                ids.insert(id);
            }
            Some(FileKind::Spare(number)) => spares.push(number),
            // Hidden files are the file system's or a tool's: they carry no log.
            None if name.starts_with('.') => {}
            None => {
                let detail = "a raft log's directory holds only its own files (NUMBER.segment and NUMBER.spare); if this is the right \
                              directory, move the file away";
                return Err(Fault::corrupt(disk.place(&name), detail));
            }
        }
    }
    spares.sort_unstable();
    Ok((ids, spares))
}

/// The segments that the newest one needs, oldest first.
fn walk(disk: &dyn Disk, ids: &BTreeSet<u64>) -> Result<Vec<Link>, Fault> {
    let mut chain = Vec::new();
    let Some(newest) = ids.last() else { return Ok(chain) };
    let mut oldest = None;
    let mut id = *newest;
    loop {
        let (segment, header) = Segment::open(disk, id)?;
        let oldest = *oldest.get_or_insert(header.oldest);
        let previous = header.previous;
        if id < oldest || (id > oldest && previous >= id) {
            let detail =
                format!("it names segment {previous} as its predecessor and {oldest} as the oldest of the log; {ADVICE}");
            return Err(Fault::corrupt(format!("{} at byte 32", segment.place), detail));
        }
        let place = segment.place.clone();
        chain.push(Link { segment, header });
        if id == oldest {
            break;
        }
        if !ids.contains(&previous) {
            let missing = disk.place(&FileKind::Segment(previous).name());
            let detail =
                format!("the file is missing, but {place} follows it and the log needs all segments from {oldest} on; {ADVICE}");
            return Err(Fault::corrupt(missing, detail));
        }
        id = previous;
    }
    chain.reverse();
    Ok(chain)
}

/// A log goes with the data that came through it: another's holds votes and entries of replicas that this store does not have.
fn check_store(chain: &[Link], store: StoreId) -> Result<(), Fault> {
    let Some(link) = chain.iter().find(|link| link.header.store != store) else { return Ok(()) };
    let found = link.header.store;
    let detail = format!(
        "it belongs to the log of store {found}, and this data directory is store {store}: the files were copied or mounted from another node; \
         put this store's own log back, or replace this node by a new one (the other replicas have the data)"
    );
    Err(Fault::corrupt(format!("{} at byte 72", link.segment.place), detail))
}

/// The first segment of a new log.
fn fresh(store: StoreId, spares: Spares) -> Result<Found, Fault> {
    let draft = spares.take(0)?;
    let (size, groups) = (draft.size, Vec::new());
    let header = Header { id: 1, size, oldest: 1, previous: 0, previous_end: 0, first_sequence: 1, store, groups }.encode();
    draft.write(0, &header)?;
    let (tail, filled) = (header.len() as u64, draft.filled);
    let active = Arc::new(spares.publish(draft, 1)?);
    let segments = BTreeMap::from([(1, Arc::clone(&active))]);
    Ok(Found { index: Index::default(), segments, active, tail, filled, next_sequence: 1, spares, torn: None })
}

/// What is at a place where a frame should be.
enum FrameAt<'w> {
    Good(FrameHeader, &'w [u8]),
    Bad(String),
}

fn frame_at<'w>(window: &'w mut Window<'_>, offset: u64, end: u64) -> Result<FrameAt<'w>, Fault> {
    let Some(header) = FrameHeader::parse(window.get(offset, FRAME_HEADER_BYTES)?) else {
        return Ok(FrameAt::Bad("the segment ends inside its header".to_owned()));
    };
    if header.length == 0 || offset.saturating_add(header.total_bytes()) > end {
        return Ok(FrameAt::Bad(format!(
            "its length is given as {}, there is room for {}",
            header.length,
            end.saturating_sub(offset)
        )));
    }
    let (id, length) = (window.segment().id, usize::try_from(header.length).unwrap_or(usize::MAX));
    let body = window.get(offset + FRAME_HEADER_BYTES as u64, length)?;
    let sum = header.sum(id, body);
    if body.len() < length || sum != header.crc {
        return Ok(FrameAt::Bad(format!("its CRC-32 is {:08x}, its bytes give {sum:08x}", header.crc)));
    }
    Ok(FrameAt::Good(header, body))
}

/// The state of the log up to a point.
struct Replay {
    index: Index,
    /// The number that the next frame must have.
    sequence: u64,
    /// Where the segment read last ends.
    end: u64,
    torn: Option<TornTail>,
}

impl Replay {
    fn start(chain: &[Link]) -> Self {
        let (groups, sequence) =
            chain.first().map(|link| (&link.header.groups[..], link.header.first_sequence)).unwrap_or_default();
        Self { index: Index::from_hard_states(groups), sequence, end: 0, torn: None }
    }

    /// A segment must begin with the state that its predecessors lead to.
    fn check_header(&self, link: &Link) -> Result<(), Fault> {
        let place = || format!("{} at byte 56", link.segment.place);
        if link.header.first_sequence != self.sequence {
            let (stored, found) = (link.header.first_sequence, self.sequence);
            let detail =
                format!("it says that its first frame is {stored}, but the segments before it end with frame {}", found - 1);
            return Err(Fault::corrupt(place(), format!("{detail}; {ADVICE}")));
        }
        if link.header.groups != self.index.hard_states() {
            let detail = "the votes and purge points in its header are not those of the segments before it";
            return Err(Fault::corrupt(place(), format!("{detail}; {ADVICE}")));
        }
        Ok(())
    }

    /// Replays a segment up to the end that its successor has recorded.
    fn sealed(&mut self, link: &Link, end: u64) -> Result<(), Fault> {
        let mut window = Window::new(&link.segment);
        let mut offset = link.first_frame();
        while offset < end {
            let sequence = self.sequence;
            match frame_at(&mut window, offset, end)? {
                FrameAt::Good(header, body) => offset = self.frame(&link.segment, link.segment.id, offset, header, body)?,
                FrameAt::Bad(why) => {
                    let detail =
                        format!("frame {sequence} is bad ({why}), but the next segment recorded good frames up to byte {end}");
                    return Err(Fault::corrupt(
                        format!("{} at byte {offset}", link.segment.place),
                        format!("{detail}; {ADVICE}"),
                    ));
                }
            }
        }
        if offset > end {
            let detail =
                format!("the next segment recorded its end there, but its first frame starts at byte {offset}; {ADVICE}");
            return Err(Fault::corrupt(format!("{} at byte {end}", link.segment.place), detail));
        }
        self.end = end;
        Ok(())
    }

    /// Replays the newest segment up to its first bad frame. Its entries will lie at the same offsets of segment `new_id`.
    fn newest(&mut self, link: &Link, new_id: u64) -> Result<(), Fault> {
        let segment = &link.segment;
        let mut window = Window::new(segment);
        let mut offset = link.first_frame();
        let why = loop {
            match frame_at(&mut window, offset, segment.size)? {
                FrameAt::Good(header, body) => offset = self.frame(segment, new_id, offset, header, body)?,
                FrameAt::Bad(why) => break why,
            }
        };
        self.end = offset;
        let began =
            FrameHeader::parse(window.get(offset, FRAME_HEADER_BYTES)?).is_some_and(|found| found.sequence == self.sequence);
        let later = self.search_behind(&mut window, offset, &why)?;
        if began || later {
            self.torn = Some(TornTail { file: segment.place.clone(), offset });
        }
        Ok(())
    }

    /// Looks for good frames behind a bad one, at every place where one could start. Returns whether there is any; fails if one
    /// proves that the bad one was durable.
    fn search_behind(&self, window: &mut Window<'_>, bad: u64, why: &str) -> Result<bool, Fault> {
        let Segment { size, ref place, .. } = *window.segment();
        let mut any = false;
        let mut offset = bad + FRAME_ALIGN;
        while let Some((at, found)) = self.candidate(window, offset)? {
            let good = matches!(frame_at(window, at, size)?, FrameAt::Good(..));
            if good && found.synced >= self.sequence {
                let (frame, later) = (self.sequence, found.sequence);
                let detail = format!(
                    "frame {frame} is bad ({why}), but frame {later} at byte {at} is good and was written after frame {frame} was \
                     durable: this is damage, not an interrupted write; {ADVICE}"
                );
                return Err(Fault::corrupt(format!("{place} at byte {bad}"), detail));
            }
            any |= good;
            offset = at + if good { found.total_bytes() } else { FRAME_ALIGN };
        }
        Ok(any)
    }

    /// The next place whose bytes could be a later frame of this segment. Old frames of a recycled segment have lower numbers, so that
    /// sums are computed only for what looks like ours.
    fn candidate(&self, window: &mut Window<'_>, mut offset: u64) -> Result<Option<(u64, FrameHeader)>, Fault> {
        let size = window.segment().size;
        loop {
            let chunk = window.get(offset, SEARCH_BYTES)?;
            for (at, place) in (offset..).step_by(STEP).zip((0..chunk.len()).step_by(STEP)) {
                let Some(found) = chunk.get(place..).and_then(FrameHeader::parse) else { break };
                if found.sequence > self.sequence && found.sequence - self.sequence < size && found.synced < found.sequence {
                    return Ok(Some((at, found)));
                }
            }
            // The last header of a chunk may be cut off: the next chunk starts with it.
            let whole = chunk.len().saturating_sub(FRAME_HEADER_BYTES - 1).next_multiple_of(STEP);
            if whole == 0 {
                return Ok(None);
            }
            offset += whole as u64;
        }
    }

    /// Applies a good frame; returns where the next one starts.
    fn frame(&mut self, segment: &Segment, locate_in: u64, offset: u64, header: FrameHeader, body: &[u8]) -> Result<u64, Fault> {
        let bad =
            |at: u64, detail: String| Fault::corrupt(format!("{} at byte {at}", segment.place), format!("{detail}; {ADVICE}"));
        if header.sequence != self.sequence {
            return Err(bad(offset, format!("a good frame has number {}, expected is {}", header.sequence, self.sequence)));
        }
        let start = offset + FRAME_HEADER_BYTES as u64;
        for record in decode(body) {
            let (at, view) = record.map_err(|detail| bad(offset, detail))?;
            let at = start + at as u64;
            let location = location(locate_in, at, view).ok_or_else(|| bad(at, "it lies beyond 4 GiB".to_owned()))?;
            self.index.apply(view, location).map_err(|detail| bad(at, detail))?;
        }
        self.sequence += 1;
        Ok(offset + header.total_bytes())
    }

    /// Every live entry has a place.
    fn check_complete(&self, disk: &dyn Disk, oldest: u64) -> Result<(), Fault> {
        for (group, index) in &self.index.groups {
            if let Some((from, to)) = index.missing() {
                let place = format!("{} at byte 64", disk.place(&FileKind::Segment(oldest).name()));
                let detail = format!("entries {from} to {} of {group} should be in the log, but are in no segment", to - 1);
                return Err(Fault::corrupt(place, format!("{detail}; {ADVICE}")));
            }
        }
        Ok(())
    }
}

/// Where a record lies; `None` beyond 4 GiB.
pub(crate) fn location(segment: u64, offset: u64, view: super::record::View<'_>) -> Option<Location> {
    let length = if let super::record::View::Entry { length, .. } = view { length } else { 0 };
    Some(Location { segment, offset: u32::try_from(offset).ok()?, length })
}

impl Link {
    fn first_frame(&self) -> u64 {
        self.header.encode().len() as u64
    }
}

/// Writes the good frames of a segment to a fresh file, at the same offsets and under the new id. Returns also up to where that file
/// has no holes.
fn move_newest(old: &Segment, end: u64, header: Header, spares: &Spares) -> Result<(Segment, u64), Fault> {
    let draft = spares.take(end)?;
    let id = header.id;
    let mut out = Header { size: draft.size, ..header }.encode();
    let mut window = Window::new(old);
    let mut frame = FrameBuffer::default();
    let (mut offset, mut written) = (out.len() as u64, 0);
    while offset < end {
        let FrameAt::Good(found, body) = frame_at(&mut window, offset, end)? else {
            spares.discard(&draft);
            let detail =
                format!("the frame was good a moment ago and is bad now: the disk gives different bytes each time; {ADVICE}");
            return Err(Fault::corrupt(format!("{} at byte {offset}", old.place), detail));
        };
        frame.fill_encoded(body);
        out.extend_from_slice(frame.finish(id, found.sequence, found.synced));
        offset += found.total_bytes();
        if out.len() >= MOVE_BYTES {
            draft.write(written, &out)?;
            written = offset;
            out.clear();
        }
    }
    draft.write(written, &out)?;
    let filled = draft.filled;
    Ok((spares.publish(draft, id)?, filled))
}

/// The segment files that are not needed any more. They are removed rather than recycled: nobody knows how many holes they have.
fn leftovers(ids: &BTreeSet<u64>, keep: &BTreeMap<u64, Arc<Segment>>) -> Vec<Retired> {
    ids.iter().filter(|id| !keep.contains_key(id)).map(|id| Retired { id: *id, size: 0, reuse: false }).collect()
}

impl Draft {
    /// Writes a part of the future segment.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.file.write_at(offset, bytes).map_err(|error| Fault::io(format!("writing {} at byte {offset}", self.place), error))
    }
}
