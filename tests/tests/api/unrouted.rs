//! A way in for the suite: gRPC without routes, to a node that leads what is asked for, or to one that does not and must forward.
//!
//! The suite speaks to a [`Client`], and a client is smart: it would go to the leader by itself. So this endpoint tells the client of a map
//! on which one node holds everything, is that node, takes the route out of each call, and sends it where its role says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use kontiki_client::{Answer, Client, ClientOptions, Endpoint, NodeStatus, TcpDial};
use kontiki_proto::error::from_status;
use kontiki_proto::v1::cluster_client::ClusterClient;
use kontiki_proto::v1::kv_client::KvClient;
use kontiki_proto::{convert, v1};
use kontiki_types::command::Route;
use kontiki_types::limits::MESSAGE_BYTES_MAX;
use kontiki_types::read::{Changes, ReadData, Scan};
use kontiki_types::{
    Bytes, CallError, Descriptor, NodeId, NodeInfo, PartitionId, PartitionMap, Read, ReadLevel, ReadReply, SessionId, Version,
    Write, WriteReply, key,
};
use tonic::Request;
use tonic::transport::Channel;

/// Which node is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The leader of the partition.
    Leader,
    /// Another one.
    Follower,
}

/// The nodes, and who leads.
pub struct Unrouted {
    shared: Arc<Shared>,
}

struct Shared {
    role: Role,
    nodes: Vec<(u64, Channel)>,
    leaders: BTreeMap<u64, u64>,
    map: PartitionMap,
}

/// The node that the client believes to be talking to.
const EVERYTHING: NodeId = NodeId(1);

impl Unrouted {
    /// A client of the nodes at `addrs` (by id, from 1), all of whose calls go unrouted to nodes of this role.
    pub async fn client(real: &PartitionMap, addrs: &[String], leaders: &BTreeMap<u64, u64>, role: Role) -> Client {
        let mut nodes = Vec::new();
        for (id, addr) in (1..).zip(addrs) {
            nodes.push((id, connect(addr).await));
        }
        let partitions = real.partitions.iter().map(|partition| Descriptor {
            epoch: partition.epoch,
            clock: partition.clock,
            ..Descriptor::new(partition.id, partition.range.clone(), &[EVERYTHING])
        });
        let this = NodeInfo { id: EVERYTHING, addr: addrs[0].clone(), ..NodeInfo::default() };
        let map = PartitionMap::new(partitions.collect(), vec![this]);
        let shared = Arc::new(Shared { role, nodes, leaders: leaders.clone(), map });
        Client::embedded(EVERYTHING, Arc::new(Self { shared }), Arc::new(TcpDial), ClientOptions::default())
    }
}

/// A channel to a node.
pub async fn connect(addr: &str) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{addr}")).expect("an address");
    endpoint.connect().await.expect("the node answers")
}

/// The `Kv` service behind a channel, with room for the largest answer.
pub fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(2 * MESSAGE_BYTES_MAX)
}

fn timed<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

impl Shared {
    fn channel(&self, partition: PartitionId) -> Channel {
        let leader = self.leaders.get(&partition.0);
        let fits = |id: &u64| (Some(id) == leader) == (self.role == Role::Leader);
        let chosen = self.nodes.iter().find(|(id, _)| fits(id)).or(self.nodes.first());
        chosen.map(|(_, channel)| channel.clone()).expect("there are nodes")
    }

    fn kv(&self, partition: PartitionId) -> KvClient<Channel> {
        kv(self.channel(partition))
    }

    /// The first user key of a partition; without a route the key says which partition is meant.
    fn first_key(&self, partition: PartitionId) -> Bytes {
        let start = self.map.get(partition).map(|descriptor| descriptor.range.start.clone()).unwrap_or_default();
        key::split_internal(&start).map_or_else(Bytes::new, |(_, user)| Bytes::copy_from_slice(user))
    }

    async fn read(&self, route: Route, level: ReadLevel, read: Read, timeout: Duration) -> Result<ReadReply, CallError> {
        let failed = |status: tonic::Status| from_status(&status, false);
        let mut kv = self.kv(route.partition);
        match read {
            Read::Get { keys } if keys.len() == 1 => {
                let request = v1::GetRequest { route: None, ..convert::get_request(route, &level, &keys[0])? };
                convert::reply_of_get(kv.get(timed(request, timeout)).await.map_err(failed)?.into_inner())
            }
            Read::Get { keys } => {
                let request = v1::BatchGetRequest { route: None, ..convert::batch_get_request(route, &level, &keys)? };
                convert::reply_of_batch_get(kv.batch_get(timed(request, timeout)).await.map_err(failed)?.into_inner())
            }
            Read::Clock => {
                let key = self.first_key(route.partition);
                let request = v1::ClockRequest { route: None, key, ..convert::clock_request(route, &level, Version::ZERO) };
                convert::reply_of_clock(kv.clock(timed(request, timeout)).await.map_err(failed)?.into_inner())
            }
            Read::Scan(scan) => self.page(route, &level, scan, timeout).await,
            Read::Changes(changes) => self.changes(route, &level, changes, timeout).await,
        }
    }

