"""The story of a publish, from a request to an answer.

The commit point is one database write: the transaction's document turns from
`open` to `committed` in the same database transaction as the documents that it
publishes. Before it everything is undone; after it everything is redone.

So files come first, staged where nobody looks; then one write makes their documents, and with them the version, exist.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from integrator.database import TRANSACTIONS
from integrator.documents import Stamp
from integrator.errors import Conflict
from integrator.harvest import Harvest, leftovers
from integrator.hero import follow
from integrator.model import new_id
from integrator.preflight import InstancePlan, preflight
from integrator.request import PublishRequest, parse_request, repeatable
from integrator.results import PublishResult, of_transaction
from integrator.retry import Budget, check_budget, glance, look, promised
from integrator.root import Root
from integrator.staging import Progress
from integrator.transaction import Transaction
from integrator.versions import (
    Named,
    Version,
    check_names,
    claimed_numbers,
    describe,
    name_files,
    planned_versions,
    planner,
)  # fmt: skip

#: Called as the work goes on with (files done, files in all, bytes done).
Watch = Callable[[int, int, int], None]


def publish(
    request: PublishRequest | Mapping[str, object] | str | bytes,
    root: Root,
    *,
    wait: float = 0.0,
    dry_run: bool = False,
    watch: Watch | None = None,
    settle: float | None = None,
    budget: Budget | None = None,
) -> PublishResult:
    """Publish a request, or do nothing at all; durable when it returns.

    `wait` is how many seconds to wait for a busy soft lock, `settle` how many for sources that appear late. With `dry_run`
    everything is checked and nothing written. `budget` is how often a publish id may be tried. Both are by default what the
    settings say. Raises a subclass of `errors.IntegratorError`; its `outcome` says what became of the publish.
    """
    # What is wanted, read strictly: every mistake is named, and nothing was touched.
    request = parse_request(request, root.policy)
    root = root.of_project(request.project)
    publish_id = request.publish_id or f"run-{new_id()}"
    budget = budget or Budget(attempts=root.settings.attempts, per_host=root.settings.attempts_per_host)
    settle = root.settings.settle if settle is None else settle
    while True:
        # Somebody may have come with this publish id before; then there may be nothing left to do.
        earlier = glance(root, publish_id) if dry_run else look(root, publish_id, request, wait=wait)
        if earlier.answer is not None:
            return earlier.answer
        check_budget(earlier.attempts, budget, root.engine.owner.host)
        # Sources, names, space and links are looked at over the whole request before the first write.
        plans = preflight(root, request, promised(root, earlier.reservation), settle=settle)
        plan = planner(root, plans)
        if dry_run:
            versions = planned_versions(root, plans, plan, earlier.reservation)
            return PublishResult(transaction="", outcome="planned", versions=versions)
        facts = {
            "purpose": "publish", "publish_id": publish_id, "fingerprint": request.fingerprint(), "project": request.project,
            "attempts": earlier.attempts, "request": repeatable(request),
        }  # fmt: skip
        try:
            if earlier.reservation is not None:
                check_names(root, plans, earlier.reservation)
                begun = Transaction.adopt(root.engine, earlier.reservation, facts, wait=wait)
            else:
                begun = Transaction.begin(root.engine, plan, facts, wait=wait)
        except Conflict as error:
            if error.collection != TRANSACTIONS:
                raise
            continue  # another run of the same publish id was faster: ask again how it stands
        with begun as transaction:  # any exception from here on rolls it back
            harvest = Harvest(root.engine, transaction.document, leftovers(root.engine, earlier.formers))
            return _publish(root, request, plans, transaction, harvest, Stamp.now(transaction.id, publish_id), watch)


def _publish(
    root: Root,
    request: PublishRequest,
    plans: Sequence[InstancePlan],
    transaction: Transaction,
    harvest: Harvest,
    stamp: Stamp,
    watch: Watch | None,
) -> PublishResult:
    """The part that writes."""
    checksum = request.checksum or root.settings.checksum
    versions: list[tuple[Version, list[Named]]] = []
    for plan, staging, number in zip(plans, transaction.staging, claimed_numbers(transaction.document, plans)):
        assert staging is not None
        versions.append((Version(root, plan, staging, number, stamp), name_files(root, plan, number)))
    progress = _progress(transaction, plans, watch)
    # Every file is brought into its staging directory, hashed on the way.
    for version, named in versions:
        for representation in named:
            version.add(representation, checksum=checksum, harvest=harvest, progress=progress)
        version.add_resources(checksum=checksum, harvest=harvest, progress=progress)
    harvest.discard()
    # Their documents wait for the verdict; so do hero versions and what is amended, whose files take the place of others.
    for version, _ in versions:
        version.complete()
        follow(root, transaction, version)
        transaction.change(*version.changes())
        transaction.point(*version.pointers())
    # Verify, make durable, reveal, decide, finish.
    document = transaction.commit({"versions": [version.summary() for version, _ in versions]})
    if any(plan.request.amend is not None for plan in plans):
        return of_transaction(root, document, "published")  # with the files that stayed
    return PublishResult(
        transaction=transaction.id,
        outcome="published",
        versions=tuple(
            describe(plan, version.number, version.final_path(), named) for plan, (version, named) in zip(plans, versions)
        ),
        left=tuple(document.get("left") or ()),
    )


def _progress(transaction: Transaction, plans: Sequence[InstancePlan], watch: Watch | None) -> Progress:
    total = sum(sum(len(sources.paths) for sources in plan.sources) + len(plan.resources) for plan in plans)
    done = [0, 0]

    def progress(files: int, size: int) -> None:
        done[0] += files
        done[1] += size
        transaction.report_progress(done[0] / total)
        if watch is not None:
            watch(done[0], total, done[1])

    return progress
