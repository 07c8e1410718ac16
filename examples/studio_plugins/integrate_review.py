"""Publishes the review movie and the notes of a shot along with its version, or not at all."""

import json

import pyblish.api

from integrator.plugin import TransactionalPlugin


class IntegrateReview(TransactionalPlugin):
    order = pyblish.api.IntegratorOrder + 0.1
    families = ["review"]

    def integrate(self, instance, transaction):
        version = transaction.version(instance)
        version.copy(instance.data["reviewMovie"], "review")
        version.write("notes.json", json.dumps(instance.data["notes"]).encode())
