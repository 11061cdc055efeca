"""What dsvault's processes load only once they use it, and pyarrow where it is installed: half a second of a processor.

`tests.support.forked` has it loaded before it forks. Nothing of it is used here.
"""

import importlib
from typing import Final

_MODULES: Final = (
    "anyio._backends._asyncio",
    "cryptography.hazmat.backends.openssl",
    "joserfc.jwk",
    "joserfc.jws",
    "pandas",
    "psycopg",
    "pyarrow.pandas_compat",
    "pydantic.v1",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
    "urllib3",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "vault.client",
    "vault.credentials",
)
for _each in _MODULES:
    importlib.import_module(_each)
