//! Which calls are shown: some of all by lot, and of the rest those that ended badly, up to so many a second.

use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::trace::TraceId;
use serde::Deserialize;
use tokio::time::Instant;

/// Calls kept for each reason in a second, at most: an overload must not flood the collector.
pub(crate) const KEPT_PER_SECOND_MAX: u32 = 10;

/// The part of the calls without a parent that is shown, whatever becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Sample(f64);

/// Which other calls are shown, for how they ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KeepRule {
    pub errors: bool,
    pub late: bool,
}

/// Why a call is shown that was not drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It failed, and not by the client's fault.
    Error,
    /// It was not answered within its model's objective.
    Late,
}

/// Keeps to [`KeepRule`] and to [`KEPT_PER_SECOND_MAX`].
#[derive(Debug)]
pub(super) struct Keeper {
    rule: KeepRule,
    errors: Mutex<Second>,
    late: Mutex<Second>,
}

/// What was kept in the second that began then.
#[derive(Debug)]
struct Second {
    began: Option<Instant>,
    kept: u32,
}

impl Sample {
    /// One of a hundred.
    pub const DEFAULT: Self = Self(0.01);

    /// By the trace's id, so that every server that sees the trace with this ratio decides alike.
    pub(super) fn draws(self, trace: TraceId) -> bool {
        let mut low = [0; 8];
        low.copy_from_slice(&trace.to_bytes()[8..]);
        // As OpenTelemetry's libraries do it. The bound is exact for 1, which takes all.
        u64::from_be_bytes(low) >> 1 < (self.0 * (1_u64 << 63) as f64) as u64
    }
}

impl TryFrom<f64> for Sample {
    type Error = String;

    fn try_from(part: f64) -> Result<Self, String> {
        match (0.0..=1.0).contains(&part) {
            true => Ok(Self(part)),
            false => Err(format!("`{part}` is not a part of the calls, from 0 to 1")),
        }
    }
}

impl FromStr for Sample {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let part: f64 = text.parse().map_err(|_| format!("`{text}` is not a number from 0 to 1"))?;
        part.try_into()
    }
}

impl Default for KeepRule {
    fn default() -> Self {
        Self { errors: true, late: true }
    }
}

impl FromStr for KeepRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rule = Self { errors: false, late: false };
        if text == "none" {
            return Ok(rule);
        }
        for word in text.split(',') {
            match word.trim() {
                "errors" => rule.errors = true,
                "late" => rule.late = true,
                other => return Err(format!("`{other}` is neither `errors` nor `late`, nor is all of it `none`")),
            }
        }
        Ok(rule)
    }
}

impl TryFrom<String> for KeepRule {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Kept {
    /// As spans say it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Late => "late",
        }
    }
}

impl Keeper {
    pub(super) fn new(rule: KeepRule) -> Self {
        let second = || Mutex::new(Second { began: None, kept: 0 });
        Self { rule, errors: second(), late: second() }
    }

    /// Whether one more call may be kept for this.
    pub(super) fn keep(&self, now: Instant, why: Kept) -> bool {
        let (wanted, second) = match why {
            Kept::Error => (self.rule.errors, &self.errors),
            Kept::Late => (self.rule.late, &self.late),
        };
        // A poisoned lock means that a panic is already under way; the count is whole all the same.
        wanted && second.lock().unwrap_or_else(PoisonError::into_inner).one_more(now)
    }
}

impl Second {
    fn one_more(&mut self, now: Instant) -> bool {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= Duration::from_secs(1)) {
            (self.began, self.kept) = (Some(now), 0);
        }
        self.kept += 1;
        self.kept <= KEPT_PER_SECOND_MAX
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    #[test]
    fn draws_the_part_it_is_told() {
        let drawn = |part: f64| {
            let sample = Sample::try_from(part).expect("a part");
            // Spread as ids are, and the same in every run.
            let mut ids = SmallRng::seed_from_u64(7);
            (0..10_000).filter(|_| sample.draws(TraceId::from(ids.random::<u128>()))).count()
        };
        assert_eq!((drawn(0.0), drawn(1.0)), (0, 10_000));
        assert!((80..=120).contains(&drawn(0.01)), "{}", drawn(0.01));
        assert!((4800..=5200).contains(&drawn(0.5)), "{}", drawn(0.5));
        assert!(Sample::try_from(1.0).expect("a part").draws(TraceId::from(u128::MAX)));
    }

    #[test]
    fn refuses_what_is_no_part() {
        for wrong in ["-0.1", "1.1", "NaN", "", "1%", "inf"] {
            assert!(wrong.parse::<Sample>().is_err(), "{wrong}");
        }
        assert_eq!("0.01".parse(), Ok(Sample::DEFAULT));
    }

    #[test]
    fn reads_what_to_keep() {
        let rule = |errors, late| Ok(KeepRule { errors, late });
        assert_eq!("errors,late".parse(), rule(true, true));
        assert_eq!(" late , errors".parse(), rule(true, true));
        assert_eq!("errors".parse(), rule(true, false));
        assert_eq!("none".parse(), rule(false, false));
        for wrong in ["", "all", "errors,", "none,late"] {
            let error = wrong.parse::<KeepRule>().expect_err(wrong);
            assert!(error.contains("`errors`"), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keeps_so_many_a_second_for_each_reason() {
        let keeper = Keeper::new(KeepRule { errors: true, late: true });
        let kept = |why| (0..1000).filter(|_| keeper.keep(Instant::now(), why)).count();
        assert_eq!(kept(Kept::Error), 10);
        assert_eq!(kept(Kept::Late), 10, "errors leave room for those that are late");
        tokio::time::advance(Duration::from_millis(999)).await;
        assert_eq!(kept(Kept::Error), 0);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(kept(Kept::Error), 10);
        let keeper = Keeper::new(KeepRule { errors: false, late: true });
        assert!(!keeper.keep(Instant::now(), Kept::Error) && keeper.keep(Instant::now(), Kept::Late));
    }
}
