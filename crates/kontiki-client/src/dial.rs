//! The network seam of the client: how a connection to a node is made. Production dials TCP; the simulation passes its own.

use std::io;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Makes connections.
pub trait Dial: Send + Sync + 'static {
    /// Connects to `addr` (`host:port`). No deadline of its own: the caller sets one (`ClientOptions::connect_timeout`).
    fn dial(&self, addr: String) -> BoxFuture<'static, io::Result<Box<dyn Io>>>;
}

/// Dials TCP, without Nagle's delay (small requests must not wait for each other).
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpDial;

impl Dial for TcpDial {
    #[allow(clippy::disallowed_types, reason = "this is the network seam of the client")]
    fn dial(&self, addr: String) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}
