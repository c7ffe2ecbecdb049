"""What every section of a policy that people write has in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NonEmpty = Annotated[str, Field(min_length=1)]


class Written(BaseModel):
    """Base of what people write: frozen, unknown fields forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
