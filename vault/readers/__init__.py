"""What reads rows into the tools that people have, over anything that can be scanned.

Optional libraries are imported by the reader that needs one, when it is used, and by nothing else.
"""

from vault.readers.lazy import Lazy
from vault.readers.parts import MOST_PARTS, Extent, checked_part
from vault.readers.readers import PartReaders, Readers

__all__ = ["MOST_PARTS", "Extent", "Lazy", "PartReaders", "Readers", "checked_part"]
