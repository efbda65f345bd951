//! Where local workers compute: which GPU each takes, and with how many others.

use std::num::NonZeroUsize;

use crate::gpus::Gpu;

/// Local workers that are started at most.
const WORKERS_MAX: usize = 256;

/// A worker's place on a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    /// The GPU's number when it was found.
    number: u32,
    /// What it is known by in all lives of the worker.
    pub(super) uuid: String,
    /// Workers on it, this one among them.
    pub(super) workers: usize,
}

/// One worker for each of `gpus`, or one without; where somebody stated how many there are to be, so many, which go round
/// the GPUs.
pub(super) fn seats(stated: Option<NonZeroUsize>, gpus: &[&Gpu]) -> Vec<Option<Seat>> {
    let count = stated.map_or(gpus.len().clamp(1, WORKERS_MAX), NonZeroUsize::get);
    let seat = |worker: usize| {
        let at = worker.checked_rem(gpus.len())?;
        let Gpu { index, uuid, .. } = gpus[at];
        Some(Seat { number: *index, uuid: uuid.clone(), workers: (count - at).div_ceil(gpus.len()) })
    };
    (0..count).map(seat).collect()
}

/// What the log says of it, beside what was found.
pub(super) fn line(seats: &[Option<Seat>]) -> String {
    let taken: Vec<u32> = seats.iter().flatten().map(|seat| seat.number).collect();
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

    /// Seats on GPUs of these numbers.
    fn seated(stated: usize, numbers: &[u32]) -> Vec<Option<Seat>> {
        let gpu = |index: &u32| Gpu {
            index: *index,
            name: "NVIDIA H200".into(),
            uuid: format!("GPU-{index}"),
            address: String::new(),
            compute_capability: "9.0".into(),
            memory_bytes: 0,
            missing: None,
        };
        let gpus: Vec<Gpu> = numbers.iter().map(gpu).collect();
        seats(NonZeroUsize::new(stated), &gpus.iter().collect::<Vec<_>>())
    }

    fn taken(stated: usize, numbers: &[u32]) -> Vec<(String, usize)> {
        let seats = seated(stated, numbers).into_iter();
        seats.map(|seat| seat.map(|seat| (seat.uuid, seat.workers)).expect("a seat")).collect()
    }

    #[test]
    fn each_gpu_has_a_worker_unless_their_number_is_stated() {
        let on = |number: u32, workers| (format!("GPU-{number}"), workers);
        assert_eq!(taken(0, &[0, 2]), [on(0, 1), on(2, 1)]);
        assert_eq!(taken(1, &[0, 2]), [on(0, 1)]);
        assert_eq!(taken(3, &[0, 2]), [on(0, 2), on(2, 1), on(0, 2)]);
        assert_eq!(taken(2, &[7]), [on(7, 2), on(7, 2)]);
    }

    #[test]
    fn without_a_gpu_there_is_one_worker_or_as_many_as_stated() {
        assert_eq!(seated(0, &[]), [None]);
        assert_eq!(seated(2, &[]), [None, None]);
    }

    #[test]
    fn the_log_says_who_sits_where() {
        assert_eq!(line(&seated(0, &[])), "one worker");
        assert_eq!(line(&seated(2, &[])), "2 workers");
        assert_eq!(line(&seated(0, &[1])), "one worker, on GPU 1");
        assert_eq!(line(&seated(3, &[0, 2])), "3 workers, on GPUs 0, 2, 0");
    }
}
