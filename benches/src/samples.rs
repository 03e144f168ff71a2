/// What several runs of one thing measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Adds a run.
    pub(crate) fn push(&mut self, value: f64) {
        let place = self.0.partition_point(|other| *other < value);
        self.0.insert(place, value);
    }

    /// How many runs there were.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The middle run.
    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// The smallest value that this many per cent of the runs do not exceed; not a number without a run.
    pub(crate) fn percentile(&self, per_cent: usize) -> f64 {
        let rank = (self.0.len() * per_cent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or(f64::NAN)
    }

    /// The smallest run.
    pub(crate) fn min(&self) -> f64 {
        self.percentile(0)
    }

    /// The largest run.
    pub(crate) fn max(&self) -> f64 {
        self.percentile(100)
    }

    /// The mean of all runs.
    pub(crate) fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / count(self.0.len())
    }

    /// Every run turned into another unit.
    pub(crate) fn map(&self, turn: impl Fn(f64) -> f64) -> Self {
        self.0.iter().map(|value| turn(*value)).collect()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut samples = Self::default();
        values.into_iter().for_each(|value| samples.push(value));
        samples
    }
}

/// A count as a number to divide by.
pub(crate) fn count(items: usize) -> f64 {
    u32::try_from(items).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_runs_that_were_measured() {
        let samples: Samples = [3.0, 1.0, 2.0, 4.0].into_iter().collect();
        assert_eq!(samples.median(), 2.0);
        assert_eq!((samples.min(), samples.max()), (1.0, 4.0));
        assert_eq!((samples.percentile(75), samples.percentile(99)), (3.0, 4.0));
        assert_eq!(samples.mean(), 2.5);
        assert_eq!(samples.map(|value| 1.0 / value).max(), 1.0);
        assert!(Samples::default().median().is_nan());
    }
}
