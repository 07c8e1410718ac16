"""The story of a publish, from a request to an answer.

The commit point is one database write: the transaction's document turns from
`open` to `committed` in the same database transaction as the documents that it
publishes. Before it everything is undone; after it everything is redone.

So files come first, staged where nobody looks; then one write makes their documents, and with them the version, exist.
A pyblish pipeline (`plugin.publication`) tells the same story with the same steps, between the plugins of a studio.
"""

from __future__ import annotations

from collections.abc import Mapping

from integrator.attempt import Attempt, Terms, Watch
from integrator.request import PublishRequest, parse_request
from integrator.results import PublishResult
from integrator.retry import Budget
from integrator.root import Root


def publish(
    request: PublishRequest | Mapping[str, object] | str | bytes,
    root: Root,
    *,
    wait: float = 0.0,
    dry_run: bool = False,
    watch: Watch | None = None,
    settle: float | None = None,
    budget: Budget | None = None,
    on_changed: str = "refuse",
) -> PublishResult:
    """Publish a request, or do nothing at all; durable when it returns.

    `wait` is how many seconds to wait for a busy soft lock, `settle` how many for sources that appear late. With `dry_run`
    everything is checked and nothing written. `budget` is how often a publish id may be tried. Both are by default what the
    settings say. `on_changed` says what becomes of a publish id that was used for other content: "refuse" raises
    `DifferentContent`, "amend" amends what was published under it.

    Raises a subclass of `errors.IntegratorError`; its `outcome` says what became of the publish.
    """
    # What is wanted, read strictly: every mistake is named, and nothing was touched.
    request = parse_request(request, root.policy)
    attempt = Attempt(root, request, Terms(wait=wait, settle=settle, budget=budget, watch=watch, on_changed=on_changed))
    assembly = None
    while assembly is None:  # another run of the same publish id may be faster: then ask again how it stands
        # Somebody may have come with this publish id before; then there may be nothing left to do.
        answer = attempt.glance() if dry_run else attempt.look()
        if answer is not None:
            return answer
        # Sources, names, space and links are looked at over the whole request before the first write.
        attempt.preflight()
        if dry_run:
            return attempt.planned()
        # All soft locks and version numbers, in one write.
        assembly = attempt.begin()
    with assembly:  # any exception from here on rolls it back
        # Every file is brought into its staging directory, hashed on the way.
        for version in assembly.versions:
            version.stage()
        # Their documents; then verify, make durable, reveal, decide, finish.
        return assembly.commit()


__all__ = ["Watch", "publish"]
