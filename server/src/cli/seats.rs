//! Where local workers compute: which GPU each takes, and with how many others.

use std::num::NonZeroUsize;

/// Local workers that are started at most.
const WORKERS_MAX: usize = 256;

/// A worker's place on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    /// The GPU's number.
    pub(super) gpu: u32,
    /// Workers on it, this one among them.
    pub(super) workers: usize,
}

/// One worker for each of `gpus`, or one without; where somebody stated how many there are to be, so many, which go round
/// the GPUs.
pub(super) fn seats(stated: Option<NonZeroUsize>, gpus: &[u32]) -> Vec<Option<Seat>> {
    let count = stated.map_or(gpus.len().clamp(1, WORKERS_MAX), NonZeroUsize::get);
    let seat = |worker: usize| {
        let at = worker.checked_rem(gpus.len())?;
        Some(Seat { gpu: gpus[at], workers: (count - at).div_ceil(gpus.len()) })
    };
    (0..count).map(seat).collect()
}

/// What the log says of it, beside what was found.
pub(super) fn line(seats: &[Option<Seat>]) -> String {
    let taken: Vec<u32> = seats.iter().flatten().map(|seat| seat.gpu).collect();
    match (seats.len(), taken.len()) {
        (1, 1) => format!("one worker, on GPU {}", taken[0]),
        (1, _) => "one worker".to_owned(),
        (count, 0) => format!("{count} workers"),
        (count, _) => {
            let taken: Vec<_> = taken.iter().map(ToString::to_string).collect();
            format!("{count} workers, on GPUs {}", taken.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stated(count: usize) -> Option<NonZeroUsize> {
        NonZeroUsize::new(count)
    }

    fn taken(seats: &[Option<Seat>]) -> Vec<(u32, usize)> {
        seats.iter().map(|seat| seat.map(|seat| (seat.gpu, seat.workers)).expect("a seat")).collect()
    }

    #[test]
    fn each_gpu_has_a_worker_unless_their_number_is_stated() {
        assert_eq!(taken(&seats(None, &[0, 2])), [(0, 1), (2, 1)]);
        assert_eq!(taken(&seats(stated(1), &[0, 2])), [(0, 1)]);
        assert_eq!(taken(&seats(stated(3), &[0, 2])), [(0, 2), (2, 1), (0, 2)]);
        assert_eq!(taken(&seats(stated(4), &[7])), [(7, 4); 4]);
    }

    #[test]
    fn without_a_gpu_there_is_one_worker_or_as_many_as_stated() {
        assert_eq!(seats(None, &[]), [None]);
        assert_eq!(seats(stated(2), &[]), [None, None]);
    }

    #[test]
    fn the_log_says_who_sits_where() {
        assert_eq!(line(&seats(None, &[])), "one worker");
        assert_eq!(line(&seats(stated(2), &[])), "2 workers");
        assert_eq!(line(&seats(None, &[1])), "one worker, on GPU 1");
        assert_eq!(line(&seats(stated(3), &[0, 2])), "3 workers, on GPUs 0, 2, 0");
    }
}
