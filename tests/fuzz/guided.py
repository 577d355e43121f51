"""A walk through the loader of job files that is guided by coverage: `python -m tests.fuzz.guided SECONDS`.

atheris, as it is libFuzzer with Python's coverage, kept up (3.0 of November 2025) and has wheels for 3.11 to 3.13;
hypofuzz would have brought a server. What reached new lines is kept in `corpus/`, which `make test` walks again.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["scheduler.jobs"]):
    from tests.fuzz.loader import refused_or_read

HERE = Path(__file__).parent
TEMPLATES = HERE.parents[1] / "scheduler/cli/templates"
LIMITS = ("-timeout=10", "-rss_limit_mb=2048", "-max_len=2048")


def look(content: bytes) -> None:
    refused_or_read(content.decode(errors="surrogateescape"))


def main(seconds: str) -> None:
    corpus = HERE / "corpus"
    corpus.mkdir(exist_ok=True)
    atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds)}", *LIMITS, str(corpus), str(TEMPLATES)], look)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1])
