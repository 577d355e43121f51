"""`mmq evaluate`: loss and perplexity of a job's model on rows of one's choice."""

import json
from pathlib import Path
from typing import Any

import click


@click.command(name="evaluate")
@click.argument("job", metavar="JOB")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(job: str, data: Path, as_json: bool) -> int:
    """Compute the loss and perplexity of the model of JOB on the rows of DATA. Runs on the CPU."""
    from scheduler.cli.trainedmodel import find_trained_model, run_program

    spec, run_dir = find_trained_model(job, "evaluate")
    options = [f"--max-seq-len={spec.data.max_seq_len}", f"--broken-rows={spec.data.broken_rows}"]
    code, answer = run_program("evaluate", [*options, "--", str(run_dir), str(data)], captures=True)
    if code == 0:
        click.echo(answer.strip() if as_json else in_words(json.loads(answer)))
    return code


def in_words(scores: dict[str, Any]) -> str:
    """Write the program's answer out for a person."""
    lines = [
        f"loss {scores['loss']:.4f}, perplexity {scores['perplexity']:.2f}",
        f"  over {scores['targets']:,} target tokens in {scores['rows']:,} rows"
        f" of at most {scores['max_seq_len']:,} tokens",
    ]
    aside = {name: scores[name] for name in ("truncated_rows", "dropped_rows", "broken_rows", "blank_lines")}
    noted = [f"{count:,} {name.replace('_', ' ')}" for name, count in aside.items() if count]
    return "\n".join(lines + ([f"  {', '.join(noted)}"] if noted else []))
