//! What this client believes about the cluster: the map and who leads what. Both are hints. The truth answers with `StaleEpoch` or
//! `NotLeader`, and the hint is repaired from that.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use kontiki_types::{Descriptor, NodeId, PartitionId, PartitionMap};
use parking_lot::{Mutex, RwLock};

/// A map, and which one it is.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// The map.
    pub(crate) map: Arc<PartitionMap>,
    /// Grows with every change and every refresh, so that a caller can tell whether the map is newer than the one that failed them.
    pub(crate) generation: u64,
}

/// The cache.
#[derive(Debug, Default)]
pub(crate) struct MapCache {
    view: ArcSwap<View>,
    /// Held by those who change the view.
    change: Mutex<()>,
    /// Held while the map is being asked for, so that callers who come together ask once.
    pub(crate) refreshing: tokio::sync::Mutex<()>,
    leaders: RwLock<BTreeMap<PartitionId, NodeId>>,
}

impl MapCache {
    pub(crate) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    fn set(&self, map: PartitionMap) {
        let generation = self.view.load().generation + 1;
        self.view.store(Arc::new(View { map: Arc::new(map), generation }));
    }

    /// Takes a map that a node gave. It may be older than what replies have taught us: their newer descriptors stay.
    pub(crate) fn install(&self, mut fetched: PartitionMap) {
        let _one = self.change.lock();
        let ours = self.view.load_full();
        for known in &ours.map.partitions {
            if is_news(&fetched, known) {
                fetched.learn(std::slice::from_ref(known));
            }
        }
        self.set(fetched);
    }

    /// Takes descriptors from a `StaleEpoch` reply. Returns whether anything was new.
    pub(crate) fn learn(&self, descriptors: &[Descriptor]) -> bool {
        let _one = self.change.lock();
        let mut map = PartitionMap::clone(&self.view.load().map);
        let news: Vec<_> = descriptors.iter().filter(|descriptor| is_news(&map, descriptor)).cloned().collect();
        let changed = map.learn(&news);
        if changed {
            self.set(map);
        }
        changed
    }

    pub(crate) fn leader(&self, partition: PartitionId) -> Option<NodeId> {
        self.leaders.read().get(&partition).copied()
    }

    pub(crate) fn set_leader(&self, partition: PartitionId, node: NodeId) {
        if self.leader(partition) != Some(node) {
            self.leaders.write().insert(partition, node);
        }
    }

    /// Forgets that `node` leads, if that is what was believed.
    pub(crate) fn forget_leader(&self, partition: PartitionId, node: NodeId) {
        let mut leaders = self.leaders.write();
        if leaders.get(&partition) == Some(&node) {
            leaders.remove(&partition);
        }
    }
}

/// Whether `descriptor` is newer than everything that `map` says about its range. (An overlapping partition with the same or a newer
/// bounds epoch means that `descriptor` was split or merged since.)
fn is_news(map: &PartitionMap, descriptor: &Descriptor) -> bool {
    match map.get(descriptor.id) {
        Some(known) => known.epoch < descriptor.epoch,
        None => map.overlapping(&descriptor.range).all(|other| other.epoch.bounds < descriptor.epoch.bounds),
    }
}

#[cfg(test)]
mod tests {
    use kontiki_types::partition::initial_partitions;
    use kontiki_types::{Bytes, KeyRange, NamespaceId, key};

    use super::*;

    const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    fn whole() -> PartitionMap {
        PartitionMap::new(initial_partitions(&[], &NODES), vec![])
    }

    /// Partition 2, split at `m` into itself and 3.
    fn split() -> [Descriptor; 2] {
        let parent = whole().get(PartitionId(2)).cloned().expect("there");
        let middle = key::internal(NamespaceId::DEFAULT, b"m");
        let mut left = parent.clone();
        left.range.end = middle.clone();
        left.epoch.bounds += 1;
        let mut right = Descriptor::new(PartitionId(3), KeyRange::new(middle, Bytes::new()), &NODES);
        right.epoch.bounds = left.epoch.bounds;
        [left, right]
    }

    fn ids(cache: &MapCache) -> Vec<u64> {
        cache.view().map.partitions.iter().map(|descriptor| descriptor.id.0).collect()
    }

    #[test]
    fn an_old_map_does_not_undo_what_a_reply_has_taught() {
        let cache = MapCache::default();
        cache.install(whole());
        assert!(cache.learn(&split()));
        assert_eq!(ids(&cache), [1, 2, 3]);
        let before = cache.view().generation;
        cache.install(whole());
        assert_eq!(ids(&cache), [1, 2, 3]);
        assert!(cache.view().generation > before, "a refresh counts, even if it brings nothing new");
    }

    #[test]
    fn a_partition_that_was_merged_away_does_not_come_back() {
        let cache = MapCache::default();
        cache.install(whole());
        cache.learn(&split());
        let mut merged = whole();
        merged.partitions[1].epoch.bounds = 3;
        cache.install(merged);
        assert_eq!(ids(&cache), [1, 2]);
        assert!(!cache.learn(&split()), "old news");
        assert_eq!(ids(&cache), [1, 2]);
    }

    #[test]
    fn only_the_named_leader_is_forgotten() {
        let cache = MapCache::default();
        cache.set_leader(PartitionId(2), NodeId(1));
        cache.forget_leader(PartitionId(2), NodeId(3));
        assert_eq!(cache.leader(PartitionId(2)), Some(NodeId(1)));
        cache.forget_leader(PartitionId(2), NodeId(1));
        assert_eq!(cache.leader(PartitionId(2)), None);
    }
}
