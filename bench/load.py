"""Load: the requests that are sent, `wrk` where it is installed, and the project's own generator.

Every subject gets the same body of 1.4 kB, as JSON or as a stream of 20 chunks. Both generators keep each
connection busy with one request after another. Ours (`python -m bench.load`, a process of its own) compares each
answer with the mock provider's text and usage; wrk's script looks for them, since parsing there would cost
more than serving. Not here: who is loaded and what it costs them (`measure`).
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

import msgspec
import uvloop

PATH = "/v1/chat/completions"
CHUNKS = 20
ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 30
PREPARED_MAX = 2_000
"""So many bearers get a request prepared each; with more, requests are put together as they are sent."""


def request_body(kind: str, model: str = "mock-small") -> bytes:
    """The body of every request: a system prompt and a question, 1.4 kB together."""
    rules = "You answer customers of a bicycle shop: short, friendly, exact, never more than asked for. "
    question = "My order from last week has not arrived yet. When will it come, and what if it got lost? "
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": (rules * 9).strip()},
            {"role": "user", "content": (question * 5).strip()},
        ],
        "max_tokens": 60,
    }
    if kind == "stream":
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()


@dataclass(frozen=True)
class Expected:
    """What a right answer says."""

    text: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Load:
    """One measurement as its clients saw it. `bad` are answers that were not right, or none at all."""

    answers: int
    bad: int
    seconds: float
    p50_ms: float
    p99_ms: float
    first_bad: str = ""

    @property
    def per_second(self) -> float:
        return self.answers / self.seconds


@dataclass(frozen=True)
class Job:
    """What a generator is to do."""

    host: str
    port: int
    kind: str
    body: str
    bearers: Sequence[str]
    expected: Expected
    connections: int
    seconds: float
    warm_up_seconds: float = 0.0
    answers: int = 0
    """Stop after so many answers, where it isn't 0."""


def job_for(url: str, kind: str, bearers: Sequence[str], expected: Expected, **more: Any) -> Job:
    """The job of loading the server at `url`."""
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    body = more.pop("body", None) or request_body(kind).decode()
    return Job(parts.hostname, parts.port, kind, body, bearers, expected, **more)


def run(job: Job, tool: str, *, on_begin: Callable[[], None] = lambda: None) -> Load:
    """Run a job; `on_begin` is called when the warm-up is over and the measured time begins."""
    return _run_wrk(job, on_begin) if tool == "wrk" else run_own(job, on_begin=on_begin)


# ── answers ──


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


_EVENT = b"data: "
_decode = msgspec.json.Decoder(_Answer).decode
_decode_all = msgspec.json.Decoder(list[_Answer]).decode


def split_answer(data: bytes | bytearray) -> tuple[int, bytes] | None:
    """Status and body of one whole HTTP answer, or None while some of it is missing."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(data[:end]).lower()
    status = int(head[9:12])
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        return None if len(data) < end + 4 + length else (status, bytes(data[end + 4 : end + 4 + length]))
    if not data.endswith(b"0\r\n\r\n"):
        return None
    parts: list[bytes] = []
    place = end + 4
    while True:
        line = data.find(b"\r\n", place)
        if line < 0:
            return None
        size = int(data[place:line], 16)
        if size == 0:
            return status, b"".join(parts)
        if len(data) < line + 2 + size:
            return None
        parts.append(bytes(data[line + 2 : line + 2 + size]))
        place = line + 2 + size + 2


def read_answer(kind: str, status: int, body: bytes) -> Expected:
    """What an answer says. Raises ValueError where it is not a whole, right answer."""
    if status != 200:
        raise ValueError(f"status {status}: {body[:200]!r}")
    texts = []
    usage = None
    if kind == "stream":
        events = body.strip(b"\n")
        if not (events.startswith(_EVENT) and events.endswith(b"\n\ndata: [DONE]")):
            raise ValueError("the stream does not end with [DONE]")
        # All events as one list: decoding them one by one takes three times as long.
        data = events[len(_EVENT) : -len(b"\n\ndata: [DONE]")].replace(b"\n\ndata: ", b",")
        answers = _decode_all(b"[" + data + b"]")
        if len(answers) < CHUNKS:
            raise ValueError(f"only {len(answers)} events")
    else:
        answers = [_decode(body)]
    for answer in answers:
        usage = answer.usage or usage
        for choice in answer.choices:
            said = choice.delta if kind == "stream" else choice.message
            if said is not None and said.content:
                texts.append(said.content)
    if usage is None:
        raise ValueError("no usage")
    return Expected("".join(texts), usage.prompt_tokens, usage.completion_tokens)


# ── our generator, as a process ──


@contextmanager
def running(job: Job) -> Iterator[IO[str]]:
    """Our generator, past its warm-up; gives its output, where the result appears at the end."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(asdict(job), file)
        file.flush()
        command = [sys.executable, "-m", "bench.load", file.name]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                if process.stdout.readline().strip() != "begin":
                    raise RuntimeError("the load generator failed to start")
                yield process.stdout
            finally:
                process.kill()


