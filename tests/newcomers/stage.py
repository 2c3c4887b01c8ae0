"""A stage of the channel: uploads are rounded to so many bits, each part by its largest number."""

from dataclasses import dataclass, replace

from fedlab_mm.federation.channel import Stage, like
from fedlab_mm.registry import register
from fedlab_mm.settings import Settings, at_least, setting


@register("stage", "quantise")
class Quantise(Stage):
    order = 40
    tasks = ("ranking", "clicks")
    protects = "bandwidth"

    @dataclass(frozen=True)
    class Params(Settings):
        """
        Attributes:
            bits: of each number that a client uploads; None: all.
        """

        bits: int | None = setting(None, at_least(2))

    @property
    def idle(self):
        return self.recipe.bits is None

    def at_client(self, uploads, t):
        steps, changes = 2 ** (self.recipe.bits - 1) - 1, {}
        for name, change in uploads.changes.items():
            value = change.real()
            most_C = value.abs().flatten(1).amax(dim=1).clamp(min=1e-30)
            unit = like(most_C / steps, value)
            changes[name] = replace(change, value=(value / unit).round() * unit)
        return uploads.with_changes(changes)
