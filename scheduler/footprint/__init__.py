"""What a job's memory will be, before it runs: asked of the tracer, kept as a table of candidates."""
