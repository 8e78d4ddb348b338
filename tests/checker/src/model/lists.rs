//! A family of lists that only grow, read all at once: an append goes to one list, a read returns all lists, and must be one cut
//! through them. All begin empty. (Elle's list-append, with single appends: Kingsbury and Alvaro, "Elle", VLDB 2020.)
//!
//! Reads fix the order in which elements were appended: all reads of one list must begin alike. So the state is a length for each
//! list, however long they are.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Conflict, Entry, Model, Object, Placed, entry, matters};
use crate::history::{Call, Operation, Outcome, Reply};

/// A call of a family of lists.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListsCall {
    /// An element was appended.
    Append {
        /// The list.
        list: usize,
        /// The place of the element. What nobody has read comes at the place behind the last that was read.
        place: usize,
    },
    /// All lists were read.
    Lists {
        /// The length of each.
        lengths: Box<[usize]>,
    },
}

/// The specification of one family of lists.
#[derive(Debug)]
pub struct Lists {
    key: String,
    /// Each list by name, and as long as anybody has read it.
    lists: Vec<(String, Vec<String>)>,
}

impl Lists {
    /// Reads the operations of one family.
    ///
    /// # Errors
    /// If two reads of a list do not begin alike, or an element is appended or returned twice.
    pub fn read(key: &str, operations: &[Placed<'_>]) -> Result<Object<Self>, Conflict> {
        let matter = || operations.iter().filter(|(_, operation)| matters(operation));
        let mut appended: HashSet<(&str, &str)> = HashSet::new();
        let mut longest: BTreeMap<&str, (usize, &[String])> = BTreeMap::new();
        for (at, operation) in matter() {
            if let Call::Append { list, element } = &operation.call {
                longest.entry(list).or_insert((*at, &[]));
                if !appended.insert((list, element)) {
                    let why = format!("`{element}` is appended to `{list}` of `{key}` by two calls: use new elements");
                    return Err(Conflict::Unusable { why });
                }
            }
            for (list, elements) in read_lists(operation) {
                let known = longest.entry(list).or_insert((*at, &[]));
                let common = known.1.len().min(elements.len());
                if known.1[..common] != elements[..common] {
                    let why =
                        format!("two reads of `{list}` of `{key}` do not begin alike: they saw its elements in different orders");
                    return Err(Conflict::Contradiction { operations: vec![known.0, *at], why });
                }
                if elements.len() > known.1.len() {
                    *known = (*at, elements);
                }
            }
        }
        let mut places: HashMap<(&str, &str), usize> = HashMap::new();
        for (list, (at, elements)) in &longest {
            for (place, element) in elements.iter().enumerate() {
                if places.insert((list, element), place).is_some() {
                    let why = format!("a read returned `{element}` twice in `{list}` of `{key}`");
                    return Err(Conflict::Contradiction { operations: vec![*at], why });
                }
            }
        }
        let numbers: HashMap<&str, usize> = longest.keys().enumerate().map(|(number, list)| (*list, number)).collect();
        let call = |operation: &Operation| match &operation.call {
            Call::Append { list, element } => match places.get(&(list.as_str(), element.as_str())) {
                Some(place) => Some(ListsCall::Append { list: numbers[list.as_str()], place: *place }),
                // Nobody has seen it, so it can as well have been lost.
                None if !operation.is_ok() => None,
                None => Some(ListsCall::Append { list: numbers[list.as_str()], place: longest[list.as_str()].1.len() }),
            },
            _ => {
                let mut lengths = vec![0; numbers.len()];
                for (list, elements) in read_lists(operation) {
                    lengths[numbers[list.as_str()]] = elements.len();
                }
                Some(ListsCall::Lists { lengths: lengths.into() })
            }
        };
        let entries: Vec<Entry<ListsCall>> = matter().filter_map(|at| call(at.1).map(|call| entry(*at, call))).collect();
        let lists = longest.iter().map(|(list, (_, all))| ((*list).to_owned(), all.to_vec())).collect();
        Ok(Object { model: Self { key: key.to_owned(), lists }, entries })
    }
}

fn read_lists(operation: &Operation) -> impl Iterator<Item = (&String, &Vec<String>)> {
    let lists = match &operation.outcome {
        Outcome::Ok { reply: Reply::Lists(lists), .. } => Some(lists),
        _ => None,
    };
    lists.into_iter().flatten()
}

impl Model for Lists {
    type Call = ListsCall;
    /// The length of each list. One more than anybody has read stands for any number of elements that nobody has read.
    type State = Box<[usize]>;
    /// How long each list must become.
    type Needs = Box<[usize]>;

    fn initial(&self) -> Box<[usize]> {
        vec![0; self.lists.len()].into()
    }

    fn step(&self, state: &Box<[usize]>, call: &ListsCall) -> Option<Box<[usize]>> {
        match call {
            ListsCall::Append { list, place } => {
                let unread = self.lists[*list].1.len();
                let fits = if *place == unread { state[*list] >= unread } else { state[*list] == *place };
                fits.then(|| {
                    let mut next = state.clone();
                    next[*list] = place + 1;
                    next
                })
            }
            ListsCall::Lists { lengths } => (lengths == state).then(|| state.clone()),
        }
    }

    fn observes(&self, call: &ListsCall) -> bool {
        matches!(call, ListsCall::Lists { .. })
    }

    fn needs(&self, state: &Box<[usize]>, waiting: &[&ListsCall], _: &[&ListsCall]) -> Box<[usize]> {
        let mut needs = vec![0; state.len()];
        for call in waiting {
            match call {
                ListsCall::Append { list, place } => needs[*list] = needs[*list].max(*place),
                ListsCall::Lists { lengths } => {
                    needs.iter_mut().zip(lengths).for_each(|(need, length)| *need = (*length).max(*need))
                }
            }
        }
        needs.into()
    }

    /// An append commutes with all calls but reads that contain it and later appends to the same list. If none of those waits, it can be
    /// moved behind all that do.
    fn useful(&self, _: &Box<[usize]>, call: &ListsCall, _: bool, needs: &Box<[usize]>) -> bool {
        let ListsCall::Append { list, place } = call else { return true };
        needs[*list] > *place
    }

    fn describe(&self, state: &Box<[usize]>) -> String {
        let list = |((name, all), length): (&(String, Vec<String>), &usize)| {
            let read = all[..*length.min(&all.len())].join(",");
            match (read.is_empty(), *length > all.len()) {
                (true, false) => format!("{name}:-"),
                (true, true) => format!("{name}:?"),
                (false, unread) => format!("{name}:{read}{}", if unread { ",?" } else { "" }),
            }
        };
        let all: Vec<_> = self.lists.iter().zip(state).map(list).collect();
        format!("`{}` was {}", self.key, all.join(" "))
    }
}
