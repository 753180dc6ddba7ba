"""A connection pool for SQLAlchemy that looks after its connections."""

from .errors import CheckoutTimeout
from .errors import ConnectionReclaimed
from .errors import CreatorError
from .lease import HolderInfo
from .lease import LeaseInfo
from .pool import ReaperPool
from .stats import Stats
from .wrapper import Wrapper

__version__ = "0.1.0"

__all__ = (
    "CheckoutTimeout",
    "ConnectionReclaimed",
    "CreatorError",
    "HolderInfo",
    "LeaseInfo",
    "ReaperPool",
    "Stats",
    "Wrapper",
    "__version__",
)
