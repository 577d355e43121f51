"""`mmq generate`: what a job's model makes of a prompt."""

import click


@click.command(name="generate")
@click.argument("job", metavar="JOB")
@click.option("--prompt", metavar="TEXT", required=True, help="A text to continue, or (sft) a question.")
@click.option("--max-new-tokens", metavar="N", type=click.IntRange(min=1), default=128, help="By default 128.")
@click.option(
    "--temperature",
    metavar="T",
    type=click.FloatRange(min=0),
    default=0.0,
    help="By default 0: always the likeliest token.",
)
@click.option("--seed", metavar="N", type=click.IntRange(min=0), default=42, help="Seed for sampling; by default 42.")
def command(job: str, prompt: str, max_new_tokens: int, temperature: float, seed: int) -> int:
    """Print how the model of JOB continues a prompt, token by token. Runs on the CPU."""
    from scheduler.cli.trainedmodel import find_trained_model, run_program

    wanted = {"prompt": prompt, "max-new-tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    options = [f"--{name}={value}" for name, value in wanted.items()]
    code, _ = run_program("generate", [*options, str(find_trained_model(job, "generate").run_dir)])
    return code
