"""One attempt at a publish request: its steps, in the order in which they must be made.

`publish` makes them one after the other. A pyblish pipeline makes the same ones as its plugins come to them, perhaps hours apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from integrator.assembly import Assembly
from integrator.database import LEASES, TRANSACTIONS
from integrator.documents import find_parents
from integrator.errors import Conflict, DifferentContent, Problem, ValidationRefused
from integrator.harvest import Harvest, leftovers
from integrator.leases import Held
from integrator.ledger import lease_rows
from integrator.model import Document, Owner, new_id
from integrator.preflight import InstancePlan, preflight, sources_digest
from integrator.request import PublishRequest, repeatable
from integrator.results import PublishResult
from integrator.retry import Budget, Earlier, check_budget, glance, look, promised
from integrator.root import Root
from integrator.transaction import Transaction
from integrator.versions import check_names, planned_versions, planner

#: Called as the work goes on with (files done, files in all, bytes done).
Watch = Callable[[int, int, int], None]


@attrs.frozen(kw_only=True)
class Terms:
    """How a publish is to be made; nothing here says what is published."""

    #: Seconds to wait for a busy soft lock.
    wait: float = 0.0
    #: Seconds to wait for sources that appear late; None for what the settings say.
    settle: float | None = None
    #: How often the publish id may be tried; None for what the settings say.
    budget: Budget | None = None
    #: What to do when the publish id was used for other content: refuse, or amend.
    on_changed: str = "refuse"
    #: Called as the work goes on.
    watch: Watch | None = None
    #: Name and version of everything that takes part; the journal begins with it.
    plugins: Sequence[tuple[str, str]] = ()


class Attempt:
    """What one run makes of a publish request: `look`, `preflight`, `begin`; then the assembly that it began goes on."""

    def __init__(
        self, root: Root, request: PublishRequest, terms: Terms | None = None, *, asked: PublishRequest | None = None
    ) -> None:
        self._terms = terms or Terms()
        self.root = root.of_project(request.project)
        self.request = request
        #: What the caller asked for; `request` is that without what a plugin switched off.
        self.asked = asked or request
        self.publish_id = request.publish_id or f"run-{new_id()}"
        #: What an earlier run left; None until somebody looked.
        self.earlier: Earlier | None = None
        #: What the request means in files; None until somebody looked.
        self.plans: list[InstancePlan] | None = None

    def look(self) -> PublishResult | None:
        """Settle what an earlier run with this publish id left; its answer if there is nothing left to do.

        Raises `DifferentContent`, `Busy`, `Unsettled`, `BudgetUsedUp`.
        """
        amend = self._terms.on_changed == "amend"
        earlier = self.earlier = look(self.root, self.publish_id, self.asked, wait=self._terms.wait, amend=amend)
        if earlier.answer is None:
            settings = self.root.settings
            budget = self._terms.budget or Budget(attempts=settings.attempts, per_host=settings.attempts_per_host)
            check_budget(earlier.attempts, budget, self.root.engine.owner.host)
        return earlier.answer

    def glance(self) -> PublishResult | None:
        """The answer of an earlier run that is finished; settles nothing and writes nothing. Raises `DifferentContent`."""
        amend = self._terms.on_changed == "amend"
        self.earlier = glance(self.root, self.publish_id, self.asked, amend=amend)
        return self.earlier.answer

    def preflight(self) -> None:
        """Look at sources, names, space and links of the whole request.

        Raises `ValidationRefused` with every problem, `DifferentContent`.
        """
        reservation = self._looked().reservation
        if reservation is not None and len(reservation["directories"]) != len(self.request.instances):
            raise DifferentContent(
                f"{self.publish_id} has {len(reservation['directories'])} versions reserved, and {len(self.request.instances)} of"
                f" its publish instances are switched on ({reservation['_id']}). Nothing was touched",
                next=f"integrator show {reservation['_id']}",
            )
        settle = self.root.settings.settle if self._terms.settle is None else self._terms.settle
        self.plans = preflight(self.root, self._wanted(self.request), promised(self.root, reservation), settle=settle)

    def planned(self) -> PublishResult:
        """What would be published: numbers and names."""
        plans = self._planned()
        versions = planned_versions(self.root, plans, planner(self.root, plans), self._looked().reservation)
        return PublishResult(transaction="", outcome="planned", versions=versions)

    def held(self) -> Held | None:
        """The first soft lock that somebody holds who is not gone; reads only."""
        engine = self.root.engine
        database, now = engine.database, engine.database.now()
        for plan in self._planned():
            row = database.read(LEASES, plan.lease)
            holder = database.read(TRANSACTIONS, row["transaction"]) if row and row.get("transaction") else None
            if row is None or holder is None or holder.get("publish_id") == self.publish_id:
                continue
            owner = Owner(**holder["owner"]) if holder.get("owner") else None
            if not engine.watcher.gone(lease_rows(database, holder), owner, now, same_publish=False):
                return Held(row, holder, now)
        return None

    def begin(self) -> Assembly | None:
        """Take every soft lock and number that the request needs, in one write; None if another run with this publish id was
        faster: then `look` again.

        Raises `Busy`, `VersionTaken`, `ValidationRefused`, `Failed`.
        """
        root, plans, earlier = self.root, self._planned(), self._looked()
        # Of everything that was asked for, or of nothing: a later run with this publish id compares it.
        sources = sources_digest(root, plans) if len(plans) == len(self.asked.instances) else ""
        facts = {
            "purpose": "publish", "publish_id": earlier.publish_id or self.publish_id, "fingerprint": self.asked.fingerprint(),
            "sources": sources, "project": self.request.project, "attempts": earlier.attempts,
            "request": repeatable(self.asked), "plugins": list(self._terms.plugins),
            **({"amends": self.publish_id} if earlier.publish_id else {}),
        }  # fmt: skip
        try:
            if earlier.reservation is not None:
                check_names(root, plans, earlier.reservation)
                begun = Transaction.adopt(root.engine, earlier.reservation, facts, wait=self._terms.wait)
            else:
                begun = Transaction.begin(root.engine, planner(root, plans), facts, wait=self._terms.wait)
        except Conflict as error:
            if error.collection != TRANSACTIONS:
                raise
            return None
        with begun as transaction:  # any exception from here on rolls it back
            harvest = Harvest(root.engine, transaction.document, leftovers(root.engine, earlier.formers))
            assembly = Assembly(root, transaction, _facts(self.request), self._terms.wait, harvest)
            assembly.take_up([_renewed(root, plan) for plan in plans], _progress(transaction, plans, self._terms.watch))
            return assembly

    def _wanted(self, request: PublishRequest) -> PublishRequest:
        """The request, with the versions that are to be amended."""
        numbers = dict(zip((entry.place for entry in self.asked.instances), self._looked().amends))
        instances = (attrs.evolve(entry, version=None, amend=numbers[entry.place]) for entry in request.instances)
        return attrs.evolve(request, instances=tuple(instances)) if numbers else request

    def _looked(self) -> Earlier:
        assert self.earlier is not None, "`look` comes first"
        return self.earlier

    def _planned(self) -> list[InstancePlan]:
        assert self.plans is not None, "`preflight` comes first"
        return self.plans


def _renewed(root: Root, plan: InstancePlan) -> InstancePlan:
    """The documents above a version as they are now: only under its soft lock is it certain which of them are to be made."""
    parents = find_parents(root.engine.database, plan.publish, plan.request, create=root.settings.create_assets)
    if isinstance(parents, Problem):
        raise ValidationRefused([parents])
    return attrs.evolve(plan, parents=parents)


def _facts(request: PublishRequest) -> Document:
    """What holds for every version of a request, also for those that are added later."""
    return attrs.asdict(request, filter=lambda field, value: field.name != "instances" and value is not None)


def _progress(transaction: Transaction, plans: Sequence[InstancePlan], watch: Watch | None) -> Callable[[int, int], None]:
    total = sum(sum(len(sources.paths) for sources in plan.sources) + len(plan.resources) for plan in plans)
    done = [0, 0]

    def progress(files: int, size: int) -> None:
        done[0] += files
        done[1] += size
        transaction.report_progress(min(1.0, done[0] / total))
        if watch is not None:
            watch(done[0], total, done[1])

    return progress
