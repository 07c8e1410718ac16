"""Copies the review movie and the notes of a shot into its version: what an ordinary integrator looks like."""

import json
import os
import shutil

import pyblish.api


class IntegrateReview(pyblish.api.InstancePlugin):
    order = pyblish.api.IntegratorOrder + 0.1
    families = ["review"]

    def process(self, instance):
        folder = instance.data["publishDir"]
        os.makedirs(folder, exist_ok=True)
        shutil.copy2(instance.data["reviewMovie"], os.path.join(folder, "review.mov"))
        with open(os.path.join(folder, "notes.json"), "w") as file:
            json.dump(instance.data["notes"], file)
