"""Image groups that cannot be read: stop, or skip and count them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from maris_fast.config import ReadingSettings
from maris_fast.data_shards.stream.step_order import Group, Share
from maris_fast.errors import InputError


class BadSamples:
    """Images of one split that this process could not read; each is counted once.

    Not thread-safe: the caller holds a lock.
    """

    def __init__(self, settings: ReadingSettings) -> None:
        self.skip = settings.on_bad_sample == "skip"
        self._most = settings.max_bad_samples
        self._reasons: dict[int, str] = {}
        self._untold: list[str] = []

    def __len__(self) -> int:
        return len(self._reasons)

    def __contains__(self, image: int) -> bool:
        return image in self._reasons

    def add(self, image: int, error: InputError) -> None:
        """Count an image.

        Raises:
            InputError: there are more than allowed.
        """
        if image in self._reasons:
            return
        self._reasons[image] = str(error)
        if len(self._reasons) > self._most:
            raise InputError(
                f"{len(self._reasons)} image groups could not be read, data.max_bad_samples allows "
                f"{self._most}; the last: {error}"
            )
        self._untold.append(f"skipped, {len(self._reasons)} of {self._most} allowed: {error}")

    def tell(self) -> list[str]:
        """A message for each image added since the last call."""
        told, self._untold = self._untold, []
        return told

    def without(self, share: Share) -> tuple[Group, ...]:
        """The groups of a share that are not known to be bad."""
        return tuple(group for group in share.groups if group.image not in self)


def kept(share: Share, groups: Sequence[Group]) -> Share:
    """The share with only these groups.

    ``step_expressions`` stays, as ranks do not exchange it: a lost expression adds 0 to the step's mean.
    """
    return replace(share, groups=tuple(groups))
