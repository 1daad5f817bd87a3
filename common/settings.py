"""The base of every service's settings: one frozen object, unknown keys refused."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen after construction; every field carries a description, which is also its flag's help."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
