import unittest

from .. import model, shapes

MINILM = model.Model(None, 6, 384, 1536)


class Shapes(unittest.TestCase):
    def setUp(self):
        self.stream = shapes.stream()

    def test_a_shape_is_the_same_in_every_run(self):
        for name in shapes.NAMES:
            self.assertEqual(shapes.shape(name, self.stream), shapes.shape(name, self.stream))

    def test_a_shape_has_the_rows_and_length_of_its_name(self):
        shape = shapes.shape("8x128", self.stream)
        self.assertEqual([len(row) for row in shape.rows], [128] * 8)
        self.assertEqual(shape.tokens, 1024)
        self.assertEqual(len({tuple(row) for row in shape.rows}), 8)
        self.assertTrue(all((row[0], row[-1]) == (shapes.CLS, shapes.SEP) for row in shape.rows))

    def test_mixed_lengths_stay_in_their_range_and_differ(self):
        lengths = [len(row) for row in shapes.shape(shapes.MIXED, self.stream).rows]
        self.assertEqual(len(lengths), 32)
        self.assertGreaterEqual(min(lengths), 8)
        self.assertLessEqual(max(lengths), 256)
        self.assertGreater(len(set(lengths)), 20)

    def test_groups_hold_every_row_once_and_neighbours_in_length(self):
        rows = shapes.shape(shapes.MIXED, self.stream).rows
        groups = shapes.groups(rows, 8)
        self.assertEqual(sorted(sum(groups, [])), list(range(32)))
        spans = [sorted(len(rows[at]) for at in group) for group in groups]
        self.assertTrue(all(a[-1] <= b[0] for a, b in zip(spans, spans[1:])))
        self.assertEqual(shapes.groups(rows, 0), [list(range(32))])

    def test_a_token_takes_22_4_megaflop_at_length_128(self):
        self.assertEqual(shapes.flop([[0] * 128], MINILM) / 128, 6 * (24 * 384**2 + 4 * 128 * 384))
        self.assertAlmostEqual(shapes.flop([[0] * 128] * 3, MINILM) / 384 / 1e6, 22.4, places=1)

    def test_scores_grow_with_each_rows_own_length(self):
        apart = shapes.flop([[0] * 8], MINILM) + shapes.flop([[0] * 256], MINILM)
        self.assertEqual(shapes.flop([[0] * 8, [0] * 256], MINILM), apart)
