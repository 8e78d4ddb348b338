//! The same cluster behind real gRPC (tonic over pipes in memory): what works by function calls works over the wire, and what the wire
//! breaks is told apart.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use kontiki_proto::convert::{self, Answerer, Asked};
use kontiki_proto::error::to_status;
use kontiki_proto::v1;
use kontiki_proto::v1::cluster_server::{Cluster as ClusterApi, ClusterServer};
use kontiki_proto::v1::kv_server::{Kv, KvServer};
use kontiki_types::command::Route;
use kontiki_types::{
    CallError, Epoch, ErrorKind, NodeId, Op, PartitionId, Read, ReadLevel, ReadReply, Reject, RequestId, Retry, SessionId,
    Version, Write,
};
use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::fake::{Cluster, NODES, Node, addr, internal, node_at};
use super::options;
use crate::endpoint::Endpoint;
use crate::{Client, ClientOptions, Dial, Io, Remote, ScanOptions, WriteBatch};

/// One node's services; routed calls only, which is all that a client makes.
#[derive(Clone)]
struct Service {
    id: NodeId,
    node: Arc<Node>,
}

const TIME: Duration = Duration::from_secs(5);

impl Service {
    fn from(&self, route: Route) -> Answerer {
        Answerer { node: self.id, partition: route.partition }
    }

    async fn read(&self, asked: Result<Asked<(ReadLevel, Read)>, Reject>) -> Result<(Answerer, ReadReply), Status> {
        let asked = asked.map_err(refused)?;
        let (route, (level, read)) = (asked.route.expect("routed"), asked.body);
        let reply = self.node.read(route, level, read, TIME).await.map_err(|error| to_status(&error))?;
        Ok((self.from(route), reply))
    }
}

fn refused(reject: Reject) -> Status {
    to_status(&reject.into())
}

#[tonic::async_trait]
impl Kv for Service {
    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let (from, reply) = self.read(convert::read_of_get(request.into_inner())).await?;
        convert::get_response(from, reply).map(Response::new).map_err(refused)
    }
    async fn batch_get(&self, request: Request<v1::BatchGetRequest>) -> Result<Response<v1::BatchGetResponse>, Status> {
        let (from, reply) = self.read(convert::read_of_batch_get(request.into_inner())).await?;
        convert::batch_get_response(from, reply).map(Response::new).map_err(refused)
    }
    async fn put(&self, _: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        Err(Status::unimplemented("the client sends Write"))
    }
    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        Err(Status::unimplemented("the client sends Write"))
    }
    async fn delete_range(&self, _: Request<v1::DeleteRangeRequest>) -> Result<Response<v1::DeleteRangeResponse>, Status> {
        Err(Status::unimplemented("the client sends Write"))
    }
    type ScanStream = BoxStream<'static, Result<v1::ScanResponse, Status>>;
    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let (from, reply) = self.read(convert::read_of_scan(request.into_inner())).await?;
        let page = convert::scan_response(from, reply).map_err(refused);
        Ok(Response::new(stream::once(async { page }).boxed()))
    }
    type ChangesStream = BoxStream<'static, Result<v1::ChangesResponse, Status>>;
    async fn changes(&self, request: Request<v1::ChangesRequest>) -> Result<Response<Self::ChangesStream>, Status> {
        let asked = convert::read_of_changes(request.into_inner()).map_err(refused)?;
        let (at, changes) = asked.body;
        let asked = convert::Asked { route: asked.route, body: (ReadLevel::Snapshot(at), Read::Changes(changes)) };
        let (from, reply) = self.read(Ok(asked)).await?;
        let page = convert::changes_response(from, reply).map_err(refused);
        Ok(Response::new(stream::once(async { page }).boxed()))
    }
    async fn write(&self, request: Request<v1::WriteRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        let asked = convert::write_of(request.into_inner()).map_err(refused)?;
        let route = asked.route.expect("routed");
        let reply = self.node.write(route, asked.body, TIME).await.map_err(|error| to_status(&error))?;
        convert::write_response(self.from(route), &reply).map(Response::new).map_err(refused)
    }
    async fn open_session(&self, request: Request<v1::OpenSessionRequest>) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let route = convert::route_from(request.into_inner().route.expect("routed"));
        let session = self.node.open_session(route, TIME).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(convert::open_session_response(self.from(route), session)))
    }
    async fn clock(&self, request: Request<v1::ClockRequest>) -> Result<Response<v1::ClockResponse>, Status> {
        let request = request.into_inner();
        if request.advance_to == 0 {
            let (from, reply) = self.read(convert::read_of_clock(&request)).await?;
            return Ok(Response::new(convert::clock_response(from, reply.clock, reply.age_ms)));
        }
        let route = convert::route_from(request.route.expect("routed"));
        let clock = self.node.advance_clock(route, Version(request.advance_to), TIME).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(convert::clock_response(self.from(route), clock, 0)))
    }
}

