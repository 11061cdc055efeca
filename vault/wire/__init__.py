"""The broker's HTTP interface, version 1: shapes that the broker and the client share."""

from vault.wire.leases import OBJECTS_PATH, LeasedChunk, LeasedGroup, LeasedShard, LeasePage
from vault.wire.messages import (
    ARROW_TYPE,
    COMPRESSIONS,
    CURSOR_KEY,
    DELEGATION_HEADER,
    PROBLEM_TYPE,
    WIRE_VERSION,
    End,
    OfferedGrant,
    Profile,
    Token,
    error_from_problem,
    foreign_token,
    kind_of,
    moment,
    problem,
)

__all__ = [
    "ARROW_TYPE",
    "COMPRESSIONS",
    "CURSOR_KEY",
    "DELEGATION_HEADER",
    "OBJECTS_PATH",
    "PROBLEM_TYPE",
    "WIRE_VERSION",
    "End",
    "LeasePage",
    "LeasedChunk",
    "LeasedGroup",
    "LeasedShard",
    "OfferedGrant",
    "Profile",
    "Token",
    "error_from_problem",
    "foreign_token",
    "kind_of",
    "moment",
    "problem",
]
