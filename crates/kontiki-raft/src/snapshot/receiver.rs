//! The receiving end of a snapshot. It believes nothing: who sends, whether it leads, what the snapshot says of itself, each chunk, and in the
//! end the whole. Only then openraft hears of it, for openraft panics on a snapshot that contradicts what is committed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use kontiki_storage::machine::{Chunk, Header, Import, Rows};
use kontiki_types::Fault;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::registry::Staged;
use super::wire::{Down, Totals, TransferId, Up, chunk_crc};
use super::{WINDOW_CHUNKS, count};
use crate::codec::{self, kind};
use crate::exec::run_blocking;
use crate::group::Group;
use crate::groups::Groups;
use crate::state_machine::SnapshotData;
use crate::transport::{Envelope, Refusal, TransportError};
use crate::type_config::{LogId, StoredMembership, TypeConfig, Vote};

type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// While the state is taken over, the sender hears this often that it is not forgotten.
const INSTALLING_EVERY: Duration = Duration::from_secs(2);

impl Groups {
    /// Receives a snapshot. The stream of answers ends when the snapshot is installed, refused, or broken off.
    pub fn receive_snapshot(
        self: &Arc<Self>,
        messages: BoxStream<'static, Envelope>,
    ) -> BoxStream<'static, Result<Envelope, TransportError>> {
        let (out, answers) = mpsc::channel(2 * WINDOW_CHUNKS);
        let groups = self.clone();
        tokio::spawn(async move {
            let stopping = groups.stopping().clone();
            let serving = serve(groups, messages, out.clone());
            let served = tokio::select! {
                served = serving => served,
                () = stopping.cancelled() => Err(TransportError::Unreachable("this node is stopping".to_owned())),
            };
            if let Err(error) = served {
                let _ = out.send(Err(error)).await;
            }
        });
        let answers = stream::unfold(answers, |mut answers| async move { answers.recv().await.map(|answer| (answer, answers)) });
        answers.boxed()
    }
}

/// What a snapshot says of itself.
struct Offer {
    id: TransferId,
    vote: Vote,
    last: LogId,
    membership: StoredMembership,
    header: Header,
    anew: bool,
}

/// One attempt of a sender, seen from here.
struct Session {
    groups: Arc<Groups>,
    group: Group,
    template: Envelope,
    messages: BoxStream<'static, Envelope>,
    out: mpsc::Sender<Result<Envelope, TransportError>>,
    /// Set when another session takes the place.
    taken_over: CancellationToken,
}

async fn serve(
    groups: Arc<Groups>,
    mut messages: BoxStream<'static, Envelope>,
    out: mpsc::Sender<Result<Envelope, TransportError>>,
) -> Result<(), TransportError> {
    let patience = groups.snapshots().options.progress_timeout();
    let first = timeout(patience, messages.next()).await.ok().flatten();
    let first = first.ok_or_else(|| TransportError::Unreachable("no snapshot was offered".to_owned()))?;
    let group = groups.addressee(&first)?;
    let template = Envelope { payload: Bytes::new(), attachments: Vec::new(), ..first.clone() };
    let mut session = Session { groups: groups.clone(), group, template, messages, out, taken_over: CancellationToken::new() };
    let offer = session.offer(&first)?;
    if let Some(answer) = session.judge(&offer) {
        return session.answer(answer).await;
    }
    let Ok(_place) = groups.snapshots().receiving.clone().try_acquire_owned() else {
        return session.answer(Down::Busy).await;
    };
    let incoming = session.group.incoming().clone();
    session.taken_over = incoming.take_over();
    let mut staged = timeout(patience, incoming.staged.lock()).await;
    let Ok(place) = staged.as_mut() else { return session.answer(Down::Busy).await };
    let received = session.receive(&offer, place).await;
    match received {
        Ok(()) => Ok(()),
        Err(error) => {
            count(&groups.snapshots().counts.failed, 1);
            if let Some(staged) = place.as_mut() {
                staged.used = Instant::now();
            }
            Err(error)
        }
    }
}

impl Session {
    fn offer(&self, message: &Envelope) -> Result<Offer, TransportError> {
        match Up::decode(&message.payload)? {
            Up::Offer { id, vote, last, membership, header, anew } => {
                let header = Header::decode(&header).map_err(|fault| malformed(&fault))?;
                Ok(Offer { id, vote, last, membership, header, anew })
            }
            _ => Err(malformed(&"a snapshot begins with an offer")),
        }
    }

    /// Whether the snapshot is wanted; the answer, if it is not.
    fn judge(&self, offer: &Offer) -> Option<Down> {
        if let Some(vote) = self.newer_vote(&offer.vote) {
            return Some(Down::HigherVote { vote });
        }
        if self.group.places().applied().0 >= Some(offer.last) {
            return Some(Down::Have { vote: self.own_vote() });
        }
        self.contradiction(offer).map(|why| Down::Refused { why })
    }

