"""The way to the workers: the embedded server, Celery's settings, the doorbell. What it carries is only ever a hint."""
