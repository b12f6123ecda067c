"""What recent answers say of an upstream, with time as a number."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from faucet.routing.health import OLD_SECONDS, SAMPLES, Circuit, Rules, State

RULES = Rules()


def failed(circuit: Circuit, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        circuit.failed(now, "http_500")


def test_failures_in_a_row_open_it() -> None:
    """Lost: a dead provider is asked first by everybody."""
    circuit = Circuit()
    failed(circuit, RULES.in_a_row - 1)
    assert not circuit.is_down(0.0)
    circuit.answered(0.0, 10)
    failed(circuit, RULES.in_a_row - 1)
    assert not circuit.is_down(0.0)
    failed(circuit, 1)
    assert circuit.is_down(0.0) and circuit.state is State.OPEN and circuit.last_error == "http_500"


def test_a_share_of_failures_opens_it() -> None:
    """Lost: a provider that fails every second time is asked on and on."""
    circuit = Circuit()
    for number in range(RULES.calls_least):
        assert not circuit.is_down(0.1 * number)
        if number % 2:
            circuit.failed(0.1 * number, "http_500")
        else:
            circuit.answered(0.1 * number, 10)
    assert circuit.is_down(1.0)


def test_rare_failures_leave_it_closed() -> None:
    """Lost: one bad answer in a hundred moves all traffic away."""
    circuit = Circuit()
    for number in range(1000):
        now = number / 50
        if number % 20 == 0:
            circuit.failed(now, "http_500")
        else:
            circuit.answered(now, 10)
        assert not circuit.is_down(now)


def test_old_failures_are_forgotten() -> None:
    """Lost: a bad minute of yesterday counts today."""
    circuit = Circuit()
    for number in range(3):
        circuit.failed(number * 0.1, "http_500")
    circuit.answered(0.5, 10)
    for number in range(8):
        circuit.answered(100 + number / 10, 10)
    circuit.failed(101.0, "http_500")
    assert not circuit.is_down(101.0)


def test_one_trial_at_a_time_then_closed() -> None:
    """Lost: a provider that comes back is never asked again, or by everybody at once."""
    circuit = Circuit()
    failed(circuit, RULES.in_a_row)
    assert circuit.is_down(RULES.open_seconds - 0.01)
    now = RULES.open_seconds
    for number in range(RULES.trials):
        assert not circuit.is_down(now)  # this one tries
        assert circuit.is_down(now)  # and nobody else
        assert circuit.state is State.HALF_OPEN, number
        circuit.answered(now, 10)
    assert circuit.state is State.CLOSED and not circuit.is_down(now) and circuit.last_error is None


def test_a_failed_trial_opens_it_for_longer() -> None:
    """Lost: a dead provider gets trials at the same pace for ever."""
    circuit = Circuit()
    failed(circuit, RULES.in_a_row)
    now, waits = 0.0, []
    for _ in range(8):
        began = now
        while circuit.is_down(now):
            now += 0.5
        waits.append(now - began)
        circuit.failed(now, "http_500")
    assert waits == [2, 4, 8, 16, 30, 30, 30, 30]


def test_a_lost_trial_does_not_close_it_for_ever() -> None:
    """Lost: a trial whose client left blocks all others."""
    circuit = Circuit()
    failed(circuit, RULES.in_a_row)
    assert not circuit.is_down(10.0)
    assert circuit.is_down(10.0 + RULES.trial_seconds - 1)
    assert not circuit.is_down(10.0 + RULES.trial_seconds)


def test_it_says_itself_how_long() -> None:
    """Lost: a provider that says `retry-after` is asked before that."""
    circuit = Circuit()
    circuit.failed(5.0, "http_429", wait_seconds=7)
    assert circuit.is_down(11.9) and not circuit.is_down(12.0)
    circuit.failed(20.0, "http_429", wait_seconds=86_000)
    assert not circuit.is_down(20.0 + RULES.open_seconds_max)


def test_an_answer_of_the_last_resort_is_no_trial() -> None:
    """Lost: an upstream that is asked last because all are down counts as well at once."""
    circuit = Circuit()
    circuit.bar(0.0, 60, "http_401")
    circuit.answered(1.0, 10)
    assert circuit.is_down(59.0) and circuit.last_error == "http_401"


def test_the_only_one_recovers_without_being_asked_whether_it_is_down() -> None:
    """Lost: where there is no other upstream, one that failed once is shown as cooling for ever."""
    circuit = Circuit()
    failed(circuit, RULES.in_a_row)
    for _ in range(RULES.trials):
        assert circuit.state is not State.CLOSED
        circuit.answered(RULES.open_seconds, 10)
    assert circuit.state is State.CLOSED


@given(st.lists(st.integers(1, 100_000), max_size=200), st.integers(0, 100))
def test_percentiles_are_observed_times(times: list[int], percent: int) -> None:
    """Lost: a latency that nobody had."""
    circuit = Circuit()
    for each in times:
        circuit.answered(0.0, each)
    recent = sorted(times[-SAMPLES:])
    found = circuit.percentile_ms(percent)
    assert circuit.samples == len(recent)
    if not recent:
        assert found == 0
        return
    assert found in recent
    assert sum(1 for each in recent if each <= found) * 100 >= percent * len(recent) - 100


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["ok", "fail", "ask", "wait"])), max_size=120))
def test_it_never_stays_down(steps: list[tuple[float, str]]) -> None:
    """Lost: some past from which an upstream does not come back, however long one waits."""
    circuit, now = Circuit(), 0.0
    for pause, what in steps:
        now += pause
        if what == "ok":
            circuit.answered(now, 5)
        elif what == "ask":
            circuit.is_down(now)
        else:
            circuit.failed(now, "x", wait_seconds=3.0 if what == "wait" else None)
    for _ in range(RULES.trials + 1):
        now += RULES.trial_seconds + RULES.open_seconds_max
        assert not circuit.is_down(now)
        circuit.answered(now, 5)
    assert circuit.state is State.CLOSED


def test_a_refused_request_says_nothing_of_how_fast_answers_are() -> None:
    """Lost: latency_first prefers the provider that can't answer, because it says so at once."""
    circuit = Circuit()
    circuit.answered(0.0, 800)
    for _ in range(SAMPLES):
        circuit.answered(0.0, None)
    assert circuit.percentile_ms(50) == 800 and circuit.samples == 1 and not circuit.is_down(0.0)


def test_a_trial_that_its_client_left_is_given_to_the_next() -> None:
    """Lost: a provider that recovered stays unused for a minute because one client hung up."""
    circuit = Circuit()
    failed(circuit, RULES.in_a_row)
    assert not circuit.is_down(RULES.open_seconds) and circuit.is_down(RULES.open_seconds)
    circuit.left()
    assert not circuit.is_down(RULES.open_seconds)


def test_who_was_slow_once_is_not_slow_for_ever() -> None:
    """Lost: latency_first never again asks a provider whose first answer was slow by accident."""
    circuit = Circuit()
    assert circuit.likely_ms(0.0) == 0
    circuit.answered(100.0, 900)
    assert circuit.likely_ms(100.0 + OLD_SECONDS) == 1800
    asked = [circuit.likely_ms(101.0 + OLD_SECONDS + second) for second in (0, 1, 1.5, 2.5, 3)]
    assert asked == [0, 1800, 1800, 0, 1800]
    circuit.answered(104.0 + OLD_SECONDS, 50)
    assert circuit.likely_ms(104.0 + OLD_SECONDS) == 100
