//! Connections that others make to this node, for gRPC and HTTP alike. They end when the node stops, whatever runs on them: a peer's
//! stream never ends by itself, and a stopped node must give its files back at once.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::stream;
use kontiki_client::Io;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use crate::env::Listener;

/// After a failed accept (too many open files, mostly): trying at once would only burn a core.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The connections made to one address.
pub(crate) struct Incoming {
    listener: Box<dyn Listener>,
    cut: CancellationToken,
}

impl Incoming {
    /// Takes connections from `listener`; all of them break when `cut` is set.
    pub(crate) fn new(listener: Box<dyn Listener>, cut: CancellationToken) -> Self {
        Self { listener, cut }
    }

    async fn next(&mut self) -> (Connection, String) {
        loop {
            match self.listener.accept().await {
                Ok((io, from)) => return (Connection::new(io, self.cut.child_token()), from),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    sleep(ACCEPT_AGAIN_AFTER).await;
                }
            }
        }
    }

    /// The connections as a stream, for tonic. Ends when they are cut.
    pub(crate) fn into_stream(self) -> impl Stream<Item = io::Result<Connection>> + Send {
        let cut = self.cut.clone();
        let connections = stream::unfold(self, |mut incoming| async move {
            let (connection, _) = incoming.next().await;
            Some((Ok(connection), incoming))
        });
        futures::StreamExt::take_until(connections, cut.cancelled_owned())
    }
}

impl axum::serve::Listener for Incoming {
    type Io = Connection;
    type Addr = String;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        self.next().await
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// One connection, which breaks when the node stops.
pub(crate) struct Connection {
    io: Box<dyn Io>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    is_cut: bool,
}

impl Connection {
    fn new(io: Box<dyn Io>, cut: CancellationToken) -> Self {
        Self { io, cut: Box::pin(cut.cancelled_owned()), is_cut: false }
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_cut = self.is_cut || self.cut.as_mut().poll(cx).is_ready();
        self.is_cut
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Nothing more to read is how a peer's end looks; the reader always waits here, so it is woken.
        if self.poll_cut(cx) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_cut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.is_cut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_cut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
