//! Reads on the wire: Get, BatchGet, Scan and Changes (one page) and Clock.

use bytes::Bytes;
use kontiki_types::command::Route;
use kontiki_types::limits::{self, SCAN_PAGE_BYTES_MAX, SCAN_ROWS_MAX};
use kontiki_types::read::{Change, Changes, ReadData, Scan};
use kontiki_types::{CallError, Read, ReadLevel, ReadReply, Reject, Row, Version, key};

use super::{Answerer, Asked, header, internal_key, internal_range, missing, route_to, token, token_to, user_key, user_range};
use crate::v1;

/// A read level; left out it is linearizable.
pub fn read_level(level: Option<v1::ReadLevel>) -> Result<ReadLevel, Reject> {
    use v1::read_level::Level;
    Ok(match level.and_then(|level| level.level) {
        None | Some(Level::Linearizable(v1::Linearizable {})) => ReadLevel::Linearizable,
        Some(Level::AtLeast(seen)) => ReadLevel::AtLeast(token(seen)?),
        Some(Level::BoundedStaleMs(age_ms_max)) => ReadLevel::BoundedStale { age_ms_max },
        Some(Level::SnapshotVersion(version)) => ReadLevel::Snapshot(Version(version)),
    })
}

/// A read level, to the wire. The default is left out.
pub fn read_level_to(level: &ReadLevel) -> Option<v1::ReadLevel> {
    use v1::read_level::Level;
    let level = match level {
        ReadLevel::Linearizable => return None,
        ReadLevel::AtLeast(seen) => Level::AtLeast(token_to(seen)),
        ReadLevel::BoundedStale { age_ms_max } => Level::BoundedStaleMs(*age_ms_max),
        ReadLevel::Snapshot(version) => Level::SnapshotVersion(version.0),
    };
    Some(v1::ReadLevel { level: Some(level) })
}

/// A row from the wire: internal key.
pub fn row(row: v1::Row) -> Row {
    Row { key: internal_key(&row.key), value: row.value, version: Version(row.version) }
}

/// A row with an internal key, to the wire.
pub fn row_to(row: Row) -> Result<v1::Row, Reject> {
    Ok(v1::Row { key: user_key(&row.key)?, value: row.value, version: row.version.0 })
}

/// A row that has a user key already (as the client hands them out), to the wire.
pub fn user_row(row: Row) -> v1::Row {
    v1::Row { key: row.key, value: row.value, version: row.version.0 }
}

fn checked(route: Option<v1::Route>, level: Option<v1::ReadLevel>, read: Read) -> Result<Asked<(ReadLevel, Read)>, Reject> {
    limits::check_read(&read)?;
    Ok(Asked::new(route, (read_level(level)?, read)))
}

/// What a `Get` asks.
pub fn read_of_get(request: v1::GetRequest) -> Result<Asked<(ReadLevel, Read)>, Reject> {
    checked(request.route, request.level, Read::Get { keys: vec![internal_key(&request.key)] })
}

/// What a `BatchGet` asks.
pub fn read_of_batch_get(request: v1::BatchGetRequest) -> Result<Asked<(ReadLevel, Read)>, Reject> {
    // Counted before the keys are copied.
    if request.keys.len() > limits::BATCH_GET_KEYS_MAX {
        return checked(request.route, request.level, Read::Get { keys: request.keys });
    }
    let keys = request.keys.iter().map(|key| internal_key(key)).collect();
    checked(request.route, request.level, Read::Get { keys })
}

/// What a `Scan` asks: with a route, this one page; without, the first page of it (`rows_max` is then `limit` if that is smaller
/// than a page).
pub fn read_of_scan(request: v1::ScanRequest) -> Result<Asked<(ReadLevel, Read)>, Reject> {
    let (start, end) = match (request.prefix.is_empty(), request.start.is_empty() && request.end.is_empty()) {
        (true, _) => (request.start, request.end),
        (false, true) => (request.prefix.clone(), key::prefix_end(&request.prefix)),
        (false, false) => return Err(Reject::invalid("both a prefix and a start or end are given; use one of them")),
    };
    let rows_max = match request.limit {
        0 => SCAN_ROWS_MAX,
        limit if request.route.is_none() => limit.min(u64::from(SCAN_ROWS_MAX)) as u32,
        limit => u32::try_from(limit).unwrap_or(u32::MAX),
    };
    let bytes_max = if request.page_bytes_max == 0 { SCAN_PAGE_BYTES_MAX } else { request.page_bytes_max };
    let range = internal_range(&start, &end);
    let scan = Scan { range, reverse: request.reverse, keys_only: request.keys_only, rows_max, bytes_max };
    checked(request.route, request.level, Read::Scan(scan))
}

