//! A plan by the ops' reference loops, on the checkpoint's own numbers.

use crate::model::weights::Bound;
use crate::ops::activate::reference::activate;
use crate::ops::attend::reference::attend;
use crate::ops::embed::reference::embed;
use crate::ops::gemm::reference::gemm;
use crate::ops::normalize::reference::normalize;
use crate::ops::pick::reference::pick;
use crate::ops::pool::reference::pool;
use crate::plan::{Norm, Op, Packed, Plan, WeightId};

/// A matrix by rows.
pub(super) type Matrix = Vec<Vec<f64>>;

/// Every buffer of a plan after a batch, by its id.
pub(super) fn buffers(plan: &Plan, weights: &Bound<'_>, batch: &Packed<'_>) -> Vec<Matrix> {
    let walk = Walk { plan, batch, weights: &|id| weights.weight(id).read_all().unwrap() };
    let mut buffers = vec![Matrix::new(); plan.buffers.len()];
    for op in &plan.ops {
        buffers[op.output().0] = walk.op(op, &buffers);
    }
    buffers
}

struct Walk<'a> {
    plan: &'a Plan,
    batch: &'a Packed<'a>,
    weights: &'a dyn Fn(WeightId) -> Vec<f32>,
}

impl Walk<'_> {
    fn op(&self, op: &Op, buffers: &[Matrix]) -> Matrix {
        let sequences = || self.batch.splits.windows(2).map(|pair| pair[0]..pair[1]);
        match *op {
            Op::Embed { words, positions, types, norm, .. } => {
                self.embed(words, positions.unwrap(), types, norm.unwrap())
            }
            Op::Gemm { input, weight, bias, activation, .. } => {
                let left: Vec<f32> = buffers[input.0].iter().flatten().map(|x| *x as f32).collect();
                let outputs = self.plan[weight].size().0;
                let bias = bias.map_or_else(|| vec![0.0; outputs], self.weights);
                let product = gemm(&left, &(self.weights)(weight), &bias, |x| activate(x, activation));
                product.chunks_exact(outputs).map(<[f64]>::to_vec).collect()
            }
            Op::Attend { qkv, heads, scale, .. } => {
                let rows = &buffers[qkv.0];
                sequences().flat_map(|tokens| attend_sequence(&rows[tokens], heads.count, scale)).collect()
            }
            Op::AddNorm { input, residual, norm, .. } => {
                let (gain, shift) = ((self.weights)(norm.gain), (self.weights)(norm.shift.unwrap()));
                let row = |(index, row): (usize, &Vec<f64>)| {
                    let other = |column: usize| residual.map_or(0.0, |residual| buffers[residual.0][index][column]);
                    let sums: Vec<f64> = row.iter().enumerate().map(|(column, x)| x + other(column)).collect();
                    normalize(norm.kind, &sums, &gain, &shift, norm.epsilon)
                };
                buffers[input.0].iter().enumerate().map(row).collect()
            }
            Op::Pool { input, pooling, .. } => {
                sequences().map(|tokens| pool(&buffers[input.0][tokens], pooling)).collect()
            }
            Op::Gate { .. } | Op::Rotate { .. } => unimplemented!(),
            Op::Pick { input, .. } => pick(&buffers[input.0], self.batch.marks),
        }
    }

    fn embed(&self, words: WeightId, positions: WeightId, types: Option<WeightId>, norm: Norm) -> Matrix {
        let (gain, shift) = ((self.weights)(norm.gain), (self.weights)(norm.shift.unwrap()));
        let table = |id| -> Matrix {
            let wide = |row: &[f32]| row.iter().map(|x| f64::from(*x)).collect();
            (self.weights)(id).chunks_exact(gain.len()).map(wide).collect()
        };
        let (words, positions, types) = (table(words), table(positions), types.map(table));
        let places = self.batch.splits.windows(2).flat_map(|pair| 0..pair[1] - pair[0]);
        let row = |(token, place): (usize, usize)| {
            let mut rows = vec![&words[self.batch.ids[token] as usize][..], &positions[place]];
            if let Some(types) = &types {
                rows.push(&types[self.batch.types.get(token).copied().unwrap_or(0) as usize]);
            }
            embed(norm.kind, &rows, &gain, &shift, norm.epsilon)
        };
        places.enumerate().map(row).collect()
    }
}

/// All heads of one sequence: `[L, 3 · heads · D]` in, `[L, heads · D]` out.
fn attend_sequence(rows: &[Vec<f64>], heads: usize, scale: f32) -> Matrix {
    let width = rows[0].len() / 3;
    let head = width / heads;
    let scale = f64::from(scale) * std::f64::consts::LOG2_E;
    let of = |query: &Vec<f64>| {
        let of_head = |at: usize| {
            let q: Vec<f64> = query[at..at + head].iter().map(|x| x * scale).collect();
            let part = |offset: usize| rows.iter().map(move |row| &row[offset + at..][..head]);
            attend(&q, part(width), part(2 * width))
        };
        (0..heads).flat_map(|index| of_head(index * head)).collect()
    };
    rows.iter().map(of).collect()
}
