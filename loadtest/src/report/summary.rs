//! The rounds of one figure, seen together.

use serde::Serialize;

/// Several rounds in three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    lowest: f64,
    highest: f64,
}

impl Summary {
    /// `None` of no values.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (lowest, highest) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let median = if sorted.len() % 2 == 1 {
            upper
        } else {
            (upper + sorted.get(middle - 1)?) / 2.0
        };
        Some(Self {
            median,
            lowest,
            highest,
        })
    }

    /// `1.23 (1.20–1.31)`, without the spread where it cannot be seen.
    pub(super) fn text(&self, decimals: usize) -> String {
        let [median, lowest, highest] =
            [self.median, self.lowest, self.highest].map(|value| format!("{value:.decimals$}"));
        if lowest == highest {
            median
        } else {
            format!("{median} ({lowest}–{highest})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_stands_in_the_middle() {
        let odd = Summary::of(&[3.0, 1.0, 10.0]).unwrap();
        assert_eq!((odd.median, odd.lowest, odd.highest), (3.0, 1.0, 10.0));
        assert_eq!(Summary::of(&[4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(Summary::of(&[]), None);
    }
}