    /// What is wrong with an offer, if anything.
    fn contradiction(&self, offer: &Offer) -> Option<String> {
        let Offer { vote, last, membership, header, .. } = offer;
        if !vote.committed || last.leader_id > vote.leader_id {
            return Some(format!("it ends at {last}, which the leader of {vote} cannot know"));
        }
        let position = header.position.as_deref().and_then(|bytes| codec::decode_log_id(bytes, "its position").ok());
        let stored = header.membership.as_deref().map_or(Ok(StoredMembership::default()), codec::decode_stored_membership);
        if position != Some(*last) || header.applied_index != last.index || stored.ok().as_ref() != Some(membership) {
            return Some(format!("it is said to end at {last}, but its header says otherwise"));
        }
        let (own, new) = (self.group.descriptor(), &header.descriptor);
        if new.id != own.id {
            return Some(format!("it is of {}, not of {}", new.id, own.id));
        }
        if new.epoch.conf < own.epoch.conf || new.epoch.bounds < own.epoch.bounds {
            return Some(format!("its epoch is {}, and {} is in force here", new.epoch, own.epoch));
        }
        let others = self.groups.all().into_iter().filter(|group| group.partition() != own.id);
        if let Some(other) = others.map(|group| group.descriptor()).find(|other| other.range.overlaps(&new.range)) {
            return Some(format!("its range overlaps that of {}, which has a replica here; it is tried again", other.id));
        }
        let metrics = self.group.raft().metrics();
        let committed = metrics.borrow_watched().local_committed;
        // openraft would panic on it: two different histories were committed.
        let contradicts = committed.filter(|committed| last > committed && last.index <= committed.index);
        contradicts.map(|committed| format!("it ends at {last}, and {committed} is committed here"))
    }

    fn own_vote(&self) -> Vote {
        self.group.raft().metrics().borrow_watched().vote
    }

    /// The vote of this replica, if it is for a newer leader than the sender.
    fn newer_vote(&self, sender: &Vote) -> Option<Vote> {
        let own = self.own_vote();
        (own.leader_id > sender.leader_id).then_some(own)
    }

    /// Takes in what is missing, then the end. What has come stays in `place` if it breaks off.
    async fn receive(&mut self, offer: &Offer, place: &mut Option<Staged>) -> Result<(), TransportError> {
        if offer.anew || place.as_ref().is_some_and(|staged| staged.id != offer.id) {
            *place = None;
        }
        if place.is_none() {
            match self.begin(offer).await? {
                Ok(staged) => *place = Some(staged),
                Err(fault) => return self.answer(refused(&fault)).await,
            }
        }
        let next = place.as_ref().map(|staged| (staged.totals.chunks, staged.import.next().map(Bytes::copy_from_slice)));
        let (next, from) = next.unwrap_or_default();
        self.answer(Down::Accept { next, from: from.unwrap_or_default() }).await?;
        loop {
            let message = self.next().await?;
            if let Some(vote) = self.newer_vote(&offer.vote) {
                return self.answer(Down::HigherVote { vote }).await;
            }
            match Up::decode(&message.payload)? {
                Up::Chunk { number, from, to, crc } => {
                    let rows = message.attachments.first().cloned().unwrap_or_default();
                    if chunk_crc(number, &from, &to, &rows) != crc {
                        return Err(malformed(&format!("chunk {number} of a snapshot was changed on its way")));
                    }
                    let rows = Rows::new(rows).map_err(|fault| malformed(&fault))?;
                    let answer = self.chunk(place, number, crc, Chunk { from, to, rows }).await?;
                    let ends = matches!(answer, Down::Refused { .. });
                    self.answer(answer).await?;
                    if ends {
                        return Ok(());
                    }
                }
                Up::Finish { totals } => return self.finish(offer, place, totals).await,
                Up::Offer { .. } => return Err(malformed(&"a snapshot was offered twice")),
            }
        }
    }

    async fn begin(&mut self, offer: &Offer) -> Result<Result<Staged, Fault>, TransportError> {
        let (engine, header) = (self.groups.engine().clone(), offer.header.clone());
        let begun =
            run_blocking(self.groups.exec(), move || Import::begin(engine.as_ref(), header)).await.ok_or_else(stopping)?;
        let id = offer.id;
        Ok(begun.map(|import| Staged { id, import, totals: Totals::default(), last_crc: None, used: Instant::now() }))
    }

