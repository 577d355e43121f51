"""From the trainer's events to the numbers in the store."""

from scheduler.store.records import Progress
from worker.progress import EventSummary


def told(*events: dict[str, object]) -> Progress:
    summary = EventSummary()
    for event in events:
        summary.add({"at": 1.0, "attempt": 1, **event})
    return summary.progress()


def test_steps_add_up() -> None:
    progress = told(
        {"event": "started", "step": 0, "total_steps": 9, "micro_batch": 8, "accumulation_steps": 1},
        {"event": "step", "step": 1, "total_steps": 9, "loss": 3.5, "tokens_per_second": 10, "eta_seconds": 8.0},
        {"event": "step", "step": 2, "total_steps": 9, "loss": 3.0, "tokens_per_second": 20, "eta_seconds": 7.0},
    )
    assert progress == Progress(
        step=2,
        total_steps=9,
        first_loss=3.5,
        loss=3.0,
        tokens_per_second=20.0,
        eta_seconds=7.0,
        micro_batch=8,
        accumulation_steps=1,
    )


def test_a_halved_micro_batch_is_known_before_the_next_step() -> None:
    event = {"event": "out_of_memory", "phase": "forward", "step": 3, "micro_batch": 8, "accumulation_steps": 2}
    progress = told(event | {"new_micro_batch": 4, "new_accumulation_steps": 4})
    assert (progress.micro_batch, progress.accumulation_steps) == (4, 4)


def test_evaluation_that_ran_out_leaves_training_as_it_is_split() -> None:
    step = {"event": "step", "step": 3, "micro_batch": 8, "accumulation_steps": 2}
    progress = told(step, {"event": "out_of_memory", "phase": "evaluation", "micro_batch": 8, "new_micro_batch": 4})
    assert (progress.micro_batch, progress.accumulation_steps) == (8, 2)


def test_peaks_only_grow_wherever_they_are_told() -> None:
    progress = told(
        {"event": "memory", "phase": "forward", "allocated_peak_bytes": 10, "reserved_peak_bytes": 30},
        {"event": "step", "step": 1, "allocated_peak_bytes": 20, "reserved_peak_bytes": 20},
        {"event": "finished", "step": 1, "peaks": {"process_peak_bytes": 99}},
    )
    assert progress.measured_allocated_bytes == 20
    assert progress.measured_reserved_bytes == 30
    assert progress.measured_process_bytes == 99


def test_what_is_no_number_is_passed_over() -> None:
    progress = told(
        {"event": "step", "step": 5, "loss": 2.0},
        {"event": "step", "step": "six", "loss": float("nan"), "eta_seconds": None, "micro_batch": True},
        {"event": "step", "step": -1, "loss": float("inf"), "allocated_peak_bytes": 2**70},
        {"event": "evaluation", "step": 5, "loss": 9.0},
        {"event": "finished", "peaks": "none"},
    )
    assert progress == Progress(step=5, loss=2.0, first_loss=2.0)


def test_a_resize_is_acknowledged_and_its_peak_begins_anew() -> None:
    first = {"event": "step", "step": 4, "micro_batch": 8, "accumulation_steps": 2, "process_peak_bytes": 900}
    resized = {"event": "resized", "number": 3, "micro_batch": 2, "accumulation_steps": 8, "limit_bytes": 500}
    progress = told(first, resized | {"step": 5})
    assert (progress.heeded_number, progress.micro_batch, progress.accumulation_steps) == (3, 2, 8)
    assert progress.peak_bytes == 0
    small = {"event": "step", "micro_batch": 2, "accumulation_steps": 8, "busy_share": 0.25}
    progress = told(first, resized | {"step": 5}, small | {"step": 6, "process_peak_bytes": 400}, small | {"step": 9})
    assert (progress.peak_bytes, progress.peak_step, progress.measured_process_bytes) == (400, 6, 400)
    assert (progress.step, progress.busy_share) == (9, 0.25)


def test_a_halving_begins_the_peak_anew() -> None:
    step = {"event": "step", "step": 3, "micro_batch": 8, "accumulation_steps": 2, "process_peak_bytes": 900}
    halved = {"event": "out_of_memory", "phase": "backward", "step": 4, "micro_batch": 8, "new_micro_batch": 4}
    shrunk = told(step, halved | {"new_accumulation_steps": 4})
    assert (shrunk.peak_bytes, shrunk.measured_process_bytes) == (0, None)
    kept = told(step, halved | {"phase": "evaluation"})
    assert (kept.peak_bytes, kept.measured_process_bytes) == (900, 900)
