//! gRPC: thin on purpose. A service turns a request into a call of the layer below (with a route: this node; without: the node's own
//! client, which finds the right one), and the answer into a response. Nothing is decided here.

mod cluster;
mod kv;
mod peer;

use std::time::Duration;

use kontiki_proto::{CLUSTER_METADATA, error};
use kontiki_types::{ClusterId, Reject};

pub(crate) use cluster::ClusterService;
pub(crate) use kv::KvService;
pub(crate) use peer::PeerService;

use crate::local::Local;

/// Refuses callers who mean another cluster, before anything is looked at.
pub(crate) fn only_this_cluster(local: Local) -> impl tonic::service::Interceptor + Clone {
    move |request: tonic::Request<()>| {
        let Some(said) = request.metadata().get(CLUSTER_METADATA) else { return Ok(request) };
        let asked = said.to_str().ok().and_then(ClusterId::parse);
        let asked = asked.ok_or_else(|| {
            Reject::invalid(format!("the metadata {CLUSTER_METADATA} is not a UUID; give the cluster's id or leave it out"))
        });
        let checked = asked.and_then(|asked| local.check_cluster(Some(asked)));
        checked.map(|()| request).map_err(|reject| error::to_status(&reject.into()))
    }
}

/// A caller who states no deadline gets this much time.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);
/// No call is worked on for longer than this, whatever its caller says.
const DEADLINE_MAX: Duration = Duration::from_secs(300);
/// The caller's deadline, less this: an answer that says what happened must still arrive in time.
const DEADLINE_MARGIN: Duration = Duration::from_millis(20);

/// The time for a call, from gRPC's `grpc-timeout` header.
fn time_for<T>(request: &tonic::Request<T>) -> Duration {
    let stated = request.metadata().get("grpc-timeout").and_then(|value| parse_timeout(value.to_str().ok()?));
    let time = stated.unwrap_or(DEADLINE_DEFAULT).min(DEADLINE_MAX);
    time.saturating_sub(DEADLINE_MARGIN.min(time / 4))
}

/// At most eight digits and a unit, as the gRPC protocol has it.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_timeout(value: &'static str) -> tonic::Request<()> {
        let mut request = tonic::Request::new(());
        request.metadata_mut().insert("grpc-timeout", tonic::metadata::MetadataValue::from_static(value));
        request
    }

    #[test]
    fn the_callers_deadline_rules_within_bounds() {
        assert_eq!(time_for(&with_timeout("2S")), Duration::from_millis(1980));
        assert_eq!(time_for(&with_timeout("8m")), Duration::from_millis(6));
        assert_eq!(time_for(&with_timeout("99999999H")), DEADLINE_MAX - DEADLINE_MARGIN);
        for nonsense in ["", "S", "1", "1x", "123456789S", "-1S"] {
            assert_eq!(time_for(&with_timeout(nonsense)), DEADLINE_DEFAULT - DEADLINE_MARGIN, "{nonsense}");
        }
        assert_eq!(time_for(&tonic::Request::new(())), DEADLINE_DEFAULT - DEADLINE_MARGIN);
    }
}