    /// What was written, by a stream without a route: all of it in one page.
    async fn changes(&self, route: Route, level: &ReadLevel, asked: Changes, time: Duration) -> Result<ReadReply, CallError> {
        let failed = |status: tonic::Status| from_status(&status, false);
        let ReadLevel::Snapshot(at) = level else { return Err(CallError::unavailable("changes are read at a version")) };
        let request = v1::ChangesRequest { route: None, ..convert::changes_request(route, *at, &asked)? };
        let mut pages = self.kv(route.partition).changes(timed(request, time)).await.map_err(failed)?.into_inner();
        let (mut changes, mut clock) = (Vec::new(), Version::ZERO);
        while let Some(page) = pages.message().await.map_err(failed)? {
            let one = convert::reply_of_changes(page)?;
            clock = clock.max(one.clock);
            let ReadData::Changes { changes: more, .. } = one.data else { unreachable!("changes are asked for") };
            changes.extend(more);
        }
        Ok(ReadReply { clock, age_ms: 0, data: ReadData::Changes { changes, resume: None } })
    }

    /// One page by a whole scan with that many rows: without a route there are no pages, only streams that run to their limit.
    async fn page(&self, route: Route, level: &ReadLevel, scan: Scan, timeout: Duration) -> Result<ReadReply, CallError> {
        let failed = |status: tonic::Status| from_status(&status, false);
        let request = v1::ScanRequest { route: None, ..convert::scan_request(route, level, &scan)? };
        let mut pages = self.kv(route.partition).scan(timed(request, timeout)).await.map_err(failed)?.into_inner();
        let (mut rows, mut clock, mut age_ms) = (Vec::new(), Version::ZERO, 0);
        while let Some(page) = pages.message().await.map_err(failed)? {
            let one = convert::reply_of_scan(page)?;
            (clock, age_ms) = (clock.max(one.clock), age_ms.max(one.age_ms));
            let ReadData::Page { rows: more, .. } = one.data else { unreachable!("a scan gives pages") };
            rows.extend(more);
        }
        let full = rows.len() >= scan.rows_max as usize;
        let last = rows.last().filter(|_| full).map(|row| row.key.clone());
        let resume = last.map(|last| if scan.reverse { last } else { key::successor(&last) });
        Ok(ReadReply { clock, age_ms, data: ReadData::Page { rows, resume } })
    }
}

impl Endpoint for Unrouted {
    fn write(&self, route: Route, write: Write<Bytes>, timeout: Duration) -> Answer<WriteReply> {
        let shared = Arc::clone(&self.shared);
        async move {
            let request = v1::WriteRequest { route: None, ..convert::write_request(route, &write)? };
            let answer = shared.kv(route.partition).write(timed(request, timeout)).await;
            convert::write_reply(answer.map_err(|status| from_status(&status, true))?.into_inner())
        }
        .boxed()
    }

    fn open_session(&self, route: Route, timeout: Duration) -> Answer<SessionId> {
        let shared = Arc::clone(&self.shared);
        async move {
            let request = v1::OpenSessionRequest { key: shared.first_key(route.partition), route: None };
            let answer = shared.kv(route.partition).open_session(timed(request, timeout)).await;
            let session = answer.map_err(|status| from_status(&status, false))?.into_inner().session;
            let session = convert::session(session)?;
            assert_eq!(session.partition, route.partition, "a session is opened where its key lies");
            Ok(session)
        }
        .boxed()
    }

    fn read(&self, route: Route, level: ReadLevel, read: Read, timeout: Duration) -> Answer<ReadReply> {
        let shared = Arc::clone(&self.shared);
        async move { shared.read(route, level, read, timeout).await }.boxed()
    }

    fn advance_clock(&self, route: Route, to: Version, timeout: Duration) -> Answer<Version> {
        let shared = Arc::clone(&self.shared);
        async move {
            let key = shared.first_key(route.partition);
            let request = v1::ClockRequest { route: None, key, ..convert::clock_request(route, &ReadLevel::Linearizable, to) };
            let answer = shared.kv(route.partition).clock(timed(request, timeout)).await;
            let answer = answer.map_err(|status| from_status(&status, false))?.into_inner();
            Ok(convert::reply_of_clock(answer)?.clock)
        }
        .boxed()
    }

    fn map(&self, _: Duration) -> Answer<PartitionMap> {
        std::future::ready(Ok(self.shared.map.clone())).boxed()
    }

    fn status(&self, timeout: Duration) -> Answer<NodeStatus> {
        let shared = Arc::clone(&self.shared);
        async move {
            let mut cluster = ClusterClient::new(shared.channel(PartitionId::SYSTEM));
            let answer = cluster.status(timed(v1::StatusRequest {}, timeout)).await;
            let status = answer.map_err(|status| from_status(&status, false))?.into_inner().status;
            NodeStatus::try_from(status.expect("a status"))
        }
        .boxed()
    }

    fn transfer_leader(&self, partition: PartitionId, to: NodeId, timeout: Duration) -> Answer<()> {
        let shared = Arc::clone(&self.shared);
        async move {
            let request = v1::TransferLeaderRequest { partition_id: partition.0, to_node_id: to.0, local_only: false };
            let answer = ClusterClient::new(shared.channel(partition)).transfer_leader(timed(request, timeout)).await;
            answer.map(|_| ()).map_err(|status| from_status(&status, false))
        }
        .boxed()
    }
}
