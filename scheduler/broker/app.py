"""The Celery application, and every setting of it with its reason.

Owns names of tasks and queues. A message is a doorbell with two ids: nothing is decided by Celery's own state, so
there is no result backend, no remote control, no revoke and no ETA. Must not import torch or the store.
"""

from celery import Celery

from scheduler.broker.address import broker_address
from scheduler.config import Settings

START = "mmq.start"
ADOPT = "mmq.adopt"

SETTINGS = {
    "task_serializer": "json",
    "accept_content": ["json"],  # no pickle on the wire
    "task_ignore_result": True,
    "task_create_missing_queues": True,
    "task_store_errors_even_if_ignored": False,
    "worker_disable_prefetch": True,  # with early ack: each message came exactly once, also over a broker's kill -9
    "worker_prefetch_multiplier": 1,
    "task_acks_late": False,
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "worker_hijack_root_logger": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,  # a broker may be away for a night
    "broker_channel_error_retry": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "enable_utc": True,
}
TRANSPORT = {
    "global_keyprefix": "mmq:",
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
    "health_check_interval": 25,
}


def queue_name(host: str) -> str:
    return f"mmq.{host}"


def make_app(settings: Settings) -> Celery:
    """Build an application that speaks to the broker of these settings; connects to nothing yet."""
    app = Celery("mmq", broker=broker_address(settings).url, set_as_current=False)
    app.conf.update(SETTINGS)
    app.conf.update(
        broker_transport_options=TRANSPORT,
        task_default_queue=queue_name(settings.host),
    )
    return app
