//! Keys and values over gRPC. With a route the caller has chosen this node, and this node answers or refuses; without one the node's own
//! client finds the right node, with retries and sessions as for any embedded caller.
//!
//! ```text
//!   route: Some ──> Local (this node's replica)
//!   route: None ──> Client ──> Local | another node
//! ```

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use kontiki_client::{ChangesOptions, Client, Endpoint, ScanOptions};
use kontiki_proto::convert::{self, Answerer, header_with_token};
use kontiki_proto::v1::kv_server::Kv;
use kontiki_proto::{error, v1};
use kontiki_types::command::Route;
use kontiki_types::{Bytes, CallError, Error, OpResult, Read, ReadLevel, ReadReply, Reject, Version, Write, WriteReply};
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status};

use super::time_for;
use crate::local::Local;
use crate::metrics::Metrics;

/// `kontiki.v1.Kv`.
pub(crate) struct KvService {
    local: Local,
    client: Client,
    metrics: Metrics,
}

fn refused(reject: Reject) -> Status {
    error::to_status(&reject.into())
}

fn failed(call: CallError) -> Status {
    error::to_status(&call)
}

fn client_failed(public: Error) -> Status {
    error::error_to_status(&public)
}

/// The route, or that none was given.
fn route_of(route: Option<v1::Route>) -> Result<Route, Status> {
    route.map(convert::route_from).ok_or_else(|| refused(Reject::invalid("the request has no route")))
}

impl KvService {
    /// Serves this node's replicas through `local`, and everything else through `client`.
    pub(crate) fn new(local: Local, client: Client, metrics: Metrics) -> Self {
        Self { local, client, metrics }
    }

    async fn counted<T>(
        &self,
        method: &'static str,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let result = work.await;
        self.metrics.grpc(method, &result);
        result.map(Response::new)
    }

    fn answerer(&self, route: Route) -> Answerer {
        Answerer { node: self.local.node(), partition: route.partition }
    }

    async fn read_here(&self, route: Route, (level, read): (ReadLevel, Read), time: Duration) -> Result<ReadReply, Status> {
        self.local.read(route, level, read, time).await.map_err(failed)
    }

    async fn write_here(&self, route: Route, write: Write<Bytes>, time: Duration) -> Result<WriteReply, Status> {
        self.local.write(route, write, time).await.map_err(failed)
    }

    /// The node's own client, with the caller's time; and a place among the calls that are being forwarded.
    fn forward(&self, time: Duration) -> Result<(Client, OwnedSemaphorePermit), Status> {
        let place = self.local.admission().forward().map_err(|retry| failed(retry.into()))?;
        Ok((self.client.with_timeout(time), place))
    }

    /// A write that the node routes for its caller: the version, its results and what was seen.
    async fn write_anywhere(&self, write: Write<Bytes>, time: Duration) -> Result<(WriteReply, v1::ResponseHeader), Status> {
        let (client, _place) = self.forward(time)?;
        let request = write.request;
        let seen = client.write_with(write.into(), request).await.map_err(client_failed)?;
        let header = header_with_token(self.local.node(), &seen.token, seen.age_ms);
        Ok((seen.value, header))
    }

    async fn scan_page(&self, request: v1::ScanRequest, time: Duration) -> Result<v1::ScanResponse, Status> {
        let route = route_of(request.route)?;
        let asked = convert::read_of_scan(request).map_err(refused)?;
        let reply = self.read_here(route, asked.body, time).await?;
        convert::scan_response(self.answerer(route), reply).map_err(refused)
    }

    fn scan_all(&self, request: v1::ScanRequest, time: Duration) -> Result<Scanned, Status> {
        let options = ScanOptions::from_request(request).map_err(refused)?;
        let (client, place) = self.forward(time)?;
        let node = self.local.node();
        let pages = client.scan_pages(options).map(move |page| {
            let _held_until_the_scan_ends = &place;
            let page = page.map_err(client_failed)?;
            Ok(v1::ScanResponse {
                header: Some(header_with_token(node, &page.token, page.age_ms)),
                rows: page.rows.into_iter().map(convert::user_row).collect(),
                resume: page.resume,
                snapshot_version: page.version.0,
            })
        });
        Ok(self.until_stopped(pages))
    }

