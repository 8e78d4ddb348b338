//! What operators and schedulers ask over plain HTTP: `/metrics` in Prometheus text, `/livez` (the process works), `/readyz` (it
//! serves everything it should; if not, the body says what is missing).

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use tokio_util::sync::CancellationToken;

use crate::connection::Incoming;
use crate::local::Local;
use crate::metrics::Metrics;

/// What Prometheus expects of its text form.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Probes {
    local: Local,
    metrics: Metrics,
}

/// Serves until `stopped`.
pub(crate) async fn serve(incoming: Incoming, local: Local, metrics: Metrics, stopped: CancellationToken) {
    let routes = Router::new().route("/metrics", get(metrics_text)).route("/livez", get(livez)).route("/readyz", get(readyz));
    let routes = routes.with_state(Probes { local, metrics });
    let serving = axum::serve(incoming, routes).with_graceful_shutdown(stopped.cancelled_owned());
    if let Err(error) = serving.await {
        tracing::error!(%error, "HTTP is no longer served");
    }
}

async fn metrics_text(State(probes): State<Probes>) -> Response {
    ([(CONTENT_TYPE, METRICS_TYPE)], probes.metrics.text(&probes.local)).into_response()
}

/// A node whose log is broken will not get better by itself: a scheduler should restart it or look.
async fn livez(State(probes): State<Probes>) -> (StatusCode, String) {
    match probes.local.log_fault() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(fault) => (StatusCode::SERVICE_UNAVAILABLE, format!("{fault}\n")),
    }
}

async fn readyz(State(probes): State<Probes>) -> (StatusCode, String) {
    match probes.local.not_ready() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
