"""DEAD_LETTER_URL: valid forms, and error messages without secrets."""

from __future__ import annotations

import pytest

from oncecast.core.dead_letter_url import RabbitMQAddress, SqsAddress, dead_letter_address


def rabbitmq(text: str) -> RabbitMQAddress:
    address = dead_letter_address(text)
    assert isinstance(address, RabbitMQAddress)
    return address


def test_an_empty_url_is_none() -> None:
    assert dead_letter_address("") is None
    assert dead_letter_address(" \n") is None


def test_rabbitmq_has_the_usual_defaults_and_a_default_queue() -> None:
    address = rabbitmq("amqp://localhost")
    assert (address.host, address.port, address.user, address.password) == ("localhost", 5672, "guest", "guest")
    assert (address.vhost, address.queue, address.routing_key, address.exchange, address.tls) == (
        "/",
        "oncecast.dead-letters",
        "oncecast.dead-letters",
        "",
        False,
    )
    assert rabbitmq("amqps://h").port == 5671


def test_reserved_characters_are_percent_encoded() -> None:
    address = rabbitmq("amqp://us%40er:p%23%2F%3A%40ss@h:1/%2Fv%20h?queue=a%26b")
    assert (address.user, address.password, address.vhost, address.queue) == ("us@er", "p#/:@ss", "/v h", "a&b")


def test_an_exchange_may_have_a_routing_key() -> None:
    address = rabbitmq("amqp://h/v?exchange=letters&routing_key=dead.shop")
    assert (address.queue, address.exchange, address.routing_key) == (None, "letters", "dead.shop")
    assert rabbitmq("amqp://h/v?exchange=letters").routing_key == ""


def test_tls_accepts_files() -> None:
    assert rabbitmq("amqps://h?cafile=/ca.pem").tls_files == {"cafile": "/ca.pem"}
    with pytest.raises(ValueError, match="only queue, exchange, routing_key"):
        dead_letter_address("amqp://h?cafile=/ca.pem")


def test_sqs_has_a_region_a_queue_and_an_optional_endpoint() -> None:
    assert dead_letter_address("sqs://eu-central-1/letters") == SqsAddress(region="eu-central-1", queue="letters")
    address = dead_letter_address("sqs://us-gov-west-1/letters.fifo?endpoint=http://127.0.0.1:9324")
    assert address == SqsAddress(region="us-gov-west-1", queue="letters.fifo", endpoint="http://127.0.0.1:9324")
    assert isinstance(address, SqsAddress)
    assert address.is_fifo


def test_the_text_of_an_address_hides_its_password() -> None:
    address = rabbitmq("amqp://user:hunter2@h/v?queue=q")
    assert str(address) == "queue q of RabbitMQ at h:5672"
    assert "hunter2" not in repr(address)
    assert str(rabbitmq("amqp://user:hunter2@h/v?exchange=x")) == "exchange x of RabbitMQ at h:5672"
    assert str(dead_letter_address("sqs://eu-central-1/letters")) == "queue letters of SQS in eu-central-1"


@pytest.mark.parametrize(
    ("text", "would_do"),
    [
        ("http://hunter2", "amqp://"),
        ("hunter2", "amqp://"),
        ("amqp://", "host"),
        ("amqp://u:hunter2@/v", "host"),
        ("amqp://u:hunter2#x@h/v", "%23"),
        ("amqp://u:hunter2/x@h/v", "port"),
        ("amqp://u:hunter2@h:99999/v", "port"),
        ("amqp://u:hunter2@h:0/v", "port"),
        ("amqp://u:hunter2@[h/v", "amqp://"),
        ("amqp://u:hunter2@h\u2100/v", "amqp://"),
        ("amqp://u:hunter2@h?queue=a&exchange=b", "not both"),
        ("amqp://u:hunter2@h?routing_key=b", "together with an exchange"),
        ("amqp://u:hunter2@h?queue=", "not empty"),
        ("amqp://u:hunter2@h?queue=a&queue=b", "once"),
        ("amqp://u:hunter2@h?que=a", "only queue"),
        ("amqp://u:hunter2@h?queue=" + "x" * 256, "255 bytes"),
        ("sqs://eu-central-1", "QUEUE_NAME"),
        ("sqs://eu-central-1/a/b", "QUEUE_NAME"),
        ("sqs://eu-central-1/" + "x" * 81, "QUEUE_NAME"),
        ("sqs://letters/eu-central-1", "region"),
        ("sqs://key:hunter2@eu-central-1/letters", "AWS_ACCESS_KEY_ID"),
        ("sqs://eu-central-1/letters?endpoint=hunter2", "http://"),
        ("sqs://eu-central-1/letters?queue=x", "only endpoint"),
    ],
)
def test_an_invalid_url_is_answered_with_the_expected_form_and_not_repeated(text: str, would_do: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - its text is what is looked at
        dead_letter_address(text)
    assert would_do in str(raised.value)
    assert "hunter2" not in str(raised.value)
