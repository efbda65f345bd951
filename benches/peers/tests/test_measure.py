import argparse
import os
import pathlib
import unittest
from unittest import mock

from .. import engines, measure, model

FAKE = str(pathlib.Path(__file__).with_name("fake_shoal.py"))
MINILM = model.Model(pathlib.Path("somewhere"), 6, 384, 1536)


def run(names, shapes=("1x16", "mixed"), turns=3, **environment):
    chosen = [engines.BY_NAME[name] for name in names]
    arguments = argparse.Namespace(
        shoal=FAKE, threads=1, turns=turns, turn_seconds=0.4, engines=chosen, shapes=shapes
    )
    with mock.patch.dict(os.environ, environment), mock.patch("sys.stderr"):
        return measure.run(arguments, MINILM)


class Measure(unittest.TestCase):
    def test_every_engine_is_asked_for_every_shape_in_every_turn(self):
        done = run(["f32", "bf16"])
        self.assertEqual(list(done.results), ["1x16", "mixed"])
        for found in done.results.values():
            self.assertEqual({name: len(result.seconds) for name, result in found.items()}, {"f32": 3, "bf16": 3})
        self.assertEqual(done.rate("1x16", "bf16"), 1.0)
        self.assertEqual(done.peaks["mixed"]["bf16"], [200.0] * 3)
        self.assertEqual(done.peak("1x16", "bf16"), 200.0)
        self.assertIsNone(done.peak("1x16", "int8"))

    def test_an_engine_that_fails_is_out_and_the_others_go_on(self):
        for how, why in (("FAKE_FAILS", "the processor cannot"), ("FAKE_DIES", "ended: no weights in there")):
            done = run(["f32", "bf16"], **{how: "bf16"})
            self.assertEqual(done.lost, {"bf16": why})
            self.assertEqual(list(done.results["mixed"]), ["f32"])

    def test_an_engine_that_does_not_answer_is_ended(self):
        with mock.patch.object(engines, "ANSWER_SECONDS", 0.5), mock.patch("peers.child.END_SECONDS", 0.1):
            done = run(["bf16"], FAKE_HANGS="bf16")
        self.assertEqual(done.lost, {"bf16": "no answer within 0.5 s"})

    def test_an_engine_that_cannot_tell_peaks_stays_in_the_run(self):
        done = run(["f32", "bf16"], FAKE_PEAKLESS="f32")
        self.assertEqual((done.lost, done.peaks), ({}, {}))
        for found in done.results.values():
            self.assertEqual({name: len(result.seconds) for name, result in found.items()}, {"f32": 3, "bf16": 3})

    def test_peers_alone_are_not_kept_waiting_for_peaks(self):
        field = measure.Field(measure.Run(MINILM))
        field.children["torch-f32"] = mock.Mock()
        with mock.patch("time.sleep") as slept:
            measure.measure_peaks(None, field, "1x16")
        slept.assert_not_called()
        field.children["torch-f32"].ask.assert_not_called()
        self.assertEqual(field.done.peaks, {})

    def test_a_program_that_is_not_there_is_said(self):
        with mock.patch(f"{__name__}.FAKE", "/nowhere/engine"):
            done = run(["f32"])
        self.assertIn("/nowhere/engine does not start", done.lost["f32"])

    def test_a_turn_is_filled_with_rounds_and_one_goes_first(self):
        self.assertEqual(measure.rounds_of_a_turn(0.1, 0.4), (4, 1))
        self.assertEqual(measure.rounds_of_a_turn(0.3, 0.4), (1, 1))
        self.assertEqual(measure.rounds_of_a_turn(2.0, 0.4), (1, 0))
        self.assertEqual(measure.rounds_of_a_turn(0.0, 0.4), (measure.ROUNDS_MAX, 1))
