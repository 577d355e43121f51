"""Reading MMQ_BROKER_URL."""

import pytest

from scheduler.broker.address import broker_address
from scheduler.config import Settings
from scheduler.errors import UsageError


def settings(url: str | None = None, home: str = "/tmp/a b") -> Settings:
    return Settings.from_environment({"MMQ_HOME": home} | ({"MMQ_BROKER_URL": url} if url else {}))


def test_without_a_url_it_is_the_embedded_brokers_socket() -> None:
    address = broker_address(settings())
    assert address.path == "/tmp/a b/valkey.sock"
    assert address.url == "redis+socket:///tmp/a%20b/valkey.sock"


def test_a_password_is_used_and_not_shown() -> None:
    address = broker_address(settings("redis://me:secret@queue.example:7000/2"))
    assert (address.host, address.port) == ("queue.example", 7000)
    assert "secret" in address.url
    assert address.shown == "redis://queue.example:7000/2"


@pytest.mark.parametrize(
    ("url", "celery"),
    [
        ("valkey://h/1", "redis://h/1"),
        ("unix:///run/r.sock?virtual_host=2", "redis+socket:///run/r.sock?virtual_host=2"),
    ],
)
def test_other_spellings(url: str, celery: str) -> None:
    assert broker_address(settings(url)).url == celery


@pytest.mark.parametrize("url", ["amqp://h", "localhost:6379", "redis://", "redis://h:port", "unix:"])
def test_what_is_no_address_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(UsageError) as refusal:
        broker_address(settings(url))
    assert "redis://127.0.0.1" in str(refusal.value.hint)
