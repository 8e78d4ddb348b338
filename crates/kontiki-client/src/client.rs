//! The client: what an application calls. User keys in, user keys out; everything else is the router's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, BoxStream, StreamExt as _};
use kontiki_types::read::ReadData;
use kontiki_types::{
    CallError, ClusterId, Epoch, Error, ErrorKind, KeyRange, NamespaceId, NodeId, NodeInfo, Op, OpResult, PartitionId,
    PartitionMap, ReadLevel, Reject, RequestId, Row, SessionId, Token, Version, Write, WriteReply, key, limits,
};
use parking_lot::Mutex;

use crate::batch::WriteBatch;
use crate::changes::{self, ChangesOptions, ChangesPage};
use crate::dial::{Dial, TcpDial};
use crate::endpoint::Endpoint;
use crate::options::ClientOptions;
use crate::peers::{Connect, Peers};
use crate::remote::{KnownCluster, Remote, Unusable};
use crate::router::{Attempts, Failure, Router};
use crate::scan::{PageStream, ScanOptions, ScanStream};
use crate::status::NodeStatus;

/// Partitions that one batch get asks at the same time: each may answer with as much as the whole batch may have.
const BATCH_GET_PARTITIONS_AT_ONCE: usize = 16;

/// A value with what was seen by getting it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen<T> {
    /// The value.
    pub value: T,
    /// What this answer has seen: hand it to `ReadLevel::AtLeast`, on any node, to read this or newer.
    pub token: Token,
    /// How old the knowledge may be, in ms; 0 for linearizable reads and writes.
    pub age_ms: u64,
}

/// What a delete did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// Whether the key had a value.
    pub existed: bool,
    /// The version of the delete.
    pub version: Version,
}

struct Shared {
    router: Router,
    /// Everything that this client has read or written.
    token: Mutex<Token>,
}

/// A client of one cluster. Cheap to clone; clones share connections, map, sessions and token. See the crate's documentation for what
/// it promises.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// Making clients.
impl Client {
    /// Connects to a cluster by the address (`host:port`) of any of its nodes; several make it start also while some are down.
    /// Waits until the map is known. `ErrorKind::Unavailable` if no address answers in time.
    pub async fn connect(addrs: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, Error> {
        Self::connect_with(addrs, ClientOptions::default()).await
    }

    /// As [`Client::connect`], with options.
    pub async fn connect_with(addrs: impl IntoIterator<Item = impl Into<String>>, options: ClientOptions) -> Result<Self, Error> {
        Self::connect_by(Arc::new(TcpDial), addrs, options).await
    }

    /// As [`Client::connect_with`], with a network of the caller's own.
    pub async fn connect_by(
        dial: Arc<dyn Dial>,
        addrs: impl IntoIterator<Item = impl Into<String>>,
        options: ClientOptions,
    ) -> Result<Self, Error> {
        options.check()?;
        let seeds: Vec<String> = addrs.into_iter().map(Into::into).collect();
        if seeds.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                "no address is given; give the client at least one, such as 127.0.0.1:7601",
            ));
        }
        for addr in &seeds {
            // Said at once, not at the end of the time.
            Remote::new(addr, Arc::clone(&dial), &options)
                .map_err(|error| Error::with_source(ErrorKind::Config, error.to_string(), error))?;
        }
        let client = Self::new(None, seeds, remotes(dial, options.clone(), KnownCluster::default()), &options);
        client.refresh_map().await?;
        Ok(client)
    }

    /// The client inside a node: calls to `node` go to `local` as function calls, the others through `dial`. Asks for the map at the first
    /// call. Must be used inside a tokio runtime. Options that make no sense are corrected to the defaults.
    pub fn embedded(node: NodeId, local: Arc<dyn Endpoint>, dial: Arc<dyn Dial>, options: ClientOptions) -> Self {
        let options = if options.check().is_ok() { options } else { ClientOptions::default() };
        let known = KnownCluster::is(local.cluster());
        Self::new(Some((node, local)), Vec::new(), remotes(dial, options.clone(), known), &options)
    }

    pub(crate) fn new(
        local: Option<(NodeId, Arc<dyn Endpoint>)>,
        seeds: Vec<String>,
        connect: Connect,
        options: &ClientOptions,
    ) -> Self {
        let router = Router::new(Peers::new(local, seeds, connect), options);
        Self { shared: Arc::new(Shared { router, token: Mutex::default() }), timeout: options.timeout }
    }

    /// The same client with another time for the whole of each call.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { shared: Arc::clone(&self.shared), timeout }
    }

    pub(crate) fn router(&self) -> &Router {
        &self.shared.router
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn observe(&self, partition: PartitionId, version: Version) {
        self.shared.token.lock().observe(partition, version);
    }

    /// A token that has seen this much, in this cluster.
    pub(crate) fn token_of(&self, partition: PartitionId, version: Version) -> Token {
        let mut token = Token { cluster: self.cluster(), ..Token::default() };
        token.observe(partition, version);
        token
    }

    fn seen<T>(&self, partition: PartitionId, version: Version, age_ms: u64, value: T) -> Seen<T> {
        self.observe(partition, version);
        let token = self.token_of(partition, version);
        Seen { value, token, age_ms }
    }
}

