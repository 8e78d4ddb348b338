//! Where work that blocks runs. Production: an OS thread for the log writer, the runtime's blocking pool for the rest. A
//! simulation runs both as tasks, inline, with a latency drawn from its seed.

use std::io;

use futures::future::BoxFuture;

use crate::log_queue::LogWriter;

/// The seam for threads.
pub trait Exec: Send + Sync + 'static {
    /// Starts the node's one log writer: production calls [`LogWriter::run`] on a thread of its own.
    fn spawn_log_writer(&self, writer: LogWriter) -> io::Result<()>;

    /// Runs work that blocks on the disk. The future ends when the work has ended.
    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;
}

/// Runs `work` on `exec` and hands back its result; `None` if the executor dropped it.
pub(crate) async fn run_blocking<T: Send + 'static>(exec: &dyn Exec, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = tokio::sync::oneshot::channel();
    exec.blocking(Box::new(move || {
        let _ = done.send(work());
    }))
    .await;
    result.await.ok()
}