    /// A stream that ends with an error if the node stops: a caller must not take what came until then for everything.
    fn until_stopped<T: Send + 'static>(
        &self,
        pages: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> BoxStream<'static, Result<T, Status>> {
        let ended = self.local.cut().clone();
        let ending = stream::once(async move { ended.is_cancelled().then(|| Err(Status::unavailable("the node is stopping"))) });
        let until_stopped = pages.take_until(self.local.cut().clone().cancelled_owned());
        until_stopped.chain(ending.filter_map(std::future::ready)).boxed()
    }

    async fn changes_page(&self, request: v1::ChangesRequest, time: Duration) -> Result<v1::ChangesResponse, Status> {
        let route = route_of(request.route)?;
        let (at, changes) = convert::read_of_changes(request).map_err(refused)?.body;
        let reply = self.read_here(route, (ReadLevel::Snapshot(at), Read::Changes(changes)), time).await?;
        convert::changes_response(self.answerer(route), reply).map_err(refused)
    }

    fn changes_all(&self, request: v1::ChangesRequest, time: Duration) -> Result<Changed, Status> {
        let options = ChangesOptions::from_request(request).map_err(refused)?;
        let (client, place) = self.forward(time)?;
        let node = self.local.node();
        let pages = client.changes(options).map(move |page| {
            let _held_until_all_is_told = &place;
            let page = page.map_err(client_failed)?;
            Ok(v1::ChangesResponse {
                header: Some(header_with_token(node, &page.token, 0)),
                changes: page.changes.into_iter().map(convert::user_change).collect(),
                resume: page.resume,
                snapshot_version: page.version.0,
            })
        });
        Ok(self.until_stopped(pages))
    }
}

/// The outcome of one operation as the client hands it out: with user keys already.
fn op_result(result: OpResult) -> v1::OpResult {
    use v1::op_result::Result as Outcome;
    let outcome = match result {
        OpResult::Put => Outcome::Put(v1::PutResult {}),
        OpResult::Deleted { existed } => Outcome::Delete(v1::DeleteResult { existed }),
        OpResult::DeletedRange { count, resume } => Outcome::DeleteRange(v1::DeleteRangeResult { deleted: count, resume }),
    };
    v1::OpResult { result: Some(outcome) }
}

type Scanned = BoxStream<'static, Result<v1::ScanResponse, Status>>;
type Changed = BoxStream<'static, Result<v1::ChangesResponse, Status>>;

