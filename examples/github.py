"""Store GitHub webhooks in tables: pushes, issues, pull requests.

This example shows data as pydantic models (`pip install 'oncecast[pydantic]'`) and a handler for each event type.
Events without a handler are only stored. An event that does not fit its model becomes a dead letter at once, and its
error names the place in the data. Webhooks have no order; the table keeps the newest state of each issue.

    oncecast up --app github:app --app-dir examples
    oncecast send examples/github.ndjson
    oncecast sql "select repository, number, state, title from issues order by repository, number"
    oncecast sql "select repository, number, state, merged, title from pull_requests order by repository, number"
    oncecast sql "select repository, ref, commits, pushed_by from pushes order by delivery"
    oncecast dead-letters list

GitHub itself can deliver to a producer, with one webhook for all events and the content type JSON:
`https://…/events?preset=github`. The event's id is that of the delivery, so a redelivery is handled once.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel
from tables import tables

from oncecast import App, Event, Transaction

TABLES = """
    create table if not exists pushes (
        delivery text primary key, repository text not null, ref text not null, after text not null,
        commits integer not null, pushed_by text not null);
    create table if not exists issues (
        repository text, number integer, title text not null, state text, opened_by text not null,
        updated_at timestamptz not null, delivery text not null, primary key (repository, number));
    create table if not exists pull_requests (
        repository text, number integer, title text not null, state text, opened_by text not null,
        merged boolean not null, draft boolean not null,
        updated_at timestamptz not null, delivery text not null, primary key (repository, number));
"""
GONE = ("deleted", "transferred")

app = App("github", lifespan=tables(TABLES))


class User(BaseModel):
    """A GitHub user."""

    login: str


class Repository(BaseModel):
    """A GitHub repository."""

    full_name: str


class Commit(BaseModel):
    """A commit of a push."""

    id: str
    message: str


class Issue(BaseModel):
    """An issue after the event."""

    number: int
    title: str
    state: str | None = None  # missing in a few actions, such as pinned
    user: User
    updated_at: datetime


class PullRequest(Issue):
    """A pull request after the event."""

    merged: bool | None = None
    draft: bool = False


class Webhook(BaseModel):
    """The members of all webhooks. Other members are only in the event's own row."""

    repository: Repository
    sender: User


class Pushed(Webhook):
    """`com.github.push`."""

    ref: str
    after: str
    commits: list[Commit]


class IssueChanged(Webhook):
    """`com.github.issues`, with or without the action at the end of the type."""

    action: str
    issue: Issue


class PullRequestChanged(Webhook):
    """`com.github.pull_request`; not `com.github.pull_request_review`, which is another kind."""

    action: str
    pull_request: PullRequest


@app.on("com.github.push")
async def keep_push(push: Pushed, event: Event, tx: Transaction) -> None:
    """Insert a row for a push."""
    await tx.execute(
        "insert into pushes (delivery, repository, ref, after, commits, pushed_by) values (%s, %s, %s, %s, %s, %s)",
        (event.id, push.repository.full_name, push.ref, push.after, len(push.commits), push.sender.login),
    )


@app.on("com.github.issues", "com.github.issues.*")
async def keep_issue(change: IssueChanged, event: Event, tx: Transaction) -> None:
    """Insert or update the row of an issue; an older state does not replace a newer one."""
    issue = change.issue
    await tx.execute(
        """
        insert into issues as t (repository, number, title, state, opened_by, updated_at, delivery)
        values (%s, %s, %s, %s, %s, %s, %s)
        on conflict (repository, number) do update
        set title = excluded.title, state = excluded.state, updated_at = excluded.updated_at,
            delivery = excluded.delivery
        where (excluded.updated_at, excluded.delivery) > (t.updated_at, t.delivery)
        """,
        (
            change.repository.full_name,
            issue.number,
            issue.title,
            change.action if change.action in GONE else issue.state,
            issue.user.login,
            issue.updated_at,
            event.id,
        ),
    )


@app.on("com.github.pull_request", "com.github.pull_request.*")
async def keep_pull_request(change: PullRequestChanged, event: Event, tx: Transaction) -> None:
    """Insert or update the row of a pull request; an older state does not replace a newer one."""
    request = change.pull_request
    await tx.execute(
        """
        insert into pull_requests as t
            (repository, number, title, state, opened_by, merged, draft, updated_at, delivery)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (repository, number) do update
        set title = excluded.title, state = excluded.state, merged = excluded.merged, draft = excluded.draft,
            updated_at = excluded.updated_at, delivery = excluded.delivery
        where (excluded.updated_at, excluded.delivery) > (t.updated_at, t.delivery)
        """,
        (
            change.repository.full_name,
            request.number,
            request.title,
            request.state,
            request.user.login,
            bool(request.merged),
            request.draft,
            request.updated_at,
            event.id,
        ),
    )
