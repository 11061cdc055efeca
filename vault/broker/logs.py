"""The broker's log for operators: a JSON document on each line, with nothing in it that a vendor sent or may read.

What was decided and served is in the audit log; this one tells how the process does.
"""

import json
import logging
import os
from contextvars import ContextVar
from datetime import UTC, datetime

__all__ = ["JsonFormatter", "request_id"]

#: The id of the request that is being answered, None outside of one.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_FIELDS = ("request", "method", "route", "status", "seconds", "vendor", "credential")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; of an exception only its type is told, since its text may quote what was read."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        document: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": os.getpid(),
            "message": record.getMessage(),
        }
        if (request := request_id.get()) is not None:
            document["request"] = request
        document |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[0] is not None:
            document["exception"] = record.exc_info[0].__name__
        return json.dumps(document, ensure_ascii=False)
