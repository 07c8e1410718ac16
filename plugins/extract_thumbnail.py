"""Makes a small picture of what is published."""

from __future__ import annotations

import logging
from typing import Any

import pyblish.api

from integrator import thumbnail
from integrator.errors import ThumbnailFailed
from integrator.plugin import publication_of
from integrator.plugin.images import image_of
from integrator.plugin.instances import is_active, is_publishable


class ExtractThumbnail(pyblish.api.InstancePlugin):
    """Puts a JPEG, at most 512 pixels wide and high, into ``data["thumbnailContent"]`` of every instance that has an image.

    `integrator.plugin.images.image_of` says which. Leaves alone what another extractor put there; False switches it off for an
    instance. An image that cannot be read is a warning, or not even that where nobody named it: nobody wants to lose a
    publish over its thumbnail.
    """

    label = "Extract thumbnail"
    order = pyblish.api.ExtractorOrder + 0.49  # extractors that make images come before it

    def process(self, instance: Any) -> None:
        """Make the picture. Reads one file, writes none."""
        published_before = publication_of(instance.context).result is not None
        wanted = is_active(instance) and is_publishable(instance) and instance.data.get("thumbnailContent") is None
        image = image_of(instance) if wanted and not published_before else None
        if image is None:
            return
        if not thumbnail.is_possible():
            self.log.info("no thumbnail: OpenImageIO is not installed here (pip install 'integrator[thumbnails]')")
            return
        try:
            instance.data["thumbnailContent"] = thumbnail.make_thumbnail(image.path, colorspace=image.colorspace)
        except ThumbnailFailed as error:
            # As text: a record that held the error would keep its frames, and with them the whole loop, alive.
            self.log.log(logging.WARNING if image.named else logging.INFO, "%s", error.message)
