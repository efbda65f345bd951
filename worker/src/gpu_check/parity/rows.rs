//! Ops that know nothing of a token but its row.

use rand::RngExt as _;

use super::{Compared, Draw, Numbers, read};
use crate::cuda::element::Element;
use crate::gpu_check::{CheckError, say};
use crate::ops::activate::cuda::Activate;
use crate::ops::activate::reference::activate;
use crate::ops::embed::cuda::Embed;
use crate::ops::embed::reference::{embed, sum};
use crate::ops::gate::cuda::Gate;
use crate::ops::gate::reference::gate;
use crate::ops::normalize::cuda::{AddNorm, Norm};
use crate::ops::normalize::reference::normalize;
use crate::ops::pick::cuda::Pick;
use crate::ops::pool::cuda::Pool;
use crate::ops::pool::reference::pool;
use crate::ops::top;
use crate::ops::top::cuda::Top;
use crate::plan::{Activation, NormKind, Pooling};

/// So that a wrong one shows.
const EPSILON: f32 = 1e-2;

impl Draw<'_> {
    pub(super) fn add_norm(
        &mut self,
        rows: usize,
        width: usize,
        kind: NormKind,
        has_shift: bool,
    ) -> Result<Compared, CheckError> {
        let (input, residual) = (self.numbers(rows * width), self.numbers(rows * width));
        let (gain, shift) = (self.vector(width, 1.0), self.vector(width, 0.0));
        let mut bench = self.bench();
        let shift_span = has_shift.then(|| bench.put(&shift));
        let add_norm = AddNorm {
            rows,
            width,
            element: self.element,
            input: input.put(&mut bench),
            residual: Some(residual.put(&mut bench)),
            norm: Norm { kind, gain: bench.put(&gain), shift: shift_span, epsilon: EPSILON },
            output: self.room(&mut bench, rows * width),
        };
        bench.run(add_norm.command()).map_err(say)?;
        let sums: Vec<f64> = input.wide.iter().zip(&residual.wide).map(|(x, y)| x + y).collect();
        let shift = if has_shift { shift } else { vec![0.0; width] };
        let expected = sums.chunks_exact(width).flat_map(|row| normalize(kind, row, &gain, &shift, EPSILON)).collect();
        Ok(Compared { found: self.read(&bench, add_norm.output), expected })
    }

    pub(super) fn embed(
        &mut self,
        tokens: usize,
        width: usize,
        has_positions: bool,
        has_types: bool,
        has_norm: bool,
    ) -> Result<Compared, CheckError> {
        let [words, positions, kinds] = [50, 20, 2].map(|count| self.numbers(count * width));
        let (gain, shift) = (self.vector(width, 1.0), self.vector(width, 0.0));
        let mut below = |end: u32| -> Vec<u32> { (0..tokens).map(|_| self.random.random_range(0..end)).collect() };
        let (ids, places, types) = (below(50), below(20), below(if has_types { 2 } else { 1 }));
        let mut bench = self.bench();
        let (gain_span, shift_span) = (bench.put(&gain), bench.put(&shift));
        let norm = Norm { kind: NormKind::Layer, gain: gain_span, shift: Some(shift_span), epsilon: EPSILON };
        let embed_all = Embed {
            tokens,
            width,
            element: self.element,
            ids: bench.put(&ids),
            places: bench.put(&places),
            types: has_types.then(|| bench.put(&types)),
            words: words.put(&mut bench),
            positions: has_positions.then(|| positions.put(&mut bench)),
            kinds: Some(kinds.put(&mut bench)),
            norm: has_norm.then_some(norm),
            output: self.room(&mut bench, tokens * width),
        };
        bench.run(embed_all.command()).map_err(say)?;
        let row = |table: &Numbers, row: u32| table.wide[row as usize * width..][..width].to_vec();
        let expected = (0..tokens)
            .flat_map(|token| {
                let mut rows = vec![row(&words, ids[token]), row(&kinds, types[token])];
                rows.extend(has_positions.then(|| row(&positions, places[token])));
                let rows: Vec<&[f64]> = rows.iter().map(Vec::as_slice).collect();
                if has_norm { embed(NormKind::Layer, &rows, &gain, &shift, EPSILON) } else { sum(&rows) }
            })
            .collect();
        Ok(Compared { found: self.read(&bench, embed_all.output), expected })
    }

    pub(super) fn activation(
        &mut self,
        activation: Activation,
        rows: usize,
        width: usize,
        has_residual: bool,
    ) -> Result<Compared, CheckError> {
        let (matrix, bias, more) = (self.numbers(rows * width), self.numbers(width), self.numbers(rows * width));
        let mut bench = self.bench();
        let (at, shift) = (matrix.put(&mut bench), Some(bias.put(&mut bench)));
        let residual = has_residual.then(|| more.put(&mut bench));
        let activate_all =
            Activate { rows, width, element: self.element, matrix: at, bias: shift, residual, activation };
        bench.run(activate_all.command()).map_err(say)?;
        let sum = |(index, x): (usize, &f64)| {
            activate(x + bias.wide[index % width], activation) + if has_residual { more.wide[index] } else { 0.0 }
        };
        let expected = matrix.wide.iter().enumerate().map(sum).collect();
        Ok(Compared { found: self.read(&bench, at), expected })
    }

    pub(super) fn gate(&mut self, activation: Activation, rows: usize, width: usize) -> Result<Compared, CheckError> {
        let input = self.numbers(rows * 2 * width);
        let mut bench = self.bench();
        let (from, to) = (input.put(&mut bench), self.room(&mut bench, rows * width));
        let gate_all = Gate { rows, width, element: self.element, activation, input: from, output: to };
        bench.run(gate_all.command()).map_err(say)?;
        let expected = input.wide.chunks_exact(2 * width).flat_map(|row| gate(row, activation)).collect();
        Ok(Compared { found: self.read(&bench, to), expected })
    }

    pub(super) fn pooling(&mut self, pooling: Pooling, into: Element) -> Result<Compared, CheckError> {
        let (width, splits) = (768, [0_u32, 1, 5, 90]);
        let input = self.numbers(90 * width);
        let mut bench = self.bench();
        let pooled = Pool {
            sequences: 3,
            width,
            element: self.element,
            pooling,
            input: input.put(&mut bench),
            splits: bench.put(&splits),
            output: bench.room::<u8>(3 * width * into.bytes()),
            into,
        };
        bench.run(pooled.command()).map_err(say)?;
        let rows: Vec<Vec<f64>> = input.wide.chunks_exact(width).map(<[f64]>::to_vec).collect();
        let of = |pair: &[u32]| pool(&rows[pair[0] as usize..pair[1] as usize], pooling);
        let expected = splits.windows(2).flat_map(of).collect();
        Ok(Compared { found: read(&bench, pooled.output, into), expected })
    }

    pub(super) fn pick(&mut self, width: usize) -> Result<Compared, CheckError> {
        let marks = [0_u32, 7, 8, 19];
        let input = self.numbers(20 * width);
        let mut bench = self.bench();
        let picked = Pick {
            marks: marks.len(),
            width,
            element: self.element,
            input: input.put(&mut bench),
            list: bench.put(&marks),
            output: self.room(&mut bench, marks.len() * width),
        };
        bench.run(picked.command()).map_err(say)?;
        let expected = marks.iter().flat_map(|mark| input.wide[*mark as usize * width..][..width].to_vec()).collect();
        Ok(Compared { found: self.read(&bench, picked.output), expected })
    }

    pub(super) fn top(&mut self, vocabulary: usize) -> Result<Compared, CheckError> {
        let (rows, count) = (3, 5.min(vocabulary));
        let logits: Vec<f32> = (0..rows * vocabulary).map(|_| self.random.random_range(-9.0..9.0f32)).collect();
        let mut bench = self.bench();
        let top = Top {
            rows,
            vocabulary,
            count,
            logits: bench.put(&logits),
            output: bench.room::<u8>(rows * top::cuda::bytes(count)),
        };
        bench.run(top.command()).map_err(say)?;
        let numbers = |best: &top::Best| -> Vec<f64> {
            let entries = best.entries.iter().flat_map(|(id, logit)| [f64::from(*id), f64::from(*logit)]);
            [f64::from(best.largest), f64::from(best.sum)].into_iter().chain(entries).collect()
        };
        let expected =
            logits.chunks_exact(vocabulary).flat_map(|row| numbers(&top::reference::top(row, count))).collect();
        let output = bench.read::<u8>(top.output);
        let found = top::cuda::read(&output, count).flat_map(|best| numbers(&best)).collect();
        Ok(Compared { found, expected })
    }
}
