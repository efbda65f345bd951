//! Ops over the tokens of sequences: attention, and the places that it is told.

use rand::RngExt as _;

use super::{Compared, Draw};
use crate::gpu_check::{CheckError, say};
use crate::ops::attend::cuda::{Attend, tiles};
use crate::ops::attend::reference::attend;
use crate::ops::normalize::cuda::Norm;
use crate::ops::normalize::reference::normalize;
use crate::ops::rotate::angles::frequencies;
use crate::ops::rotate::cuda::Rotate;
use crate::ops::rotate::reference::rotate;
use crate::plan::{Heads, Mask, NormKind};

impl Draw<'_> {
    pub(super) fn attention(&mut self, heads: Heads, mask: Mask, lengths: &[usize]) -> Result<Compared, CheckError> {
        let (width, scale) = (heads.width, 2.0 / (heads.width as f32).sqrt());
        let mut splits = vec![0];
        lengths.iter().for_each(|length| splits.push(splits[splits.len() - 1] + length));
        let tokens = splits[splits.len() - 1];
        let qkv = self.numbers(tokens * heads.row());
        let mut list: Vec<u32> = tiles(&splits).flatten().collect();
        // Tiles to spare, as what was captured for more sequences has.
        list.extend([0; 6]);
        let mut bench = self.bench();
        let attention = Attend {
            heads,
            element: self.element,
            mask,
            scale,
            qkv: qkv.put(&mut bench),
            tiles: list.len() / 3,
            list: bench.put(&list),
            output: self.room(&mut bench, tokens * heads.queries()),
        };
        bench.run(attention.command()).map_err(say)?;
        let row = |token: usize| &qkv.wide[token * heads.row()..][..heads.row()];
        let to_base_2 = f64::from(scale) * std::f64::consts::LOG2_E;
        let mut expected = Vec::with_capacity(tokens * heads.queries());
        for pair in splits.windows(2) {
            for token in pair[0]..pair[1] {
                let seen = mask.seen(token - pair[0], pair[1] - pair[0]);
                for head in 0..heads.count {
                    let [queries, keys, values] = heads.columns(head);
                    let q: Vec<f64> = row(token)[queries..][..width].iter().map(|x| x * to_base_2).collect();
                    let part = |at: usize| seen.clone().map(move |place| &row(pair[0] + place)[at..][..width]);
                    expected.extend(attend(&q, part(keys), part(values)));
                }
            }
        }
        Ok(Compared { found: self.read(&bench, attention.output), expected })
    }

    /// Tokens of places near and far, some of them as far as any model's sequences go.
    pub(super) fn rotation(&mut self, heads: Heads, has_norms: bool, in_place: bool) -> Result<Compared, CheckError> {
        let (tokens, base, epsilon) = (37, 1.6e5, 1e-2);
        let mut places: Vec<u32> = (0..tokens as u32).map(|_| self.random.random_range(0..512)).collect();
        places[..5].fill_with(|| self.random.random_range(0..40_960));
        let qkv = self.numbers(tokens * heads.row());
        let gains = [self.vector(heads.width, 1.0), self.vector(heads.width, 1.0)];
        let mut bench = self.bench();
        let from = qkv.put(&mut bench);
        let mut norm = |gain: &Vec<f32>| Norm { kind: NormKind::Rms, gain: bench.put(gain), shift: None, epsilon };
        let norms = has_norms.then(|| gains.each_ref().map(&mut norm));
        let output = if in_place { from } else { self.room(&mut bench, qkv.wide.len()) };
        let rotation = Rotate {
            tokens,
            heads,
            element: self.element,
            norms,
            frequencies: bench.put(&frequencies(heads.width, base).collect::<Vec<_>>()),
            qkv: from,
            places: bench.put(&places),
            output,
        };
        bench.run(rotation.command()).map_err(say)?;
        let none = vec![0.0; heads.width];
        let mut expected = Vec::with_capacity(qkv.wide.len());
        for (row, place) in qkv.wide.chunks_exact(heads.row()).zip(&places) {
            for (index, head) in row.chunks_exact(heads.width).enumerate() {
                let gain = &gains[usize::from(index >= heads.count)];
                match has_norms {
                    _ if index >= heads.count + heads.shared => expected.extend(head),
                    true => {
                        let normed = normalize(NormKind::Rms, head, gain, &none, epsilon);
                        expected.extend(rotate(&normed, *place as usize, base));
                    }
                    false => expected.extend(rotate(head, *place as usize, base)),
                }
            }
        }
        Ok(Compared { found: self.read(&bench, output), expected })
    }
}
