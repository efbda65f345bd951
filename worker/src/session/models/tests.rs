//! Who wants a model, and for how long.

use super::*;
use crate::card::Task;

const ONE: ServerId = ServerId(1);
const TWO: ServerId = ServerId(2);

fn card() -> ModelCard {
    ModelCard {
        weights_sha256: String::new(),
        architecture: "echo",
        task: Task::Tensor,
        dims: 0,
        labels: Vec::new(),
        tokens_max: 0,
        vocabulary: 0,
        bytes: 0,
        parameters: 0,
        dtype: "f32",
        backend: "echo",
        instructions: "",
        tokenizer_sha256: String::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        normalizes: false,
        mask_token: String::new(),
        mask_token_id: 0,
        smallest_batch: Duration::ZERO,
    }
}

/// A model in memory that these servers want.
fn held(by: &[ServerId]) -> (Models, Arc<str>, Instant) {
    let (mut models, name) = (Models::new(BTreeMap::new()), Arc::<str>::from("m"));
    for server in by {
        models.load(*server, &name, Some(ModelSource::Echo), Precision::Auto);
    }
    models.ready(&name, Arc::new(card()));
    (models, name, Instant::now())
}

#[test]
fn what_a_lost_server_wants_stays_until_it_is_expected_no_more() {
    let (mut models, name, now) = held(&[ONE, TWO]);
    models.leave(now, ONE);
    assert_eq!(models.unload(TWO, &name), UnloadStep::Tell);
    assert_eq!(models.timeout(), Some(now + LOST_MAX));
    // It is lost again and again while it is dialled, and not expected for longer.
    models.leave(now + LOST_MAX / 2, ONE);
    assert!(models.expire(now + LOST_MAX - Duration::from_millis(1)).is_empty());
    assert!(models.card(&name).is_some());
    assert_eq!(models.expire(now + LOST_MAX), std::slice::from_ref(&name));
    assert_eq!((models.timeout(), models.card(&name)), (None, None));
}

#[test]
fn what_a_server_wants_again_is_its_own_again() {
    let (mut models, name, now) = held(&[ONE, TWO]);
    models.leave(now, ONE);
    assert!(!models.is_wanted(ONE, &name), "nobody is told who is not there");
    assert_eq!(models.unload(TWO, &name), UnloadStep::Tell);
    let step = models.load(ONE, &name, Some(ModelSource::Echo), Precision::Auto);
    assert!(matches!(step, LoadStep::Tell(ModelStatus::Ready(_))), "{step:?}");
    assert_eq!((models.timeout(), models.expire(now + LOST_MAX)), (None, Vec::new()));
    assert_eq!(models.unload(ONE, &name), UnloadStep::Evict);
}

#[test]
fn a_server_that_is_back_may_say_that_it_wants_a_model_no_more() {
    let (mut models, name, now) = held(&[ONE]);
    models.leave(now, ONE);
    assert_eq!(models.unload(ONE, &name), UnloadStep::Evict);
}

#[test]
fn one_that_was_let_go_is_not_waited_for() {
    let (mut models, name, now) = held(&[ONE, TWO]);
    models.leave(now, ONE);
    assert_eq!(models.unload(TWO, &name), UnloadStep::Tell);
    assert_eq!(models.forget(ONE), [name]);
    // Nobody asked that it leave memory.
    let (mut models, name, now) = held(&[ONE]);
    models.leave(now, ONE);
    assert!(models.forget(ONE).is_empty() && models.card(&name).is_some());
}

#[test]
fn a_server_that_wants_it_otherwise_gets_that_if_nobody_else_wants_it_as_it_is() {
    let (mut models, name, now) = held(&[ONE, TWO]);
    models.leave(now, ONE);
    let other = |models: &mut Models| models.load(TWO, &name, Some(ModelSource::Echo), Precision::F32);
    let step = other(&mut models);
    assert!(matches!(step, LoadStep::Tell(ModelStatus::Failed { .. })), "it may be back in a moment: {step:?}");
    models.expire(now + LOST_MAX);
    let step = other(&mut models);
    assert!(matches!(&step, LoadStep::Replace(request) if request.precision == Precision::F32), "{step:?}");
    // What was there goes, and what it is replaced by stays.
    models.evicted(&name);
    assert!(models.is_wanted(TWO, &name));
    assert!(!models.ready(&name, Arc::new(card())));
    assert!(models.card(&name).is_some());
}
