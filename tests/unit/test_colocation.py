"""Who is kept apart: what is measured of jobs alone and in pairs, and what is concluded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.admission.colocation import ALONE, StepTime, apart
from scheduler.controller.colocation import LEAST_SECONDS, StepReport, Watch

BEAT_SECONDS = 5.0


def seen(**seconds: float) -> list[StepTime]:
    """`a=1.0` is a alone, `a_b=1.5` a beside b."""
    pairs = [(name.partition("_"), one) for name, one in seconds.items()]
    return [StepTime(configuration=a, beside=b or ALONE, seconds_per_step=one) for (a, _, b), one in pairs]


def test_a_pair_that_reaches_less_than_by_turns_is_kept_apart_both_ways() -> None:
    found = apart(seen(a=1.0, b=2.0, a_b=2.5, b_a=4.0))
    assert found == {"a": {"b": pytest.approx(0.9)}, "b": {"a": pytest.approx(0.9)}}


@pytest.mark.parametrize(
    "known",
    [
        seen(a=1.0, b=2.0, a_b=2.0, b_a=4.0),  # exactly as by turns
        seen(a=1.0, b=2.0, a_b=1.1, b_a=2.1),
        seen(a=1.0, a_b=9.0, b_a=9.0),  # b was never seen alone
        seen(a=1.0, b=2.0, a_b=9.0),
        seen(),
    ],
)
def test_others_are_not_and_nothing_is_concluded_from_half_of_it(known: list[StepTime]) -> None:
    assert apart(known) == {}


def test_two_of_one_kind_are_a_pair_too() -> None:
    assert apart(seen(a=1.0, a_a=2.5)) == {"a": {"a": pytest.approx(0.8)}}


@given(st.dictionaries(st.tuples(st.sampled_from("abc"), st.sampled_from(["", *"abc"])), st.floats(0.01, 100)))
def test_the_relation_is_symmetric_and_of_those_below_one(known: dict[tuple[str, str], float]) -> None:
    found = apart(StepTime(configuration=a, beside=b, seconds_per_step=one) for (a, b), one in known.items())
    for one, others in found.items():
        for other, reached in others.items():
            assert found[other][one] == reached < 1
            sums = known[one, ""] / known[one, other] + known[other, ""] / known[other, one]
            assert reached == pytest.approx(sums)


class Course:
    """Attempts whose steps are told every few seconds."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.at = 0.0
        self.steps = {1: 0.0, 2: 0.0}

    def go_on(self, seconds: float, **rates: float) -> list[StepTime]:
        """Let those named go on, at so many steps a second each: `a=1` and `b=2` on one device."""
        found = []
        for _ in range(int(seconds / BEAT_SECONDS)):
            self.at += BEAT_SECONDS
            for number, name in ((1, "a"), (2, "b")):
                self.steps[number] += BEAT_SECONDS * rates.get(name, 0.0)
            found += self.watch.look({"gpu": [self.going(name) for name in rates]})
        return found

    def going(self, name: str, micro_batch: int = 8) -> StepReport:
        number = {"a": 1, "b": 2}[name]
        return StepReport(
            attempt_id=number,
            configuration=name,
            micro_batch=micro_batch,
            step=int(self.steps[number]),
            at=self.at,
        )


def test_each_time_of_one_company_is_measured_by_itself() -> None:
    course = Course()
    assert course.go_on(LEAST_SECONDS, a=2) == []  # the first step that is told only begins it
    (alone,) = course.go_on(2 * BEAT_SECONDS, a=2)
    assert alone == StepTime(configuration="a", seconds_per_step=0.5)
    together = course.go_on(LEAST_SECONDS + 2 * BEAT_SECONDS, a=1, b=4)
    assert together == [
        StepTime(configuration="a", seconds_per_step=1.0, beside="b"),
        StepTime(configuration="b", seconds_per_step=0.25, beside="a"),
    ]
    assert course.go_on(LEAST_SECONDS - BEAT_SECONDS, a=1, b=4) == []  # told again when it is twice as long
    assert len(course.go_on(LEAST_SECONDS, a=1, b=4)) == 2


def test_a_look_without_them_and_another_micro_batch_begin_anew() -> None:
    course = Course()
    course.go_on(LEAST_SECONDS, a=2)
    course.watch.look({})
    assert course.go_on(LEAST_SECONDS, a=2) == []
    course.watch.look({"gpu": [course.going("a", micro_batch=4)]})
    assert course.go_on(LEAST_SECONDS, a=2) == []


def test_a_clock_that_is_set_begins_a_measurement_anew() -> None:
    course = Course()
    course.go_on(LEAST_SECONDS, a=2)
    course.at += 3600.0
    here = {"gpu": [course.going("a")]}
    course.steps[1] += 10
    assert course.watch.look(here, clock_ahead_seconds=3600.0) == []
    course.steps[1] += 10
    course.at += 2 * LEAST_SECONDS
    assert course.watch.look({"gpu": [course.going("a")]}, clock_ahead_seconds=3600.2) == []  # just begun


def test_steps_that_are_told_too_seldom_are_waited_for() -> None:
    course = Course()
    assert course.go_on(2 * LEAST_SECONDS, a=1 / LEAST_SECONDS) == []


def test_a_pair_is_told_of_once_while_it_lasts() -> None:
    course = Course()
    course.go_on(BEAT_SECONDS, a=1, b=1)
    here = {"gpu": [course.going("a"), course.going("b")]}
    found = {"a": {"b": 0.8}, "b": {"a": 0.8}}
    assert sorted(course.watch.slower(here, found)) == [(1, 2, 0.8), (2, 1, 0.8)]
    assert course.watch.slower(here, found) == []
    assert course.watch.slower({"gpu": here["gpu"][:1]}, found) == []
    assert len(course.watch.slower(here, found)) == 2
