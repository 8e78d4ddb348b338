//! The search for an order, for one object.
//!
//! Wing and Gong ("Testing and verifying concurrent objects", 1993) try every order that real time allows. Lowe ("Testing for
//! linearizability", 2017) remembers configurations, so that none is looked at twice, and places a call only when it must be:
//! when one returns that is not placed yet ("just in time"). So the search walks through the events once, with all
//! configurations that are possible at this point:
//!
//! ```text
//!   event            configurations: state, which of the pending calls have led to it
//!   call  put 1      (-, {})
//!   call  get        (-, {})
//!   return get -> 1  (-, {}) ── put 1 ──> (1, {put 1}) ── get ──> (1, {put 1})
//!   return put 1     (1, {})
//! ```
//!
//! Where it goes beyond Lowe, so that calls which never return cost little:
//! - a pending read that fits is placed at once: it changes nothing, so it cannot fit better later;
//! - of equal calls, that which must return first is placed first, and one that need not return last;
//! - of two configurations that differ only in calls which never return, that which has used fewer of each is enough;
//! - a call that helps none of those that wait is left for later, or out, where the model can prove it ([`Model::useful`]).
//!
//! **Invariant:** calls at the same moment overlap. Only an end that lies strictly before a start puts two calls in order.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash};

use super::Budget;
use crate::model::{Model, Object};

/// A map whose order is never looked at, with a hash that is the same in every run.
type Map<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// How a search ended.
#[derive(Debug)]
pub(super) enum End {
    /// There is an order.
    Ordered,
    /// There is none: the answer of this operation cannot be had.
    Stuck {
        /// Which operation of the history.
        operation: usize,
        /// What the object could have been before it.
        possible: Vec<String>,
    },
    /// It was given up.
    Budget,
}

/// A state, and which of the pending calls have led to it.
#[derive(Clone, Debug)]
struct Configuration<S> {
    state: S,
    /// Those that will return, by entry, in order.
    placed: Vec<usize>,
    /// How many of each class of calls that never return, by class, in order; none with 0.
    used: Vec<(usize, usize)>,
}

impl<S> Configuration<S> {
    fn has_placed(&self, entry: usize) -> bool {
        self.placed.binary_search(&entry).is_ok()
    }

    fn place(&mut self, entry: usize) {
        if let Err(at) = self.placed.binary_search(&entry) {
            self.placed.insert(at, entry);
        }
    }

    fn used_of(&self, class: usize) -> usize {
        self.used.binary_search_by_key(&class, |(of, _)| *of).map_or(0, |at| self.used[at].1)
    }

    fn use_one(&mut self, class: usize) {
        match self.used.binary_search_by_key(&class, |(of, _)| *of) {
            Ok(at) => self.used[at].1 += 1,
            Err(at) => self.used.insert(at, (class, 1)),
        }
    }

    /// Whether nothing that is possible from `other` is impossible from here, both with the same state and placed calls.
    fn covers(&self, other: &Self) -> bool {
        self.used.iter().all(|(class, count)| *count <= other.used_of(*class))
    }
}

/// As many configurations are compared one by one before they are found by hash: mostly there are one or two.
const SCANNED_MAX: usize = 8;

/// Configurations, without those that another one covers.
struct Front<S> {
    /// What was taken out because another one covers it leaves a hole.
    all: Vec<Option<Configuration<S>>>,
    /// Places in `all`, once there are more than can be scanned.
    by: Map<(S, Vec<usize>), Vec<usize>>,
}

impl<S: Clone + Eq + Hash> Front<S> {
    fn new() -> Self {
        Self { all: Vec::new(), by: Map::default() }
    }

