"""The way to the workers through Celery. Loaded by the controller process alone: its import takes half a second."""

from dataclasses import dataclass

from scheduler.broker.publish import publish_adopt, publish_start
from scheduler.config import Settings


@dataclass(frozen=True)
class BrokerPublisher:
    settings: Settings

    def start(self, job_id: int, attempt_id: int) -> None:
        publish_start(self.settings, job_id, attempt_id)

    def adopt(self, job_id: int, attempt_id: int) -> None:
        publish_adopt(self.settings, job_id, attempt_id)
