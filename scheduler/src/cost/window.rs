//! The last ratios of a worker's batches, and where their upper end lies.

/// How much larger than the largest ratio the next one may be. Twice gave away a tenth of what workers can take while they
/// were new.
const UNSEEN: f64 = 1.25;
/// Ratios kept.
const LEN: usize = 64;

/// The last 64 ratios in thousandths, 65.535 at most, both in order of time and of size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    ring: [u16; LEN],
    sorted: [u16; LEN],
    /// Where the next one goes in `ring`.
    next: usize,
    len: usize,
}

impl Window {
    pub(super) const EMPTY: Self = Self { ring: [0; LEN], sorted: [0; LEN], next: 0, len: 0 };

    pub(super) fn push(&mut self, ratio: f64) {
        let ratio = ((ratio * 1_000.0) as u16).saturating_add(1); // rounded up, so that none exceeds itself
        // The place of what leaves closes and the place of what comes opens: one move of what lies between.
        let hole = if self.len == LEN {
            let left = self.ring[self.next];
            self.sorted.partition_point(|other| *other < left)
        } else {
            self.len += 1;
            self.len - 1
        };
        let at = self.sorted[..hole].partition_point(|other| *other < ratio);
        if at < hole {
            self.sorted.copy_within(at..hole, at + 1);
            self.sorted[at] = ratio;
        } else {
            let at = hole + self.sorted[hole + 1..self.len].partition_point(|other| *other < ratio);
            self.sorted.copy_within(hole + 1..at + 1, hole);
            self.sorted[at] = ratio;
        }
        self.ring[self.next] = ratio;
        self.next = (self.next + 1) % LEN;
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The value that the next ratio stays below with probability `level`, between two of the window.
    ///
    /// Of n ratios the k-th smallest is that for k / (n + 1). The n + 1-th was never seen: it is taken for [`UNSEEN`] times the
    /// largest, so that few ratios give a cautious answer that grows bolder with each.
    pub(super) fn quantile(&self, level: f64) -> f64 {
        let Some(last) = self.len.checked_sub(1) else { return 1.0 };
        let position = level * (self.len + 1) as f64 - 1.0;
        let below = (position as usize).min(last);
        let share = position - below as f64;
        let low = f64::from(self.sorted[below]);
        let high = if below < last { f64::from(self.sorted[below + 1]) } else { low * UNSEEN };
        (low + (high - low) * share) / 1_000.0
    }

    /// What the next ratio hardly stays below: by [`UNSEEN`] less than the least. 1 without ratios.
    pub(super) fn least(&self) -> f64 {
        if self.len == 0 { 1.0 } else { f64::from(self.sorted[0]) / 1_000.0 / UNSEEN }
    }

    #[cfg(test)]
    pub(super) fn sorted(&self) -> &[u16] {
        &self.sorted[..self.len]
    }
}
