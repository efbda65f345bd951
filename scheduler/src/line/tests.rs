use alloc::collections::BTreeMap;

use super::*;
use crate::{Class, Cost, RequestId, TenantId, Timestamp};

fn item(random: u64, id: u64) -> Item {
    let class = Class::ALL[(random % 3) as usize];
    let rank = Rank {
        late: random.is_multiple_of(7),
        class,
        due: Timestamp::from_millis(random / 8 % 500),
        id: RequestId(id),
    };
    let tokens = (random / 64 % 100) as u32;
    let cost = Cost { rows: 1, tokens, tokens_squared: u64::from(tokens).pow(2), bytes: random % 1_000 };
    Item { rank, tenant: TenantId(1), arrived: Timestamp::ZERO, deadline: Timestamp::MAX, cost }
}

#[test]
fn gives_a_stretch_away_at_once() {
    let (mut line, mut state) = (Line::default(), 3);
    let mut model: Vec<Item> = (0..3_000).map(|id| item(random(&mut state), id)).collect();
    model.iter().for_each(|item| line.insert(*item));
    model.sort_unstable_by_key(|item| item.rank);
    while !model.is_empty() {
        let from = (random(&mut state) % model.len() as u64) as usize / 3;
        let end = (from + (random(&mut state) % 150) as usize).min(model.len());
        line.cut(from as u64, (end - from) as u64);
        model.drain(from..end);
        line.assert_invariants();
        assert!(line.iter().eq(model.iter()), "{} are left", model.len());
    }
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

#[test]
fn is_a_sorted_map_that_grows_and_shrinks() {
    let (mut line, mut model, mut state) = (Line::default(), BTreeMap::new(), 1);
    for step in 0..30_000u64 {
        // Up to three thousand, down to none, twice.
        let is_growing = (step / 7_500).is_multiple_of(2);
        let grows = random(&mut state) % 10 < if is_growing { 7 } else { 3 };
        if grows || model.is_empty() {
            let item = item(random(&mut state), step);
            line.insert(item);
            model.insert(item.rank, item);
        } else {
            let at = (random(&mut state) % model.len() as u64) as usize;
            // The first half of the time one in the middle, then the first.
            let at = if step.is_multiple_of(2) { at } else { 0 };
            let rank = *line.at(at as u64).map(|item| &item.rank).expect("there are so many");
            assert_eq!(line.remove(rank), model.remove(&rank));
            assert_eq!(line.remove(rank), None);
        }
        if step.is_multiple_of(501) {
            line.assert_invariants();
            assert!(line.iter().eq(model.values()), "step {step}");
        }
    }
    for rank in model.keys() {
        assert!(line.remove(*rank).is_some());
    }
    line.assert_invariants();
    assert!(line.is_empty() && line.first().is_none());
}

#[test]
fn knows_what_all_up_to_a_point_take() {
    let (mut line, mut state) = (Line::default(), 2);
    let mut items: Vec<Item> = (0..2_000).map(|id| item(random(&mut state), id)).collect();
    items.iter().for_each(|item| line.insert(*item));
    items.sort_unstable_by_key(|item| item.rank);
    let mut sum = Sum::default();
    for (position, item) in items.iter().enumerate() {
        assert_eq!(line.at(position as u64), Some(item));
        assert_eq!(line.before(item.rank), sum);
        assert!(line.contains(item.rank));
        assert_eq!(line.first_from(item.rank), Some(item));
        assert_eq!(line.reach(|reached| reached.size.tokens <= sum.size.tokens).size.tokens, sum.size.tokens);
        assert_eq!(line.iter_from(position as u64).next(), Some(item));
        sum = sum.plus(Sum::of(item));
        assert_eq!(line.reach(|reached| reached.requests <= sum.requests), sum);
    }
    assert_eq!((line.reach(|_| true), line.reach(|_| false)), (sum, Sum::default()));
    assert_eq!((line.at(2_000), line.iter_from(2_000).next()), (None, None));
}