#[tonic::async_trait]
impl Kv for KvService {
    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let time = time_for(&request);
        let request = request.into_inner();
        self.counted("Kv/Get", async {
            if request.route.is_some() {
                let route = route_of(request.route)?;
                let asked = convert::read_of_get(request).map_err(refused)?;
                let reply = self.read_here(route, asked.body, time).await?;
                return convert::get_response(self.answerer(route), reply).map_err(refused);
            }
            let level = convert::read_level(request.level).map_err(refused)?;
            let (client, _place) = self.forward(time)?;
            let seen = client.get_with(request.key, level).await.map_err(client_failed)?;
            let header = Some(header_with_token(self.local.node(), &seen.token, seen.age_ms));
            Ok(v1::GetResponse { header, row: seen.value.map(convert::user_row) })
        })
        .await
    }

    async fn batch_get(&self, request: Request<v1::BatchGetRequest>) -> Result<Response<v1::BatchGetResponse>, Status> {
        let time = time_for(&request);
        let request = request.into_inner();
        self.counted("Kv/BatchGet", async {
            if request.route.is_some() {
                let route = route_of(request.route)?;
                let asked = convert::read_of_batch_get(request).map_err(refused)?;
                let reply = self.read_here(route, asked.body, time).await?;
                return convert::batch_get_response(self.answerer(route), reply).map_err(refused);
            }
            let level = convert::read_level(request.level).map_err(refused)?;
            let (client, _place) = self.forward(time)?;
            let seen = client.batch_get_with(request.keys, level).await.map_err(client_failed)?;
            let lookups = seen.value.into_iter().map(|row| v1::Lookup { row: row.map(convert::user_row) }).collect();
            let header = Some(header_with_token(self.local.node(), &seen.token, seen.age_ms));
            Ok(v1::BatchGetResponse { header, lookups })
        })
        .await
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        let time = time_for(&request);
        self.counted("Kv/Put", async {
            let asked = convert::write_of_put(request.into_inner()).map_err(refused)?;
            if let Some(route) = asked.route {
                let reply = self.write_here(route, asked.body, time).await?;
                return Ok(convert::put_response(self.answerer(route), &reply));
            }
            let (reply, header) = self.write_anywhere(asked.body, time).await?;
            Ok(v1::PutResponse { header: Some(header), version: reply.version.0 })
        })
        .await
    }

    async fn delete(&self, request: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        let time = time_for(&request);
        self.counted("Kv/Delete", async {
            let asked = convert::write_of_delete(request.into_inner()).map_err(refused)?;
            if let Some(route) = asked.route {
                let reply = self.write_here(route, asked.body, time).await?;
                return Ok(convert::delete_response(self.answerer(route), &reply));
            }
            let (reply, header) = self.write_anywhere(asked.body, time).await?;
            let from = Answerer { node: self.local.node(), partition: Default::default() };
            Ok(v1::DeleteResponse { header: Some(header), ..convert::delete_response(from, &reply) })
        })
        .await
    }

    async fn delete_range(&self, request: Request<v1::DeleteRangeRequest>) -> Result<Response<v1::DeleteRangeResponse>, Status> {
        let time = time_for(&request);
        let request = request.into_inner();
        self.counted("Kv/DeleteRange", async {
            let (start, end) = (request.start.clone(), request.end.clone());
            let asked = convert::write_of_delete_range(request).map_err(refused)?;
            if let Some(route) = asked.route {
                let reply = self.write_here(route, asked.body, time).await?;
                return convert::delete_range_response(self.answerer(route), &reply).map_err(refused);
            }
            let (client, _place) = self.forward(time)?;
            let seen = client.delete_range_with(start, end).await.map_err(client_failed)?;
            let header = Some(header_with_token(self.local.node(), &seen.token, seen.age_ms));
            Ok(v1::DeleteRangeResponse { header, deleted: seen.value, resume: None })
        })
        .await
    }

    type ScanStream = Pin<Box<dyn Stream<Item = Result<v1::ScanResponse, Status>> + Send>>;

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let time = time_for(&request);
        let request = request.into_inner();
        self.counted("Kv/Scan", async {
            if request.route.is_some() {
                let page = self.scan_page(request, time).await?;
                return Ok(stream::iter([Ok(page)]).boxed() as Self::ScanStream);
            }
            self.scan_all(request, time)
        })
        .await
    }

    type ChangesStream = Pin<Box<dyn Stream<Item = Result<v1::ChangesResponse, Status>> + Send>>;

    async fn changes(&self, request: Request<v1::ChangesRequest>) -> Result<Response<Self::ChangesStream>, Status> {
        let time = time_for(&request);
        let request = request.into_inner();
        self.counted("Kv/Changes", async {
            if request.route.is_some() {
                let page = self.changes_page(request, time).await?;
                return Ok(stream::iter([Ok(page)]).boxed() as Self::ChangesStream);
            }
            self.changes_all(request, time)
        })
        .await
    }

    async fn write(&self, request: Request<v1::WriteRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        let time = time_for(&request);
        self.counted("Kv/Write", async {
            let asked = convert::write_of(request.into_inner()).map_err(refused)?;
            if let Some(route) = asked.route {
                let reply = self.write_here(route, asked.body, time).await?;
                return convert::write_response(self.answerer(route), &reply).map_err(refused);
            }
            let (reply, header) = self.write_anywhere(asked.body, time).await?;
            let results = reply.results.into_iter().map(op_result).collect();
            Ok(v1::WriteResponse { header: Some(header), version: reply.version.0, results })
        })
        .await
    }

    async fn open_session(&self, request: Request<v1::OpenSessionRequest>) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let time = time_for(&request);
        let request = request.into_inner();
        self.counted("Kv/OpenSession", async {
            if request.route.is_some() {
                let route = route_of(request.route)?;
                let session = self.local.open_session(route, time).await.map_err(failed)?;
                return Ok(convert::open_session_response(self.answerer(route), session));
            }
            let (client, _place) = self.forward(time)?;
            let seen = client.open_session(request.key).await.map_err(client_failed)?;
            let from = Answerer { node: self.local.node(), partition: seen.value.partition };
            let header = Some(header_with_token(self.local.node(), &seen.token, 0));
            Ok(v1::OpenSessionResponse { header, ..convert::open_session_response(from, seen.value) })
        })
        .await
    }

    async fn clock(&self, request: Request<v1::ClockRequest>) -> Result<Response<v1::ClockResponse>, Status> {
        let time = time_for(&request);
        let request = request.into_inner();
        self.counted("Kv/Clock", async {
            let to = Version(request.advance_to);
            if request.route.is_some() {
                let route = route_of(request.route)?;
                let from = self.answerer(route);
                if to > Version::ZERO {
                    let clock = self.local.advance_clock(route, to, time).await.map_err(failed)?;
                    return Ok(convert::clock_response(from, clock, 0));
                }
                let asked = convert::read_of_clock(&request).map_err(refused)?;
                let reply = self.read_here(route, asked.body, time).await?;
                return Ok(convert::clock_response(from, reply.clock, reply.age_ms));
            }
            let (client, _place) = self.forward(time)?;
            let seen = if to > Version::ZERO {
                client.advance_clock(request.key, to).await
            } else {
                client.clock(request.key, convert::read_level(request.level).map_err(refused)?).await
            };
            let seen = seen.map_err(client_failed)?;
            Ok(v1::ClockResponse { header: Some(header_with_token(self.local.node(), &seen.token, seen.age_ms)) })
        })
        .await
    }
}
