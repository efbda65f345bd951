import unittest

from .. import engines, measure, model, report, shapes

MINILM = model.Model(None, 6, 384, 1536)


def made(rates, embeddings=None, peaks=None):
    """A run with these tokens a second, by shape and engine."""
    run = measure.Run(MINILM, peaks=peaks or {})
    stream = shapes.stream()
    for title, found in rates.items():
        run.batches[title] = shapes.shape(title.split(",")[0], stream)
        run.results[title] = {
            name: measure.Result(1000, [1000 / rate], (embeddings or {}).get(name, [[1.0, 0.0]]), {"same"})
            for name, rate in found.items()
        }
    return run


def row(run, start):
    [line] = [line for line in report.targets(run).splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


class Targets(unittest.TestCase):
    def test_the_worst_shape_decides_and_every_short_one_is_named(self):
        run = made({"1x16": {"torch-f32": 100, "candle": 300, "f32": 270}, "8x16": {"ort-f32": 100, "f32": 120}})
        self.assertEqual(
            row(run, "f32, of the fastest float32 peer"), ["≥ 1.0", "0.9 at 1x16", "short: 0.9 at 1x16"]
        )
        run = made({"1x16": {"torch-f32": 100, "f32": 110}, "8x16": {"ort-f32": 100, "f32": 120}})
        self.assertEqual(row(run, "f32, of the fastest float32 peer"), ["≥ 1.0", "1.1 at 1x16", "ok"])

    def test_what_was_not_measured_is_neither_ok_nor_short(self):
        run = made({"1x16": {"f32": 100}})
        self.assertEqual(row(run, "f32, of the fastest float32 peer"), ["≥ 1.0", "–", "not measured"])
        self.assertEqual(row(run, "bf16, of the silicon's peak, length 256"), ["≥ 0.8", "–", "not measured"])

    def test_a_shape_is_held_to_the_peak_of_its_own_turns_shared_by_its_work(self):
        flop = 6 * (24 * 384**2 + 4 * 128 * 384)
        run = made({"8x128": {"bf16": 90e9 / flop}}, peaks={"8x128": {"bf16": [100.0, 110.0, 60.0]}, "1x16": {"bf16": [9.0]}})
        self.assertEqual(row(run, "bf16, of the silicon's peak, length 128")[1], "0.9 at 8x128")

    def test_mixed_lengths_are_held_to_both_ways_of_padding(self):
        run = made({"mixed": {"ort-int8": 100, "int8": 250}, "mixed, sorted": {"ort-int8": 240}})
        padded = row(run, "int8, mixed lengths, of the fastest int8 peer given them as it comes")
        by_length = row(run, "int8, mixed lengths, of the fastest int8 peer given them sorted by length")
        self.assertEqual((padded[2], by_length[2]), ("ok", "short: 1.04 at mixed, sorted"))

    def test_a_wrong_answer_is_no_ok(self):
        right, wrong = [[1.0, 0.0]], [[float("nan"), 0.0]]
        run = made({"1x16": {"torch-f32": 1, "int8-mixed": 1}}, {"torch-f32": right, "int8-mixed": wrong})
        self.assertEqual(row(run, "int8-mixed, least cosine")[2], "short: -1 at any shape")

    def test_an_answer_that_is_no_vector_of_the_right_length_is_as_wrong_as_can_be(self):
        right = [0.6, 0.8]
        self.assertAlmostEqual(report.cosine(right, right), 1.0)
        for wrong in ([0.6], [], [None, 0.8], [0.0, 0.0], [float("nan"), 0.8], [float("inf"), 0.8]):
            self.assertEqual(report.cosine(wrong, right), -1.0, wrong)

    def test_an_engine_that_computes_something_else_is_out_however_fast(self):
        answers = {"torch-f32": [[1.0, 0.0]], "f32": [[0.0, 1.0]], "bf16": [[0.8, 0.6]]}
        run = made({"1x16": {"torch-f32": 100, "f32": 10_000, "bf16": 200}}, answers)
        text = report.report(run, "a machine")
        self.assertIn("- Shoal f32: its answers are wrong: a cosine of 0.000", text)
        self.assertEqual(row(run, "f32, of the fastest float32 peer")[2], "not measured")
        self.assertEqual(list(run.results["1x16"]), ["torch-f32", "bf16"])

    def test_peers_alone_have_no_targets(self):
        self.assertIn("--shoal", report.targets(made({"1x16": {"torch-f32": 1}})))


class Tables(unittest.TestCase):
    def test_the_exactness_table_tells_who_changes_its_mind(self):
        run = made({"1x16": {"torch-f32": 1, "f32": 1}})
        run.results["1x16"]["f32"].hashes.add("other")
        lines = report.exactness(run).splitlines()
        self.assertIn("| torch f32 | 1.00000 | yes |", lines)
        self.assertIn("| Shoal f32 | 1.00000 | no |", lines)

    def test_the_silicon_of_each_shape_is_what_its_own_peak_would_give(self):
        per_token = 6 * (24 * 384**2 + 4 * 16 * 384) / 1e9
        peaks = {"1x16": {"f32": [10_000 * per_token], "bf16": [300.0, 500.0, 460.0]}, "8x16": {"bf16": [400.4]}}
        text = report.rates(made({"1x16": {"bf16": 10}, "8x16": {"bf16": 20}}, peaks=peaks))
        head, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
        self.assertEqual(head, "| rows × length | Shoal bf16 | silicon f32 | silicon bf16 | others |")
        self.assertEqual(rows, ["| 1 × 16 | 10 | 10.0k | 21.5k | 0% |", "| 8 × 16 | 20 | – | 18.7k | 0% |"])
        self.assertIn("Silicon, Gop/s over all threads: f32 214 to 214, bf16 400 to 460.", text)

    def test_without_peaks_there_is_no_silicon(self):
        self.assertNotIn("ilicon", report.rates(made({"1x16": {"bf16": 10}})))

    def test_every_row_is_as_wide_as_its_head(self):
        rates = {"1x16": {"torch-f32": 10, "bf16": 10}, "mixed, sorted": {"torch-f32": 10}}
        run = made(rates, peaks={"1x16": {"f32": [100.0]}})
        run.lost["ort-f32"] = "no such file"
        text = report.report(run, "a machine")
        for block in text.split("\n\n"):
            lines = [line for line in block.splitlines() if line.startswith("|")]
            self.assertLessEqual(len({line.count("|") for line in lines}), 1, block)
        self.assertIn("- onnxruntime f32: no such file", text)

    def test_the_reference_is_an_engine(self):
        self.assertIn(engines.REFERENCE, engines.BY_NAME)
