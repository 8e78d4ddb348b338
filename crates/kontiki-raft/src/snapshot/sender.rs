//! The sending end of a snapshot. openraft calls it once for each attempt and repeats it, with a pause, until it succeeds; what was
//! acknowledged before is not sent again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use kontiki_storage::machine::Chunk;
use kontiki_types::Fault;
use openraft::errors::{ReplicationClosed, StreamingError, Unreachable};
use openraft::raft::SnapshotResponse;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::registry::{Outgoing, Pin, Step};
use super::wire::{Down, Up, chunk_crc};
use super::{Shared, WINDOW_CHUNKS, count};
use crate::codec::kind;
use crate::exec::{Exec, run_blocking};
use crate::network::Peer;
use crate::transport::{Envelope, TransportError};
use crate::type_config::{TypeConfig, Vote};

/// Time to open the stream, connection included.
const SETUP: Duration = Duration::from_secs(1);

/// What sending needs besides a way to the target.
#[derive(Clone)]
pub(crate) struct Lane {
    pub(crate) shared: Arc<Shared>,
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) exec: Arc<dyn Exec>,
}

/// Sends a view to a target, and returns the target's vote when it has installed it, or refuses because it knows a newer leader.
pub(crate) async fn send(
    peer: &Peer,
    vote: Vote,
    pin: Arc<Pin>,
    cancel: impl Future<Output = ReplicationClosed>,
) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
    let attempt = Attempt { peer, vote, pin };
    let result = tokio::select! {
        biased;
        closed = cancel => {
            // This leadership is over, or the target was removed: nobody will go on with it.
            peer.lane.outgoing.finish(&attempt.pin, peer.to_replica);
            return Err(closed.into());
        }
        result = attempt.run() => result,
    };
    match result {
        Ok(vote) => {
            peer.lane.outgoing.finish(&attempt.pin, peer.to_replica);
            Ok(SnapshotResponse::new(vote))
        }
        Err(error) => {
            count(&peer.lane.shared.counts.failed, 1);
            let (partition, to) = (peer.from.partition, peer.to_node);
            tracing::info!(%partition, %to, %error, "a snapshot was not sent to its end; it goes on where it broke");
            Err(StreamingError::Unreachable(Unreachable::new(&error)))
        }
    }
}

struct Attempt<'p> {
    peer: &'p Peer,
    vote: Vote,
    pin: Arc<Pin>,
}

/// The stream to the receiver, and its answers.
struct Line {
    out: mpsc::Sender<Envelope>,
    answers: BoxStream<'static, Result<Envelope, TransportError>>,
    patience: Duration,
}