fn remotes(dial: Arc<dyn Dial>, options: ClientOptions, known: KnownCluster) -> Connect {
    Box::new(move |addr| match Remote::new(addr, Arc::clone(&dial), &options) {
        Ok(remote) => Arc::new(remote.of(known.clone())),
        Err(error) => Arc::new(Unusable(error)),
    })
}

/// Reads.
impl Client {
    /// The key's row, linearizable; `None` if it has no value.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Row>, Error> {
        Ok(self.get_with(key, ReadLevel::Linearizable).await?.value)
    }

    /// The key's row at a level, with what was seen.
    pub async fn get_with(&self, key: impl Into<Bytes>, level: ReadLevel) -> Result<Seen<Option<Row>>, Error> {
        let key = internal(&key.into())?;
        let mut attempts = Attempts::new(self.timeout);
        let served = self.router().get(std::slice::from_ref(&key), &level, &mut attempts).await;
        let served = served.map_err(|failure| public(failure.into_call()))?;
        let (partition, seen, age_ms) = (served.partition, served.seen(&level), served.reply.age_ms);
        let row = values(served.reply.data)?.into_iter().next().flatten().map(user_row);
        Ok(self.seen(partition, seen, age_ms, row))
    }

    /// Several keys, at most `limits::BATCH_GET_KEYS_MAX`; one answer each, in order. `ErrorKind::Invalid` if the rows have more than
    /// `limits::BATCH_GET_BYTES_MAX` bytes in all. Keys of one partition are read at one moment; at
    /// the level `Snapshot` all are.
    pub async fn batch_get(&self, keys: Vec<Bytes>, level: ReadLevel) -> Result<Vec<Option<Row>>, Error> {
        Ok(self.batch_get_with(keys, level).await?.value)
    }

    /// As [`Client::batch_get`], with what was seen. The age is that of the oldest part.
    pub async fn batch_get_with(&self, keys: Vec<Bytes>, level: ReadLevel) -> Result<Seen<Vec<Option<Row>>>, Error> {
        let keys: Vec<Bytes> = keys.iter().map(|key| internal(key)).collect::<Result<_, _>>()?;
        limits::check_read(&kontiki_types::Read::Get { keys: keys.clone() })?;
        let mut answer =
            Seen { value: vec![None; keys.len()], token: Token { cluster: self.cluster(), ..Token::default() }, age_ms: 0 };
        let mut left: Vec<usize> = (0..keys.len()).collect();
        let mut bytes = 0;
        let mut deadline = Attempts::new(self.timeout);
        while !left.is_empty() {
            let groups = self.by_partition(&keys, &left);
            let reads = groups.into_iter().map(|group| self.get_group(&keys, group, &level));
            let mut again = Vec::new();
            let mut reads = stream::iter(reads).buffer_unordered(BATCH_GET_PARTITIONS_AT_ONCE);
            while let Some((group, result)) = reads.next().await {
                match result {
                    Ok((partition, seen, age_ms, rows)) => {
                        bytes += rows.iter().flatten().map(|row| row.key.len() + row.value.len()).sum::<usize>();
                        limits::check_batch_get_answer(bytes)?;
                        for (at, row) in group.into_iter().zip(rows) {
                            answer.value[at] = row.map(user_row);
                        }
                        answer.token.observe(partition, seen);
                        answer.age_ms = answer.age_ms.max(age_ms);
                        self.observe(partition, seen);
                    }
                    // A partition was split in the meantime: group again by the new map.
                    Err(Failure::Across(reject)) => {
                        self.router().regrouped(&mut deadline, reject).await.map_err(public)?;
                        again.extend(group);
                    }
                    Err(Failure::Call(error)) => return Err(public(error)),
                }
            }
            left = again;
        }
        Ok(answer)
    }

    /// The indices of keys, grouped by what the map says now; keys that it knows nothing of are a group of their own.
    fn by_partition(&self, keys: &[Bytes], left: &[usize]) -> Vec<Vec<usize>> {
        let view = self.router().map.view();
        let mut groups: BTreeMap<Option<PartitionId>, Vec<usize>> = BTreeMap::new();
        for at in left {
            groups.entry(view.map.lookup(&keys[*at]).map(|descriptor| descriptor.id)).or_default().push(*at);
        }
        groups.into_values().collect()
    }

    #[allow(clippy::type_complexity, reason = "used once, inside one file")]
    async fn get_group(
        &self,
        keys: &[Bytes],
        group: Vec<usize>,
        level: &ReadLevel,
    ) -> (Vec<usize>, Result<(PartitionId, Version, u64, Vec<Option<Row>>), Failure>) {
        let asked: Vec<Bytes> = group.iter().map(|at| keys[*at].clone()).collect();
        let mut attempts = Attempts::new(self.timeout);
        let result = match self.router().get(&asked, level, &mut attempts).await {
            Ok(served) => {
                let (partition, seen, age_ms) = (served.partition, served.seen(level), served.reply.age_ms);
                match served.reply.data {
                    ReadData::Values(rows) if rows.len() == asked.len() => Ok((partition, seen, age_ms, rows)),
                    _ => Err(CallError::unavailable("the node answered with another number of rows than was asked").into()),
                }
            }
            Err(failure) => Err(failure),
        };
        (group, result)
    }

    /// The rows of a range, in order, at one version. The time of the client is the time of each page.
    pub fn scan(&self, options: ScanOptions) -> ScanStream {
        ScanStream::new(self.clone(), options)
    }

    /// As [`Client::scan`], page by page, with where to resume.
    pub fn scan_pages(&self, options: ScanOptions) -> PageStream {
        PageStream::new(self.clone(), options)
    }

    /// What was written since a version, in key order, page by page, all at one version.
    pub fn changes(&self, options: ChangesOptions) -> BoxStream<'static, Result<ChangesPage, Error>> {
        changes::pages(self.clone(), options)
    }

    /// A version at which the whole store can be read: every write that was acknowledged before this call has it or a lower one, and no
    /// write will get it or a lower one any more.
    pub async fn snapshot_version(&self) -> Result<Version, Error> {
        let all = KeyRange::namespace(NamespaceId::DEFAULT);
        self.router().common_version(&all, &ReadLevel::Linearizable, self.timeout).await.map_err(public)
    }

    /// The clock of the partition that holds `key` (an empty key: the first), at a level.
    pub async fn clock(&self, key: impl Into<Bytes>, level: ReadLevel) -> Result<Seen<Version>, Error> {
        let key = key::internal(NamespaceId::DEFAULT, &key.into());
        let served = self.router().clock_at(&key, &level, self.timeout).await.map_err(public)?;
        Ok(self.seen(served.partition, served.reply.clock, served.reply.age_ms, served.reply.clock))
    }

    /// Moves the clock of the partition that holds `key` (an empty key: the first) to at least `to`.
    pub async fn advance_clock(&self, key: impl Into<Bytes>, to: Version) -> Result<Seen<Version>, Error> {
        let key = key::internal(NamespaceId::DEFAULT, &key.into());
        let (partition, clock) = self.router().advance_at(&key, to, self.timeout).await.map_err(public)?;
        Ok(self.seen(partition, clock, 0, clock))
    }
}

