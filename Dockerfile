# One image for controller and worker. The GPU's driver comes from the host, CUDA's libraries with torch's wheel.
FROM python:3.12-slim

# A compiler for `train.compile`. A uid that is no person's: with the host's pids, an equal one could signal their processes.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home mmq && install --directory --owner=mmq --mode=700 /var/lib/mmq

WORKDIR /opt/mmq
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY scheduler scheduler
COPY worker worker
COPY trainer trainer
COPY migrations migrations
RUN pip install --no-cache-dir --constraint constraints.txt .

USER mmq
WORKDIR /home/mmq
CMD ["python", "-m", "scheduler.service"]
