"""Known senders of webhooks, and where each has an event's id, type, source and subject.

Add `?preset=NAME` to the address on the sender's configuration page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from oncecast.producer.cloudevents.places import Header, Pointer, Unresolved


class Preset(NamedTuple):
    """The first of `ids` whose headers are all present is used."""

    ids: tuple[Unresolved, ...]
    attributes: Mapping[str, Unresolved]


def _perhaps(pointer: str, prefix: str = "") -> Pointer:
    return Pointer.parse(pointer, is_needed=False, prefix=prefix)


PRESETS: Mapping[str, Preset] = {
    "github": Preset(
        ids=((Header("X-GitHub-Delivery"),),),  # a redelivery has the id of the first delivery
        attributes={
            "source": ("https://github.com/webhooks",),
            "type": ("com.github.", Header("X-GitHub-Event"), _perhaps("/action", ".")),
            "subject": (_perhaps("/repository/full_name"),),
        },
    ),
    "shopify": Preset(
        # An event is delivered once for each of its topics, with the same event id.
        ids=(
            (Header("X-Shopify-Event-Id"), " ", Header("X-Shopify-Topic")),
            (Header("X-Shopify-Webhook-Id"),),
        ),
        attributes={
            "source": ("https://", Header("X-Shopify-Shop-Domain")),
            "type": ("com.shopify.", Header("X-Shopify-Topic")),
            "subject": (_perhaps("/admin_graphql_api_id"),),
        },
    ),
    "stripe": Preset(
        ids=((Pointer.parse("/id"),),),  # evt_…: the id of the event, not of its object
        attributes={
            "source": ("https://api.stripe.com",),
            "type": ("com.stripe.", Pointer.parse("/type")),
            "subject": (_perhaps("/data/object/id"),),
        },
    ),
    "standard-webhooks": Preset(ids=((Header("webhook-id"),), (Header("svix-id"),)), attributes={}),
}
