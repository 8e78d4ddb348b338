//! Scans: a range in key order, forward or in reverse, over as many partitions as it touches, at one version.
//!
//! ```text
//!   start --> version T (the clocks of the touched partitions, the highest) --> page --> page --> ... each read at T
//!                                                                               ^ the next is asked for while the caller uses this one
//! ```
//!
//! The position is a key, not a partition: a page that finds the map changed is cut anew, at the same version.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream};
use kontiki_proto::{convert, v1};
use kontiki_types::limits::{SCAN_PAGE_BYTES_MAX, SCAN_ROWS_MAX};
use kontiki_types::read::{ReadData, Scan};
use kontiki_types::{CallError, Error, KeyRange, NamespaceId, ReadLevel, Reject, Row, Token, Version, key, limits};

use crate::client::{Client, public, user_row};
use crate::router::{Attempts, Failure, Served};

/// What to scan. Built step by step; by default every key, forward, linearizable.
///
/// ```
/// use kontiki_client::ScanOptions;
///
/// let newest_ten = ScanOptions::prefix("log/").reverse().limit(10);
/// # let _ = newest_ten;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "options do nothing until they are given to Client::scan"]
pub struct ScanOptions {
    range: KeyRange,
    reverse: bool,
    keys_only: bool,
    limit: Option<u64>,
    level: ReadLevel,
    page_rows_max: u32,
    page_bytes_max: u32,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self::all()
    }
}

impl ScanOptions {
    fn over(range: KeyRange) -> Self {
        Self {
            range,
            reverse: false,
            keys_only: false,
            limit: None,
            level: ReadLevel::Linearizable,
            page_rows_max: SCAN_ROWS_MAX,
            page_bytes_max: SCAN_PAGE_BYTES_MAX,
        }
    }

    /// Every key.
    pub fn all() -> Self {
        Self::over(KeyRange::namespace(NamespaceId::DEFAULT))
    }

    /// The keys of `[start, end)`; an empty end means to the last key.
    pub fn range(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self::over(KeyRange::in_namespace(NamespaceId::DEFAULT, &start.into(), &end.into()))
    }

    /// The keys that start with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let prefix = prefix.into();
        Self::over(KeyRange::in_namespace(NamespaceId::DEFAULT, &prefix, &key::prefix_end(&prefix)))
    }

    /// From the end to the start.
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// Leave the values out.
    pub fn keys_only(mut self) -> Self {
        self.keys_only = true;
        self
    }

    /// At most this many rows.
    pub fn limit(mut self, rows: u64) -> Self {
        self.limit = Some(rows);
        self
    }

    /// What the scan promises. Linearizable, at-least and snapshot scans read one version over all partitions. A bounded-stale scan reads
    /// each partition at one version of its own, because no common one can be agreed on without a quorum.
    pub fn level(mut self, level: ReadLevel) -> Self {
        self.level = level;
        self
    }

    /// The size of one page; at most, and by default, `limits::SCAN_ROWS_MAX` rows and `limits::SCAN_PAGE_BYTES_MAX` bytes.
    pub fn page(mut self, rows_max: u32, bytes_max: u32) -> Self {
        self.page_rows_max = rows_max.clamp(1, SCAN_ROWS_MAX);
        self.page_bytes_max = bytes_max.clamp(1, SCAN_PAGE_BYTES_MAX);
        self
    }

    /// What a `Kv.Scan` without a route asks.
    pub fn from_request(request: v1::ScanRequest) -> Result<Self, Reject> {
        let limit = (request.limit > 0).then_some(request.limit);
        let asked = convert::read_of_scan(v1::ScanRequest { route: None, ..request })?;
        let (level, kontiki_types::Read::Scan(scan)) = asked.body else {
            return Err(Reject::invalid("not a scan"));
        };
        let Scan { range, reverse, keys_only, bytes_max, .. } = scan;
        Ok(Self { range, reverse, keys_only, limit, level, page_rows_max: SCAN_ROWS_MAX, page_bytes_max: bytes_max })
    }
}

/// One page of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Rows with user keys, in the order asked.
    pub rows: Vec<Row>,
    /// Where the next page starts, if there may be more: forward, the next start; in reverse, the next (exclusive) end. A user key; empty
    /// in a forward scan means that it starts at the first key.
    pub resume: Option<Bytes>,
    /// The version that was read.
    pub version: Version,
    /// How old the replica's knowledge may have been, in ms; 0 except for bounded-stale scans.
    pub age_ms: u64,
    /// What this page has seen.
    pub token: Token,
}

/// Reads the pages, one after the other. It is moved into the future of each page and comes back with it.
struct Pager {
    client: Client,
    options: ScanOptions,
    /// What is left. Its near end is the position.
    left: KeyRange,
    rows_left: Option<u64>,
    /// The version of the whole scan, once it is known.
    version: Option<Version>,
    /// Bounded stale: the version of the partition that is being read.
    pinned: Option<Version>,
    done: bool,
}

impl Pager {
    fn new(client: Client, options: ScanOptions) -> Self {
        let version = match options.level {
            ReadLevel::Snapshot(version) => Some(version),
            _ => None,
        };
        let left = options.range.clone();
        let rows_left = options.limit;
        // A reversed range is a mistake, which the first page tells.
        let done = rows_left == Some(0) || (options.range.is_empty() && !options.range.is_reversed());
        Self { client, options, left, rows_left, version, pinned: None, done }
    }

    async fn step(mut self) -> (Self, Option<Result<Page, Error>>) {
        if self.done {
            return (self, None);
        }
        let page = self.page().await;
        if page.is_err() {
            self.done = true;
        }
        (self, Some(page.map_err(public)))
    }

