//! Weights that are not on a worker's device: what batches take there, and where they go.

use super::*;
use crate::BatchCost;
use crate::cost::Size;

/// What a batch computes for, and what weights take to come, in milliseconds.
const COMPUTE: u64 = 10;
const PAGE_IN: u64 = 20;

/// Two workers that hold two models.
fn stage() -> Stage {
    let known = |id| {
        let cost = BatchCost { base_ns: COMPUTE * 1_000_000, row_ns: 0, token_ps: 0, token_squared_fs: 0 };
        ModelConfig { cost: Some(cost), ..config(id) }
    };
    let mut stage = Stage::new(Limits::default(), vec![known(MODEL), known(OTHER_MODEL)]);
    stage.ready(WORKER);
    stage.ready(OTHER_WORKER);
    stage
}

impl Stage {
    fn send(&mut self, model: ModelId, id: u64) -> Dispatch {
        only_dispatch(self.submit(Group { model, ..call(id, [id]) }))
    }

    fn paged_in(&mut self, of: &Dispatch) -> Vec<Output> {
        let (worker, epoch, batch, attempt) = (of.worker, of.epoch, of.batch, of.attempt);
        self.tell(Input::PagedIn { worker, epoch, batch, attempt, taken: ms(PAGE_IN) })
    }

    fn weights(&mut self, worker: WorkerId, absent: &[ModelId]) -> Vec<Output> {
        let epoch = self.epoch_of(worker);
        self.tell(Input::Weights { worker, epoch, absent: absent.to_vec() })
    }

    /// A batch of a model runs on a worker, whose weights come in place of the other's.
    fn page_in(&mut self, worker: WorkerId, model: ModelId, id: u64) {
        assert_eq!(self.credit(worker, 0, AMPLE), []);
        let batch = self.send(model, id);
        assert_eq!(batch.worker, worker);
        let gone = if model == MODEL { OTHER_MODEL } else { MODEL };
        assert_eq!(self.weights(worker, &[gone]), []);
        self.pass(PAGE_IN + COMPUTE);
        assert_eq!(self.paged_in(&batch), []);
        self.finish(&batch);
    }

    /// How long a batch of `MODEL` is thought to take.
    fn expected(&self, worker: WorkerId) -> Duration {
        self.core.models[&MODEL].costs.expected(worker, Size { rows: 1, tokens: 10, squares: 100 })
    }
}

#[test]
fn what_weights_take_is_learned_apart_and_added_where_they_are_not() {
    let mut stage = stage();
    for id in 0..20 {
        stage.page_in(WORKER, if id % 2 == 0 { MODEL } else { OTHER_MODEL }, id);
    }
    assert_eq!(stage.expected(WORKER), ms(PAGE_IN + COMPUTE));
    assert_eq!(stage.expected(OTHER_WORKER), ms(COMPUTE));
    stage.page_in(WORKER, MODEL, 20);
    assert_eq!(stage.expected(WORKER), ms(COMPUTE));
}

#[test]
fn of_idle_workers_the_one_that_has_the_weights_gets_the_batch() {
    let mut stage = stage();
    stage.page_in(WORKER, MODEL, 0);
    stage.page_in(WORKER, OTHER_MODEL, 1);
    stage.credit(WORKER, 0, AMPLE);
    stage.credit(OTHER_WORKER, 0, AMPLE);
    let here = stage.send(OTHER_MODEL, 2);
    assert_eq!(here.worker, WORKER, "where only the other one's weights are gone");
    stage.finish(&here);
    stage.credit(WORKER, 0, AMPLE);
    assert_eq!(stage.send(MODEL, 3).worker, OTHER_WORKER);
    assert_eq!(stage.send(MODEL, 4).worker, WORKER, "rather than wait");
}

#[test]
fn weights_that_are_on_their_way_are_waited_for_once() {
    let mut stage = stage();
    stage.page_in(WORKER, MODEL, 0);
    stage.page_in(WORKER, OTHER_MODEL, 1);
    stage.credit(WORKER, 0, AMPLE);
    let batch = stage.send(MODEL, 2);
    assert_eq!(stage.core.inflight.get(batch.batch).unwrap().expected, ms(PAGE_IN + COMPUTE));
    assert_eq!(stage.expected(WORKER), ms(COMPUTE));
}

#[test]
fn a_deadline_that_the_weights_leave_no_time_for_is_not_promised() {
    let learned = PolicyConfig::Learned { wait_price: 1, waits_when_idle: false, on_late: crate::OnLate::Shed };
    let mut stage = stage();
    let models = [MODEL, OTHER_MODEL].map(|id| ModelConfig { policy: learned.clone(), ..config(id) });
    stage.tell(Input::ConfigChanged(models.to_vec()));
    for id in 0..20 {
        stage.page_in(WORKER, if id % 2 == 0 { MODEL } else { OTHER_MODEL }, id);
    }
    stage.down(OTHER_WORKER, DownCause::Left);
    // It has time for the batch and not for the weights.
    let deadline = Some(stage.now + ms(PAGE_IN + COMPUTE / 2));
    let ask = |stage: &mut Stage, model, id| stage.submit(Group { model, deadline, ..call(id, [id]) });
    stage.credit(WORKER, 0, AMPLE);
    let shed = ask(&mut stage, MODEL, 20);
    assert!(matches!(shed[..], [Output::Fail { why: Failure::Shed { .. }, .. } | Output::Reject { .. }]), "{shed:?}");
    assert_eq!(only_dispatch(ask(&mut stage, OTHER_MODEL, 21)).worker, WORKER);
}