/// What a `Clock` asks, unless it moves the clock.
pub fn read_of_clock(request: &v1::ClockRequest) -> Result<Asked<(ReadLevel, Read)>, Reject> {
    checked(request.route, request.level.clone(), Read::Clock)
}

/// A read of one key, to the wire.
pub fn get_request(route: Route, level: &ReadLevel, key: &Bytes) -> Result<v1::GetRequest, Reject> {
    Ok(v1::GetRequest { key: user_key(key)?, level: read_level_to(level), route: Some(route_to(route)) })
}

/// A read of several keys, to the wire.
pub fn batch_get_request(route: Route, level: &ReadLevel, keys: &[Bytes]) -> Result<v1::BatchGetRequest, Reject> {
    let keys = keys.iter().map(user_key).collect::<Result<_, _>>()?;
    Ok(v1::BatchGetRequest { keys, level: read_level_to(level), route: Some(route_to(route)) })
}

/// A page, to the wire.
pub fn scan_request(route: Route, level: &ReadLevel, scan: &Scan) -> Result<v1::ScanRequest, Reject> {
    let (start, end) = user_range(&scan.range)?;
    Ok(v1::ScanRequest {
        start,
        end,
        prefix: Bytes::new(),
        reverse: scan.reverse,
        keys_only: scan.keys_only,
        limit: u64::from(scan.rows_max),
        page_bytes_max: scan.bytes_max,
        level: read_level_to(level),
        route: Some(route_to(route)),
    })
}

/// What a `Changes` asks: with a route, this one page; without, the first page of it. The level is `Snapshot(Version::ZERO)` where the
/// newest version is asked for.
pub fn read_of_changes(request: v1::ChangesRequest) -> Result<Asked<(Version, Changes)>, Reject> {
    if request.route.is_some() && request.snapshot_version == 0 {
        return Err(Reject::invalid("the request has a route and no snapshot_version; a smart client chooses the version"));
    }
    let rows_max = if request.page_rows_max == 0 { SCAN_ROWS_MAX } else { request.page_rows_max };
    let bytes_max = if request.page_bytes_max == 0 { SCAN_PAGE_BYTES_MAX } else { request.page_bytes_max };
    let range = internal_range(&request.start, &request.end);
    let changes = Changes { range, after: Version(request.after_version), rows_max, bytes_max };
    limits::check_read(&Read::Changes(changes.clone()))?;
    Ok(Asked::new(request.route, (Version(request.snapshot_version), changes)))
}

/// A page of changes at a version, to the wire.
pub fn changes_request(route: Route, at: Version, changes: &Changes) -> Result<v1::ChangesRequest, Reject> {
    let (start, end) = user_range(&changes.range)?;
    Ok(v1::ChangesRequest {
        start,
        end,
        after_version: changes.after.0,
        snapshot_version: at.0,
        page_rows_max: changes.rows_max,
        page_bytes_max: changes.bytes_max,
        route: Some(route_to(route)),
    })
}

/// A change that has a user key already, to the wire.
pub fn user_change(change: Change) -> v1::Change {
    v1::Change { key: change.key, value: change.value, version: change.version.0 }
}

/// A question for the clock, to the wire; `advance_to` above zero moves it.
pub fn clock_request(route: Route, level: &ReadLevel, advance_to: Version) -> v1::ClockRequest {
    v1::ClockRequest { key: Bytes::new(), advance_to: advance_to.0, level: read_level_to(level), route: Some(route_to(route)) }
}

fn wrong_kind() -> Reject {
    Reject::invalid("the replica answered with another kind of data than was asked")
}

