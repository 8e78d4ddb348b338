//! What was written since a version, over as many partitions as the range touches, at one version: what an incremental backup reads.
//!
//! ```text
//!   state at `after`  +  changes(after, T)  =  state at T
//! ```
//!
//! Unlike a scan it is not read ahead: it looks at every key and sends few.

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use kontiki_proto::{convert, v1};
use kontiki_types::limits::{SCAN_PAGE_BYTES_MAX, SCAN_ROWS_MAX};
use kontiki_types::read::{Change, Changes, ReadData};
use kontiki_types::{CallError, Error, KeyRange, NamespaceId, ReadLevel, Reject, Token, Version, limits};

use crate::client::{Client, public, user};
use crate::router::{Attempts, Failure};

/// Which changes. Built step by step; by default of every key, up to now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "options do nothing until they are given to Client::changes"]
pub struct ChangesOptions {
    changes: Changes,
    version: Option<Version>,
}

impl ChangesOptions {
    /// What was written after this version.
    pub fn after(version: Version) -> Self {
        let range = KeyRange::namespace(NamespaceId::DEFAULT);
        let changes = Changes { range, after: version, rows_max: SCAN_ROWS_MAX, bytes_max: SCAN_PAGE_BYTES_MAX };
        Self { changes, version: None }
    }

    /// Only to keys of `[start, end)`; an empty end means to the last key.
    pub fn range(mut self, start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        self.changes.range = KeyRange::in_namespace(NamespaceId::DEFAULT, &start.into(), &end.into());
        self
    }

    /// As of this version, which a reply has named. Not given: the newest of all partitions.
    pub fn at(mut self, version: Version) -> Self {
        self.version = Some(version);
        self
    }

    /// The size of one page; at most, and by default, `limits::SCAN_ROWS_MAX` rows and `limits::SCAN_PAGE_BYTES_MAX` bytes.
    pub fn page(mut self, rows_max: u32, bytes_max: u32) -> Self {
        self.changes.rows_max = rows_max.clamp(1, SCAN_ROWS_MAX);
        self.changes.bytes_max = bytes_max.clamp(1, SCAN_PAGE_BYTES_MAX);
        self
    }

    /// What a `Kv.Changes` without a route asks.
    pub fn from_request(request: v1::ChangesRequest) -> Result<Self, Reject> {
        let (at, changes) = convert::read_of_changes(v1::ChangesRequest { route: None, ..request })?.body;
        Ok(Self { changes, version: (at > Version::ZERO).then_some(at) })
    }
}

/// One page of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangesPage {
    /// With user keys, in key order. May be empty.
    pub changes: Vec<Change>,
    /// Where the next page starts, if there is one: a user key.
    pub resume: Option<Bytes>,
    /// The version that was read.
    pub version: Version,
    /// What this page has seen.
    pub token: Token,
}

struct Pager {
    client: Client,
    /// What is left; the start of its range is the position.
    left: Changes,
    version: Option<Version>,
    done: bool,
}

/// The pages; ends after an error.
pub(crate) fn pages(client: Client, options: ChangesOptions) -> BoxStream<'static, Result<ChangesPage, Error>> {
    let done = options.changes.range.is_empty() && !options.changes.range.is_reversed();
    let pager = Pager { client, left: options.changes, version: options.version, done };
    stream::unfold(pager, |mut pager| async move {
        if pager.done {
            return None;
        }
        let page = pager.page().await;
        pager.done |= page.is_err();
        Some((page.map_err(public), pager))
    })
    .boxed()
}

impl Pager {
    async fn page(&mut self) -> Result<ChangesPage, CallError> {
        limits::check_range(&self.left.range)?;
        let (router, timeout) = (self.client.router(), self.client.timeout());
        let version = match self.version {
            Some(version) => version,
            None => *self.version.insert(router.common_version(&self.left.range, &ReadLevel::Linearizable, timeout).await?),
        };
        let mut attempts = Attempts::new(timeout);
        let page = router.changes_page(&self.left, version, &mut attempts).await;
        let (served, cut) = page.map_err(Failure::into_call)?;
        let (partition, seen) = (served.partition, served.seen(&ReadLevel::Snapshot(version)));
        let ReadData::Changes { changes, resume } = served.reply.data else {
            return Err(CallError::unavailable("the node answered with another kind of data than changes"));
        };
        self.left.range.start = resume.unwrap_or(cut.end);
        self.done = self.left.range.start.is_empty() || self.left.range.is_empty();
        self.client.observe(partition, seen);
        let token = self.client.token_of(partition, seen);
        let changes = changes.into_iter().map(|change| Change { key: user(&change.key), ..change }).collect();
        let resume = if self.done { None } else { convert::user_key(&self.left.range.start).ok() };
        Ok(ChangesPage { changes, resume, version, token })
    }
}
