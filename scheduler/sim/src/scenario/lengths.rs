//! How long requests are, in tokens.

use crate::rng::Rng;

/// Shares at which the values of [`Lengths::Quantiles`] stand: nothing, nine deciles, the 99th percentile, everything.
const LEVELS: [f64; 12] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0];

/// The distribution of a request's tokens.
#[derive(Clone, Debug)]
pub enum Lengths {
    /// Always the same; 0 for models without tokens.
    Fixed(u32),
    /// Any number of these, ends included.
    Uniform(u32, u32),
    /// Nine in ten between 20 and 60 tokens, one in ten of 512: queries among documents.
    Bimodal,
    /// Straight lines between the least, the deciles, the 99th percentile and the most, each times `scale`.
    Quantiles {
        /// In tokens.
        values: [u32; LEVELS.len()],
        /// What they are multiplied by, so that prompts of a large generator suit a small encoder.
        scale: f64,
    },
}

impl Lengths {
    /// Prompts of the code completion trace that Microsoft published of Azure in 2023: its deciles and its 99th
    /// percentile. The ends are ours.
    pub fn code(scale: f64) -> Self {
        let values = [8, 147, 385, 770, 1_075, 1_469, 1_909, 2_433, 3_193, 5_194, 7_436, 7_500];
        Self::Quantiles { values, scale }
    }

    /// Prompts of the conversation trace of the same source: its deciles. The ends and the 99th percentile are ours.
    pub fn conversation(scale: f64) -> Self {
        let values = [8, 207, 387, 403, 703, 1_020, 1_071, 1_130, 1_315, 2_735, 4_100, 8_000];
        Self::Quantiles { values, scale }
    }

    /// One request's tokens.
    pub fn draw(&self, rng: &mut Rng) -> u32 {
        match self {
            Self::Fixed(tokens) => *tokens,
            Self::Uniform(least, most) => rng.between_u32(*least, *most),
            Self::Bimodal => {
                if rng.per_mille(900) {
                    rng.between_u32(20, 60)
                } else {
                    512
                }
            }
            Self::Quantiles { values, scale } => {
                let share = rng.unit();
                let at = LEVELS.iter().rposition(|level| *level < share).unwrap_or(0);
                let along = (share - LEVELS[at]) / (LEVELS[at + 1] - LEVELS[at]);
                let (from, to) = (f64::from(values[at]), f64::from(values[at + 1]));
                ((from + along * (to - from)) * scale).max(1.0) as u32
            }
        }
    }

    /// Mean of the tokens.
    pub fn mean(&self) -> f64 {
        self.pieces().iter().map(|(share, from, to)| share * (from + to) / 2.0).sum()
    }

    /// Mean of the squared tokens.
    pub fn mean_squared(&self) -> f64 {
        self.pieces().iter().map(|(share, from, to)| share * (from * from + from * to + to * to) / 3.0).sum()
    }

    /// Shares between whose ends the tokens are spread evenly.
    fn pieces(&self) -> Vec<(f64, f64, f64)> {
        match self {
            Self::Fixed(tokens) => vec![(1.0, f64::from(*tokens), f64::from(*tokens))],
            Self::Uniform(least, most) => vec![(1.0, f64::from(*least), f64::from(*most))],
            Self::Bimodal => vec![(0.9, 20.0, 60.0), (0.1, 512.0, 512.0)],
            Self::Quantiles { values, scale } => {
                let levels = LEVELS.windows(2).map(|pair| pair[1] - pair[0]);
                let ends = values.windows(2).map(|pair| (f64::from(pair[0]) * scale, f64::from(pair[1]) * scale));
                levels.zip(ends).map(|(share, (from, to))| (share, from, to)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_those_of_what_is_drawn() {
        let kinds = [Lengths::Fixed(7), Lengths::Uniform(10, 20), Lengths::Bimodal, Lengths::code(0.1)];
        for lengths in kinds.into_iter().chain([Lengths::conversation(0.1)]) {
            let mut rng = Rng::new(2);
            let (mut sum, mut squares) = (0.0, 0.0);
            for _ in 0..100_000 {
                let tokens = f64::from(lengths.draw(&mut rng));
                sum += tokens / 1e5;
                squares += tokens * tokens / 1e5;
            }
            assert!((sum / lengths.mean() - 1.0).abs() < 0.01, "{lengths:?}: {sum}");
            assert!((squares / lengths.mean_squared() - 1.0).abs() < 0.02, "{lengths:?}: {squares}");
        }
    }

    #[test]
    fn a_tenth_lies_between_two_deciles() {
        let (lengths, mut rng) = (Lengths::code(1.0), Rng::new(4));
        let draws: Vec<_> = (0..50_000).map(|_| lengths.draw(&mut rng)).collect();
        for (below, share) in [(147, 0.1), (1_469, 0.5), (5_194, 0.9), (7_436, 0.99)] {
            let found = draws.iter().filter(|tokens| **tokens < below).count() as f64 / 5e4;
            assert!((found - share).abs() < 0.007, "{below}: {found}");
        }
    }
}