/// The answer of one partition to a `Get`.
pub fn get_response(from: Answerer, reply: ReadReply) -> Result<v1::GetResponse, Reject> {
    let ReadData::Values(values) = reply.data else { return Err(wrong_kind()) };
    let row = values.into_iter().next().flatten().map(row_to).transpose()?;
    Ok(v1::GetResponse { header: Some(header(from, reply.clock, reply.age_ms)), row })
}

/// The answer of one partition to a `BatchGet`.
pub fn batch_get_response(from: Answerer, reply: ReadReply) -> Result<v1::BatchGetResponse, Reject> {
    let ReadData::Values(values) = reply.data else { return Err(wrong_kind()) };
    let lookup = |value: Option<Row>| Ok(v1::Lookup { row: value.map(row_to).transpose()? });
    let lookups = values.into_iter().map(lookup).collect::<Result<_, Reject>>()?;
    Ok(v1::BatchGetResponse { header: Some(header(from, reply.clock, reply.age_ms)), lookups })
}

/// The answer of one partition to a `Scan` with a route.
pub fn scan_response(from: Answerer, reply: ReadReply) -> Result<v1::ScanResponse, Reject> {
    let ReadData::Page { rows, resume } = reply.data else { return Err(wrong_kind()) };
    let rows = rows.into_iter().map(row_to).collect::<Result<_, _>>()?;
    let resume = resume.as_ref().map(user_key).transpose()?;
    Ok(v1::ScanResponse { header: Some(header(from, reply.clock, reply.age_ms)), rows, resume, snapshot_version: 0 })
}

/// The answer of one partition to a `Changes` with a route.
pub fn changes_response(from: Answerer, reply: ReadReply) -> Result<v1::ChangesResponse, Reject> {
    let ReadData::Changes { changes, resume } = reply.data else { return Err(wrong_kind()) };
    let changes = changes.into_iter().map(|change| Ok(user_change(Change { key: user_key(&change.key)?, ..change })));
    let changes = changes.collect::<Result<_, Reject>>()?;
    let resume = resume.as_ref().map(user_key).transpose()?;
    Ok(v1::ChangesResponse { header: Some(header(from, reply.clock, reply.age_ms)), changes, resume, snapshot_version: 0 })
}

/// The answer of one partition to a `Clock`.
pub fn clock_response(from: Answerer, clock: Version, age_ms: u64) -> v1::ClockResponse {
    v1::ClockResponse { header: Some(header(from, clock, age_ms)) }
}

fn reply(header: Option<v1::ResponseHeader>, data: ReadData) -> Result<ReadReply, CallError> {
    let header = header.ok_or_else(|| missing("header"))?;
    Ok(ReadReply { clock: Version(header.clock), age_ms: header.age_ms, data })
}

/// The reply in a routed `Get`'s response.
pub fn reply_of_get(response: v1::GetResponse) -> Result<ReadReply, CallError> {
    reply(response.header, ReadData::Values(vec![response.row.map(row)]))
}

/// The reply in a routed `BatchGet`'s response.
pub fn reply_of_batch_get(response: v1::BatchGetResponse) -> Result<ReadReply, CallError> {
    let values = response.lookups.into_iter().map(|lookup| lookup.row.map(row)).collect();
    reply(response.header, ReadData::Values(values))
}

/// The reply in a routed `Scan`'s one response.
pub fn reply_of_scan(response: v1::ScanResponse) -> Result<ReadReply, CallError> {
    let rows = response.rows.into_iter().map(row).collect();
    let resume = response.resume.map(|key| internal_key(&key));
    reply(response.header, ReadData::Page { rows, resume })
}

/// The reply in a routed `Changes`' one response.
pub fn reply_of_changes(response: v1::ChangesResponse) -> Result<ReadReply, CallError> {
    let change =
        |change: v1::Change| Change { key: internal_key(&change.key), value: change.value, version: Version(change.version) };
    let changes = response.changes.into_iter().map(change).collect();
    let resume = response.resume.map(|key| internal_key(&key));
    reply(response.header, ReadData::Changes { changes, resume })
}

/// The reply in a routed `Clock`'s response.
pub fn reply_of_clock(response: v1::ClockResponse) -> Result<ReadReply, CallError> {
    reply(response.header, ReadData::Clock)
}
