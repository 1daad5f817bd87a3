"""rope_scaling or, since transformers 5, rope_parameters in config.json: which frequencies they describe."""

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.manifest import LinearScaling, LongRopeScaling, Rope, RopeScaling, YarnScaling

RopeType = Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope", "su"]

ORIGINAL = "original_max_position_embeddings"
TYPE_KEYS: dict[RopeType, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "dynamic": frozenset({"factor", ORIGINAL}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", ORIGINAL}),
    "yarn": frozenset({"factor", "beta_fast", "beta_slow", "attention_factor", ORIGINAL}),
    "longrope": frozenset({"factor", "short_factor", "long_factor", "attention_factor", ORIGINAL}),
}
"""Which keys a type reads. One that stands in a file and is not read would be a mistake of somebody's."""


class Section(BaseModel):
    """Refuses keys it does not know and values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class RopeParameters(Section):
    """Everything that a rope can be described by. Each family says which types it knows."""

    rope_type: RopeType | None = None
    type: RopeType | None = None
    rope_theta: float | None = None
    factor: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_position_embeddings: int | None = Field(default=None, ge=2)
    short_factor: list[float] | None = None
    long_factor: list[float] | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    partial_rotary_factor: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _says_one_thing(self) -> "RopeParameters":
        kinds = {_renamed(kind) for kind in (self.rope_type, self.type) if kind is not None}
        if len(kinds) > 1:
            raise ValueError(f"type is {self.type} and rope_type is {self.rope_type}")
        always = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
        stated = {key for key in type(self).model_fields if getattr(self, key) is not None}
        if unread := sorted(stated - always - TYPE_KEYS[self.kind]):
            raise ValueError(f"{', '.join(unread)} of a rope of type {self.kind}")
        return self

    @property
    def kind(self) -> RopeType:
        """The type, under whichever key."""
        return _renamed(self.rope_type or self.type or "default")

    @property
    def extended_context(self) -> int:
        """How many positions YaRN makes of the original context where that is stated, else 0."""
        if self.kind != "yarn" or self.original_max_position_embeddings is None or self.factor is None:
            return 0
        return int(self.factor * self.original_max_position_embeddings)

    def rope(self, theta: float, max_positions: int, context_length: int) -> Rope:
        """Return the rope of a model that serves `context_length` of the positions that its config claims.

        Raises pydantic's ValidationError for values that are missing or make no rope.
        """
        original = self.original_max_position_embeddings or max_positions
        fields: dict[str, Any] = {"kind": self.kind, "factor": self.factor}
        match self.kind:
            # Dynamic NTK changes frequencies only past the positions that are served.
            case "default" | "dynamic":
                return Rope(theta=theta)
            case "linear":
                return Rope(theta=theta, scaling=LinearScaling(**fields))
            case "llama3":
                fields |= {
                    "low_frequency_factor": self.low_freq_factor,
                    "high_frequency_factor": self.high_freq_factor,
                    "original_context_length": self.original_max_position_embeddings,
                }
                return Rope(theta=theta, scaling=RopeScaling(**fields))
            case "yarn":
                factor = self.factor or max_positions / original
                fields |= {
                    "factor": factor,
                    "original_context_length": original,
                    "beta_fast": self.beta_fast or 32.0,
                    "beta_slow": self.beta_slow or 1.0,
                    "attention_factor": self.attention_factor or 0.1 * math.log(max(factor, 1.0)) + 1,
                }
                return Rope(theta=theta, scaling=YarnScaling(**fields))
            case "longrope" | "su":
                return Rope(theta=theta, scaling=self._short_longrope(max_positions, context_length))

    def _short_longrope(self, max_positions: int, original: int) -> LongRopeScaling:
        """Return the factors of contexts up to the original length; the model serves none that is longer."""
        factor = self.factor or max_positions / original
        attention = self.attention_factor
        if attention is None:
            attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        fields: dict[str, Any] = {"factors": self.short_factor, "attention_factor": attention}
        return LongRopeScaling(kind="longrope", **fields)


def _renamed(kind: RopeType) -> RopeType:
    """LongRoPE was called "su" at first."""
    return "longrope" if kind == "su" else kind
