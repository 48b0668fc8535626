"""Senders of webhooks whose deliveries are known: where each has an event's id, type, source and subject.

`?preset=NAME` is all that goes into the address on a sender's configuration page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from oncecast.producer.cloudevents.places import Header, Pointer, Unresolved


class Preset(NamedTuple):
    """`ids` are tried in order: the first whose headers are all there is used."""

    ids: tuple[Unresolved, ...]
    attributes: Mapping[str, Unresolved]


def _perhaps(pointer: str, prefix: str = "") -> Pointer:
    return Pointer.parse(pointer, is_needed=False, prefix=prefix)


PRESETS: Mapping[str, Preset] = {
    "github": Preset(
        ids=((Header("X-GitHub-Delivery"),),),  # a redelivery has that of the first delivery
        attributes={
            "source": ("https://github.com/webhooks",),
            "type": ("com.github.", Header("X-GitHub-Event"), _perhaps("/action", ".")),
            "subject": (_perhaps("/repository/full_name"),),
        },
    ),
    "shopify": Preset(
        # One event is delivered for each topic that it concerns, with the same event id.
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
        ids=((Pointer.parse("/id"),),),  # evt_…: of the event, not of the object that it is about
        attributes={
            "source": ("https://api.stripe.com",),
            "type": ("com.stripe.", Pointer.parse("/type")),
            "subject": (_perhaps("/data/object/id"),),
        },
    ),
    "standard-webhooks": Preset(ids=((Header("webhook-id"),), (Header("svix-id"),)), attributes={}),
}