    /// Adds one; tells whether it is new.
    fn add(&mut self, new: Configuration<S>) -> bool {
        let alike: Vec<usize> = if self.all.len() <= SCANNED_MAX {
            let same = |old: &Configuration<S>| old.state == new.state && old.placed == new.placed;
            (0..self.all.len()).filter(|at| self.all[*at].as_ref().is_some_and(same)).collect()
        } else {
            if self.by.is_empty() {
                for (at, old) in self.all.iter().enumerate().filter_map(|(at, old)| old.as_ref().map(|old| (at, old))) {
                    self.by.entry((old.state.clone(), old.placed.clone())).or_default().push(at);
                }
            }
            self.by.get(&(new.state.clone(), new.placed.clone())).cloned().unwrap_or_default()
        };
        if alike.iter().any(|at| self.all[*at].as_ref().is_some_and(|old| old.covers(&new))) {
            return false;
        }
        for at in alike {
            if self.all[at].as_ref().is_some_and(|old| new.covers(old)) {
                self.all[at] = None;
            }
        }
        if !self.by.is_empty() {
            self.by.entry((new.state.clone(), new.placed.clone())).or_default().push(self.all.len());
        }
        self.all.push(Some(new));
        true
    }

    fn into_configurations(self) -> Vec<Configuration<S>> {
        self.all.into_iter().flatten().collect()
    }
}

type AfterAndBefore<S> = (Vec<Configuration<S>>, Vec<Configuration<S>>);

/// What is pending.
struct Search<'a, M: Model> {
    object: &'a Object<M>,
    /// The class of each entry: equal calls have the same.
    classes: Vec<usize>,
    /// Pending calls that will return, those first that return first.
    pending: Vec<usize>,
    /// Pending calls that never return: an example, and how many, by class.
    open: Vec<(usize, usize, usize)>,
    explored: u64,
    budget: u64,
}

/// Looks for an order. Tells also how many configurations it has looked at.
pub(super) fn search<M: Model>(object: &Object<M>, budget: Budget) -> (End, u64) {
    let mut numbers: Map<&M::Call, usize> = Map::default();
    let mut classes = Vec::with_capacity(object.entries.len());
    let mut events = Vec::with_capacity(2 * object.entries.len());
    for (at, entry) in object.entries.iter().enumerate() {
        let next = numbers.len();
        classes.push(*numbers.entry(&entry.call).or_insert(next));
        events.push((entry.start_us, false, at));
        events.extend(entry.end_us.map(|end| (end, true, at)));
    }
    events.sort_unstable();
    let mut search =
        Search { object, classes, pending: Vec::new(), open: Vec::new(), explored: 0, budget: budget.configurations };
    let initial = Configuration { state: object.model.initial(), placed: Vec::new(), used: Vec::new() };
    let end = search.walk(&events, initial);
    (end, search.explored)
}

