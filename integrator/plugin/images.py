"""Which image of a pyblish instance shows best what it is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from integrator.plugin.publication import publication_of
from integrator.thumbnail import IMAGES

#: Keys of ``data`` under which a host or a collector offers an image that is already there, the best one first.
_OFFERED = ("thumbnailSource", "thumbnail", "thumbnailPath")


@attrs.frozen(kw_only=True)
class Image:
    """One image file."""

    #: Absolute path.
    path: str
    #: Colour space that whoever made it named, "" if nobody did.
    colorspace: str = ""
    #: Whether somebody named it for this; one that was only found may be no image at all.
    named: bool = True


@attrs.frozen(kw_only=True)
class _Candidate:
    """The files of one representation."""

    name: str
    paths: Sequence[str]
    tags: Sequence[str]
    colorspace: str

    def middle(self) -> Image:
        return Image(path=os.path.abspath(self.paths[len(self.paths) // 2]), colorspace=self.colorspace)


def image_of(instance: Any) -> Image | None:
    """The image to make a thumbnail of, None if there is none.

    What ``data`` offers as ``thumbnailSource``, ``thumbnail`` or ``thumbnailPath``; else a representation that is tagged, or
    called, ``thumbnail``; else the middle frame of the first sequence of images, or a single image; else what the context offers.
    """
    return _offered(instance.data) or _shown(list(_candidates(instance))) or _offered(instance.context.data)


def _offered(data: Mapping[str, Any]) -> Image | None:
    for key in _OFFERED:
        path = data.get(key)
        if isinstance(path, str) and path:
            return Image(path=os.path.abspath(os.path.join(data.get("stagingDir") or "", path)))
    return None


def _shown(candidates: Sequence[_Candidate]) -> Image | None:
    for candidate in candidates:
        if "thumbnail" in candidate.tags or candidate.name.lower() == "thumbnail":
            return candidate.middle()
    images = [candidate for candidate in candidates if _ending(candidate.paths[0]) in IMAGES]
    several = (candidate for candidate in images if len(candidate.paths) > 1)
    best = next(several, images[0] if images else None)
    return attrs.evolve(best.middle(), named=False) if best is not None else None


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower().lstrip(".")


def _candidates(instance: Any) -> Iterator[_Candidate]:
    """Representations with files: those of the publish request, then those that extractors made, marked for deletion or not."""
    said = _space(instance.data)
    attempt = publication_of(instance.context).attempt()
    for plan in (attempt.plans if attempt is not None else None) or ():
        requested = instance.data.get("publishInstance")
        for sources in plan.sources if requested is not None and plan.request.place == requested.place else ():
            wanted = sources.representation
            if sources.paths:
                space = _space(wanted.data) or said
                yield _Candidate(name=wanted.name, paths=sources.paths, tags=wanted.tags, colorspace=space)
    for entry in instance.data.get("representations") or ():
        folder = entry.get("stagingDir") or instance.data.get("stagingDir") or ""
        files = entry.get("files") or ()
        files = [files] if isinstance(files, str) else files
        paths = [os.path.join(folder, name) for name in files]
        if paths:
            yield _Candidate(name=entry["name"], paths=paths, tags=entry.get("tags") or (), colorspace=_space(entry) or said)


def _space(data: Mapping[str, Any]) -> str:
    """The colour space that OpenPype's collectors, or ours, wrote down."""
    return str((data.get("colorspaceData") or {}).get("colorspace") or data.get("colorspace") or "")


__all__ = ["Image", "image_of"]