/// Writes.
impl Client {
    /// Sets a key. Answers when it is on disk on a majority.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<Version, Error> {
        Ok(self.write(WriteBatch::new().put(key, value)).await?.version)
    }

    /// Removes a key.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<Deletion, Error> {
        let reply = self.write(WriteBatch::new().delete(key)).await?;
        let existed = matches!(reply.results.first(), Some(OpResult::Deleted { existed: true }));
        Ok(Deletion { existed, version: reply.version })
    }

    /// Applies a batch: all of it or nothing, exactly once. `ErrorKind::Ambiguous` if the time ended and an attempt may have been applied;
    /// every other error means that nothing was written.
    pub async fn write(&self, batch: WriteBatch) -> Result<WriteReply, Error> {
        Ok(self.write_with(batch, None).await?.value)
    }

    /// As [`Client::write`], with what was seen; `request` is the caller's own request id in place of the client's session.
    pub async fn write_with(&self, batch: WriteBatch, request: Option<RequestId>) -> Result<Seen<WriteReply>, Error> {
        let written = self.router().write(batch.into_write(), request, self.timeout).await;
        let (partition, mut reply) = written.map_err(|failure| public(failure.into_call()))?;
        for result in &mut reply.results {
            if let OpResult::DeletedRange { resume: Some(resume), .. } = result {
                *resume = user(resume);
            }
        }
        Ok(self.seen(partition, reply.version, 0, reply))
    }

    /// Removes the keys of `[start, end)` (an empty end: to the last key; both empty: ALL keys) and says how many there were.
    ///
    /// Not one atomic step: it is done in pages of at most `limits::DELETE_RANGE_KEYS_MAX` keys of one partition, each atomic for itself,
    /// in key order. The client's time is that of each page. After an error, calling it again finishes the work.
    pub async fn delete_range(&self, start: impl Into<Bytes>, end: impl Into<Bytes>) -> Result<u64, Error> {
        Ok(self.delete_range_with(start, end).await?.value)
    }

    /// As [`Client::delete_range`], with what was seen.
    pub async fn delete_range_with(&self, start: impl Into<Bytes>, end: impl Into<Bytes>) -> Result<Seen<u64>, Error> {
        let mut left = KeyRange::in_namespace(NamespaceId::DEFAULT, &start.into(), &end.into());
        limits::check_range(&left)?;
        let mut answer = Seen::<u64>::default();
        let mut recuts = Attempts::new(self.timeout);
        while !left.is_empty() {
            let view = self.router().map.view();
            // Where the map has a hole the router asks for it and refuses what turns out to cross a boundary.
            let cut = view.map.lookup(&left.start).map_or_else(|| left.clone(), |home| left.intersect(&home.range));
            let op = Op::DeleteRange { start: cut.start.clone(), end: cut.end.clone() };
            let write = Write { epoch: Epoch::default(), request: None, conditions: vec![], ops: vec![op] };
            let (partition, reply) = match self.router().write(write, None, self.timeout).await {
                Ok(written) => written,
                Err(Failure::Across(reject)) => {
                    self.router().regrouped(&mut recuts, reject).await.map_err(public)?;
                    continue;
                }
                Err(Failure::Call(error)) => return Err(public(error)),
            };
            recuts = Attempts::new(self.timeout);
            answer.token.cluster = self.cluster();
            let Some(OpResult::DeletedRange { count, resume }) = reply.results.into_iter().next() else {
                return Err(Error::new(ErrorKind::Internal, "the node answered a range delete with another kind of result"));
            };
            answer.value += count;
            answer.token.observe(partition, reply.version);
            self.observe(partition, reply.version);
            left.start = resume.unwrap_or(cut.end);
            if left.start.is_empty() {
                break;
            }
        }
        Ok(answer)
    }

    /// Opens a session at the partition that holds `key` (an empty key: the first), for callers who make their own request ids. The
    /// client's own writes do not need it.
    pub async fn open_session(&self, key: impl Into<Bytes>) -> Result<Seen<SessionId>, Error> {
        let key = key::internal(NamespaceId::DEFAULT, &key.into());
        let (partition, session) = self.router().open_session(&key, self.timeout).await.map_err(public)?;
        Ok(self.seen(partition, session.opened, 0, session))
    }
}