    async fn page(&mut self) -> Result<Page, CallError> {
        limits::check_range(&self.options.range)?;
        let timeout = self.client.timeout();
        let bounded = matches!(self.options.level, ReadLevel::BoundedStale { .. });
        let mut restarts = Attempts::new(timeout);
        loop {
            if self.version.is_none() && !bounded {
                self.version = self.client.router().snapshot_version(&self.left, &self.options.level, timeout).await?;
            }
            let level = match self.version.or(self.pinned) {
                Some(version) => ReadLevel::Snapshot(version),
                None => self.options.level.clone(),
            };
            let mut attempts = Attempts::new(timeout);
            let page = self.client.router().page(&self.next_scan(), &level, &mut attempts).await;
            let (served, cut) = page.map_err(Failure::into_call)?;
            if self.version.is_none() && !bounded && cut != self.left {
                // By the map there was one partition, and its clock was to be the version. There are several: its clock alone may be
                // older than writes that others have acknowledged.
                let moved = Reject::StaleEpoch { partition: served.partition, descriptors: vec![] };
                self.client.router().regrouped(&mut restarts, moved).await?;
                continue;
            }
            return self.take(served, &cut, &level);
        }
    }

    fn next_scan(&self) -> Scan {
        let page = u64::from(self.options.page_rows_max);
        Scan {
            range: self.left.clone(),
            reverse: self.options.reverse,
            keys_only: self.options.keys_only,
            rows_max: self.rows_left.map_or(page, |left| left.min(page)) as u32,
            bytes_max: self.options.page_bytes_max,
        }
    }

    /// Makes the page that was served the caller's, and moves on. `cut`: the part of the range inside the partition that answered.
    fn take(&mut self, served: Served, cut: &KeyRange, level: &ReadLevel) -> Result<Page, CallError> {
        let (partition, seen, age_ms) = (served.partition, served.seen(level), served.reply.age_ms);
        let ReadData::Page { rows, resume } = served.reply.data else {
            return Err(CallError::unavailable("the node answered with another kind of data than a page"));
        };
        let version = match level {
            ReadLevel::Snapshot(version) => *version,
            ReadLevel::BoundedStale { .. } => *self.pinned.insert(seen),
            // The only partition names the version of the whole scan.
            ReadLevel::Linearizable | ReadLevel::AtLeast(_) => *self.version.insert(seen),
        };
        let resume = self.move_on(cut, resume, rows.len() as u64);
        self.client.observe(partition, seen);
        let token = self.client.token_of(partition, seen);
        Ok(Page { rows: rows.into_iter().map(user_row).collect(), resume, version, age_ms, token })
    }

    /// Sets what is left after a page, and returns the position as a user key if there may be more.
    fn move_on(&mut self, cut: &KeyRange, resume: Option<Bytes>, rows: u64) -> Option<Bytes> {
        if resume.is_none() {
            // The next page is of another partition.
            self.pinned = None;
        }
        let near = resume.unwrap_or_else(|| if self.options.reverse { cut.start.clone() } else { cut.end.clone() });
        // Empty is "from the first key" or "no bound": in both directions the end of the road.
        let arrived = near.is_empty();
        if self.options.reverse {
            self.left.end = near;
        } else {
            self.left.start = near;
        }
        let over = arrived || self.left.is_empty();
        self.rows_left = self.rows_left.map(|left| left.saturating_sub(rows));
        self.done = over || self.rows_left == Some(0);
        if over { None } else { self.position() }
    }

    /// The position as a user key.
    fn position(&self) -> Option<Bytes> {
        let near = if self.options.reverse { &self.left.end } else { &self.left.start };
        convert::user_key(near).ok()
    }
}

type Stepping = BoxFuture<'static, (Pager, Option<Result<Page, Error>>)>;

/// A scan as a stream of pages; the next page is asked for while the caller uses the last. Ends after an error.
#[must_use = "a stream does nothing until it is polled"]
pub struct PageStream {
    stepping: Option<Stepping>,
}

impl PageStream {
    pub(crate) fn new(client: Client, options: ScanOptions) -> Self {
        Self { stepping: Some(Pager::new(client, options).step().boxed()) }
    }
}

impl Stream for PageStream {
    type Item = Result<Page, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(stepping) = &mut self.stepping else { return Poll::Ready(None) };
        let Poll::Ready((pager, page)) = stepping.poll_unpin(cx) else { return Poll::Pending };
        self.stepping = match &page {
            Some(Ok(_)) if !pager.done => {
                // Sent now, answered while the caller works.
                let mut next = pager.step().boxed();
                match next.poll_unpin(cx) {
                    Poll::Pending => Some(next),
                    Poll::Ready(ready) => Some(futures::future::ready(ready).boxed()),
                }
            }
            _ => None,
        };
        Poll::Ready(page)
    }
}

/// A scan as a stream of rows with user keys. Ends after an error.
#[must_use = "a stream does nothing until it is polled"]
pub struct ScanStream {
    pages: PageStream,
    rows: VecDeque<Row>,
    version: Option<Version>,
}

impl ScanStream {
    pub(crate) fn new(client: Client, options: ScanOptions) -> Self {
        Self { pages: PageStream::new(client, options), rows: VecDeque::new(), version: None }
    }

    /// The version that the scan reads; `None` until the first page is there.
    pub fn version(&self) -> Option<Version> {
        self.version
    }
}

impl Stream for ScanStream {
    type Item = Result<Row, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(row) = self.rows.pop_front() {
                return Poll::Ready(Some(Ok(row)));
            }
            match Pin::new(&mut self.pages).poll_next(cx) {
                Poll::Ready(Some(Ok(page))) => {
                    self.version = Some(page.version);
                    self.rows = page.rows.into();
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