#[tonic::async_trait]
impl ClusterApi for Service {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let status = self.node.status(TIME).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(v1::StatusResponse { status: Some((&status).into()) }))
    }
    async fn nodes(&self, _: Request<v1::NodesRequest>) -> Result<Response<v1::NodesResponse>, Status> {
        Err(Status::unimplemented("the client asks for Partitions"))
    }
    async fn partitions(&self, _: Request<v1::PartitionsRequest>) -> Result<Response<v1::PartitionsResponse>, Status> {
        let map = self.node.map(TIME).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(convert::partitions_response(&map, &BTreeMap::new())))
    }
    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let v1::TransferLeaderRequest { partition_id, to_node_id, .. } = request.into_inner();
        let moved = self.node.transfer_leader(PartitionId(partition_id), NodeId(to_node_id), TIME).await;
        moved.map(|()| Response::new(v1::TransferLeaderResponse {})).map_err(|error| to_status(&error))
    }

    async fn join(&self, _: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        Err(Status::unimplemented("no part of these tests"))
    }

    async fn change_replicas(
        &self,
        _: Request<v1::ChangeReplicasRequest>,
    ) -> Result<Response<v1::ChangeReplicasResponse>, Status> {
        Err(Status::unimplemented("no part of these tests"))
    }

    async fn decommission(&self, _: Request<v1::DecommissionRequest>) -> Result<Response<v1::DecommissionResponse>, Status> {
        Err(Status::unimplemented("no part of these tests"))
    }

    async fn remove_node(&self, _: Request<v1::RemoveNodeRequest>) -> Result<Response<v1::RemoveNodeResponse>, Status> {
        Err(Status::unimplemented("no part of these tests"))
    }
}

/// How dialing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Works,
    Refused,
    /// Connected, and then not a word.
    Silent,
}

/// A network in memory: every dialed pipe is served by the node at that address.
struct Pipes {
    cluster: Cluster,
    line: Mutex<Line>,
    dialed: AtomicU32,
    /// Told of each dial.
    dialing: tokio::sync::Notify,
    /// The far ends of silent pipes, kept open.
    silent: Mutex<Vec<DuplexStream>>,
    /// The tasks that serve; aborting one breaks its connection.
    serving: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

impl Pipes {
    fn new(cluster: &Cluster) -> Arc<Self> {
        Arc::new(Self {
            cluster: cluster.clone(),
            line: Mutex::new(Line::Works),
            dialed: AtomicU32::new(0),
            dialing: tokio::sync::Notify::new(),
            silent: Mutex::default(),
            serving: Mutex::default(),
        })
    }

    fn dial(self: &Arc<Self>) -> Arc<dyn Dial> {
        Arc::new(Dialer(Arc::clone(self)))
    }