/// The cluster.
impl Client {
    /// What this client has seen so far: for each partition the highest version that it read or wrote.
    pub fn token(&self) -> Token {
        Token { cluster: self.cluster(), ..self.shared.token.lock().clone() }
    }

    /// Adds what another client has seen, so that `ReadLevel::AtLeast(client.token())` covers it. `ErrorKind::HistoryChanged` if that was in
    /// another cluster.
    pub fn merge_token(&self, other: &Token) -> Result<(), Error> {
        let mut token = self.shared.token.lock();
        token.cluster = self.cluster();
        Ok(token.merge(other)?)
    }

    /// The cluster that this client talks to; `None` before the first answer. It stays what it is: a cluster that takes the place of this one,
    /// such as a restored one, refuses this client (`ErrorKind::HistoryChanged`).
    pub fn cluster(&self) -> Option<ClusterId> {
        self.router().peers.cluster()
    }

    /// The map as this client knows it; empty before the first call of an embedded client.
    pub fn map(&self) -> Arc<PartitionMap> {
        Arc::clone(&self.router().map.view().map)
    }

    /// Asks the cluster for the map, and waits until it gives one that is not empty.
    pub async fn refresh_map(&self) -> Result<Arc<PartitionMap>, Error> {
        self.router().refresh_until_known(self.timeout).await.map_err(public)?;
        Ok(self.map())
    }