impl Attempt<'_> {
    async fn run(&self) -> Result<Vote, TransportError> {
        let Peer { lane: Lane { shared, outgoing, .. }, to_replica, .. } = self.peer;
        let gone = |_| TransportError::Unreachable("this node is stopping".to_owned());
        let _place = shared.sending.acquire().await.map_err(gone)?;
        let mut line = self.open().await?;
        let (next, from) = match self.answer(&mut line).await? {
            Down::Accept { next, from } => {
                outgoing.begin(&self.pin, *to_replica);
                (next, from)
            }
            Down::Have { vote } | Down::HigherVote { vote } => return Ok(vote),
            other => return Err(self.refused(other)),
        };
        let Some(step) = self.pin.resume(*to_replica, next, &from) else {
            return Err(TransportError::Unreachable(format!("chunk {next} was asked for, which was not sent; it begins again")));
        };
        let end = match self.chunks(&mut line, step).await? {
            Ok(end) => end,
            Err(higher) => return Ok(higher),
        };
        self.send(&mut line, &Up::Finish { totals: end.before }, Vec::new()).await?;
        loop {
            match self.answer(&mut line).await? {
                Down::Installing | Down::Ack { .. } => {}
                Down::Installed { vote } | Down::Have { vote } => {
                    count(&shared.counts.sent, 1);
                    return Ok(vote);
                }
                Down::HigherVote { vote } => return Ok(vote),
                other => return Err(self.refused(other)),
            }
        }
    }

    /// Opens the stream with the offer in it.
    async fn open(&self) -> Result<Line, TransportError> {
        let (out, queue) = mpsc::channel(WINDOW_CHUNKS);
        let Pin { id, last, membership, export, .. } = &*self.pin;
        let (last, membership, anew) = (*last, membership.clone(), self.pin.anew(self.peer.to_replica));
        let offer = Up::Offer { id: *id, vote: self.vote, last, membership, header: export.header().encode().into(), anew };
        // There is room for it: nothing was sent yet.
        let _ = out.try_send(self.peer.envelope(kind::SNAPSHOT, offer.encode(), Vec::new()));
        let messages = stream::unfold(queue, |mut queue| async move { queue.recv().await.map(|message| (message, queue)) });
        let opened = self.peer.transport.snapshot(self.peer.to_node, messages.boxed(), SETUP).await;
        let answers = opened.inspect_err(|error| self.peer.from.identity.note_refused(self.peer.to_node, error))?;
        Ok(Line { out, answers, patience: self.peer.lane.shared.options.progress_timeout() })
    }

    /// Sends chunk after chunk, a few of them ahead of their acknowledgements. Returns where the state ends; `Err` is the vote of a newer leader.
    async fn chunks(&self, line: &mut Line, mut step: Step) -> Result<Result<Step, Vote>, TransportError> {
        let Peer { lane: Lane { outgoing, .. }, to_replica, .. } = self.peer;
        let mut acknowledged = step.before.chunks;
        let mut complete = false;
        loop {
            while !complete && step.before.chunks - acknowledged < WINDOW_CHUNKS as u64 {
                match self.read(step.from.clone()).await? {
                    Some(chunk) => step = self.chunk(line, &step, chunk).await?,
                    None => complete = true,
                }
            }
            if acknowledged == step.before.chunks {
                return Ok(Ok(step));
            }
            match self.answer(line).await? {
                Down::Ack { number } => {
                    acknowledged = acknowledged.max(number.saturating_add(1).min(step.before.chunks));
                    if self.pin.acknowledged(*to_replica, number) {
                        outgoing.touch(&self.pin);
                    }
                }
                Down::HigherVote { vote } => return Ok(Err(vote)),
                other => return Err(self.refused(other)),
            }
        }
    }

    /// Sends one chunk and returns where the next one begins.
    async fn chunk(&self, line: &mut Line, step: &Step, chunk: Chunk) -> Result<Step, TransportError> {
        let shared = &self.peer.lane.shared;
        let (number, bytes) = (step.before.chunks, chunk.rows.bytes().len());
        let crc = chunk_crc(number, &chunk.from, &chunk.to, chunk.rows.bytes());
        shared.rate.take(bytes).await;
        let rows = vec![chunk.rows.bytes().clone()];
        let next = Step { from: chunk.to.clone(), before: step.before.plus(chunk.rows.len() as u64, bytes as u64, crc) };
        self.pin.sent(self.peer.to_replica, &next);
        self.send(line, &Up::Chunk { number, from: chunk.from, to: chunk.to, crc }, rows).await?;
        count(&shared.counts.sent_chunks, 1);
        count(&shared.counts.sent_bytes, bytes as u64);
        Ok(next)
    }

    /// The chunk that begins there; `None` after the last.
    async fn read(&self, from: Bytes) -> Result<Option<Chunk>, TransportError> {
        let Lane { shared, exec, .. } = &self.peer.lane;
        let (pin, bytes_max) = (self.pin.clone(), shared.options.chunk_bytes());
        let read = run_blocking(exec.as_ref(), move || pin.export.chunk(&from, bytes_max)).await;
        let failed = |fault: Fault| TransportError::Unreachable(format!("the snapshot cannot be read here: {fault}"));
        read.ok_or_else(|| TransportError::Unreachable("this node is stopping".to_owned()))?.map_err(failed)
    }

    async fn send(&self, line: &mut Line, message: &Up, attachments: Vec<Bytes>) -> Result<(), TransportError> {
        let envelope = self.peer.envelope(kind::SNAPSHOT, message.encode(), attachments);
        match timeout(line.patience, line.out.send(envelope)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(self.broken("the stream ended")),
            Err(_) => Err(self.broken("nothing was taken in time")),
        }
    }

    async fn answer(&self, line: &mut Line) -> Result<Down, TransportError> {
        match timeout(line.patience, line.answers.next()).await {
            Ok(Some(answer)) => Down::decode(&self.peer.checked(answer)?.payload),
            Ok(None) => Err(self.broken("the stream ended")),
            Err(_) => Err(self.broken("no answer came in time")),
        }
    }

    fn broken(&self, what: &str) -> TransportError {
        TransportError::Unreachable(format!("{what} while a snapshot was sent to {}", self.peer.to_node))
    }

    fn refused(&self, answer: Down) -> TransportError {
        let to = self.peer.to_node;
        TransportError::Unreachable(match answer {
            Down::Busy => format!("{to} receives as many snapshots as it takes at once"),
            Down::Refused { why } => format!("{to} refuses the snapshot: {why}"),
            other => format!("{to} answered {other:?}, which was not its turn"),
        })
    }
}
