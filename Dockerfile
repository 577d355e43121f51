# One image for controller and worker. The GPU's driver comes from the host, CUDA's libraries with torch's wheel.
FROM python:3.12-slim

RUN useradd --uid 1000 --create-home mmq && install --directory --owner=mmq --mode=700 /var/lib/mmq

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
