import argparse
import pathlib
import tempfile
import types
import unittest
from unittest import mock

from .. import measure, model, shapes
from ..triton import __main__ as triton
from ..triton import load, results, servers

FAST, SLOW = load.Measured(300.0, 20.0), load.Measured(100.0, 90.0)


def made(**changed):
    measured = {(name, 16): [rate] * 3 for name, rate in (("Triton", SLOW), ("Shoal", FAST))}
    run = triton.Run("bf16", 64, [16], measured, {16: 6400.0}, {16: 0.9999}, 250.0, (100.0, 151.0))
    for name, value in changed.items():
        setattr(run, name, value)
    return run


class Results(unittest.TestCase):
    def test_calls_are_held_to_triton_and_tokens_to_the_engine(self):
        lines = results.targets(made()).splitlines()
        self.assertIn("| calls/s, of Triton with onnxruntime | ≥ 2 | 3 at length 16 | ok |", lines)
        self.assertIn("| tokens/s, of the engine's own | ≥ 0.85 | 0.75 at length 16 | short: 0.75 at length 16 |", lines)

    def test_memory_is_held_to_what_its_dtype_may_take(self):
        lines = results.targets(made()).splitlines()
        self.assertIn("| bf16 worker, most resident ever, MB | ≤ 150 | 151 | short |", lines)
        self.assertIn("| bf16 worker, resident after the load, MB | ≤ 110 | 100 | ok |", lines)
        self.assertIn("| f32 worker, most resident ever, MB | – | 151 |  |", results.targets(made(dtype="f32")).splitlines())

    def test_without_the_engine_its_target_is_not_measured(self):
        self.assertIn("| ≥ 0.85 | – | not measured |", results.targets(made(engine={})))
        self.assertIn("| 16 | 100 | 300 | – | 90 ms | 20 ms | 0.99990 |", results.rates(made(engine={})))


class Turns(unittest.TestCase):
    def test_the_engine_by_itself_is_warm_and_fills_a_turn_as_in_its_own_run(self):
        asked = []

        def shape(rows, rounds, want=False, group=0):
            asked.append((len(rows), rounds))
            # The first round is cold.
            return {"seconds": [9.0] + [0.5] * (rounds - 1), "embeddings_sha": "same"}

        arguments = argparse.Namespace(turns=3, seconds=5)
        run = made(measured={}, engine={})
        server, engine = types.SimpleNamespace(name="Shoal"), types.SimpleNamespace(shape=shape)
        with mock.patch.object(load, "put", return_value=FAST), mock.patch("time.sleep") as slept, mock.patch("sys.stderr"):
            triton.turns(arguments, run, 16, None, None, (server,), engine, shapes.stream())
        self.assertEqual(asked, [(64, 2)] + [(64, 11)] * 3)
        self.assertEqual(slept.mock_calls, [mock.call(measure.BREATH_SECONDS)] * 3)
        self.assertEqual(run.engine, {16: 64 * 16 / 0.5})
        self.assertEqual(run.measured, {("Shoal", 16): [FAST] * 3})


class Load(unittest.TestCase):
    def test_the_99th_percentile_is_of_the_third_column(self):
        with tempfile.TemporaryDirectory() as folder:
            log = pathlib.Path(folder, "log")
            log.write_text("".join(f"{at}\t200\t{(at * 37 % 100) * 1000}\n" for at in range(100)))
            self.assertEqual(load.p99_ms(log), 99.0)


class Servers(unittest.TestCase):
    def test_the_model_repository_has_no_blank_left_to_fill(self):
        minilm = model.Model(pathlib.Path("somewhere"), 6, 384, 1536)
        files = types.SimpleNamespace(f32=pathlib.Path("/cache/f32.onnx"))
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(servers.export, "files", return_value=files):
            home = servers.repository(minilm, 2, pathlib.Path(folder)) / servers.MODEL
            config = (home / "config.pbtxt").read_text().partition("\n")[2]
            self.assertTrue((home / "1/model.py").is_file())
        self.assertNotIn("@", config)
        self.assertIn('"/cache/f32.onnx"', config)
        self.assertIn("dims: [384]", config)

    def test_a_server_that_ends_is_said_with_its_error(self):
        with tempfile.TemporaryDirectory() as folder:
            command = ["sh", "-c", "echo fine; echo 'error: no model'; exit 1"]
            server = servers.Server("Triton", command, None, pathlib.Path(folder))
            with self.assertRaises(SystemExit) as ended:
                server.until("be ready", lambda: False)
            server.end()
        self.assertEqual(str(ended.exception), "peers: Triton ended before it could be ready; it said\nerror: no model")

    def test_each_server_counts_its_own_answers(self):
        pages = {
            servers.Shoal: 'shoal_calls_total{model="minilm",code="OK"} 7\nshoal_calls_total{model="minilm",code="INTERNAL"} 2\n',
            servers.Triton: 'nv_inference_request_success{model="minilm",version="1"} 7\nnv_inference_count{model="minilm"} 9\n',
        }
        for kind, page in pages.items():
            with mock.patch("urllib.request.urlopen") as opened:
                opened.return_value.__enter__.return_value.read.return_value = page.encode()
                self.assertEqual(kind.answered(argparse.Namespace(metrics="x", COUNTER=kind.COUNTER)), 7.0)
