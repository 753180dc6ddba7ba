"""A connection pool for SQLAlchemy that looks after its connections."""

from .errors import CheckoutTimeout
from .errors import ConnectionReclaimed
from .errors import PoolShutdown
from .lease import HolderInfo
from .lease import LeaseInfo
from .pool import ReaperPool
from .stats import Stats

__version__ = "0.1.0"

__all__ = (
    "CheckoutTimeout",
    "ConnectionReclaimed",
    "HolderInfo",
    "LeaseInfo",
    "PoolShutdown",
    "ReaperPool",
    "Stats",
    "__version__",
)