def run_own(job: Job, *, on_begin: Callable[[], None] = lambda: None) -> Load:
    """Load with our generator, which checks every answer whole."""
    with running(job) as output:
        on_begin()
        return Load(**json.loads(output.read()))


class _Run:
    """All connections of one job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        body = job.body.encode()
        self._tail = b"\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        self._head = f"POST {PATH} HTTP/1.1\r\nhost: {job.host}:{job.port}\r\nauthorization: Bearer ".encode()
        self._bearers = [bearer.encode() for bearer in job.bearers]
        self._next = 0
        self.over = asyncio.Event()
        self.sent = 0
        self.reset()

    def reset(self) -> None:
        self.times: list[float] = []
        self.bad = 0
        self.first_bad = ""

    def next_request(self) -> bytes:
        self._next += 1
        self.sent += 1
        return self._head + self._bearers[self._next % len(self._bearers)] + self._tail

    def answered(self, status: int, body: bytes, seconds: float) -> None:
        if self.over.is_set():
            return
        self.times.append(seconds)
        try:
            said = read_answer(self.job.kind, status, body)
        except ValueError as error:
            self.went_wrong(str(error))
        else:
            if said != self.job.expected:
                self.went_wrong(f"not what the provider said: {said}")
        if self.job.answers and len(self.times) >= self.job.answers:
            self.over.set()

    def went_wrong(self, why: str) -> None:
        self.bad += 1
        self.first_bad = self.first_bad or why[:300]

    def result(self, seconds: float) -> Load:
        times = sorted(self.times) or [0.0]
        p50, p99 = times[len(times) // 2], times[min(len(times) - 1, len(times) * 99 // 100)]
        return Load(len(self.times), self.bad, seconds, p50 * 1000, p99 * 1000, self.first_bad)


class _Connection(asyncio.Protocol):
    """One client: asks, waits for the whole answer, asks again."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._buffer = bytearray()
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(self._run.next_request())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        answer = split_answer(self._buffer)
        if answer is None:
            return
        self._buffer.clear()
        self._run.answered(*answer, time.perf_counter() - self._began)
        if not self._run.over.is_set():
            self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._run.over.is_set():
            self._run.went_wrong(f"connection lost: {error!r}")


async def generate(job: Job, on_begin: Callable[[], None]) -> Load:
    """Load from this process."""
    run = _Run(job)
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: _Connection(run), job.host, job.port) for _ in range(job.connections)]
    if job.warm_up_seconds:
        await asyncio.sleep(job.warm_up_seconds)
        run.reset()
    gc.collect()
    gc.freeze()
    began = time.perf_counter()
    on_begin()
    try:
        async with asyncio.timeout(job.seconds):
            await run.over.wait()
    except TimeoutError:
        pass
    took = time.perf_counter() - began
    run.over.set()
    for transport, _ in made:
        transport.abort()
    return run.result(took)