    /// How each member of the cluster does, in the order of their ids; asked all at once, each within one attempt's time. Nodes that were
    /// given up or are gone are not asked.
    pub async fn status(&self) -> Result<Vec<(NodeInfo, Result<NodeStatus, Error>)>, Error> {
        let view = self.router().map.view();
        if view.map.nodes.is_empty() {
            self.refresh_map().await?;
        } else if let Err(error) = self.router().refresh(&Attempts::new(self.timeout), view.generation).await {
            // The cluster may be in trouble, which is when its status is of interest.
            tracing::debug!(%error, "the map could not be refreshed");
        }
        let map = self.map();
        let members = map.nodes.iter().filter(|node| node.state.is_member());
        let asked = members.map(|node| async {
            let status = self.router().status(&map, node.id, self.timeout).await;
            (node.clone(), status.map_err(public))
        });
        Ok(join_all(asked).await)
    }

    /// Moves the leadership of a partition to another of its replicas.
    pub async fn transfer_leader(&self, partition: PartitionId, to: NodeId) -> Result<(), Error> {
        self.router().transfer_leader(partition, to, self.timeout).await.map_err(public)
    }
}

/// The internal key of a user's key, checked.
fn internal(user: &[u8]) -> Result<Bytes, Error> {
    limits::check_user_key(user)?;
    Ok(key::internal(NamespaceId::DEFAULT, user))
}

/// The user's key of an internal one; shares its buffer.
pub(crate) fn user(internal: &Bytes) -> Bytes {
    match key::split_internal(internal) {
        Some(_) => internal.slice(key::NAMESPACE_PREFIX_BYTES..),
        None => internal.clone(),
    }
}

pub(crate) fn user_row(row: Row) -> Row {
    Row { key: user(&row.key), ..row }
}

fn values(data: ReadData) -> Result<Vec<Option<Row>>, Error> {
    match data {
        ReadData::Values(values) => Ok(values),
        _ => Err(Error::new(ErrorKind::Internal, "the node answered with another kind of data than rows")),
    }
}

/// The error that the user sees: user keys in its words and in its typed cause.
pub(crate) fn public(mut error: CallError) -> Error {
    match &mut error {
        CallError::Reject(Reject::ConditionFailed { key, .. }) => *key = user(key),
        CallError::Reject(Reject::CrossPartition { key_a, key_b, .. }) => {
            *key_a = user(key_a);
            *key_b = user(key_b);
        }
        _ => {}
    }
    error.into()
}
