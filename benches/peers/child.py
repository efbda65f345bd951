"""An engine in a process of its own.

It reads one JSON object a line and answers each with one:

    {"op": "shape", "ids": [[101, …], …], "rounds": 3, "want": true, "sorted": 8}
    {"seconds": [0.1, …], "embeddings_sha": "…", "embeddings": [[0.1, …], …]}
    {"op": "peak"}
    {"f32": 230.0, "bf16": 454.0, "int8": null}

`seconds` are those of each round, from ids in memory to embeddings in memory, of all rows. `embeddings` come only where
they are wanted, scaled to length 1 and in the order of `ids`; their SHA-256 is over little-endian float32. `sorted` is said
to peers only, and only where rows shall be padded together with others of their length. Peaks are in billions of operations
a second over all threads, null where the processor lacks the instruction. What fails is answered by {"error": "…"}. An
engine ends when its input does.
"""

import json
import queue
import subprocess
import tempfile
import threading

END_SECONDS = 5


class EngineError(Exception):
    """Why an engine is out of the run, in its own words where it had some."""


class Child:
    def __init__(self, name, command, environment, answer_seconds):
        self.name = name
        self.answer_seconds = answer_seconds
        self.log = tempfile.TemporaryFile("w+", errors="replace")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log}
        try:
            self.process = subprocess.Popen(command, text=True, env=environment, **pipes)
        except OSError as error:
            self.log.close()
            raise EngineError(f"{command[0]} does not start: {error}") from error
        self.lines = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, question):
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self.lines.get(timeout=self.answer_seconds)
        except queue.Empty:
            raise EngineError(f"no answer within {self.answer_seconds:g} s") from None
        except OSError:
            line = None
        if line is None:
            raise EngineError(f"ended: {self.last_words()}")
        try:
            answer = json.loads(line)
        except ValueError:
            raise EngineError(f"answered what is no JSON: {line[:200]!r}") from None
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer

    def shape(self, rows, rounds, want=False, group=0):
        question = {"op": "shape", "ids": rows, "rounds": rounds, "want": want}
        if group:
            question["sorted"] = group
        answer = self.ask(question)
        if len(answer.get("seconds", ())) != rounds:
            raise EngineError(f"was asked for {rounds} rounds and answered {answer.get('seconds')}")
        if want and len(answer.get("embeddings", ())) != len(rows):
            raise EngineError(f"was asked for {len(rows)} embeddings and did not answer as many")
        return answer

    def last_words(self):
        """The end of what it wrote to its standard error."""
        self.log.seek(0)
        words = [line.strip() for line in self.log.readlines() if line.strip()]
        return " | ".join(words[-3:])[-600:] or "it said nothing"

    def end(self):
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def _read(self):
        with self.process.stdout as output:
            for line in output:
                self.lines.put(line)
        self.lines.put(None)