impl<M: Model> Search<'_, M> {
    fn walk(&mut self, events: &[(u64, bool, usize)], initial: Configuration<M::State>) -> End {
        let mut front = vec![initial];
        for (_, returns, at) in events {
            if !returns {
                self.begin(*at);
                continue;
            }
            let Some((next, seen)) = self.returned(front, *at) else { return End::Budget };
            if next.is_empty() {
                let mut possible: Vec<_> = seen.iter().map(|seen| self.object.model.describe(&seen.state)).collect();
                possible.sort();
                possible.dedup();
                possible.truncate(5);
                return End::Stuck { operation: self.object.entries[*at].operation, possible };
            }
            front = next;
            self.pending.retain(|pending| pending != at);
            self.forget(&mut front);
        }
        End::Ordered
    }

    fn begin(&mut self, at: usize) {
        let entries = &self.object.entries;
        let Some(end) = entries[at].end_us else {
            let class = self.classes[at];
            match self.open.iter_mut().find(|(of, _, _)| *of == class) {
                Some((_, _, count)) => *count += 1,
                None => self.open.push((class, at, 1)),
            }
            return;
        };
        let place = self.pending.partition_point(|other| (entries[*other].end_us, *other) < (Some(end), at));
        self.pending.insert(place, at);
    }

    /// Calls that never return and are placed in every configuration need not be remembered.
    fn forget(&mut self, front: &mut [Configuration<M::State>]) {
        self.open.retain_mut(|(class, _, count)| {
            let everywhere = front.iter().map(|configuration| configuration.used_of(*class)).min().unwrap_or(0);
            if everywhere > 0 {
                *count -= everywhere;
                for configuration in front.iter_mut() {
                    for (of, used) in &mut configuration.used {
                        *used -= if of == class { everywhere } else { 0 };
                    }
                    configuration.used.retain(|(_, used)| *used > 0);
                }
            }
            *count > 0
        });
    }

    /// All configurations that are possible when the call `target` returns, and those that came before it; nothing if the budget is
    /// used up.
    fn returned(&mut self, front: Vec<Configuration<M::State>>, target: usize) -> Option<AfterAndBefore<M::State>> {
        let mut next = Front::new();
        let mut seen = Front::new();
        let mut stack = Vec::new();
        for mut configuration in front {
            if !configuration.has_placed(target) {
                self.settle(&mut configuration);
            }
            self.sort_in(configuration, target, &mut next, &mut seen, &mut stack)?;
        }
        while let Some(configuration) = stack.pop() {
            for following in self.following(&configuration, target) {
                self.sort_in(following, target, &mut next, &mut seen, &mut stack)?;
            }
        }
        Some((next.into_configurations(), seen.into_configurations()))
    }

    /// A configuration in which the target is placed is done; another one goes on, if it is new.
    fn sort_in(
        &mut self,
        mut configuration: Configuration<M::State>,
        target: usize,
        next: &mut Front<M::State>,
        seen: &mut Front<M::State>,
        stack: &mut Vec<Configuration<M::State>>,
    ) -> Option<()> {
        self.explored += 1;
        if self.explored > self.budget {
            return None;
        }
        if configuration.has_placed(target) {
            configuration.placed.retain(|placed| *placed != target);
            next.add(configuration);
        } else if seen.add(configuration.clone()) {
            stack.push(configuration);
        }
        Some(())
    }

    /// Places the pending reads that fit.
    fn settle(&self, configuration: &mut Configuration<M::State>) {
        let model = &self.object.model;
        for at in &self.pending {
            let call = &self.object.entries[*at].call;
            if model.observes(call)
                && !configuration.has_placed(*at)
                && model.step(&configuration.state, call).as_ref() == Some(&configuration.state)
            {
                configuration.place(*at);
            }
        }
    }

    /// Every configuration that one more call leads to.
    fn following(&self, configuration: &Configuration<M::State>, target: usize) -> Vec<Configuration<M::State>> {
        let model = &self.object.model;
        let entries = &self.object.entries;
        let waiting: Vec<usize> = self.pending.iter().copied().filter(|at| !configuration.has_placed(*at)).collect();
        let waiting_calls: Vec<&M::Call> = waiting.iter().map(|at| &entries[*at].call).collect();
        let open_calls: Vec<&M::Call> = self.open.iter().map(|(_, example, _)| &entries[*example].call).collect();
        let needs = model.needs(&configuration.state, &waiting_calls, &open_calls);
        let mut tried: Vec<usize> = Vec::with_capacity(waiting.len());
        let mut following = Vec::new();
        let mut attempt = |at: usize, class: usize, open: bool| {
            let call = &entries[at].call;
            if at != target && !model.observes(call) && !model.useful(&configuration.state, call, open, &needs) {
                return;
            }
            let Some(state) = model.step(&configuration.state, call) else { return };
            let (placed, used) = (configuration.placed.clone(), configuration.used.clone());
            let mut new = Configuration { state, placed, used };
            if open {
                new.use_one(class)
            } else {
                new.place(at)
            }
            self.settle(&mut new);
            following.push(new);
        };
        for at in waiting {
            let class = self.classes[at];
            if !tried.contains(&class) {
                tried.push(class);
                attempt(at, class, false);
            }
        }
        for (class, example, count) in &self.open {
            if configuration.used_of(*class) < *count && !tried.contains(class) {
                attempt(*example, *class, true);
            }
        }
        following
    }
}
