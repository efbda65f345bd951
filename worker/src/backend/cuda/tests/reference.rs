//! A plan by the ops' reference loops, on the checkpoint's own numbers.

use crate::model::weights::Bound;
use crate::ops::activate::reference::activate;
use crate::ops::attend::reference::attend;
use crate::ops::embed::reference::sum;
use crate::ops::gate::reference::gate;
use crate::ops::gemm::reference::gemm;
use crate::ops::normalize::reference::normalize;
use crate::ops::pick::reference::pick;
use crate::ops::pool::reference::pool;
use crate::ops::rotate::reference::rotate;
use crate::plan::{Heads, Mask, Norm, Op, Packed, Plan, WeightId};

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
            Op::Embed { words, positions, types, norm, .. } => self.embed(words, positions, types, norm),
            Op::Gemm { input, weight, bias, activation, residual, .. } => {
                let left: Vec<f32> = buffers[input.0].iter().flatten().map(|x| *x as f32).collect();
                let outputs = self.plan[weight].size().0;
                let bias = bias.map_or_else(|| vec![0.0; outputs], self.weights);
                let product = gemm(&left, &(self.weights)(weight), &bias, |x| activate(x, activation));
                let product: Matrix = product.chunks_exact(outputs).map(<[f64]>::to_vec).collect();
                add(&product, residual.map(|residual| &buffers[residual.0]))
            }
            Op::Gate { input, activation, .. } => buffers[input.0].iter().map(|row| gate(row, activation)).collect(),
            Op::Rotate { qkv, heads, norms, base, .. } => {
                let norms = norms.map(|norms| norms.map(|norm| self.norm(norm)));
                let of = |(row, place): (&Vec<f64>, usize)| {
                    let head = |(index, head): (usize, &[f64])| {
                        let is_key = index >= heads.count;
                        let normed = || norms.as_ref().map_or(head.to_vec(), |norms| norms[usize::from(is_key)](head));
                        let is_value = index >= heads.count + heads.shared;
                        if is_value { head.to_vec() } else { rotate(&normed(), place, base) }
                    };
                    row.chunks_exact(heads.width).enumerate().flat_map(head).collect()
                };
                buffers[qkv.0].iter().zip(self.places()).map(of).collect()
            }
            Op::Attend { qkv, heads, mask, scale, .. } => {
                let rows = &buffers[qkv.0];
                sequences().flat_map(|tokens| attend_sequence(&rows[tokens], heads, mask, scale)).collect()
            }
            Op::AddNorm { input, residual, norm, .. } => {
                let sums = add(&buffers[input.0], residual.map(|residual| &buffers[residual.0]));
                let norm = self.norm(norm);
                sums.iter().map(|row| norm(row)).collect()
            }
            Op::Pool { input, pooling, .. } => {
                sequences().map(|tokens| pool(&buffers[input.0][tokens], pooling)).collect()
            }
            Op::Pick { input, .. } => pick(&buffers[input.0], self.batch.marks),
        }
    }

    fn embed(
        &self,
        words: WeightId,
        positions: Option<WeightId>,
        types: Option<WeightId>,
        norm: Option<Norm>,
    ) -> Matrix {
        let table = |id| -> Matrix {
            let wide = |row: &[f32]| row.iter().map(|x| f64::from(*x)).collect();
            (self.weights)(id).chunks_exact(self.plan[id].size().1).map(wide).collect()
        };
        let (words, positions, types) = (table(words), positions.map(table), types.map(table));
        let norm = norm.map(|norm| self.norm(norm));
        let row = |(token, place): (usize, usize)| {
            let mut rows = vec![&words[self.batch.ids[token] as usize][..]];
            rows.extend(positions.iter().map(|positions| &positions[place][..]));
            let kind = self.batch.types.get(token).copied().unwrap_or(0);
            rows.extend(types.iter().map(|types| &types[kind as usize][..]));
            norm.as_ref().map_or_else(|| sum(&rows), |norm| norm(&sum(&rows)))
        };
        self.places().enumerate().map(row).collect()
    }

    /// Of each token in its sequence.
    fn places(&self) -> impl Iterator<Item = usize> {
        self.batch.splits.windows(2).flat_map(|pair| 0..pair[1] - pair[0])
    }

    /// A norm of one row.
    fn norm(&self, norm: Norm) -> impl Fn(&[f64]) -> Vec<f64> + use<> {
        let gain = (self.weights)(norm.gain);
        let shift = norm.shift.map_or_else(|| vec![0.0; gain.len()], self.weights);
        move |row| normalize(norm.kind, row, &gain, &shift, norm.epsilon)
    }
}

/// The sum of a matrix and another, if there is one.
fn add(matrix: &[Vec<f64>], other: Option<&Matrix>) -> Matrix {
    let Some(other) = other else { return matrix.to_vec() };
    matrix.iter().zip(other).map(|(row, other)| sum(&[row, other])).collect()
}

/// All heads of one sequence: `[L, Q]` in, `[L, heads · D]` out.
fn attend_sequence(rows: &[Vec<f64>], heads: Heads, mask: Mask, scale: f32) -> Matrix {
    let scale = f64::from(scale) * std::f64::consts::LOG2_E;
    let of = |(place, row): (usize, &Vec<f64>)| {
        let of_head = |head: usize| {
            let [queries, keys, values] = heads.columns(head);
            let q: Vec<f64> = row[queries..][..heads.width].iter().map(|x| x * scale).collect();
            let part = |at: usize| rows[mask.seen(place, rows.len())].iter().map(move |row| &row[at..][..heads.width]);
            attend(&q, part(keys), part(values))
        };
        (0..heads.count).flat_map(of_head).collect()
    };
    rows.iter().enumerate().map(of).collect()
}
