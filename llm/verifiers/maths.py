"""Verifier of mathematical answers, which runs math-verify in worker processes."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import queue
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llm.verifiers.answers import last_match, last_statement
from llm.verifiers.boxed import has_box, last_boxed
from llm.verifiers.in_threads import in_threads
from llm.verifiers.verifier import Verification

#: Maximum characters of an answer: longer texts are no answers, but may keep a worker busy.
LONGEST = 1000
#: Characters at the end of a completion that are searched for an answer without a box.
TAIL = 1000
#: Maximum seconds to start a worker, which loads sympy, perhaps from a slow disk.
START = 300.0
#: Number of the message of a server that is ready; requests count from 1.
GREETING = 0

_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_DISPLAY = re.compile(r"^\\[\[(]\s*(.*?)\s*\\[\])]$", re.DOTALL)
_SENTENCE = re.compile(
    r"(?i)(?<![a-z\\])(?:because|since|as|which|so|then|thus|that|this|we|is|are|the|i)(?![a-z])"
)

_ROOT = str(Path(__file__).parents[2])
_WORKER = (
    "import sys; sys.path[:] = sys.argv[3:]; from llm.verifiers.math_worker import main; main()"
)


class Pair(NamedTuple):
    """Request to a worker; see `llm.verifiers.math_worker.equal`."""

    gold: str
    answer: str
    boxed: bool


class Worker:
    """Handle of a worker process, started at the first pair and again whenever it has ended.

    Parameters
    ----------
    timeout : float
        Seconds for a pair.
    memory : int
        Bytes of address space of the process.
    """

    def __init__(self, timeout: float, memory: int) -> None:
        self.timeout, self.memory = timeout, memory
        self.process: subprocess.Popen[bytes] | None = None
        #: Process that serves, a child of `process`; 0 until it is known.
        self.server = 0
        self.requests, self.unread = 0, b""
        self.cancelled = self.has_worked = False

    def judge(self, pair: Pair) -> Verification:
        """Verify a pair; a failure after `timeout`.

        Raises
        ------
        RuntimeError
            If the first worker does not start. Later, as when memory is short, that is a "crash".
        """
        reply: dict[str, Any] | None = {}
        for _ in range(2):  # a second try: the worker may have been killed from outside
            try:
                reply = self._ask(pair)
            except (OSError, RuntimeError):
                if not self.has_worked:
                    raise
            if reply != {} or self.cancelled:
                break
        if reply is None:
            return Verification(0.0, "timeout")
        failure = reply.get("failure", "") if reply else "crash"
        return Verification(float(reply.get("equal", False)), failure)

    def _ask(self, pair: Pair) -> dict[str, Any] | None:
        """Reply to a pair; {} if the server has died, None after `timeout` seconds."""
        process = self._started()
        assert process.stdin is not None
        self.requests += 1  # a server may answer what its killed predecessor left unread
        request = pair._asdict() | {"id": self.requests}
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            reply = self._reply(self.timeout, self.requests)
        except BrokenPipeError:
            reply = {}
        if reply is None:
            process.send_signal(signal.SIGUSR1)
        if reply is None or reply.get("last"):
            self.server = 0  # another follows
        return reply

    def _started(self) -> subprocess.Popen[bytes]:
        """The process, with a server that is ready."""
        process = self.process
        alive = process is not None and process.poll() is None
        if process is not None and alive and (self.server or self._reply(START, GREETING)):
            return process
        self.close()
        path = [_ROOT, *(os.path.abspath(entry) for entry in sys.path if entry)]
        limits = [str(self.timeout), str(self.memory)]
        with tempfile.TemporaryFile() as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", _WORKER, *limits, *path],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C must reach only the run, which may finish its step
            )
            if not self._reply(START, GREETING):
                self.close()
                errors.seek(0)
                last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
                raise RuntimeError(
                    f"math: a worker did not start: {' '.join(last) or 'no message'}"
                )
        self.has_worked = True
        return self.process

    def _reply(self, timeout: float, number: int) -> dict[str, Any] | None:
        """Read the reply to a request; {} if the server has died, None after `timeout` seconds."""
        assert self.process is not None and self.process.stdout is not None
        pipe, end = self.process.stdout, time.monotonic() + timeout
        while True:
            line, newline, rest = self.unread.partition(b"\n")
            if not newline:
                if not select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                    return None
                data = os.read(pipe.fileno(), 1 << 16)
                if not data:
                    self.close()
                    return {}
                self.unread += data
                continue
            self.unread, reply = rest, json.loads(line)
            if "ready" in reply:
                self.server = reply["ready"]
                return reply if number == GREETING else {}
            if reply["id"] == number:
                return dict(reply)

    def cancel(self) -> None:
        """Kill the server; a thread that waits for its reply then stops waiting."""
        self.cancelled = True
        process = self.process  # another thread may close it concurrently
        if process is not None:
            process.send_signal(signal.SIGUSR1)

    def close(self) -> None:
        """Kill the process and its server, and wait until the process has ended."""
        if self.process is None:
            return
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process, self.server, self.unread = None, 0, b""


class MathVerifier:
    r"""Reward 1 for a mathematical answer equal to the gold answer: `0.25` for `\frac14`.

    The stated answer is the last `\boxed{…}` (`llm.verifiers.boxed`). Values are compared, not
    forms: an answer may be unsimplified. Decimals are exact: 0.333 is not 1/3. A and a are two
    letters. A unit may be missing but not wrong; the same holds for degree, dollar, a.m. and p.m.
    10% equals 0.1, and also 10: graders of MATH drop the sign, which many of its gold answers to
    "what percent" lack. A list `1, 2` is a set, in any order. (1, 2) is a point or an interval;
    (1, 2), [1, 2] and {1, 2} all differ. If the gold answer is no equation, `x = 3` counts as its
    right-hand side; `x = 1, y = 2` equals the point (1, 2).

    On an answer like `9^{9^{9^9}}` sympy can hang or exhaust memory. math-verify therefore runs in
    worker processes, which are killed when a pair takes too long. Such a pair has reward 0 and a
    failure: "timeout", "crash", "memory", "nested too deeply" or "too long".

    Parameters
    ----------
    timeout : float
        Seconds for one pair.
    workers : int
        Number of processes. They start with the first call. They end with `close`, with this
        process, or when the verifier is garbage-collected.
    memory : int
        MiB of address space of each worker.
    require_box : bool
        Count a completion without a box as wrong. If false, the answer is what follows the last
        "answer is", "Answer:" or `<answer>` up to the end of the line, or the line below a heading
        "Answer", or else the last text in bold, or else the whole completion. If that is a
        sentence, math-verify searches the last 1,000 characters for the last formula or number.

    Raises
    ------
    ValueError
        If math-verify is not installed or an option is out of range.
    """

    def __init__(
        self,
        timeout: float = 5.0,
        workers: int = 2,
        memory: int = 2048,
        require_box: bool = True,
    ) -> None:
        if timeout <= 0 or workers < 1:
            raise ValueError(f"math: timeout={timeout}, workers={workers}: must be > 0 and ≥ 1")
        if memory < 256:
            raise ValueError(f"math: memory={memory}: MiB for sympy and its work; give 256 or more")
        if importlib.util.find_spec("math_verify") is None:
            raise ValueError("math: math-verify is not installed; pip install 'credit-resets[llm]'")
        self.timeout, self.workers, self.memory = timeout, workers, memory
        self.require_box = require_box
        self._pool: list[Worker] = []
        self._owner, self._lock = 0, threading.Lock()

    def check_answer(self, answer: Any) -> None:
        r"""Raise a ValueError unless the answer is a number or a non-empty text.

        Of a text with boxes, such as a whole solution, the last box is the answer.
        """
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            kind = type(answer).__name__
            raise ValueError(f"math: the answer {answer!r} is a {kind}, not text or a number")
        if isinstance(answer, float) and not math.isfinite(answer):
            raise ValueError(f"math: the answer {answer!r} is not a finite number")
        gold = _gold(answer)
        if not gold:
            raise ValueError(f"math: the answer {answer!r} is empty, or its box is never closed")
        if len(gold) > LONGEST:
            raise ValueError(
                f"math: an answer of {len(gold)} characters, {gold[:40]!r}…, is too long to "
                f"verify; at most {LONGEST}"
            )

    def __call__(self, answers: Sequence[Any], completions: Sequence[str]) -> list[Verification]:
        """Verify completions; see the class.

        Raises
        ------
        RuntimeError
            If a worker does not start.
        """
        pairs = [self._pair(a, c) for a, c in zip(answers, completions, strict=True)]
        # Completions of a group often share an answer.
        requests = list(dict.fromkeys(p for p in pairs if p and max(map(len, p[:2])) <= LONGEST))
        workers = self._workers()
        idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in workers:
            idle.put(worker)

        def verify(pair: Pair) -> Verification:
            worker = idle.get()
            try:
                return worker.judge(pair)
            finally:
                idle.put(worker)

        by_pair: dict[Pair | None, Verification] = {None: Verification(0.0)}
        with self._lock:
            for worker in workers:
                worker.cancelled = False
            results = in_threads(verify, requests, len(workers), self._cancel)
        by_pair.update(zip(requests, results, strict=True))
        return [by_pair.get(pair, Verification(0.0, "too long")) for pair in pairs]

    def _pair(self, answer: Any, completion: str) -> Pair | None:
        boxed = last_boxed(completion)
        if boxed:
            return Pair(_gold(answer), boxed, True)
        if self.require_box or has_box(completion) or not completion.strip():
            return None
        bold = last_match(_BOLD, completion)
        text = last_statement(completion) or (bold[1] if bold else completion)
        text = text.strip("*_$ \n").rstrip(".*_$")
        text = _DISPLAY.sub(r"\1", text)
        is_answer = len(text) < 200 and "\n" not in text and not _SENTENCE.search(text)
        return Pair(_gold(answer), text if is_answer else completion[-TAIL:], is_answer)

    def _workers(self) -> list[Worker]:
        """Return the workers of this process; a forked process must not share its parent's."""
        if self._owner != os.getpid():
            for worker in self._pool:
                if worker.process is not None:
                    # A child of the parent process: neither wait for it nor kill it.
                    worker.process.returncode = 0
            self._pool = [Worker(self.timeout, self.memory << 20) for _ in range(self.workers)]
            self._owner, self._lock = os.getpid(), threading.Lock()
            weakref.finalize(self, _close, self._pool, self._owner)
        return self._pool

    def _cancel(self) -> None:
        for worker in self._pool:
            worker.cancel()

    def close(self) -> None:
        """End the workers; a later call starts new ones."""
        _close(self._pool, self._owner)


def _close(workers: Sequence[Worker], owner: int) -> None:
    if os.getpid() == owner:
        for worker in workers:
            worker.close()


def _gold(answer: Any) -> str:
    text = str(answer).strip()
    boxed = last_boxed(text)
    return (boxed or "") if has_box(text) else text.strip("$ ")
