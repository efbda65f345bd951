import os
import subprocess
import time
import unittest

from .. import machine

BUSY = ["sh", "-c", "while :; do :; done"]


class Others(unittest.TestCase):
    def test_work_of_ones_own_is_not_that_of_others(self):
        """On any machine, however busy: what is known to be ours is what the two shares differ by."""
        process = subprocess.Popen(BUSY)
        try:
            with_it, without_it = machine.Others([os.getpid(), process.pid]), machine.Others([os.getpid()])
            until = time.monotonic() + 20
            before = machine.ticks_of(process.pid)
            while machine.ticks_of(process.pid) < before + 10 and time.monotonic() < until:
                time.sleep(0.01)
            known, unknown = with_it.share(), without_it.share()
        finally:
            process.kill()
            process.wait()
        self.assertLess(known, unknown)
        self.assertGreaterEqual(known, 0.0)

    def test_a_process_that_has_ended_takes_nothing(self):
        process = subprocess.Popen(["true"])
        process.wait()
        self.assertEqual(machine.ticks_of(process.pid), 0)
