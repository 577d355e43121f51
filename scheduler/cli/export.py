"""`mmq export`: a job's model as MiniMind's programs or Hugging Face's transformers load it."""

from pathlib import Path

import click


@click.command(name="export")
@click.argument("job", metavar="JOB")
@click.option(
    "--format",
    "form",
    type=click.Choice(("minimind", "huggingface")),
    required=True,
    help="Which programs will load it.",
)
@click.option(
    "--output", metavar="DIR", type=click.Path(path_type=Path), help="A new directory; by default NAME-FORMAT."
)
def command(job: str, form: str, output: Path | None) -> int:
    """Write the weights, tokenizer and chat template of JOB for MiniMind's programs or for transformers."""
    from scheduler.cli.trainedmodel import find_trained_model, run_program

    model = find_trained_model(job, "export")
    output = output or Path(f"{model.spec.name}-{form}")
    code, _ = run_program("convert", [str(model.run_dir), form, str(output)])
    if code == 0:
        click.echo(output)
    return code
