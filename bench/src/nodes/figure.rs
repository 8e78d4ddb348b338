//! One figure, and what it is held against.

use serde::Serialize;

/// What a figure is held against. Nothing is asserted: the table says whether it is met.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Not more than this, in the figure's unit.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
    /// Not more than this, which was measured in the same run.
    AtMostMeasured(f64),
    /// This was measured in the same run, to compare with.
    Beside(f64),
    /// None: it explains another figure.
    None,
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was done.
    pub experiment: &'static str,
    /// What was measured.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// What it is held against.
    pub limit: Limit,
    /// How it came about.
    pub note: String,
}

impl Figure {
    /// Whether the limit is met; `None` if there is none.
    pub fn is_met(&self) -> Option<bool> {
        match self.limit {
            Limit::AtMost(most) | Limit::AtMostMeasured(most) => Some(self.value <= most),
            Limit::AtLeast(least) => Some(self.value >= least),
            Limit::Beside(_) | Limit::None => None,
        }
    }

    /// The figure with its unit.
    pub fn shown(&self) -> String {
        self.with_unit(self.value)
    }

    /// The limit in words.
    pub fn limit_shown(&self) -> String {
        match self.limit {
            Limit::AtMost(most) => format!("at most {}", self.with_unit(most)),
            Limit::AtLeast(least) => format!("at least {}", self.with_unit(least)),
            Limit::AtMostMeasured(most) => format!("at most {} (measured)", self.with_unit(most)),
            Limit::Beside(other) => format!("beside {} ({:.2} of it)", self.with_unit(other), self.value / other),
            Limit::None => "-".to_owned(),
        }
    }

    /// One word for [`Figure::is_met`].
    pub fn verdict(&self) -> &'static str {
        match self.is_met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "-",
        }
    }

    /// The figure in a line of its own.
    pub fn line(&self) -> String {
        format!("{} = {} [{}: {}]", self.name, self.shown(), self.limit_shown(), self.verdict())
    }

    fn with_unit(&self, value: f64) -> String {
        let digits = if value.abs() >= 100.0 || value == value.trunc() {
            0
        } else if value.abs() >= 10.0 {
            1
        } else {
            2
        };
        format!("{value:.digits$} {}", self.unit)
    }
}

/// The value in the middle of those measured, and the largest; 0 if there are none.
pub(super) fn median_and_worst(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = match sorted.len() {
        0 => 0.0,
        even if even % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    };
    (median, sorted.last().copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64, limit: Limit) -> Figure {
        Figure { experiment: "x", name: "stop".into(), value, unit: "ms", limit, note: String::new() }
    }

    #[test]
    fn a_figure_says_whether_its_limit_is_met() {
        assert_eq!(figure(99.9, Limit::AtMost(100.0)).is_met(), Some(true));
        assert_eq!(figure(100.1, Limit::AtMost(100.0)).verdict(), "MISSED");
        assert_eq!(figure(0.79, Limit::AtLeast(0.8)).is_met(), Some(false));
        assert_eq!(figure(1.0, Limit::None).is_met(), None);
        assert_eq!(figure(12.34, Limit::AtMost(100.0)).line(), "stop = 12.3 ms [at most 100 ms: met]");
        assert_eq!(figure(50.0, Limit::Beside(200.0)).limit_shown(), "beside 200 ms (0.25 of it)");
    }

    #[test]
    fn the_median_lies_between_the_two_in_the_middle() {
        assert_eq!(median_and_worst(&[3.0, 1.0, 2.0]), (2.0, 3.0));
        assert_eq!(median_and_worst(&[4.0, 1.0, 2.0, 3.0]), (2.5, 4.0));
        assert_eq!(median_and_worst(&[]), (0.0, 0.0));
    }
}