    fn break_all(&self) {
        self.serving.lock().drain(..).for_each(|serving| serving.abort());
    }
}

struct Dialer(Arc<Pipes>);

impl Dial for Dialer {
    fn dial(&self, addr: String) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let pipes = Arc::clone(&self.0);
        Box::pin(async move {
            pipes.dialed.fetch_add(1, Ordering::SeqCst);
            pipes.dialing.notify_one();
            let line = *pipes.line.lock();
            if line == Line::Refused {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let (near, far) = tokio::io::duplex(64 * 1024);
            if line == Line::Silent {
                pipes.silent.lock().push(far);
                return Ok(Box::new(near) as Box<dyn Io>);
            }
            let id = node_at(&addr);
            let service = Service { id, node: Arc::new(pipes.cluster.node(id)) };
            let kv = KvServer::new(service.clone())
                .max_decoding_message_size(kontiki_types::limits::MESSAGE_BYTES_MAX)
                .max_encoding_message_size(kontiki_types::limits::MESSAGE_BYTES_MAX);
            let server = tonic::transport::Server::builder().add_service(kv).add_service(ClusterServer::new(service));
            let incoming = stream::once(async move { Ok::<_, io::Error>(far) }).chain(stream::pending());
            let serving = tokio::spawn(async move { server.serve_with_incoming(incoming).await.expect("serves") });
            pipes.serving.lock().push(serving);
            Ok(Box::new(near) as Box<dyn Io>)
        })
    }
}

async fn connect(pipes: &Arc<Pipes>) -> Client {
    Client::connect_by(pipes.dial(), NODES.map(addr), options()).await.expect("connects")
}

#[tokio::test(start_paused = true)]
async fn the_api_works_over_grpc() {
    let cluster = Cluster::new(&["d", "m"]);
    cluster.lead(2, Some(2));
    let client = connect(&Pipes::new(&cluster)).await;
    for key in ["a", "b", "c", "d", "n"] {
        client.put(key, key).await.expect("written");
    }
    cluster.split(2, "b", 9);
    cluster.lead(9, Some(3));
    assert_eq!(client.get("b").await.expect("read").expect("there").value, "b");
    let rows = client.batch_get(["n", "x", "a"].map(Bytes::from).into(), ReadLevel::Linearizable).await.expect("read");
    assert_eq!(
        rows.iter().map(|row| row.as_ref().map(|row| row.key.clone())).collect::<Vec<_>>(),
        [Some("n".into()), None, Some("a".into())]
    );
    let scan = client.scan(ScanOptions::all().page(2, u32::MAX).reverse());
    let keys: Vec<_> = scan.map_ok(|row| row.key).try_collect().await.expect("scans");
    assert_eq!(keys, ["n", "d", "c", "b", "a"]);
    let version = client.get("a").await.expect("read").expect("there").version;
    client.write(WriteBatch::new().if_version("a", version).put("a", "2")).await.expect("holds");
    let error = client.write(WriteBatch::new().if_version("a", version).put("a", "3")).await.expect_err("does not");
    assert!(matches!(error.reject(), Some(Reject::ConditionFailed { key, .. }) if key == "a"), "{error}");
    let large = Bytes::from(vec![7u8; 1024 * 1024]);
    client.put("large", large.clone()).await.expect("1 MiB");
    assert_eq!(client.get("large").await.expect("read").expect("there").value, large);
    assert!(client.delete("d").await.expect("deleted").existed);
    assert_eq!(client.delete_range("", "").await.expect("deleted"), 5);
    client.transfer_leader(PartitionId(3), NodeId(2)).await.expect("moved");
    assert!(client.status().await.expect("told").iter().all(|(_, status)| status.is_ok()));
}

fn the_write() -> (Route, Write<Bytes>) {
    let epoch = Epoch { conf: 1, bounds: 1 };
    let session = SessionId { partition: PartitionId(2), opened: Version(1) };
    let request = Some(RequestId { session, sequence: 1, acknowledged_below: 1 });
    let ops = vec![Op::Put { key: internal("k"), value: "v".into() }];
    (Route { partition: PartitionId(2), epoch }, Write { epoch, request, conditions: vec![], ops })
}

#[tokio::test(start_paused = true)]
async fn what_was_never_sent_is_not_in_doubt_and_the_breaker_saves_the_dials() {
    let pipes = Pipes::new(&Cluster::new(&[]));
    *pipes.line.lock() = Line::Refused;
    let options = ClientOptions { breaker_failures: 3, ..options() };
    let remote = Remote::new("node-1:7601", pipes.dial(), &options).expect("an address");
    let (route, write) = the_write();
    for round in 0..20 {
        let error = remote.write(route, write.clone(), TIME).await.expect_err("refused");
        assert!(matches!(error, CallError::Retry(Retry::Unavailable { .. })), "{round}: {error}");
        assert!(error.to_string().contains("node-1:7601"), "{error}");
        assert!(error.to_string().to_lowercase().contains("connection refused"), "{round}: {error}");
    }
    assert_eq!(pipes.dialed.load(Ordering::SeqCst), 3, "then its breaker is open");
    assert!(!remote.is_reachable());
    *pipes.line.lock() = Line::Works;
    tokio::time::advance(options.breaker_open).await;
    remote.map(TIME).await.expect("the probe goes through");
    assert!(remote.is_reachable());
}

#[tokio::test(start_paused = true)]
async fn silence_and_broken_connections_leave_a_write_in_doubt_and_a_read_not() {
    let cluster = Cluster::new(&[]);
    let pipes = Pipes::new(&cluster);
    *pipes.line.lock() = Line::Silent;
    let remote = Remote::new("node-1:7601", pipes.dial(), &options()).expect("an address");
    let (route, write) = the_write();
    let start = Instant::now();
    let error = remote.write(route, write.clone(), Duration::from_millis(400)).await.expect_err("silence");
    assert!(matches!(error, CallError::Ambiguous(_)), "{error}");
    assert!(start.elapsed() <= Duration::from_millis(500), "{:?}", start.elapsed());
    let error = remote.read(route, ReadLevel::Linearizable, Read::Clock, Duration::from_millis(400)).await.expect_err("silence");
    assert!(matches!(error, CallError::Retry(Retry::Unavailable { .. })), "{error}");
    // Nobody answers pings: the connection is given up long before the call's own time.
    let error = remote.write(route, write.clone(), Duration::from_secs(60)).await.expect_err("dead");
    assert!(matches!(error, CallError::Ambiguous(_)), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());

    *pipes.line.lock() = Line::Works;
    let remote = Remote::new("node-1:7601", pipes.dial(), &options()).expect("an address");
    remote.map(TIME).await.expect("connected");
    cluster.state().faults.push_back(super::fake::Fault::Hang);
    cluster.state().partitions.get_mut(&PartitionId(2)).expect("there").leader = Some(NodeId(1));
    let writing = tokio::spawn(remote.write(route, write, TIME));
    cluster.until(|cluster| !cluster.writes_asked().is_empty()).await;
    pipes.break_all();
    let error = writing.await.expect("no panic").expect_err("broken");
    assert!(matches!(error, CallError::Ambiguous(_)), "{error}");
    remote.map(TIME).await.expect("connects again");
}

#[tokio::test(start_paused = true)]
async fn a_key_too_large_for_the_error_is_filled_in_again() {
    let cluster = Cluster::new(&[]);
    let client = connect(&Pipes::new(&cluster)).await;
    let key = Bytes::from(vec![b'k'; 16 * 1024]);
    client.put(key.clone(), "1").await.expect("written");
    let error = client.write(WriteBatch::new().if_absent(key.clone()).put("k", "2")).await.expect_err("it is there");
    assert!(matches!(error.reject(), Some(Reject::ConditionFailed { key: told, .. }) if *told == key), "{error}");
}

#[tokio::test(start_paused = true)]
async fn addresses_that_cannot_be_are_named_at_once() {
    for (bad, word) in [("no-port", "no port"), ("a b:1", "host:port")] {
        let error = Client::connect([bad]).await.expect_err("not an address");
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(word) && error.to_string().contains(bad), "{error}");
    }
    let none: [&str; 0] = [];
    assert_eq!(Client::connect(none).await.expect_err("nothing").kind(), ErrorKind::Config);
}

#[tokio::test(start_paused = true)]
async fn connecting_waits_for_a_cluster_that_comes_up_and_gives_up_in_time() {
    let cluster = Cluster::new(&[]);
    let pipes = Pipes::new(&cluster);
    *pipes.line.lock() = Line::Refused;
    let start = Instant::now();
    let error = Client::connect_by(pipes.dial(), NODES.map(addr), options()).await.expect_err("nobody there");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(start.elapsed() <= options().timeout);
    let connecting = tokio::spawn({
        let pipes = Arc::clone(&pipes);
        async move { connect(&pipes).await }
    });
    let dialed = pipes.dialed.load(Ordering::SeqCst);
    while pipes.dialed.load(Ordering::SeqCst) < dialed + 3 {
        pipes.dialing.notified().await;
    }
    *pipes.line.lock() = Line::Works;
    let client = connecting.await.expect("connects");
    assert_eq!(client.map().partitions.len(), 2);
}