def main() -> None:
    """The generator's process: a file with the job in, one line `begin` and one of JSON out."""
    raw = json.loads(Path(sys.argv[1]).read_text())
    job = Job(**raw | {"expected": Expected(**raw["expected"])})
    load = uvloop.run(generate(job, lambda: print("begin", flush=True)))
    print(json.dumps(asdict(load)), flush=True)


# ── wrk ──

_SCRIPT = """
local bearers = {%(bearers)s}
local head, tail, want = %(head)s, %(tail)s, %(want)s
local ready, count, at, threads = {}, #bearers, 0, {}
if count <= %(prepared)d then
  for i = 1, count do ready[i] = head .. bearers[i] .. tail end
end
function setup(thread) table.insert(threads, thread) end
function init() wrong, first = 0, "" end
function request()
  at = at %% count + 1
  return ready[at] or head .. bearers[at] .. tail
end
function response(status, headers, body)
  if status ~= 200 or not body:find(%(usage)s, %(usage_from)d, true)%(more)s then
    wrong = wrong + 1
    if first == "" then first = status .. " " .. body:sub(1, 200) end
  end
end
function done(summary, latency)
  local e, bad, text = summary.errors, 0, ""
  for _, thread in ipairs(threads) do
    bad = bad + thread:get("wrong")
    if text == "" then text = thread:get("first") end
  end
  io.write(string.format("RESULT %%d %%d %%f %%f %%f %%d %%s\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), latency.max,
    bad + e.connect + e.read + e.write + e.timeout, text:gsub("%%s+", " ")))
end
"""


def _run_wrk(job: Job, on_begin: Callable[[], None]) -> Load:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(_wrk_script(job))
        file.flush()
        if job.warm_up_seconds:
            _wrk(job, file.name, job.warm_up_seconds)
        on_begin()
        return _wrk(job, file.name, job.seconds)


def _wrk(job: Job, script: str, seconds: float) -> Load:
    command = ["wrk", "-t1", f"-c{job.connections}", f"-d{max(1, round(seconds))}s"]
    command += ["--timeout", f"{PATIENCE_SECONDS}s", "-s", script, f"http://{job.host}:{job.port}{PATH}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + PATIENCE_SECONDS + 30)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise RuntimeError(f"wrk failed: {done.stdout[-500:]}{done.stderr[-500:]}")
    requests, duration, p50, p99, _, bad, *first = line.split(" ", 7)[1:]
    return Load(
        answers=int(requests),
        bad=int(bad),
        seconds=int(duration) / 1e6,
        p50_ms=float(p50) / 1000,
        p99_ms=float(p99) / 1000,
        first_bad=first[0] if first and int(bad) else "",
    )


def _wrk_script(job: Job) -> str:
    head = f"POST {PATH} HTTP/1.1\r\nHost: {job.host}:{job.port}\r\nAuthorization: Bearer "
    tail = f"\r\nContent-Type: application/json\r\nContent-Length: {len(job.body)}\r\n\r\n{job.body}"
    # A stream says its text in pieces: there the end and the usage stand for it.
    ending = ' or not body:find("data: [DONE]", -20, true)'
    return _SCRIPT % {
        "bearers": ",".join(_lua(bearer) for bearer in job.bearers),
        "head": _lua(head),
        "tail": _lua(tail),
        "want": _lua(json.dumps(job.expected.text, ensure_ascii=False)[1:-1]),
        "prepared": PREPARED_MAX,
        "usage": _lua(f'"completion_tokens":{job.expected.completion_tokens}'),
        "usage_from": -1_500 if job.kind == "stream" else 1,
        "more": ending if job.kind == "stream" else " or not body:find(want, 1, true)",
    }


def _lua(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\r").replace("\n", "\\n")
    return f'"{escaped}"'


if __name__ == "__main__":
    main()
