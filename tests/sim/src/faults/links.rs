//! The links of the network: what the faults that are going on make of each, and how turmoil is told.

use turmoil::Sim;

use super::{What, has};

/// What is wrong with a link. Machine `a` has the smaller index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Link {
    a_to_b_cut: bool,
    b_to_a_cut: bool,
    held: bool,
    delay_ms_max: u64,
    /// One message in so many is lost; 0: none.
    loss_one_in: u64,
}

/// All links between machines.
pub struct Links {
    names: Vec<String>,
    nodes: usize,
    latency_ms_max: u64,
    now: Vec<((usize, usize), Link)>,
}

impl Links {
    /// The links between machines of these names, of which the first are nodes; nothing is wrong with them.
    pub fn new(names: Vec<String>, nodes: usize, latency_ms_max: u64) -> Self {
        let pairs = (0..names.len()).flat_map(|a| (a + 1..names.len()).map(move |b| (a, b)));
        let now = pairs.map(|pair| (pair, Link::default())).collect();
        Self { names, nodes, latency_ms_max, now }
    }

    /// Makes the links what these faults make of them.
    pub fn settle(&mut self, sim: &mut Sim<'_>, faults: &[&What]) {
        let Self { names, nodes, latency_ms_max, now } = self;
        for ((a, b), known) in now {
            let mut link = Link::default();
            faults.iter().for_each(|what| link.suffer(what, *a, *b, *nodes));
            if link == *known {
                continue;
            }
            let (a, b) = (names[*a].as_str(), names[*b].as_str());
            if (link.a_to_b_cut, link.b_to_a_cut, link.held) != (known.a_to_b_cut, known.b_to_a_cut, known.held) {
                link.pass(sim, a, b);
            }
            if link.delay_ms_max != known.delay_ms_max {
                let most = std::time::Duration::from_millis(*latency_ms_max + link.delay_ms_max);
                sim.set_link_max_message_latency(a, b, most);
            }
            if link.loss_one_in != known.loss_one_in {
                let rate = if link.loss_one_in == 0 { 0.0 } else { 1.0 / link.loss_one_in as f64 };
                sim.set_link_fail_rate(a, b, rate);
            }
            *known = link;
        }
    }

    /// Nothing of what the machine says from now on, or has said and is on its way, arrives.
    pub fn silence(&self, sim: &Sim<'_>, machine: usize) {
        self.of(machine).for_each(|(a, b, _)| sim.partition(a, b));
    }

    /// Takes [`Links::silence`] back.
    pub fn speak(&self, sim: &Sim<'_>, machine: usize) {
        self.of(machine).for_each(|(a, b, link)| link.pass(sim, a, b));
    }

    fn of(&self, machine: usize) -> impl Iterator<Item = (&str, &str, &Link)> {
        let mine = self.now.iter().filter(move |((a, b), _)| *a == machine || *b == machine);
        mine.map(|((a, b), link)| (self.names[*a].as_str(), self.names[*b].as_str(), link))
    }
}

impl Link {
    fn suffer(&mut self, what: &What, a: usize, b: usize, nodes: usize) {
        let between = |side| has(side, a) != has(side, b);
        match *what {
            What::Cut { side } if between(side) => (self.a_to_b_cut, self.b_to_a_cut) = (true, true),
            What::OneWay { side } if between(side) => {
                self.a_to_b_cut |= has(side, a);
                self.b_to_a_cut |= has(side, b);
            }
            What::Bridge { node, half } if a != node && b != node && a < nodes && b < nodes && between(half) => {
                (self.a_to_b_cut, self.b_to_a_cut) = (true, true);
            }
            What::Hold { a: one, b: other } if (a, b) == (one.min(other), one.max(other)) => self.held = true,
            What::Freeze { node } if a == node || b == node => self.held = true,
            What::Delay { side, ms_max } if between(side) => self.delay_ms_max = self.delay_ms_max.max(ms_max),
            What::Loss { side, one_in } if between(side) => self.loss_one_in = one_in,
            _ => {}
        }
    }

    /// Lets pass what may pass. What is cut loses what is on its way; what is held keeps it.
    fn pass(&self, sim: &Sim<'_>, a: &str, b: &str) {
        sim.release(a, b);
        match (self.a_to_b_cut, self.b_to_a_cut, self.held) {
            (true, true, _) => sim.partition(a, b),
            (true, false, _) => sim.partition_oneway(a, b),
            (false, true, _) => sim.partition_oneway(b, a),
            (false, false, true) => sim.hold(a, b),
            (false, false, false) => {}
        }
    }
}
