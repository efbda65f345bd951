//! How much load a policy takes.

use crate::contender::Variant;
use crate::play::play;
use crate::scenario::Family;
use crate::score::Score;

/// The largest load, relative to the capacity.
const LOAD_MAX: f64 = 1.25;
/// Halvings of it: to 0.005.
const STEPS: u32 = 8;

/// The score of a policy in a scenario at so many times its capacity.
pub fn score_at(family: &Family, load: f64, variant: &Variant) -> Score {
    Score::of(&play(&family.at(load), |model| variant.configure(model)))
}

/// The largest load, relative to the capacity, at which so large a part of the requests is on time: at least what is
/// returned, by less than 0.01. Taken to be the only place where that changes.
pub fn load_limit(family: &Family, on_time_share: f64, variant: &Variant) -> f64 {
    let (mut below, mut above) = (0.0, LOAD_MAX);
    for _ in 0..STEPS {
        let middle = (below + above) / 2.0;
        if score_at(family, middle, variant).total.on_time_share() >= on_time_share {
            below = middle;
        } else {
            above = middle;
        }
    }
    below
}