#[test]
fn a_worker_that_comes_back_has_the_weights_of_what_it_loads() {
    let mut stage = stage();
    stage.page_in(WORKER, MODEL, 0);
    stage.page_in(WORKER, OTHER_MODEL, 1);
    assert_eq!(stage.expected(WORKER), ms(PAGE_IN + COMPUTE));
    stage.down(WORKER, DownCause::Lost);
    stage.ready(WORKER);
    assert_eq!(stage.expected(WORKER), ms(COMPUTE));
}

#[test]
fn what_a_worker_says_after_loading_or_for_others_counts_at_once() {
    let mut stage = stage();
    stage.page_in(WORKER, MODEL, 0);
    assert_eq!(stage.expected(OTHER_WORKER), ms(COMPUTE), "until it says something all are there");
    stage.weights(OTHER_WORKER, &[MODEL]);
    assert_eq!(stage.expected(OTHER_WORKER), ms(PAGE_IN + COMPUTE));
    stage.weights(OTHER_WORKER, &[OTHER_MODEL]);
    assert_eq!(stage.expected(OTHER_WORKER), ms(COMPUTE), "it was brought in for somebody else");
    let dropped = stage.dropped();
    let old = Input::Weights { worker: OTHER_WORKER, epoch: Epoch(0), absent: vec![MODEL] };
    assert_eq!((stage.tell(old), stage.dropped()), (vec![], dropped + 1));
    assert_eq!(stage.expected(OTHER_WORKER), ms(COMPUTE));
}

#[test]
fn weights_that_were_away_before_their_model_was_ready_are_away() {
    let mut stage = stage();
    stage.page_in(WORKER, MODEL, 0);
    stage.down(WORKER, DownCause::Lost);
    stage.up(WORKER);
    stage.weights(WORKER, &[MODEL]);
    stage.model(WORKER, MODEL, ModelState::Ready);
    assert_eq!(stage.expected(WORKER), ms(PAGE_IN + COMPUTE));
}

#[test]
fn weights_that_go_while_their_batch_ends_are_gone_when_it_has() {
    let mut stage = stage();
    stage.page_in(WORKER, MODEL, 0);
    stage.credit(WORKER, 0, AMPLE);
    let batch = stage.send(MODEL, 1);
    stage.weights(WORKER, &[MODEL]);
    assert_eq!(stage.expected(WORKER), ms(COMPUTE), "for all that is known the batch brings them");
    stage.pass(COMPUTE);
    stage.finish(&batch);
    assert_eq!(stage.expected(WORKER), ms(PAGE_IN + COMPUTE));
}

#[test]
fn a_batch_is_not_slow_for_weights_of_which_nothing_is_known() {
    let learned = PolicyConfig::Learned { wait_price: 1, waits_when_idle: false, on_late: crate::OnLate::Serve };
    for (absent, suspects) in [(vec![], 1), (vec![MODEL], 0)] {
        let mut stage = stage();
        let cost = BatchCost { base_ns: COMPUTE * 1_000_000, row_ns: 0, token_ps: 0, token_squared_fs: 0 };
        stage.tell(Input::ConfigChanged(vec![ModelConfig { policy: learned.clone(), ..config(MODEL) }]));
        stage.tell(Input::CostKnown { model: MODEL, cost });
        stage.weights(WORKER, &absent);
        stage.credit(WORKER, 0, AMPLE);
        stage.send(MODEL, 1);
        stage.pass(PAGE_IN + COMPUTE);
        assert_eq!(stage.core.counts().suspects, suspects, "{absent:?}");
    }
}

#[test]
fn weights_take_no_longer_than_the_batch_that_waited_for_them() {
    let mut stage = stage();
    stage.credit(WORKER, 0, AMPLE);
    let batch = stage.send(MODEL, 0);
    stage.pass(PAGE_IN);
    let (worker, epoch, id, attempt) = (batch.worker, batch.epoch, batch.batch, batch.attempt);
    stage.tell(Input::PagedIn { worker, epoch, batch: id, attempt, taken: Duration::MAX });
    assert_eq!(stage.core.inflight.get(id).unwrap().page_in, ms(PAGE_IN));
}

#[test]
fn word_of_a_batch_that_is_over_is_dropped() {
    let mut stage = stage();
    stage.credit(WORKER, 0, AMPLE);
    let batch = stage.send(MODEL, 0);
    stage.pass(COMPUTE);
    stage.finish(&batch);
    assert_eq!((stage.paged_in(&batch), stage.dropped()), (vec![], 1));
}
