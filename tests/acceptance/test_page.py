"""The page, in a real browser, with real services."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from oncecast import Event, Publisher
from tests.acceptance.test_recovery import FAILING
from tests.support.browsers import PageOf
from tests.support.stacks import StackOf, drained, rows

ENDED = "select type, status, count(*) from oncecast.events group by 1, 2 order by 1"


async def is_live(page: Page) -> None:
    await expect(page.locator("#connection")).to_have_text("Live")
    await expect(page.locator("#listeners tr")).to_have_count(2)


async def tab_to(page: Page, id: str) -> None:
    """Press Tab until the element with that id, or the checked radio button with that name, has the focus."""
    for _ in range(40):
        await page.keyboard.press("Tab")
        if await page.evaluate("id => [document.activeElement.id, document.activeElement.name].includes(id)", id):
            return
    pytest.fail(f"Tab does not reach {id}")


async def test_an_event_sent_by_keyboard_is_accepted_broadcast_and_processed(
    stack_of: StackOf, page_of: PageOf
) -> None:
    """The arrow keys choose a template, typing replaces the data, and Ctrl+Enter publishes the event."""
    async with stack_of() as stack, page_of(stack.publish_url) as page:
        await is_live(page)
        await tab_to(page, "template")
        await page.keyboard.press("ArrowRight")
        await expect(page.locator("#type")).to_have_value("order.placed")
        await tab_to(page, "data")
        await page.keyboard.press("Control+a")
        await page.keyboard.type('{"order": 12345678901234567890}')
        await page.keyboard.press("Control+Enter")
        await expect(page.locator("#way .done")).to_have_count(3)
        await expect(page.locator("#events .type")).to_have_text(["order.placed"])
        data = await rows(stack, "select data->>'order' from oncecast.events")
        assert data == [("12345678901234567890",)]


async def test_every_focused_element_has_a_visible_outline(stack_of: StackOf, page_of: PageOf) -> None:
    async with stack_of() as stack, page_of(stack.publish_url) as page:
        await is_live(page)
        await expect(page.locator("#fail")).to_be_enabled()
        seen = []
        while True:
            await page.keyboard.press("Tab")
            name, outline = await page.evaluate(
                """() => {
                    const focused = document.activeElement;
                    const shown = focused.type === "radio" ? focused.nextElementSibling : focused;
                    return [focused.id || focused.tagName, getComputedStyle(shown).outlineStyle];
                }"""
            )
            if name == "BODY":  # after the last element
                break
            assert outline != "none", name
            seen.append(name)
        assert {"type", "data", "copies", "send", "fail", "pause", "clear", "refresh"} <= set(seen)


async def test_each_copy_has_its_own_id(stack_of: StackOf, page_of: PageOf) -> None:
    async with stack_of() as stack, page_of(stack.publish_url) as page:
        await is_live(page)
        await page.fill("#copies", "2500")
        await page.click("#send")
        await expect(page.locator("#way")).to_contain_text("2,500 accepted and on disk")
        await expect(page.locator("#way .done")).to_have_count(3)
        await drained(stack)
        assert await rows(stack, ENDED) == [("earthquake", "stored", 2500)]


async def test_copies_are_retried_with_the_same_ids_after_a_lost_answer(stack_of: StackOf, page_of: PageOf) -> None:
    """The page shows the accepted count. The events of the lost answer were accepted, too; none is stored twice."""
    async with stack_of() as stack, page_of(stack.publish_url, expected="net::ERR_FAILED") as page:
        await is_live(page)
        asked = 0

        async def lose_the_second_answer(route: Route) -> None:
            nonlocal asked
            asked += 1
            if asked != 2:
                await route.continue_()
                return
            await route.fetch()
            await route.abort()

        await page.route("**/events", lose_the_second_answer)
        await page.fill("#copies", "2500")
        await page.click("#send")
        await expect(page.locator("#fault")).to_have_text("The producer cannot be reached.")
        await expect(page.locator("#advice")).to_contain_text("1,000 of 2,500 were accepted.")
        await page.get_by_role("button", name="Publish the other 1,500").click()
        await expect(page.locator("#way .done")).to_have_count(3)
        await drained(stack)
        assert await rows(stack, ENDED) == [("earthquake", "stored", 2500)]


async def test_a_failing_event_is_retried_dead_lettered_edited_and_stored(stack_of: StackOf, page_of: PageOf) -> None:
    async with stack_of() as stack, page_of(stack.publish_url) as page:
        await is_live(page)
        life = page.locator("#life")
        await page.click("#fail")
        for step in ("Accepted", "Attempt 1 failed, 2 retries left", "Attempt 2 failed, 1 retry left", "Dead"):
            await expect(life).to_contain_text(step)
        assert await rows(stack, ENDED) == [("oncecast.failing", "dead", 1)]
        await expect(page.locator("#dead")).to_have_text("1")
        await page.get_by_role("button", name="Edit and replay").click()
        await expect(life).to_contain_text("Replayed and stored.")
        assert await rows(stack, ENDED) == [("oncecast.failing", "stored", 1)]
        await expect(page.locator("#dead")).to_have_text("0")
        await expect(page.locator("#no-dead-letters")).to_be_visible()


async def test_a_dead_letter_fails_its_replay_then_is_edited_and_stored(stack_of: StackOf, page_of: PageOf) -> None:
    async with stack_of(environment=FAILING) as stack, page_of(stack.publish_url) as page:
        await is_live(page)
        await page.click("#fail")
        dead_letter = page.locator("#dead-letters-list > li")
        await dead_letter.locator("summary").first.click()
        await expect(dead_letter.locator(".dead-letter .cause")).to_have_text(
            "RuntimeError: this event was sent to fail"
        )
        await dead_letter.get_by_text("The event as received").click()
        await expect(dead_letter.get_by_label("The event as received")).to_contain_text('"specversion": "1.0"')
        await dead_letter.get_by_text("Trace", exact=True).click()
        await expect(dead_letter.get_by_label("Trace")).to_contain_text("fail_on_request")
        await dead_letter.get_by_role("button", name="Replay").click()
        await expect(dead_letter.get_by_role("status")).to_contain_text("The replay failed")
        await dead_letter.get_by_label("Data").fill('{"fails": ')
        await dead_letter.get_by_role("button", name="Edit and replay").click()
        await expect(dead_letter.locator(".help")).to_contain_text("Not JSON")
        await dead_letter.get_by_label("Data").fill('{"fails": false}')
        await dead_letter.get_by_role("button", name="Edit and replay").click()
        await expect(dead_letter.get_by_role("status")).to_have_text("Replayed and stored.")
        assert await rows(stack, ENDED) == [("oncecast.failing", "stored", 1)]


async def test_a_dead_letter_is_discarded_and_restored(stack_of: StackOf, page_of: PageOf) -> None:
    async with stack_of(environment=FAILING) as stack, page_of(stack.publish_url) as page:
        await is_live(page)
        await page.click("#fail")
        dead_letter = page.locator("#dead-letters-list > li")
        await dead_letter.locator("summary").first.click()
        await dead_letter.get_by_role("button", name="Discard").click()
        await expect(dead_letter.get_by_role("status")).to_contain_text("Discarded")
        await expect(page.locator("#dead")).to_have_text("0")
        await expect(dead_letter.get_by_role("button", name="Replay")).to_be_hidden()
        assert await rows(stack, "select discarded_at is null from oncecast.dead_letters") == [(False,)]
        await dead_letter.get_by_role("button", name="Restore").click()
        await expect(dead_letter.get_by_role("status")).to_have_text("Restored.")
        await expect(page.locator("#dead")).to_have_text("1")
        await expect(dead_letter.get_by_role("button", name="Replay")).to_be_visible()


async def test_conflicts_are_counted_listed_and_replayed_or_discarded(stack_of: StackOf, page_of: PageOf) -> None:
    async with stack_of() as stack, page_of(stack.publish_url) as page, Publisher(stack.publish_url) as publisher:
        await is_live(page)
        await expect(page.locator("#conflicts")).to_be_hidden()
        for status in ("pending", "paid", "refunded"):
            await publisher.publish(Event.new(f"order.{status}", {"status": status}, id="order"))
        conflicts = page.locator("#conflicts-list > li")
        await expect(conflicts.locator(".type")).to_have_text(["order.refunded", "order.paid"])
        await expect(page.locator("#conflicts-count")).to_have_text("2")
        paid = conflicts.filter(has_text="order.paid")
        await paid.locator("summary").first.click()
        await expect(paid.locator("pre")).to_contain_text('"status": "paid"')
        await paid.get_by_role("textbox").fill("order-paid")
        await paid.get_by_role("button", name="Replay").click()
        await expect(paid.get_by_role("status")).to_have_text("Replayed and stored as order-paid.")
        await expect(page.locator("#conflicts-count")).to_have_text("1")
        assert await rows(stack, "select id from oncecast.events order by id") == [("order",), ("order-paid",)]
        refunded = conflicts.filter(has_text="order.refunded")
        await refunded.locator("summary").first.click()
        await refunded.get_by_role("button", name="Discard").click()
        await expect(refunded.get_by_role("status")).to_contain_text("Discarded")
        await expect(page.locator("#conflicts-count")).to_have_text("0")


async def test_the_page_says_so_without_a_listener_that_fails_on_request(stack_of: StackOf, page_of: PageOf) -> None:
    """First another application, then no listener: the page says so, and publishing still works."""
    async with stack_of(app="tests.support.correctable:app") as stack, page_of(stack.publish_url) as page:
        await is_live(page)
        await expect(page.locator("#failing-hint")).to_be_visible()
        await expect(page.locator("#fail")).to_be_disabled()
        for listener in stack.listener_urls:
            await stack.stop(listener)
        await expect(page.locator("#no-listeners")).to_be_visible()
        await expect(page.locator("#dead-letters-fault")).to_contain_text("once it is connected")
        await page.click("#send")
        await expect(page.locator("#way .done")).to_have_count(2)


async def test_the_page_asks_for_each_token_that_the_producer_needs(stack_of: StackOf, page_of: PageOf) -> None:
    tokens = {"PUBLISH_TOKEN": "may-publish", "SUBSCRIBE_TOKEN": "may-subscribe", "ADMIN_TOKEN": "may-do-anything"}
    async with (
        stack_of(environment={**FAILING, **tokens}) as stack,
        page_of(stack.publish_url, expected="401") as page,
    ):
        await page.get_by_label("Token for reading").fill("a wrong one")
        await page.keyboard.press("Enter")
        await expect(page.locator("#access-help")).to_have_text("The producer does not accept this token.")
        await page.get_by_label("Token for reading").fill("may-subscribe")
        await page.keyboard.press("Enter")
        await is_live(page)
        await page.click("#fail")
        await expect(page.locator("#failing-fault")).to_contain_text("Publishing needs a token")
        await page.get_by_label("Token for publishing").fill("may-publish")
        await page.keyboard.press("Enter")
        await page.click("#fail")
        await page.click("#edit")
        await expect(page.locator("#failing-fault")).to_contain_text("Operating needs a token")
        await page.get_by_label("Token for operating").fill("may-do-anything")
        await page.keyboard.press("Enter")
        await expect(page.locator("#access")).to_be_hidden()
        await page.click("#edit")
        await expect(page.locator("#life")).to_contain_text("Replayed and stored.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_phone_shows_the_page_without_horizontal_scrolling(
    scheme: str, stack_of: StackOf, page_of: PageOf
) -> None:
    """360 px wide, in both colour schemes: with events, a failing event, and an open dead letter."""
    context: dict[str, Any] = {"width": 360, "color_scheme": scheme, "has_touch": True, "is_mobile": True}
    async with stack_of(environment=FAILING) as stack, page_of(stack.publish_url, **context) as page:
        await is_live(page)
        await page.tap("#send")
        await page.tap("#fail")
        await page.locator("#dead-letters-list summary").first.tap()
        await expect(page.locator("#dead-letters-list textarea")).to_be_visible()
        await page.locator("#events summary").first.tap()
        assert await page.evaluate("document.documentElement.scrollWidth") == 360
        luminance = await page.evaluate(
            "Math.max(...getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number))"
        )
        assert (luminance < 64) == (scheme == "dark")


async def test_events_are_found_by_id_type_and_outcome_and_show_their_life(
    stack_of: StackOf, page_of: PageOf
) -> None:
    async with stack_of(listeners=1, environment={"EVENT_RETRY_DELAY": "60s"}) as stack:
        async with Publisher(stack.publish_url) as publisher:
            await publisher.publish_many(
                [Event.new("order", {"n": n}, id=f"o-{n}", source="/shop") for n in range(3)]
            )
            await publisher.publish(Event.new("tick", {"n": 1}, id="<b>t-1</b>", source="/clock"))
            await drained(stack)
            await publisher.publish(Event.new("oncecast.failing", {"fails": True}, id="f-1"))
        async with page_of(stack.publish_url) as page:
            await expect(page.locator("#connection")).to_have_text("Live")
            await page.fill("#find-type", "order")
            await page.keyboard.press("Enter")
            await expect(page.locator("#found .id")).to_have_text(["o-2", "o-1", "o-0"])
            await page.fill("#find-type", "")
            await page.fill("#find-id", "<b>t-1</b>")
            await page.keyboard.press("Enter")
            await expect(page.locator("#found .id")).to_have_text(["<b>t-1</b>"])
            await page.locator("#found summary").click()
            await expect(page.locator("#found dd").nth(2)).to_have_text("listener-a")
            await expect(page.locator("#found pre")).to_contain_text('"source": "/clock"')
            await page.fill("#find-id", "f-1")
            await page.click("#find-form button")
            await expect(page.locator("#found .preview")).to_have_text("retrying")
            await page.locator("#found summary").click()
            await expect(page.locator("#found dd").first).to_have_text("waits for attempt 2")
            await page.fill("#find-id", "nobody")
            await page.keyboard.press("Enter")
            await expect(page.locator("#find-fault")).to_contain_text("No such event")


async def test_a_listener_that_has_gone_is_shown_and_dismissed_and_the_state_of_the_whole_follows(
    stack_of: StackOf, page_of: PageOf
) -> None:
    async with stack_of() as stack, page_of(stack.publish_url) as page:
        await is_live(page)
        await expect(page.locator("#health")).to_have_text("All is well.")
        await stack.kill("listener-b")
        await expect(page.locator("#health")).to_contain_text(
            "listener-b of the group oncecast is down", timeout=3000
        )
        await expect(page.locator("#listeners th").nth(1)).to_contain_text("listener-b – gone for")
        assert await page.title() == "▲ Oncecast"
        await page.get_by_role("button", name="Dismiss listener-b").click()
        await expect(page.locator("#listeners tr")).to_have_count(1)
        await expect(page.locator("#health")).to_have_text("All is well.")
        assert await page.title() == "Oncecast"
