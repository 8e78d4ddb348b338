//! A set that only grows: each element is added by one call, and a read returns all of them. It begins empty.
//!
//! Reads of a set that only grows contain each other, so they cut it into layers: the elements of the smallest read, those that the next
//! one has more, and so on. All reads must find their place, so no element of a layer can be added before the layer below is
//! complete. So the state is two numbers, however large the set.
//!
//! ```text
//!   reads   {a}      {a b c}          layer 1: a     layer 2: b c     layer 3: what nobody has read
//! ```

use std::collections::HashMap;

use super::{Conflict, Entry, Model, Object, Placed, entry, matters};
use crate::history::{Call, Outcome, Reply};

/// A call of a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SetCall {
    /// An element of this layer was added.
    Add {
        /// The layer, from 1.
        layer: usize,
    },
    /// All elements of the layers up to this one were read.
    Members {
        /// The layer; 0: it was empty.
        layer: usize,
    },
}

/// What a set has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SetState {
    /// Layers that are complete.
    layers: usize,
    /// Elements of the next.
    added: usize,
}

/// The specification of one set.
#[derive(Debug)]
pub struct Set {
    key: String,
    /// How many elements each layer has; the first is layer 1.
    sizes: Vec<usize>,
}

impl Set {
    /// Reads the operations of one set.
    ///
    /// # Errors
    /// If two reads do not contain each other, or an element is added or returned twice.
    pub fn read(key: &str, operations: &[Placed<'_>]) -> Result<Object<Self>, Conflict> {
        let mut adders: HashMap<&str, usize> = HashMap::new();
        let mut reads: Vec<(usize, &Vec<String>)> = Vec::new();
        for (place, operation) in operations.iter().filter(|(_, operation)| matters(operation)) {
            match (&operation.call, &operation.outcome) {
                (Call::Add { element }, _) if adders.insert(element, *place).is_some() => {
                    return Err(Conflict::Unusable {
                        why: format!("`{element}` is added to `{key}` by two calls: use new elements"),
                    });
                }
                (_, Outcome::Ok { reply: Reply::Members(members), .. }) => reads.push((*place, members)),
                _ => {}
            }
        }
        let (layer_of, sizes, layer_of_read) = layers(key, &mut reads)?;
        let entries = operations.iter().filter(|(_, operation)| matters(operation)).filter_map(|placed| {
            let (place, operation) = placed;
            let call = match &operation.call {
                Call::Add { element } => match layer_of.get(element.as_str()) {
                    Some(layer) => SetCall::Add { layer: *layer },
                    // Nobody has seen it, so it can as well have been lost.
                    None if !operation.is_ok() => return None,
                    None => SetCall::Add { layer: sizes.len() + 1 },
                },
                _ => SetCall::Members { layer: *layer_of_read.get(place)? },
            };
            Some(entry(*placed, call))
        });
        let entries: Vec<Entry<SetCall>> = entries.collect();
        Ok(Object { model: Self { key: key.to_owned(), sizes }, entries })
    }
}

/// The layer of each element, the size of each layer, and the layer of each read.
type Layers<'a> = (HashMap<&'a str, usize>, Vec<usize>, HashMap<usize, usize>);

fn layers<'a>(key: &str, reads: &mut [(usize, &'a Vec<String>)]) -> Result<Layers<'a>, Conflict> {
    reads.sort_by_key(|(place, members)| (members.len(), *place));
    let mut layer_of: HashMap<&str, usize> = HashMap::new();
    let mut sizes: Vec<usize> = Vec::new();
    let mut layer_of_read = HashMap::new();
    let mut below: Option<usize> = None;
    for (place, members) in reads.iter() {
        let known = layer_of.len();
        let mut old = 0;
        for element in members.iter() {
            match layer_of.get(element.as_str()) {
                Some(layer) if *layer <= sizes.len() => old += 1,
                Some(_) => {
                    let why = format!("a read of `{key}` returned `{element}` twice");
                    return Err(Conflict::Contradiction { operations: vec![*place], why });
                }
                None => {
                    layer_of.insert(element, sizes.len() + 1);
                }
            }
        }
        if old < known {
            let why = format!("neither of two reads of `{key}` contains the other: they saw elements come in different orders");
            return Err(Conflict::Contradiction { operations: below.into_iter().chain([*place]).collect(), why });
        }
        let grown = layer_of.len() - known;
        if grown > 0 {
            sizes.push(grown);
        }
        layer_of_read.insert(*place, sizes.len());
        below = Some(*place);
    }
    Ok((layer_of, sizes, layer_of_read))
}

impl Model for Set {
    type Call = SetCall;
    type State = SetState;
    /// The highest layer that a waiting read has.
    type Needs = Option<usize>;

    fn initial(&self) -> SetState {
        SetState { layers: 0, added: 0 }
    }

    fn step(&self, state: &SetState, call: &SetCall) -> Option<SetState> {
        match call {
            SetCall::Add { layer } if *layer == state.layers + 1 => {
                let added = state.added + 1;
                if self.sizes.get(state.layers) == Some(&added) {
                    Some(SetState { layers: *layer, added: 0 })
                } else {
                    Some(SetState { added, ..*state })
                }
            }
            SetCall::Add { .. } => None,
            SetCall::Members { layer } => (*layer == state.layers && state.added == 0).then(|| state.clone()),
        }
    }

    fn observes(&self, call: &SetCall) -> bool {
        matches!(call, SetCall::Members { .. })
    }

    fn needs(&self, _: &SetState, waiting: &[&SetCall], _: &[&SetCall]) -> Option<usize> {
        let layer = |call: &&SetCall| match call {
            SetCall::Members { layer } => Some(*layer),
            SetCall::Add { .. } => None,
        };
        waiting.iter().filter_map(layer).max()
    }

    /// Adds of one layer commute, so an add that no waiting read needs can be moved behind all that wait. (An add of a later layer needs
    /// it too, but then the read between the two layers waits as well.)
    fn useful(&self, _: &SetState, call: &SetCall, _: bool, needs: &Option<usize>) -> bool {
        let SetCall::Add { layer } = call else { return true };
        needs.is_some_and(|needed| needed >= *layer)
    }

    fn describe(&self, state: &SetState) -> String {
        let complete: usize = self.sizes.iter().take(state.layers).sum();
        format!("the size of `{}` was {}", self.key, complete + state.added)
    }
}
