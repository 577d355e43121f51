"""The JSON Schema of a job file, for editors: what msgspec makes of the structs, and what a person may leave out.

`python -m scheduler.jobs.schema` writes it to `job.schema.json`; a test holds the two together.
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from scheduler.jobs.fields import field_types, titles
from scheduler.jobs.spec import LOGGERS, JobSpec, Resources

FILE = Path(__file__).with_name("job.schema.json")
_REQUIRED = {"JobSpec": ["kind", "data"], "Data": ["path"]}
# Fields whose form in a file is wider than the stored one, as `fields.py` reads them.
_WIDER: dict[tuple[type, str], dict[str, Any]] = {
    (JobSpec, "init_from"): {"type": ["string", "integer", "null"]},
    (JobSpec, "report"): {"type": ["string", "array", "null"], "items": {"enum": list(LOGGERS)}},
    (Resources, "max_memory"): {"type": ["string", "integer", "null"]},
    (Resources, "time_limit"): {"type": ["string", "number", "null"]},
    (Resources, "devices"): {"type": ["string", "integer", "array", "null"], "items": {"type": ["string", "integer"]}},
}
# Sections may stand empty: `model:` with nothing under it.
_SECTIONS = ("model", "train", "memory", "resources", "retries")


def job_schema() -> dict[str, Any]:
    """Build the schema of a job file."""
    schema = msgspec.json.schema(JobSpec)
    definitions = schema["$defs"]
    for name, definition in definitions.items():
        definition["required"] = _REQUIRED.get(name, [])
    for (struct, field), form in _WIDER.items():
        title = next(titles(field_types(struct)[field]))
        definitions[struct.__name__]["properties"][field] = {"title": title} | form
    for section in _SECTIONS:
        properties = definitions["JobSpec"]["properties"]
        properties[section] = {"anyOf": [properties[section], {"type": "null"}]}
    del definitions["InitFrom"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "mmq job file"} | schema


def text() -> str:
    return json.dumps(job_schema(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