    /// Stages a chunk, if it is the next one. The last one may come again; any other is a mistake.
    async fn chunk(&mut self, place: &mut Option<Staged>, number: u64, crc: u32, chunk: Chunk) -> Result<Down, TransportError> {
        let Some(mut staged) = place.take() else { return Err(malformed(&"there is no snapshot to go on with")) };
        let expected = staged.totals.chunks;
        if number + 1 == expected && staged.last_crc == Some(crc) {
            *place = Some(staged);
            return Ok(Down::Ack { number });
        }
        if number != expected {
            *place = Some(staged);
            return Err(malformed(&format!("chunk {number} of a snapshot came, {expected} was to come")));
        }
        let (rows, bytes) = (chunk.rows.len() as u64, chunk.rows.bytes().len() as u64);
        let added = run_blocking(self.groups.exec(), move || {
            let added = staged.import.add(&chunk);
            (staged, added)
        });
        let (mut staged, added) = added.await.ok_or_else(stopping)?;
        match added {
            Ok(()) => {
                staged.totals = staged.totals.plus(rows, bytes, crc);
                staged.last_crc = Some(crc);
                staged.used = Instant::now();
                *place = Some(staged);
                let counts = &self.groups.snapshots().counts;
                count(&counts.received_chunks, 1);
                count(&counts.received_bytes, bytes);
                Ok(Down::Ack { number })
            }
            // Nothing of it was staged, and the right one may follow.
            Err(fault @ Fault::Corrupt { .. }) => {
                *place = Some(staged);
                Err(malformed(&fault))
            }
            // The disk is full, or broken: what was staged goes, and with it the room that it took. This node lives on.
            Err(fault) => Ok(refused(&fault)),
        }
    }

    /// Checks the whole, and hands it to openraft.
    async fn finish(&mut self, offer: &Offer, place: &mut Option<Staged>, totals: Totals) -> Result<(), TransportError> {
        let Some(staged) = place.take() else { return Err(malformed(&"there is no snapshot to finish")) };
        if staged.totals != totals || staged.import.next().is_some() {
            let why = format!("the snapshot was to have {totals:?}, what came are {:?}; it begins again", staged.totals);
            return self.answer(Down::Refused { why }).await;
        }
        let import = match self.prepared(staged.import).await? {
            Ok(import) => import,
            Err(fault) => return self.answer(refused(&fault)).await,
        };
        // Time has passed: what spoke against it then may do so now.
        if let Some(answer) = self.judge(offer) {
            return self.answer(answer).await;
        }
        let meta = SnapshotMeta { last_log_id: Some(offer.last), last_membership: offer.membership.clone() };
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Staged(Box::new(import)) };
        let raft = self.group.raft().clone();
        let installing = raft.install_full_snapshot(offer.vote, snapshot);
        let mut installing = std::pin::pin!(installing);
        let mut still = interval(INSTALLING_EVERY);
        still.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let installed = loop {
            tokio::select! {
                installed = &mut installing => break installed,
                _ = still.tick() => self.answer(Down::Installing).await?,
            }
        };
        let response = installed.map_err(|fatal| TransportError::Unreachable(format!("the replica has stopped: {fatal}")))?;
        count(&self.groups.snapshots().counts.installed, 1);
        let (partition, last) = (self.group.partition(), offer.last.index);
        tracing::info!(%partition, rows = totals.rows, bytes = totals.bytes, last, "a snapshot was installed");
        self.answer(Down::Installed { vote: response.vote }).await
    }

    /// Does what needs room on the disk and can fail, before openraft hears of it: an installation that fails ends the replica.
    async fn prepared(&mut self, mut import: Import) -> Result<Result<Import, Fault>, TransportError> {
        let sealed = run_blocking(self.groups.exec(), move || import.seal().map(|()| import)).await.ok_or_else(stopping)?;
        let import = match sealed {
            Ok(import) => import,
            Err(fault) => return Ok(Err(fault)),
        };
        Ok(self.groups.flush().await.map(|()| import))
    }

    async fn next(&mut self) -> Result<Envelope, TransportError> {
        let patience = self.groups.snapshots().options.progress_timeout();
        let message = tokio::select! {
            message = timeout(patience, self.messages.next()) => message,
            () = self.taken_over.cancelled() => return Err(TransportError::Unreachable("another attempt has begun".to_owned())),
        };
        let message = message.map_err(|_| TransportError::Timeout("nothing more of the snapshot came".to_owned()))?;
        let message = message.ok_or_else(|| TransportError::Unreachable("the sender has gone".to_owned()))?;
        self.groups.identity().check(&message)?;
        let ends =
            |message: &Envelope| (message.partition, message.from_node, message.from_replica, message.to_replica, message.kind);
        if ends(&message) != ends(&self.template) {
            return Err(malformed(&"a stream carries one snapshot between two replicas only"));
        }
        Ok(message)
    }

    /// A sender that takes no answers must not hold its place here for ever.
    async fn answer(&mut self, answer: Down) -> Result<(), TransportError> {
        let envelope = self.groups.answer(&self.template, kind::SNAPSHOT_REPLY, answer.encode());
        let patience = self.groups.snapshots().options.progress_timeout();
        match timeout(patience, self.out.send(Ok(envelope))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(TransportError::Unreachable("the sender has gone".to_owned())),
            Err(_) => Err(TransportError::Timeout("the sender takes no answers".to_owned())),
        }
    }
}

fn refused(fault: &Fault) -> Down {
    tracing::warn!(%fault, "a snapshot cannot be received");
    Down::Refused { why: fault.to_string() }
}

fn stopping() -> TransportError {
    TransportError::Unreachable("this node is stopping".to_owned())
}

fn malformed(why: &dyn std::fmt::Display) -> TransportError {
    TransportError::refused(Refusal::Malformed, why.to_string())
}
